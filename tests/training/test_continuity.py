"""A training that is killed after any checkpoint and started again gives what the undisturbed one gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from llmcls.training import keeping
from llmcls.training import trainer as trainer_module
from llmcls.training.checkpoints import seal_checkpoint
from llmcls.training.trainer import LabelTrainer

pytestmark = pytest.mark.slow

EVERY = {"training.save_strategy": "steps", "training.save_steps": 1, "training.save_total_limit": 2}
# Random numbers, weights that depend on every step, and a schedule that would go on for ever.
DRAWS = {"model.quantization": "none", "lora.lora_dropout": 0.2, "training.per_device_train_batch_size": 4}
TIMES = ("runtime", "per_second")


class Killed(BaseException):
    """Ends a training as a signal would: nothing of llmcls or the libraries catches it."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`killed(3, train)`: run `train` and end it when the checkpoint of step 3 is whole."""

    def killed(step: int, train: Callable[[], Any]) -> None:
        def seal_and_die(checkpoint: Path) -> None:
            seal_checkpoint(checkpoint)
            if checkpoint.name == f"checkpoint-{step}":
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(trainer_module, "seal_checkpoint", seal_and_die)
            with pytest.raises(Killed):
                train()

    return killed


def outcome(trained: Any) -> dict[str, Any]:
    """All that a training leaves behind but for times: weights, log, card, and the best checkpoint."""
    [weights] = trained.run.path.glob("*/adapter_model.safetensors")
    log = [
        {name: value for name, value in entry.items() if not any(time in name for time in TIMES)}
        for entry in trained.log
    ]
    state, card = trained.trainer.state, trained.run.card
    figures = {name: value for name, value in card["training"].items() if not any(time in name for time in TIMES)}
    return {
        "weights": weights.read_bytes(),
        "log": log,
        "card": figures,
        "flops": card["cost"]["flops"],
        "step": state.global_step,
        "best": (state.best_global_step, state.best_metric, Path(state.best_model_checkpoint or "").name),
    }


def script(patch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let evaluations find these losses, by the step: what stops early, and which is the best, is then known."""
    original = LabelTrainer.evaluation_loop

    def scripted(self: LabelTrainer, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        output.metrics["eval_loss"] = losses[self.state.global_step - 1]
        return output

    patch.setattr(LabelTrainer, "evaluation_loop", scripted)


CASES = {
    # 14 rows, 4 a step: epochs of 4 steps, of which the last is not full.
    "amid an epoch": {**EVERY, "training.max_steps": 6, "training.logging_steps": 4},
    "at an epoch's end": {**EVERY, "training.num_train_epochs": 2, "training.eval_strategy": "epoch"},
    "by the clock": {
        "training.save_minutes": 1e-9,
        "training.max_steps": 5,
        "training.logging_steps": 3,
        "training.eval_strategy": "epoch",
    },
    "accumulated and grouped": {
        **EVERY,
        "training.per_device_train_batch_size": 2,
        "training.gradient_accumulation_steps": 3,
        "training.train_sampling_strategy": "group_by_length",
        "training.num_train_epochs": 2,
        "training.lr_scheduler_type": "linear",
    },
    "stopped early": {
        **EVERY,
        "training.max_steps": 20,
        "training.eval_strategy": "steps",
        "training.eval_steps": 1,
        "training.early_stopping_patience": 2,
    },
    "the best is kept": {
        **EVERY,
        "training.max_steps": 5,
        "training.eval_strategy": "steps",
        "training.eval_steps": 1,
        "training.load_best_model_at_end": True,
    },
}
STEPS = {"at an epoch's end": 8, "accumulated and grouped": 6, "stopped early": 4}


@pytest.mark.parametrize("case", CASES)
def test_killed_after_any_checkpoint_it_ends_alike(
    fit: Callable[..., Any], killed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    changes = {**DRAWS, **CASES[case]}
    if case in ("stopped early", "the best is kept"):
        script(monkeypatch, [3.0, 1.0, 2.0, 2.5, 2.6])
    whole = outcome(fit(changes, name="whole"))
    steps = STEPS.get(case, changes.get("training.max_steps"))
    assert whole["step"] == steps, "the case is what it is called"
    for step in (1, steps - 2, steps):  # the last one when nothing is left but to write the run
        killed(step, lambda: fit(changes))
    assert outcome(fit(changes)) == whole


def test_what_peft_keeps_as_a_set_is_written_in_one_order(tmp_path: Path) -> None:
    modules = ["v_proj", "q_proj", "up_proj", "down_proj", "gate_proj", "o_proj", "k_proj"]
    config = LoraConfig(target_modules=modules, exclude_modules=["lm_head", "embed"], modules_to_save=["b", "a"])
    config.save_pretrained(str(tmp_path))
    before = json.loads((tmp_path / "adapter_config.json").read_text())
    keeping._sort_sets(tmp_path / "adapter_config.json", config)
    after = json.loads((tmp_path / "adapter_config.json").read_text())
    assert after["target_modules"] == sorted(modules) and after["exclude_modules"] == ["embed", "lm_head"]
    assert after["modules_to_save"] == ["b", "a"], "a list has an order of its own"
    assert {**after, "target_modules": None, "exclude_modules": None} == {
        **before,
        "target_modules": None,
        "exclude_modules": None,
    }
    assert LoraConfig.from_pretrained(str(tmp_path)).target_modules == set(modules)
