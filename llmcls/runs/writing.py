"""How a run directory comes into being: beside its final place, and under its name only when it is complete.

check_free("runs/tickets", overwrite=False)        # refuses to write over what is there
with writing("runs/tickets") as folder: ...        # runs/tickets.unfinished until the block has ended well
with explaining_writes(folder): ...                # a full disk is one sentence
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from safetensors import SafetensorError

from llmcls.errors import LlmclsError
from llmcls.files import flush_folder, flush_tree
from llmcls.settings import Settings

CARD = "run.json"
"""The file that makes a folder a run."""


def default_path(settings: Settings) -> Path:
    """Where a run goes that was given no name: by its data, its base model and the time."""
    source = Path((settings.data.source or "data").rstrip("/:")).stem or "data"
    model = Path(settings.model.base_model).name
    # To the microsecond: several runs may begin within a second.
    return Path("runs") / f"{source[:80]}-{model[:80]}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def unfinished_folder(path: Path) -> Path:
    """Where a run is written until it is finished."""
    return path.with_name(f"{path.name}.unfinished")


def check_free(path: str | Path, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        LlmclsError: when `path` exists, unless it is an empty folder, or a run and `overwrite` is set.
    """
    path = Path(path)
    if not path.exists() or _is_empty(path):
        return
    if (path / CARD).is_file():
        if not overwrite:
            raise LlmclsError(f"'{path}' exists already; choose another --output-dir, or replace it with --overwrite.")
    elif overwrite:
        raise LlmclsError(f"'{path}' is not a run directory, so --overwrite will not delete it; choose another.")
    else:
        what = "a link" if path.is_symlink() else "a mounted disk" if os.path.ismount(path) else "not a run directory"
        raise LlmclsError(f"'{path}' exists already and is {what}; choose another --output-dir.")


def _is_empty(path: Path) -> bool:
    """Whether it is an empty folder that a run can take the place of; links and mounted disks cannot be renamed."""
    return path.is_dir() and not path.is_symlink() and not os.path.ismount(path) and not any(path.iterdir())


@contextmanager
def writing(path: str | Path, overwrite: bool = False, keep: bool = False) -> Iterator[Path]:
    """Yield a sibling folder to write into; it takes the name `path` only when the block ends without error.

    A process that is killed leaves `path` as it was. What an error leaves behind stays in `path.unfinished`, and is
    deleted at the next attempt unless `keep` is set.

    Raises:
        LlmclsError: as `check_free`, or when the place cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite)
    folder = unfinished_folder(path)
    try:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_place(path, error) from error
    yield folder
    with explaining_writes(folder):
        flush_tree(folder)
        _take_name(folder, path)
        flush_folder(path.parent)


@contextmanager
def explaining_writes(folder: Path) -> Iterator[None]:
    """Say in one sentence why something could not be written to an unfinished run.

    Wrap only what writes: other errors of the system, such as a refused connection, have nothing to do with the run.

    Raises:
        LlmclsError: when the disk is full, a quota used up, or the folder has become read-only.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise LlmclsError(f"Writing the run failed: {error}. What was written is in '{folder}'.") from error


def no_place(path: Path, error: OSError) -> LlmclsError:
    """The error for a run directory that the system does not let be made."""
    return LlmclsError(f"Run directory '{path}' cannot be created: {error.strerror}. Choose --output-dir.")


def _take_name(folder: Path, path: Path) -> None:
    """Give the folder the name `path`, and delete the run that had it."""
    if path.exists() and _exchange(folder, path):
        shutil.rmtree(folder)
    elif path.exists():
        replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        path.rename(replaced / path.name)
        folder.rename(path)
        shutil.rmtree(replaced)
    else:
        folder.rename(path)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap names in one step, where the system can; else nothing is done.

    Two renames would leave a moment in which neither the old run nor the new one has its name.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
