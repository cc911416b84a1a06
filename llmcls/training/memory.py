"""When a device's memory does not suffice: smaller micro-batches, more of them, the same rows a step.

except DeviceFullError:                     # a training step did not fit
    smaller = shrink(settings.training)     # new values, or None when nothing is left to shrink
    reporter.warn(explain(smaller))     # or advise(smaller), where only the user can start anew
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcls.errors import LlmclsError
from llmcls.settings import Settings, TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from transformers.trainer_utils import TrainOutput

    from llmcls.training.trainer import LabelTrainer


class DeviceFullError(LlmclsError):
    """A training step did not fit into the memory of a device."""


def shrink(training: TrainingSettings) -> dict[str, int] | None:
    """The settings that cut a step into smaller micro-batches: halves, or thirds and so on of an odd number.

    Returns:
        New values by name; None when micro-batches have one row already, or `halve_batch_on_oom` is off.
    """
    rows = training.per_device_train_batch_size
    if rows == 1 or not training.halve_batch_on_oom:
        return None
    parts = next(divisor for divisor in range(2, rows + 1) if rows % divisor == 0)
    return {
        "per_device_train_batch_size": rows // parts,
        "gradient_accumulation_steps": training.gradient_accumulation_steps * parts,
        "per_device_eval_batch_size": max(1, training.per_device_eval_batch_size // parts),
    }


def explain(smaller: dict[str, int]) -> str:
    """One line for the user about what is tried next."""
    return (
        f"the device's memory is full: going on with {smaller['per_device_train_batch_size']} rows per device and "
        f"forward pass, accumulated {smaller['gradient_accumulation_steps']} times; the rows of a step stay the same "
        "(training.halve_batch_on_oom)."
    )


def advise(smaller: dict[str, int]) -> str:
    """One line for the user of a launcher that cannot be told to start all processes again."""
    words = " ".join(f"--set training.{name}={value}" for name, value in smaller.items())
    return (
        f"The same command with {words} (in place of --batch-size) goes on from the last checkpoint with the same rows "
        "a step; on one machine `llmcls train --launch NAME` does that by itself."
    )


def free_memory() -> None:
    """Drop what a failed attempt has left on the device."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def run_trainer(trainer: LabelTrainer, checkpoint: Path | None, settings: Settings) -> TrainOutput:
    """Train, from the checkpoint if there is one.

    Raises:
        DeviceFullError: when a step does not fit into the memory of a device.
    """
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        rows = settings.training.per_device_train_batch_size
        raise DeviceFullError(
            f"The device's memory is full at step {trainer.state.global_step} with {rows} rows per forward pass; lower "
            "training.per_device_train_batch_size and prompt.max_length, or set training.gradient_checkpointing to "
            "true."
        ) from error
