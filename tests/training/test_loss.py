"""The trainer's loss, number for number: by hand, packed and padded, accumulated, with evaluations between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from llmcls.answers import form_named
from llmcls.engine.decoder import evaluating
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.model.hardware import choose_formats
from llmcls.model.loading import load_model
from llmcls.records import Example
from llmcls.runs.assembly import assemble
from llmcls.settings import Settings, make_settings
from llmcls.training.batches import RowOrder
from llmcls.training.configuration import make_lora_config
from llmcls.training.preparation import resolve_class_weights

WHOLE = {"training.per_device_train_batch_size": 32, "training.max_steps": 1}
LONG = {"text": "a very long message " * 500, "label": "billing"}


def answer_losses(settings: Settings, rows: list[dict[str, str]], names: tuple[str, ...]) -> list[list[torch.Tensor]]:
    """For each row, the base model's log-probabilities at its answer tokens: one plain forward a row."""
    examples = [Example(row["text"], row["label"]) for row in rows]
    prepared = assemble(settings, LabelSet.from_names(names), examples)
    model = load_model(prepared.base, settings.model, choose_formats(settings))
    found = []
    for example, prompt in zip(examples, prepared.encoder.encode(examples), strict=True):
        answer = prepared.encoder.answers[names.index(example.label or "")]
        ids = torch.tensor([[*prompt.input_ids, *answer]])
        assert ids.shape[1] <= settings.prompt.max_length
        with torch.no_grad(), evaluating(model):
            logits = model(input_ids=ids).logits[0].float()
        start = len(prompt.input_ids)
        found.append([logits[start - 1 + step].log_softmax(-1) for step in range(len(answer))])
    return found


def by_hand(settings: Settings, rows: list[dict[str, str]], names: tuple[str, ...]) -> float:
    """The objective by its formula."""
    log_probabilities = answer_losses(settings, rows, names)
    examples = [Example(row["text"], row["label"]) for row in rows]
    answers = assemble(settings, LabelSet.from_names(names), examples).encoder.answers
    counts, wanted = Counter(row["label"] for row in rows), settings.training.class_weights
    total = weight_sum = 0.0
    for row, steps in zip(rows, log_probabilities, strict=True):
        answer = answers[names.index(row["label"])]
        weight = {
            "none": 1.0,
            "balanced": len(rows) / (len(counts) * counts[row["label"]]),
        }.get(wanted if isinstance(wanted, str) else "", 0) or wanted.get(row["label"], 1.0)  # type: ignore[union-attr]
        losses = []
        for step, scores in enumerate(steps):
            choices = sorted({other[step] for other in answers if other[:step] == answer[:step]})
            chosen = scores[choices].log_softmax(-1)[choices.index(answer[step])]
            losses.append(-float(chosen if settings.training.objective == "label" else scores[answer[step]]))
        mean = settings.training.objective == "sft" and settings.training.loss_normalization == "example"
        total += weight * sum(losses) / (len(losses) if mean else 1)
        weight_sum += weight * (len(losses) if settings.training.loss_normalization == "token" else 1)
    return total / weight_sum


@pytest.mark.slow
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training.objective": "sft"},
        {"training.objective": "sft", "training.loss_normalization": "token"},
        {"training.class_weights": "balanced"},
        {"training.class_weights": {"billing": 5.0}, "training.objective": "sft"},
        {"prompt.template": "few_shot"},
        {"prompt.template": "chat", "model.quantization": "none"},
    ],
    ids=str,
)
def test_first_loss_is_the_formula_over_every_row(
    fit: Callable[..., Any], rows: list[dict[str, str]], packing: bool, changes: dict[str, Any]
) -> None:
    data = [*rows, LONG]  # longer than the model's positions: cut, but not dropped
    trained = fit({**WHOLE, **changes, "training.packing": packing}, {"train": data, "validation": rows[:3]})
    run = trained.run
    assert run.card["data"]["rows"]["train"] == len(data) and run.card["data"]["truncated"] == 1
    expected = by_hand(run.settings, data, run.labels.names)
    assert trained.losses[0] == pytest.approx(expected, rel=2e-5)


@pytest.mark.slow
def test_accumulated_micro_batches_equal_one_batch(fit: Callable[..., Any]) -> None:
    size, accumulate = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
    epochs = {"training.num_train_epochs": 3}
    whole = fit({**epochs, size: 8})
    parts = fit({**epochs, size: 2, accumulate: 4}, name="parts")
    assert len(whole.losses) == len(parts.losses) == 6, "14 rows: batches of 8 and 6"
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "label"])
def test_packing_changes_no_loss(fit: Callable[..., Any], objective: str) -> None:
    changes = {"training.max_steps": 6, "training.objective": objective, "training.per_device_train_batch_size": 14}
    packed = fit({**changes, "training.packing": True})
    padded = fit({**changes, "training.packing": False}, name="padded")
    assert padded.losses == pytest.approx(packed.losses, rel=1e-4)
    assert packed.losses[-1] < packed.losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("size", [14, 7])
