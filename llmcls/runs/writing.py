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
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llmcls.errors import LlmclsError
from llmcls.files import draft_of, find_json, flush_folder, flush_tree, replacing
from llmcls.settings import Settings

CARD = "run.json"
"""The file that makes a folder a run."""

IDENTITY = "resume.json"
"""What a run was begun with, for those who would go on with it."""

MARK = "unfinished.txt"
"""The file that says that llmcls has made a folder."""

MARKED = "An unfinished run of llmcls: the command that has begun it goes on with it, or deletes it.\n"

OWN = frozenset(
    {
        *(CARD, IDENTITY, MARK, "settings.yaml", "template.j2", "shots.json", "log.jsonl", "bad_rows.csv", "README.md"),
        *("adapter", "model", "tokenizer", "trainer", "tensorboard", "evaluation"),
    }
)
"""What lies in a run or an unfinished one; whatever else does is somebody's who put it there."""


def default_path(settings: Settings) -> Path:
    """Where a run goes that was given no name: by its data, its base model and the time."""
    source = Path((settings.data.source or "data").rstrip("/:")).stem or "data"
    model = Path(settings.model.base_model).name
    # To the microsecond: several runs may begin within a second.
    return Path("runs") / f"{source[:80]}-{model[:80]}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def unfinished_folder(path: Path) -> Path:
    """Where a run is written until it is finished."""
    return path.with_name(f"{path.name}.unfinished")


def lock_file(path: Path) -> Path:
    """What the process that trains a run holds."""
    return path.with_name(f"{path.name}.lock")


