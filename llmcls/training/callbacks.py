"""What happens between two training steps: checkpoints, checks that something is learned, and what becomes of it.

trainer.add_callback(StoppingCallback(trainer))
trainer.add_callback(HealthCallback(trainer))
...
for line in describe_outcome(trainer): reporter.say(line)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from llmcls.processes.stopping import StopSignals


class Watched(Protocol):
    """What the callbacks read and set of the trainer (`llmcls.training.trainer.LabelTrainer`)."""

    args: Any
    state: Any
    callback_handler: Any
    stop: StopSignals | None
    stopping: bool
    save_is_due: bool
    step_loss: torch.Tensor


class StoppingCallback(TrainerCallback):  # type: ignore[misc]
    """Writes a checkpoint when one is due by the clock, at the end, or when a signal asks the run to stop.

    `Trainer` evaluates at an epoch's end, and at the end of training, after it has saved the last step. A run that goes
    on from there would have lost that evaluation and the random numbers it drew, so such a checkpoint waits for the
    evaluation. The one of the end always is written: what comes after training may be killed, too, or find no room.

    A checkpoint says that training has ended (`control.should_training_stop`) only where it has: a signal's stop is
    decided after its checkpoint.
    """

    def __init__(self, trainer: Watched) -> None:
        self._trainer = trainer
        self._waiting = self._leaving = False
        self._saved = -1  # the step of the last checkpoint

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All processes have agreed on this at the beginning of the step."""
        stop = self._trainer.stop
        if args.world_size == 1 and stop is not None and stop.received is not None:
            self._trainer.stopping = True
        last = state.global_step >= state.max_steps
        control.should_save |= last or self._trainer.stopping or self._trainer.save_is_due
        self._waiting = control.should_save and (last or state.epoch.is_integer())
        control.should_save &= not self._waiting

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a signal, what has been saved is left."""
        self._saved = state.global_step
        self._leaving = self._trainer.stopping and not control.should_training_stop
        control.should_training_stop |= self._leaving

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`Trainer` calls this also when training stops amid an epoch; then the checkpoint is written already."""
        if self._leaving and not state.epoch.is_integer():
            control.should_evaluate = control.should_save = False
        control.should_save |= self._waiting
        control.should_save &= self._saved != state.global_step or control.should_evaluate
        self._waiting = False


class RowsRight(TrainerCallback, ExportableState):  # type: ignore[misc]
    """How many training rows since the last log line were right; a checkpoint keeps the counts of its log line.

    Attributes:
        right: rows that were right, of all processes.
        rows: all rows.
    """

    def __init__(self) -> None:
        self.right = self.rows = 0.0

    def add(self, right: float, rows: float) -> None:
        """Count rows."""
        self.right, self.rows = self.right + right, self.rows + rows

    def take(self) -> float:
        """The share that was right; then counting begins anew."""
        share = self.right / self.rows
        self.right = self.rows = 0.0
        return share

    def state(self) -> dict[str, Any]:
        """What `Trainer` writes into a checkpoint, and sets again on every process."""
        return {"args": {}, "attributes": {"right": self.right, "rows": self.rows}}


STILL_LINES = 3
"""Log lines without any gradient after which a run is given up; one could be an odd batch."""


SOME_LOSS = 1e-3
"""Loss of a step, in nats, that cannot be without a gradient as long as the weights are in order."""


