"""What a process that was killed at the very end of a training leaves behind, and who clears it away.

remove_state(path)      # the last thing that a training does
clear_remains(path)     # whoever opens the run later, if that was not done

A run has its name before what it was trained with is deleted: until then, whatever fails, it can go on.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from llmcls.files import LockedError, locked
from llmcls.runs.writing import CARD, IDENTITY, MARK, has_mark, lock_file, unfinished_folder

STATE = ("trainer", IDENTITY)
"""What an unfinished run goes on from; the finished one does without."""


def remove_state(run: Path) -> None:
    """Delete what a finished run no longer needs."""
    shutil.rmtree(run / "trainer", ignore_errors=True)
    (run / MARK).unlink(missing_ok=True)
    (run / IDENTITY).unlink(missing_ok=True)  # last, so that it shows what was left


def clear_remains(path: Path) -> None:
    """Do what a killed training could not do any more: delete its state, and the run that it has replaced.

    Nothing is done while a process trains the run, nor where this one may not write.
    """
    if not _remains(path):
        return
    # They take room, and do no harm: who may only read the run is not to fail because of them.
    with suppress(LockedError, OSError), locked(lock_file(path)):
        for kept in _remains(path):
            if kept == path:
                remove_state(path)
            else:
                shutil.rmtree(kept)


def _remains(path: Path) -> list[Path]:
    """The run itself when its state is still there, and the run that it has replaced."""
    if not (path / CARD).is_file():
        return []
    replaced = unfinished_folder(path)
    is_replaced = has_mark(replaced) and not (replaced / IDENTITY).exists()
    return [path] * ((path / IDENTITY).is_file() or has_mark(path)) + [replaced] * is_replaced
