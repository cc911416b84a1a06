"""What happens between two training steps: checkpoints by the clock and before a stop, and what the user sees.

trainer.add_callback(ProgressCallback(reporter))
trainer.add_callback(StoppingCallback(trainer))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from llmcls.progress import Reporter

if TYPE_CHECKING:
    from llmcls.training.trainer import LabelTrainer


class StoppingCallback(TrainerCallback):  # type: ignore[misc]
    """Writes a checkpoint when one is due by the clock, or when a signal asks the run to stop.

    `Trainer` evaluates at an epoch's end after it has saved the epoch's last step. A run that goes on from there would
    have lost that evaluation and the random numbers it drew, so such a checkpoint waits for the evaluation.
    """

    def __init__(self, trainer: LabelTrainer) -> None:
        self._trainer = trainer
        self._waiting = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All processes have agreed on this at the beginning of the step."""
        stop = self._trainer.stop
        if args.world_size == 1 and stop is not None and stop.received is not None:
            self._trainer.stopping = True
        if state.global_step < state.max_steps:
            control.should_training_stop |= self._trainer.stopping
            control.should_save |= self._trainer.stopping or self._trainer.save_is_due
        self._waiting = control.should_save and state.epoch.is_integer()
        control.should_save &= not self._waiting

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`Trainer` calls this also when training stops amid an epoch; then the checkpoint is written already."""
        if self._trainer.stopping and not state.epoch.is_integer():
            control.should_evaluate = control.should_save = False
        control.should_save |= self._waiting
        self._waiting = False


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Shows training through llmcls's reporter instead of tqdm."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._done = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self._track = self._reporter.track("Training", total=state.max_steps)
        self._advance = self._track.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar."""
        self._advance(state.global_step - self._done)
        self._done = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """One line per logged loss."""
        logs = logs or {}
        where = f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}"
        if "eval_loss" in logs:
            self._reporter.say(f"  {where}: validation loss {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            self._reporter.say(f"  {where}: loss {float(logs['loss']):.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self._track.__exit__(None, None, None)