class HealthCallback(TrainerCallback):  # type: ignore[misc]
    """Stops a run that cannot learn: no gradient, or gradients or weights that are not numbers.

    A run that has learned may well reach a loss of exactly 0, and with it gradients of 0.
    """

    def __init__(self, trainer: Watched) -> None:
        self._trainer = trainer
        self._moved, self._still = False, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A run that goes on may have moved before, or stood still."""
        norms = [entry["grad_norm"] for entry in state.log_history if "grad_norm" in entry]
        self._moved = any(math.isfinite(norm) and norm != 0 for norm in norms)
        self._still = next((at for at, norm in enumerate(reversed(norms)) if norm != 0), len(norms))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Look at the gradient norm of each logged step.

        Raises:
            LlmclsError: when it is infinite or NaN; when it stays 0 from the beginning, or while there is a loss.
        """
        logs = logs or {}
        norm = logs.get("grad_norm")
        if norm is None:
            return
        if not math.isfinite(norm) and not args.fp16:  # with fp16 the loss scaler skips such steps
            raise LlmclsError(
                f"The gradient norm became {norm} at step {state.global_step}; "
                "lower training.learning_rate, or set training.mixed_precision to 'no'."
            )
        self._moved |= math.isfinite(norm) and norm != 0
        self._still = self._still + 1 if norm == 0 else 0
        if self._still >= STILL_LINES and not self._moved:
            raise _nothing_learned(state)
        # The logged loss is a mean over steps, the norm that of the last one: a few rows not yet learned are no case.
        if self._still >= STILL_LINES and float(self._trainer.step_loss) > SOME_LOSS:
            raise LlmclsError(
                f"Nothing is learned any more: up to step {state.global_step} the gradient was exactly 0 in "
                f"{STILL_LINES} log lines, at a loss of {logs['loss']:.4g}; the weights have run away, so lower "
                "training.learning_rate."
            )

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The last step is seldom logged, and no loss comes after it.

        Raises:
            LlmclsError: when there never was a gradient, or a trained weight is not a number.
        """
        if self._still and not self._moved:
            raise _nothing_learned(state)
        self._check_weights(state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Weights that are not numbers are not worth the checkpoint of the end: a run with other settings refuses it.

        Raises:
            LlmclsError: when a trained weight is not a number after the last step.
        """
        if state.global_step >= state.max_steps:
            self._check_weights(state, model)

    def _check_weights(self, state: Any, model: Any) -> None:
        for name, weight in model.named_parameters():
            if weight.requires_grad and not torch.isfinite(weight).all():
                raise LlmclsError(
                    f"The trained weight '{name}' is not finite after step {state.global_step}; "
                    "lower training.learning_rate, or set training.mixed_precision to 'no'."
                )


def check_finite(loss: float, step: int) -> None:
    """Refuse to go on with a loss that is not a number.

    Raises:
        LlmclsError: when it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise LlmclsError(
            f"The loss became {loss} at step {step}; "
            "lower training.learning_rate, or set training.mixed_precision to 'no'."
        )


def _nothing_learned(state: Any) -> LlmclsError:
    loss = next(entry["loss"] for entry in reversed(state.log_history) if "loss" in entry)
    return LlmclsError(
        f"Nothing is learned: up to step {state.global_step} the gradient was exactly 0 (loss {loss:.4g}), so no "
        "answer token reaches a weight that is trained; check lora.target_modules and the base model's plugin."
    )


Kind = TypeVar("Kind", bound=TrainerCallback)


def find_callback(trainer: Any, kind: type[Kind]) -> Kind | None:
    """The trainer's callback of this kind, if it has one; `Trainer` makes it anew when it goes on from a checkpoint."""
    return next((each for each in trainer.callback_handler.callbacks if isinstance(each, kind)), None)


def the_callback(trainer: Any, kind: type[Kind]) -> Kind:
    """The same, for one that every `LabelTrainer` has."""
    found = find_callback(trainer, kind)
    assert found is not None
    return found


def describe_outcome(trainer: Watched) -> list[str]:
    """When training ended early and which checkpoint is kept, one line each, with the reason."""
    args, state = trainer.args, trainer.state
    lines = []
    if state.global_step < state.max_steps:
        patience = the_callback(trainer, EarlyStoppingCallback)
        lines.append(
            f"Stopped early after step {state.global_step} of {state.max_steps}: no better "
            f"{args.metric_for_best_model} in {patience.early_stopping_patience_counter} evaluations "
            "(training.early_stopping_patience)"
        )
    if args.load_best_model_at_end and state.best_model_checkpoint is not None:
        evaluations = sum("eval_loss" in entry for entry in state.log_history)
        lines.append(
            f"Kept the checkpoint of step {state.best_global_step}: {args.metric_for_best_model} "
            f"{state.best_metric:.4f}, the best of {evaluations} evaluations"
        )
    return lines
