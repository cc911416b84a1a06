"""The validation split is read once; its figures are those of the plain way, which takes the loss by batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmcls.answers.listed import ListLayout
from llmcls.answers.single_label import SingleLabelLayout
from llmcls.answers.yes_no import YesNoLayout
from llmcls.engine import judging
from llmcls.errors import LlmclsError
from llmcls.training.trainer import LabelTrainer
from llmcls.training.validation import Reading

SEVERAL = {"task": "multi_label", "data.label_separator": "|"}
TIMES = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


def plainly(patch: pytest.MonkeyPatch) -> None:
    for layout in (SingleLabelLayout, YesNoLayout, ListLayout):
        patch.setattr(layout, "judge", lambda *_, **__: None)


def figures(trainer: Any) -> dict[str, float]:
    return {name: value for name, value in trainer.evaluate().items() if name not in TIMES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        ({}, False),
        ({"training.label_smoothing_factor": 0.1, "training.class_weights": {"billing": 3.0}}, False),
        ({"training.packing": False, "training.label_smoothing_factor": 0.1}, False),
        ({"training.objective": "head", "model.quantization": "none"}, False),
        ({"training.objective": "sft", "training.class_weights": "balanced"}, True),
        ({**SEVERAL, "training.class_weights": {"billing": 3.0}, "training.label_smoothing_factor": 0.1}, False),
        ({**SEVERAL, "prediction.method": "list", "training.objective": "sft"}, True),
    ],
    ids=["label", "smoothed", "padded", "head", "sft", "yes or no", "list"],
)
def test_figures_are_those_of_the_plain_way(
    fit: Callable[..., Any],
    rows: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    batches: bool,
) -> None:
    if "task" in changes:
        rows = [{**row, "label": "billing|delivery" if at % 4 == 0 else row["label"]} for at, row in enumerate(rows)]
    data = {"train": rows, "validation": rows[::3]}
    trainer = fit({"training.max_steps": 1, **changes}, data).trainer
    read: list[int] = []
    step = LabelTrainer.prediction_step
    monkeypatch.setattr(LabelTrainer, "prediction_step", lambda *a, **k: (read.append(1), step(*a, **k))[1])
    once = figures(trainer)
    assert bool(read) is batches, "the loss takes a forward of its own, or not"
    ways = [once]
    if trainer._collator.layout.__class__ is SingleLabelLayout:  # by a search, which leaves the ROC-AUC out
        with monkeypatch.context() as patch:
            plan = judging.LabelJudge.plan.__func__  # type: ignore[attr-defined]
            patch.setattr(
                judging.LabelJudge,
                "plan",
                classmethod(lambda cls, *a, **k: cls(plan(cls, *a, **k).scorer, a[2], exact=False)),
            )
            ways.append(figures(trainer))
        assert "eval_roc_auc" in once and "eval_roc_auc" not in ways[1]
    with monkeypatch.context() as patch:
        plainly(patch)
        plain = figures(trainer)
    assert {"eval_loss", "eval_macro_f1"} <= plain.keys() == once.keys()
    for found in ways:
        assert found == pytest.approx({name: plain[name] for name in found}, rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_training_is_the_same_however_it_is_validated(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, which takes random numbers."""
    changes = {"training.max_steps": 3, "training.eval_strategy": "steps", "training.eval_steps": 1}
    changes |= {"lora.lora_dropout": 0.3}
    once = fit(changes)
    plainly(monkeypatch)
    plain = fit(changes)
    assert once.losses == plain.losses


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging.LabelJudge, "_loss", lambda *_: (float("nan"), 1.0))
    with pytest.raises(LlmclsError, match=r"The loss became nan at step 1; lower training\.learning_rate"):
        fit({"training.max_steps": 1, "training.eval_strategy": "epoch"})


@pytest.mark.slow
def test_the_pack_size_of_prediction_is_that_of_validation(
    fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plan = judging.LabelJudge.plan.__func__  # type: ignore[attr-defined]

    def watched(cls: Any, *given: Any, **named: Any) -> Any:
        made = plan(cls, *given, **named)
        seen.append(made.scorer.exact.pack_tokens)
        return made

    monkeypatch.setattr(judging.LabelJudge, "plan", classmethod(watched))
    fit({"training.max_steps": 1, "training.eval_strategy": "epoch", "prediction.pack_tokens": 77})
    assert seen == [77]


@pytest.mark.slow
def test_the_shares_of_processes_are_the_whole(fit: Callable[..., Any], rows: list[dict[str, str]]) -> None:
    """Also where one process has no row at all."""
    smoothed = {"training.max_steps": 1, "training.label_smoothing_factor": 0.1}
    trainer = fit(smoothed, {"train": rows, "validation": rows[::2]}).trainer
    options = {"probabilities": False, "pack_tokens": None, "batch_size": 4}

    def read(places: range) -> Reading:
        reading = Reading(trainer.model, trainer._collator, trainer.eval_dataset, **options)
        done: list[int] = []
        reading.read(places, done.append)
        assert sum(done) == len(places), "progress"
        return reading

    whole = read(range(len(rows[::2])))
    assert whole.targets is not None and whole.probabilities is not None
    for size in (2, 9):
        shares = [read(range(rank, whole.rows, size)) for rank in range(size)]
        losses, weights = zip(*(share.loss for share in shares), strict=True)
        assert (sum(losses), sum(weights)) == pytest.approx(whole.loss, rel=1e-5)
        for rank, share in enumerate(shares):
            assert share.knows_loss and share.probable, "so that all processes exchange the same"
            if share.targets is None or share.probabilities is None:
                assert rank >= whole.rows
                continue
            assert share.targets.tolist() == whole.targets[rank::size].tolist()
            assert share.probabilities.numpy() == pytest.approx(whole.probabilities[rank::size].numpy(), abs=1e-5)
