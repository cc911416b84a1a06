"""What is measured on the validation split during training, and what follows: the best checkpoint, an early end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from llmcls import Classifier, LlmclsError
from llmcls.evaluation.metrics import label_metrics
from llmcls.evaluation.multilabel import multilabel_metrics
from llmcls.processes.stopping import StoppedError
from llmcls.settings import make_settings
from llmcls.training import trainer as trainer_module
from llmcls.training.trainer import LabelTrainer

EVERY_STEP = {
    "training.eval_strategy": "steps",
    "training.eval_steps": 1,
    "training.save_strategy": "steps",
    "training.save_steps": 1,
    "training.load_best_model_at_end": True,
}


def evaluations(trained: Any, name: str) -> list[float]:
    return [entry[name] for entry in trained.log if name in entry]


def test_figures_are_scikit_learns() -> None:
    true, predicted = [0, 0, 0, 1, 1, 3], [0, 0, 2, 1, 0, 3]
    assert label_metrics(true, predicted) == pytest.approx(
        {
            "accuracy": accuracy_score(true, predicted),
            "precision": precision_score(true, predicted, average="macro", zero_division=0),
            "recall": recall_score(true, predicted, average="macro", zero_division=0),
            "macro_f1": f1_score(true, predicted, average="macro"),
            "balanced_accuracy": balanced_accuracy_score([0, 0, 0, 1, 1, 3], [0, 0, 0, 1, 0, 3]) - 1 / 9,
        }
    )


@pytest.mark.filterwarnings("error")
def test_roc_auc_is_scikit_learns_over_the_labels_that_occur() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 8)
    true = [0, 1, 2, 3, 0, 1, 2, 3]
    assert label_metrics(true, true, p)["roc_auc"] == pytest.approx(roc_auc_score(true, p, multi_class="ovr"))
    two = [0, 1, 1, 1, 0, 1, 0, 1]
    pair = p[:, :2] / p[:, :2].sum(1, keepdims=True)
    assert label_metrics(two, two, pair)["roc_auc"] == roc_auc_score(two, pair[:, 1])
    of_two = [roc_auc_score([label == one for label in two], p[:, one]) for one in (0, 1)]
    assert label_metrics(two, two, p)["roc_auc"] == pytest.approx(sum(of_two) / 2)
    assert "roc_auc" not in label_metrics([1, 1], [0, 1], p[:2]) | label_metrics([1], [1], pair[:1])


@pytest.mark.filterwarnings("error")
def test_figures_of_several_labels_are_scikit_learns() -> None:
    true, predicted = np.array([[1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]]), np.array([[1, 1, 0, 0]] * 3)
    p = np.array([[0.9, 0.2, 0.1, 0.3], [0.2, 0.1, 0.2, 0.4], [0.1, 0.3, 0.9, 0.1]])
    known, figures = [0, 1, 3], multilabel_metrics(true.tolist(), predicted.tolist(), p)
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        macro = score(true[:, known], predicted[:, known], average="macro", zero_division=0)
        assert figures[f"macro_{name}" if name == "f1" else name] == pytest.approx(macro)
        assert figures[f"micro_{name}"] == pytest.approx(score(true, predicted, average="micro"))
    assert figures["roc_auc"] == roc_auc_score(true[:, :2], p[:, :2])
    nothing = multilabel_metrics([[0, 1]] * 2, [[0, 0]] * 2, [[0.1, 0.2]] * 2)
    assert "roc_auc" not in nothing and nothing["micro_f1"] == nothing["precision"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("packing", [True, False])
def test_validation_figures_are_those_of_the_saved_model(
    fit: Callable[..., Any], rows: list[dict[str, str]], packing: bool
) -> None:
    changes = {"training.max_steps": 5, "training.eval_strategy": "steps", "training.eval_steps": 5}
    trained = fit({**changes, "training.packing": packing})
    names = trained.run.labels.names
    true = [row["label"] for row in rows[::3]]
    classifier, texts = Classifier.load(trained.run), [row["text"] for row in rows[::3]]
    predicted, p = classifier.predict(texts), classifier.predict_proba(texts)
    expected = label_metrics([names.index(label) for label in true], [names.index(label) for label in predicted], p)
    assert "roc_auc" in expected
    for name, value in expected.items():
        assert evaluations(trained, f"eval_{name}") == [pytest.approx(value)]


def fit_astray(
    fit: Callable[..., Any],
    changes: dict[str, Any],
    rows: list[dict[str, str]],
    is_astray: Callable[[list[float]], bool],
    figure: str,
) -> tuple[Any, list[float]]:
    """Train at a rate that is too high, so that the last checkpoint is not the best; which rate depends on the CPU."""
    for rate in (0.02, 0.05, 0.01, 0.005, 0.003, 0.1):
        trained = fit({**changes, "training.learning_rate": rate}, {"train": rows, "validation": rows})
        found = evaluations(trained, figure)
        if is_astray(found):
            return trained, found
    pytest.skip("on this CPU the last checkpoint is the best at every rate, so nothing can be shown")


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["macro_f1", "accuracy"])
def test_the_best_checkpoint_by_any_metric_is_kept(
    fit: Callable[..., Any], metric: str, rows: list[dict[str, str]]
) -> None:
    changes = {**EVERY_STEP, "training.max_steps": 4, "training.metric_for_best_model": metric}
    trained, found = fit_astray(fit, changes, rows, lambda entries: max(entries) > entries[-1], f"eval_{metric}")
    assert trained.trainer.state.best_global_step == found.index(max(found)) + 1
    assert trained.trainer.evaluate()[f"eval_{metric}"] == pytest.approx(max(found))
    names = trained.run.labels.names
    predicted = Classifier.load(trained.run).predict([row["text"] for row in rows])
    figures = label_metrics([names.index(row["label"]) for row in rows], [names.index(label) for label in predicted])
    assert figures[metric] == pytest.approx(max(found))


@pytest.mark.slow
def test_training_stops_early_and_says_so(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("llmcls.console.Reporter.say", lambda self, text: heard.append(text))
    losses = iter([3.0, 2.0, 2.5, 1.9, 2.2, 2.1, 2.0, 1.0])
    original = LabelTrainer.evaluation_loop

    def scripted(self: LabelTrainer, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        output.metrics["eval_loss"] = next(losses)
        return output

    monkeypatch.setattr(LabelTrainer, "evaluation_loop", scripted)
    trained = fit({**EVERY_STEP, "training.max_steps": 20, "training.early_stopping_patience": 3})
    assert trained.trainer.state.global_step == 7
    text = "\n".join(heard)
    assert "Stopped early after step 7 of 20: no better loss in 3 evaluations" in text
    assert "Kept the checkpoint of step 4: loss 1.9000, the best of 7 evaluations" in text
    assert "validation loss 1.9000, accuracy 0." in text


@pytest.mark.slow
def test_patience_and_best_survive_an_interruption(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4, 2.3, 2.2])
    monkeypatch.setattr(
        LabelTrainer, "evaluate", lambda self, **_: _heard(self, {"eval_loss": next(losses), "epoch": 0})
    )
    seal = trainer_module.seal_checkpoint

    def seal_and_stop(checkpoint: Path) -> None:
        seal(checkpoint)
        if checkpoint.name == "checkpoint-3":
            os.kill(os.getpid(), signal.SIGTERM)

    changes = {**EVERY_STEP, "training.max_steps": 20, "training.early_stopping_patience": 3}
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "seal_checkpoint", seal_and_stop)
        with pytest.raises(StoppedError, match="Stopped at step 4 of 20"):
            fit(changes)
    state = fit(changes).trainer.state
    assert (state.global_step, state.best_global_step, state.best_metric) == (5, 2, 2.0)


@pytest.mark.slow
def test_an_improvement_below_the_threshold_is_none(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 2.99, 2.98, 2.0])
    monkeypatch.setattr(
        LabelTrainer, "evaluate", lambda self, **_: _heard(self, {"eval_loss": next(losses), "epoch": 0})
    )
    changes = {"training.early_stopping_patience": 2, "training.early_stopping_threshold": 0.1}
    assert fit({**EVERY_STEP, **changes, "training.max_steps": 20}).trainer.state.global_step == 3


def _heard(trainer: LabelTrainer, metrics: dict[str, float]) -> dict[str, float]:
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    return metrics


def test_impossible_choices_are_refused() -> None:
    for training, words in (
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "early_stopping_patience needs eval_strategy"),
        ({"metric_for_best_model": "accuracy"}, "nothing goes by it"),
        ({"metric_for_best_model": "roc_auc"}, "nothing goes by it"),
        ({"metric_for_best_model": "acuracy", "load_best_model_at_end": True}, "metric_for_best_model"),
    ):
        with pytest.raises(LlmclsError, match=words):
            make_settings({"training": training})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["load_best_model_at_end", "early_stopping_patience"])
def test_what_goes_by_validation_rows_needs_some(
    fit: Callable[..., Any], rows: list[dict[str, str]], name: str
) -> None:
    changes = {**EVERY_STEP, "training.load_best_model_at_end": False, f"training.{name}": 1}
    with pytest.raises(LlmclsError, match=rf"training\.{name} goes by the validation split, which has no rows"):
        fit({**changes, "data.validation_size": 0}, {"train": rows})


@pytest.mark.slow
def test_a_ranking_that_is_not_defined_is_refused_at_once(fit: Callable[..., Any], rows: list[dict[str, str]]) -> None:
    changes = {"training.eval_strategy": "epoch", "training.early_stopping_patience": 1}
    changes |= {"training.metric_for_best_model": "roc_auc", "training.max_steps": 1}
    with pytest.raises(LlmclsError, match=r"'roc_auc' is not defined for these 2 validation rows: they all have"):
        fit(changes, {"train": rows, "validation": rows[:2]})
    listed = {"task": "multi_label", "prediction.method": "list", "model.quantization": "none"}
    with pytest.raises(LlmclsError, match=r"'roc_auc' does not go with prediction\.method 'list', .*'micro_f1'"):
        fit({**changes, **listed})


@pytest.mark.slow
def test_training_accuracy_is_the_models_own(fit: Callable[..., Any], rows: list[dict[str, str]]) -> None:
    """In steps that change nothing it is what the model says of the rows, however they are cut."""
    still = {"training.learning_rate": 1e-20, "training.num_train_epochs": 1, "training.logging_steps": 3}
    still |= {"training.per_device_train_batch_size": 2, "training.gradient_accumulation_steps": 2}
    data = {"train": rows[3:13], "validation": rows[:3]}  # 10 rows: steps of 4, 4 and 2
    right = []
    for packing in (True, False):
        trained = fit({**still, "training.packing": packing}, data)
        entries = [(entry["step"], entry["accuracy"]) for entry in trained.log if "loss" in entry]
        assert [step for step, _ in entries] == [1, 3]
        right.append(sum(share * count for (_, share), count in zip(entries, (4, 6), strict=True)))
    classifier = Classifier.load(trained.run)
    said = classifier.predict([row["text"] for row in data["train"]])
    expected = sum(one == row["label"] for one, row in zip(said, data["train"], strict=True))
    assert right == pytest.approx([expected, expected]) and 0 < expected < 10


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "head"])
def test_training_accuracy_rises_with_every_objective(
    fit: Callable[..., Any], rows: list[dict[str, str]], objective: str
) -> None:
    few = [{"text": row["text"], "label": label} for row, label in zip(rows[5:8], "xyy", strict=True)]
    changes = {"training.max_steps": 30, "training.learning_rate": 0.01, "training.objective": objective}
    changes |= {"training.tuning": "full", "model.quantization": "none"}
    trained = fit(changes, {"train": few, "validation": few})
    shares = [entry["accuracy"] for entry in trained.log if "loss" in entry]
    assert shares[-1] > shares[0] and {round(3 * share, 6) for share in shares} <= {0, 1, 2, 3}


@pytest.mark.slow
def test_training_accuracy_survives_an_interruption(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"training.max_steps": 9, "training.logging_steps": 4, "training.per_device_train_batch_size": 3}
    whole = fit(changes, name="whole")
    seal = trainer_module.seal_checkpoint

    def seal_and_stop(checkpoint: Path) -> None:
        seal(checkpoint)
        if checkpoint.name == "checkpoint-2":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "seal_checkpoint", seal_and_stop)
        with pytest.raises(StoppedError, match="Stopped at step 3 of 9"):
            fit({**changes, "training.save_strategy": "steps", "training.save_steps": 2})
    resumed = fit({**changes, "training.save_strategy": "steps", "training.save_steps": 2})
    found = [[(e["step"], e["accuracy"]) for e in trained.log if "loss" in e] for trained in (whole, resumed)]
    assert found[0] == found[1] and [step for step, _ in found[0]] == [1, 4, 8]


@pytest.mark.slow
def test_what_transformers_refuses_is_one_sentence(fit: Callable[..., Any]) -> None:
    for changes, says in (
        ({"lr_scheduler_type": "warmup_stable_decay"}, r"lr_scheduler_type 'warmup_stable_decay' .*num_decay_steps"),
        ({"optim": "galore_adamw"}, r"training\.optim 'galore_adamw' cannot be used: .*galore"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, r"training settings cannot be used: .*eval"),
    ):
        with pytest.raises(LlmclsError, match=says) as refused:
            fit({f"training.{name}": value for name, value in changes.items()})
        assert "\n" not in str(refused.value)
    with pytest.raises(LlmclsError, match=r"lora\.target_modules \('lm_head',\) cannot be used"):
        fit({"lora.target_modules": "lm_head"})
    schedule = {"training.lr_scheduler_type": "cosine_with_min_lr", "training.lr_scheduler_kwargs": {"min_lr": 1e-3}}
    trained = fit({**schedule, "training.max_steps": 4})
    assert [entry["learning_rate"] for entry in trained.log if "loss" in entry][-1] > 1e-3


@pytest.mark.slow
def test_evaluations_without_a_checkpoint_are_not_chosen_from(
    fit: Callable[..., Any], rows: list[dict[str, str]]
) -> None:
    """`save_steps` left out is `eval_steps`: with transformers' 500 the best of six evaluations would be lost."""
    changes = {**EVERY_STEP, "training.eval_steps": 2, "training.save_steps": None, "training.max_steps": 6}
    trained, found = fit_astray(fit, changes, rows, lambda entries: min(entries) < entries[-1], "eval_loss")
    assert len(found) == 3 and trained.trainer.state.best_global_step == 2 * found.index(min(found)) + 2
    assert trained.trainer.evaluate()["eval_loss"] == pytest.approx(min(found))


