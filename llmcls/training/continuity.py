"""What `Trainer` forgets between a checkpoint and the run that goes on from it, so that both end alike.

trainer.add_callback(SoFar())                          # its figures travel in the checkpoint
trainer.add_callback(ContinuityCallback(trainer))      # and are set when training goes on
the_callback(trainer, SoFar).note(trainer)             # before a checkpoint is written

transformers restores weights, optimizer, schedule, random state and log. It forgets the losses since the last log line,
the sum that `train_loss` is made of, which step was the first one, and that a training had ended: it would train on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from llmcls.training.callbacks import find_callback, the_callback

if TYPE_CHECKING:
    from llmcls.settings import TrainingSettings
    from llmcls.training.trainer import LabelTrainer


class SoFar(TrainerCallback, ExportableState):  # type: ignore[misc]
    """The sums behind the losses that are logged later, as of a checkpoint.

    Attributes:
        waiting: of every process, the sum of its losses since the last log line.
        logged: the sum of all losses in log lines.
        logged_at: the step of the last log line; -1: nothing is known, as in checkpoints of older versions.
    """

    def __init__(self) -> None:
        self.waiting: list[float] = []
        self.logged = 0.0
        self.logged_at = -1

    def note(self, trainer: LabelTrainer) -> None:
        """Take the figures from the trainer; every process must call it."""
        mine = trainer._tr_loss.reshape(1)
        self.waiting = trainer.accelerator.gather(mine).tolist()
        self.logged, self.logged_at = trainer._total_loss_scalar, trainer._globalstep_last_logged

    def restore(self, trainer: LabelTrainer) -> None:
        """Set the trainer's figures; with another number of processes each gets the mean, which is what is logged."""
        if self.logged_at < 0:
            return
        world, rank = trainer.args.world_size, trainer.args.process_index
        mine = self.waiting[rank] if len(self.waiting) == world else sum(self.waiting) / len(self.waiting)
        trainer._tr_loss = torch.tensor(mine, device=trainer.args.device)
        trainer._total_loss_scalar, trainer._globalstep_last_logged = self.logged, self.logged_at
        trainer._initial_global_step = 0

    def state(self) -> dict[str, Any]:
        """What `Trainer` writes into a checkpoint, and sets again on every process."""
        known = {"waiting": self.waiting, "logged": self.logged, "logged_at": self.logged_at}
        return {"args": {}, "attributes": known}


class ContinuityCallback(TrainerCallback):  # type: ignore[misc]
    """Lets a run go on from a checkpoint as if it had not been interrupted, and not at all where it had ended."""

    def __init__(self, trainer: LabelTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`Trainer` has set everything to its beginning, and forgotten whether training had stopped."""
        the_callback(self._trainer, SoFar).restore(self._trainer)
        stopper = find_callback(self._trainer, EarlyStoppingCallback)
        tired = stopper is not None and stopper.early_stopping_patience_counter >= stopper.early_stopping_patience
        control.should_training_stop |= tired or state.global_step >= state.max_steps


def settle_state(trainer: LabelTrainer, checkpoint: str | Path, training: TrainingSettings) -> None:
    """Set what a checkpoint restores in another way than its run would have it.

    The best checkpoint lies beside this one, wherever the run was moved to or called from; and patience is that of the
    settings, of which --force may have changed it.
    """
    state = trainer.state
    if state.best_global_step:
        best = Path(checkpoint).parent / f"checkpoint-{state.best_global_step}"
        state.best_model_checkpoint = str(best) if best.is_dir() else None
    stopper = find_callback(trainer, EarlyStoppingCallback)
    if stopper is not None and training.early_stopping_patience is not None:
        stopper.early_stopping_patience = training.early_stopping_patience
        stopper.early_stopping_threshold = training.early_stopping_threshold