def check_free(path: str | Path, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        LlmclsError: when `path` exists, unless it is an empty folder, or `overwrite` is set and it is a run that holds
            nothing else.
    """
    path = Path(path)
    if not os.path.lexists(path) or _is_empty(path):
        return
    kind = "a link" if path.is_symlink() else "a mounted disk" if os.path.ismount(path) else "not a run directory"
    card = find_card(path) if path.is_dir() and kind == "not a run directory" else None
    if card is None and overwrite:
        raise LlmclsError(f"'{path}' is {kind}, so --overwrite will not delete it; choose another.")
    if card is None:
        raise LlmclsError(f"'{path}' exists already and is {kind}; choose another --output-dir.")
    if not overwrite:
        raise LlmclsError(f"'{path}' exists already; choose another --output-dir, or replace it with --overwrite.")
    if strange := find_foreign(path, card["seal"]):
        raise LlmclsError(
            f"'{path}' holds '{strange}', which llmcls did not write, so --overwrite will not delete it; move it away, "
            "or choose another --output-dir."
        )


def check_not_read(path: str | Path, sources: Iterable[str | None]) -> None:
    """Refuse to replace a run that holds what is read: its own rows as data, its model as the base model.

    Args:
        path: the run directory to write.
        sources: what is read, as the user names it; names that are not paths are left alone.

    Raises:
        LlmclsError: naming the first one.
    """
    path = Path(path)
    if not path.is_dir() or _is_empty(path):
        return
    for source in filter(None, sources):
        with suppress(OSError, ValueError):  # what can be no path at all
            place = Path(source)
            if place.exists() and path.resolve() in (place.resolve(), *place.resolve().parents):
                raise LlmclsError(
                    f"'{source}' is read by this training and lies in '{path}', which would be replaced; choose "
                    "another --output-dir."
                )


def check_unfinished(path: str | Path) -> None:
    """Refuse to write a run where the folder for unfinished ones is somebody else's.

    Raises:
        LlmclsError: when `path.unfinished` is there, and llmcls has not made it, or not all that it holds.
    """
    folder = unfinished_folder(Path(path))
    if not os.path.lexists(folder):
        return
    advice = (
        f"but a run is written there until it is finished as '{path}'; move it away, or choose another --output-dir."
    )
    if folder.is_symlink() or not folder.is_dir():
        raise LlmclsError(f"'{folder}' is not a folder of llmcls, {advice}")
    draft = draft_of(folder / MARK)
    if not any((file.is_symlink() or not file.is_dir()) and file != draft for file in folder.rglob("*")):
        return  # nothing would be lost
    if not (has_mark(folder) or has_identity(folder)):  # a finished run may be called so as well
        raise LlmclsError(f"'{folder}' was not made by llmcls, {advice}")
    if strange := find_foreign(folder):
        raise LlmclsError(f"'{folder}' holds '{strange}', which llmcls did not write, {advice}")


def find_card(path: Path) -> dict[str, Any] | None:
    """What `run.json` says, unverified; None where there is none, or another program's: others use the name, too."""
    card = find_json(path / CARD)
    return card if is_card(card) and isinstance(card["seal"], dict) else None


def is_card(content: object) -> bool:
    """Whether the content of a `run.json` is one that llmcls wrote."""
    return isinstance(content, dict) and content.keys() >= {"format", "created", "base_model", "labels", "seal"}


def has_mark(folder: Path) -> bool:
    """Whether a folder says that llmcls has made it and may delete it."""
    try:
        return (folder / MARK).read_text(encoding="utf-8").startswith(MARKED)
    except (OSError, UnicodeDecodeError):
        return False


def has_identity(folder: Path) -> bool:
    """Whether there is what unfinished runs are recognised by that an older version has made, without the mark."""
    content = find_json(folder / IDENTITY)
    return isinstance(content, dict) and content.keys() >= {"effective batch", "rows of data"}


def find_foreign(folder: Path, seal: Collection[str] = ()) -> str | None:
    """Something in a folder that no run has; None where there is no such thing.

    What lies in the folders that grow (evaluations, the trainer's own) is not looked at.
    """
    known = OWN | {name.partition("/")[0] for name in seal}
    for entry in sorted(folder.iterdir()):
        if entry.name not in known and not (entry.name.startswith(".") and entry.name.endswith(".tmp")):
            return entry.name
    for name in ("adapter", "model", "tokenizer") if seal else ():
        for file in sorted((folder / name).rglob("*")):
            if not file.is_dir() and (found := file.relative_to(folder).as_posix()) not in seal:
                return found
    return None


def _is_empty(path: Path) -> bool:
    """Whether it is an empty folder that a run can take the place of; links and mounted disks cannot be renamed."""
    return path.is_dir() and not path.is_symlink() and not os.path.ismount(path) and not any(path.iterdir())


@contextmanager
def writing(path: str | Path, overwrite: bool = False, keep: bool = False) -> Iterator[Path]:
    """Yield a sibling folder to write into; it takes the name `path` only when the block ends without error.

    A process that is killed leaves `path` as it was. What an error leaves behind stays in `path.unfinished`, and is
    deleted at the next attempt unless `keep` is set. A file in it says whose it is.

    Raises:
        LlmclsError: as `check_free` and `check_unfinished`, before and after the block, or when the place cannot be
            written.
    """
    path = Path(path)
    check_free(path, overwrite)
    check_unfinished(path)
    folder = unfinished_folder(path)
    try:
        if not keep and folder.exists():
            delete(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _mark(folder)
    except OSError as error:
        raise no_place(path, error) from error
    yield folder
    with explaining_writes(folder):
        flush_tree(folder)
        try:
            check_free(path, overwrite)
        except LlmclsError:
            raise LlmclsError(
                f"'{path}' was made or changed by somebody else meanwhile, so the finished run stays in '{folder}'; "
                "move it to a free name."
            ) from None
        _take_name(folder, path)
        (path / MARK).unlink(missing_ok=True)
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
    except Exception as error:
        if not is_write_failure(error):
            raise
        raise LlmclsError(
            f"Writing the run failed: {error}. What was written is in '{folder}'; make room, and the same command with "
            "the same --output-dir goes on from there."
        ) from error


def is_write_failure(error: Exception) -> bool:
    """Whether this is what the system, or a library that writes through it, raises when a file cannot be written.

    torch and tokenizers forget the system's error and raise what else means a mistake of ours; their words tell it.
    """
    if isinstance(error, OSError):
        return error.errno is not None  # transformers raises such errors of its own, without a number
    if isinstance(error, RuntimeError):
        return "inline_container" in str(error)
    return isinstance(error, SafetensorError) or (type(error) is Exception and "os error" in str(error))


def no_place(path: Path, error: OSError) -> LlmclsError:
    """The error for a run directory that the system does not let be made."""
    return LlmclsError(f"Run directory '{path}' cannot be created: {error.strerror}. Choose --output-dir.")


def _take_name(folder: Path, path: Path) -> None:
    """Give the folder the name `path`, and delete the run that had it."""
    if _is_empty(path):
        path.rmdir()  # refuses what has come into it meanwhile
        folder.rename(path)
    elif path.exists():
        # Else nobody could tell the replaced run from one that is called so, if this process is killed now.
        _mark(path)
        _replace(folder, path)
    else:
        folder.rename(path)


def _replace(folder: Path, path: Path) -> None:
    if _exchange(folder, path):
        delete(folder)
        return
    replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    path.rename(replaced / path.name)
    folder.rename(path)
    delete(replaced / path.name)
    replaced.rmdir()


def _mark(folder: Path) -> None:
    """Say in a folder that llmcls has made it; a kill leaves the whole mark or none."""
    if not has_mark(folder):
        with replacing(folder / MARK, held=True) as file:
            file.write(MARKED)


def delete(folder: Path) -> None:
    """Delete a folder of ours; its mark goes last, so that what a killed process leaves of it is known as ours."""
    _mark(folder)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARK:
            entry.unlink()
    (folder / MARK).unlink()
    folder.rmdir()


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap names in one step, where the system can; else nothing is done.

    Two renames would leave a moment in which neither the old run nor the new one has its name.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
