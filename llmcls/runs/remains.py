"""What a process that was killed at the very end of a training leaves behind, and who clears it away.

remove_state(path)      # the last thing that a training does
clear_remains(path)     # whoever opens the run later, if that was not done

A run has its name before what it was trained with is deleted: until then, whatever fails, it can go on.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from glob import escape
from pathlib import Path

from llmcls.errors import LlmclsError
from llmcls.files import locked
from llmcls.runs.writing import (
    IDENTITY,
    MARK,
    delete,
    find_card,
    find_foreign,
    has_identity,
    has_mark,
    lock_file,
    unfinished_folder,
)

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
    path = path.resolve()  # "." has no name
    if not _remains(path):
        return
    # They take room, and do no harm: who may only read the run is not to fail because of them.
    with suppress(LlmclsError, OSError), locked(lock_file(path)):
        for kept in _remains(path):
            if kept == path:
                remove_state(path)
            else:
                delete(kept)
                if kept.name == path.name:
                    kept.parent.rmdir()


def _remains(path: Path) -> list[Path]:
    """The run itself when its state is still there, and the run that it has replaced.

    Only what llmcls has made, and where nobody has put anything besides.
    """
    if find_card(path) is None:
        return []
    # Where the system cannot exchange two names, the replaced run was moved away first.
    places = [unfinished_folder(path), *path.parent.glob(f".{escape(path.name)}.*/{escape(path.name)}")]
    replaced = [place for place in places if has_mark(place) and not (place / IDENTITY).exists()]
    own = has_identity(path) or has_mark(path)
    return [path] * own + [place for place in replaced if find_foreign(place) is None]