def test_trls_own_trainer_has_the_same_losses(
    fit: Callable[..., Any], rows: list[dict[str, str]], tmp_path: Path, size: int
) -> None:
    """Step for step, with its data collator, its loss and its padding; `loss_normalization: token` is what it does."""
    changes = {
        "training.max_steps": 6,
        "training.objective": "sft",
        "training.loss_normalization": "token",
        "training.per_device_train_batch_size": size,
        "model.quantization": "none",
    }
    ours = fit(changes)
    settings, names = ours.run.settings, ours.run.labels.names
    examples = [Example(row["text"], row["label"]) for row in rows]
    prepared = assemble(settings, ours.run.labels, examples)
    encoded = []
    for example, prompt in zip(examples, prepared.encoder.encode(examples), strict=True):
        answer = prepared.encoder.answers[names.index(example.label or "")]
        ids = [*prompt.input_ids, *answer]
        encoded.append({"input_ids": ids, "labels": [-100] * len(prompt.input_ids) + list(answer)})
    sampler, order = RowOrder(len(rows), 0, settings.seed), []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        order += list(sampler)
    base = load_model(prepared.base, settings.model, choose_formats(settings))
    theirs = SFTTrainer(
        model=base,
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=6,
            per_device_train_batch_size=size,
            learning_rate=settings.training.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=settings.training.weight_decay,
            logging_steps=1,
            seed=settings.seed,
            train_sampling_strategy="sequential",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
        ),
        processing_class=prepared.tokenizer,
        train_dataset=Dataset.from_list([encoded[row] for row in order]),
        peft_config=make_lora_config(settings, prepared.base.adapter, base),
    )
    theirs.train()
    losses = [entry["loss"] for entry in theirs.state.log_history if "loss" in entry]
    assert losses == pytest.approx(ours.losses, rel=2e-5)
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["4bit", "none"])
def test_evaluation_in_between_changes_no_loss(fit: Callable[..., Any], quantization: str) -> None:
    changes = {"training.max_steps": 6, "model.quantization": quantization}
    plain = fit(changes)
    checked = fit({**changes, "training.eval_strategy": "steps", "training.eval_steps": 1}, name="checked")
    assert checked.losses == pytest.approx(plain.losses, rel=1e-6)
    evaluated = [entry["eval_loss"] for entry in checked.log if "eval_loss" in entry]
    assert len(evaluated) == 6 and evaluated[-1] < evaluated[0]


@pytest.mark.slow
def test_nano_learns_through_4_bit_weights(fit: Callable[..., Any]) -> None:
    rows = [
        {"text": f"{word} {n}", "label": label} for n in range(8) for word, label in (("bad", "no"), ("good", "yes"))
    ]
    changes = {"model.base_model": "nano", "training.max_steps": 12, "training.learning_rate": 2e-3}
    losses = fit(changes, {"train": rows, "validation": rows[:2]}).losses
    assert losses[-1] < 0.5 * losses[0]


def test_inverse_class_weights_are_balanced_ones_by_a_factor() -> None:
    labels, counts = LabelSet.from_names(["a", "b", "c"]), {"a": 5, "b": 3, "c": 2}
    examples = [Example("text", name) for name, count in counts.items() for _ in range(count)]
    form = form_named("single_label")
    inverse = resolve_class_weights("inverse", labels, examples, form)
    balanced = resolve_class_weights("balanced", labels, examples, form)
    assert inverse is not None and balanced is not None
    shares = [count / 10 for count in counts.values()]
    assert inverse == pytest.approx([1 / share / sum(1 / other for other in shares) for share in shares])
    assert sum(inverse) == pytest.approx(1)
    factor = 10 / 3 * sum(1 / count for count in counts.values())
    assert balanced == pytest.approx([factor * weight for weight in inverse])
    with pytest.raises(LlmclsError, match=r"class_weights 'inverse': label 'c' has no training rows"):
        resolve_class_weights("inverse", labels, examples[:8], form)


@pytest.mark.parametrize("method", ["auto", "list"])
def test_inverse_class_weights_are_for_single_labels(method: str) -> None:
    given = {"task": "multi_label", "prediction": {"method": method}, "training": {"class_weights": "inverse"}}
    with pytest.raises(LlmclsError, match=r"training\.class_weights"):
        make_settings(given)
    assert make_settings({"training": {"class_weights": "inverse"}}).training.class_weights == "inverse"
    mapping = {"task": "multi_label", "training": {"class_weights": {"inverse": 2.0}}}
    assert make_settings(mapping).training.class_weights == {"inverse": 2.0}