@pytest.mark.slow
def test_a_run_without_gradients_is_given_up(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As when every label is masked, or the loss does not depend on what is trained."""
    original = LabelTrainer.compute_loss
    monkeypatch.setattr(LabelTrainer, "compute_loss", lambda self, *a, **k: original(self, *a, **k) * 0)
    with pytest.raises(LlmclsError, match=r"Nothing is learned: up to step 3 the gradient was exactly 0 \(loss 0\)"):
        fit({"training.max_steps": 20})
    with pytest.raises(LlmclsError, match=r"Nothing is learned: up to step 2 the gradient was exactly 0 \(loss 0\)"):
        fit({"training.max_steps": 2, "training.logging_steps": 10})


@pytest.mark.slow
def test_weights_that_ran_away_are_given_up(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    original = LabelTrainer.compute_loss

    def run_away(self: LabelTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = original(self, *args, **kwargs)
        return loss if self.state.global_step < 2 else loss * 0 + 0.7

    monkeypatch.setattr(LabelTrainer, "compute_loss", run_away)
    with pytest.raises(LlmclsError, match=r"any more: up to step 5 .* at a loss of 0\.7; .*lower training\.learning"):
        fit({"training.max_steps": 20})


@pytest.mark.slow
def test_a_loss_that_becomes_zero_later_is_honest(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    original = LabelTrainer.compute_loss
    monkeypatch.setattr(
        LabelTrainer,
        "compute_loss",
        lambda self, *a, **k: original(self, *a, **k) * (0 if self.state.global_step > 1 else 1),
    )
    assert fit({"training.max_steps": 8}).losses[2:] == [0] * 6


@pytest.mark.slow
def test_gradients_and_weights_that_are_no_numbers_stop_the_run(
    fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LabelTrainer.training_step

    def spoil(self: LabelTrainer, *args: Any) -> torch.Tensor:
        loss = original(self, *args)
        if self.state.global_step == 1:
            next(p for p in self.model.parameters() if p.grad is not None).grad[0] = float("nan")  # type: ignore[index]
        return loss

    monkeypatch.setattr(LabelTrainer, "training_step", spoil)
    with pytest.raises(LlmclsError, match=r"gradient norm became nan at step 2"):
        fit({"training.max_steps": 4})
    with pytest.raises(LlmclsError, match=r"is not finite after step 2"):
        fit({"training.max_steps": 2, "training.logging_steps": 5})
