"""A run while it is trained: where it is written, its processes, and the checkpoint that it goes on from.

goes_on(path, resume="auto")                                 # is there anything to lose by a signal?
unfinished = Unfinished(path, world, identity, checkpoint, config)
with writing_run(unfinished, overwrite=False, reporter=reporter): ...   # the run, when the block ends well
raise StoppedError(stopped(path, "at step 3 of 20"))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcls.console import Reporter
from llmcls.processes.world import World
from llmcls.runs.begun import record_settings
from llmcls.runs.writing import explaining_writes, unfinished_folder, writing
from llmcls.settings import Settings
from llmcls.training.checkpoints import SEAL, record_identity, remove_leftovers


@dataclass(frozen=True)
class Unfinished:
    """A run that is being trained.

    Attributes:
        path: the run directory to write.
        world: the processes that train it.
        identity: what must be the same for it to go on, see `describe_run`.
        checkpoint: where it goes on; None: from the beginning.
        config: TRL's configuration.
        begun_with: all settings, those to begin it with in a process of its own.
    """

    path: Path
    world: World
    identity: dict[str, Any]
    checkpoint: Path | None
    config: Any
    begun_with: Settings

    @property
    def folder(self) -> Path:
        """Where the run is written until it is finished."""
        return unfinished_folder(self.path)


def goes_on(path: Path, resume: str) -> bool:
    """Whether the run has a checkpoint to go on from, so that nothing is lost by leaving before training."""
    if resume == "auto":
        return any(unfinished_folder(path).glob(f"trainer/checkpoint-*/{SEAL}"))
    return resume != "never"


def stopped(path: Path, when: str) -> str:
    """What a user is told who has stopped a run that has a checkpoint."""
    return (
        f"Stopped {when}, with a checkpoint in '{unfinished_folder(path)}'; the same command with --output-dir {path} "
        "goes on."
    )


@contextmanager
def writing_run(unfinished: Unfinished, overwrite: bool, reporter: Reporter) -> Iterator[None]:
    """Write into the unfinished run; it becomes the run when the block ends well.

    Raises:
        LlmclsError: as `llmcls.runs.writing.writing`.
    """
    checkpoint, folder = unfinished.checkpoint, unfinished.folder
    own = checkpoint is not None and checkpoint.resolve().is_relative_to(folder.resolve())
    with writing(unfinished.path, overwrite, keep=own):
        with explaining_writes(folder):
            record_identity(folder, unfinished.identity)
            record_settings(folder, unfinished.begun_with)
        if checkpoint is not None:
            reporter.say(f"Going on from {checkpoint}; --resume never begins anew")
            if own:  # nothing is deleted in another run
                remove_leftovers(checkpoint)
        yield
