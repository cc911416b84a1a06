"""Files that are written whole or not at all, held by one process at a time, and told apart by their digests.

with replacing("metrics.json") as file:            # the old file stays until the new one is on the disk
    file.write("{}")
with locked("runs/tickets.lock"):                  # a second process gets LockedError
    ...
sha256_of("model.safetensors")
shipped("templates")                               # the folder with instruction.j2, chat.j2, few_shot.j2
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from llmcls.errors import LlmclsError

_HELD = b"process "
LONGEST_FILE = 64 * 1024 * 1024
"""Bytes of a settings file, a template or a file of a run that is read whole."""

NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What the system says of a file system that has no locks: there, no process is refused."""


class LockedError(LlmclsError):
    """Another process holds the lock; the message names it as far as it is known."""


@contextmanager
def replacing(
    path: str | Path, errors: str = "strict", *, held: bool = False, binary: bool = False
) -> Iterator[IO[Any]]:
    """Write a file that takes the place of `path` when the block ends without an error.

    The content and the new name are flushed to the disk: after a kill or a power cut, `path` is the old file or the
    new one. Text is UTF-8, with line ends as given. Of a link, the file that it names is replaced; a device or a pipe
    is written through.

    Args:
        path: the file to write or replace.
        errors: what becomes of text that is not valid Unicode, as `open` takes it.
        held: nobody else writes this file (`locked`), so a draft that a killed process left behind is written over.
        binary: write bytes, not text.

    Raises:
        OSError: when the system refuses; `path` is then as it was.
    """
    path = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") if binary else path.open("w", encoding="utf-8", errors=errors, newline="") as file:
            yield file
        return
    # `tempfile` would make a file that only its owner may read, whatever the umask says.
    draft = draft_of(path) if held else path.with_name(f".{path.name}.{os.getpid()}.llmcls.tmp")
    draft.unlink(missing_ok=True)  # a killed process's, by its name
    try:
        with draft.open("xb") if binary else draft.open("x", encoding="utf-8", errors=errors, newline="") as file:
            yield file
            flush(file)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    flush_folder(path.parent)


def draft_of(path: Path) -> Path:
    """Where `replacing` with `held` writes before the file has its name; the draft's own says whose it is."""
    return path.with_name(f".{path.name}.llmcls.tmp")


def flush(file: IO[str] | IO[bytes]) -> int:
    """Bring all that was written to an open file to the disk; returns the file's size in bytes."""
    file.flush()
    os.fsync(file.fileno())
    return os.fstat(file.fileno()).st_size


def flush_folder(folder: str | Path) -> None:
    """Bring the names in a folder to the disk, so that a rename in it survives a power cut."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, *NO_LOCKS_HERE):  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: str | Path) -> None:
    """Bring every file below a folder to the disk, and the names of all of them."""
    for path in [*Path(folder).rglob("*"), Path(folder)]:
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


@contextmanager
def locked(path: str | Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold a lock of the operating system for the block; a process that is killed lets go of it.

    The file says who holds it, and is deleted at the end.

    Args:
        path: the lock file; its folder must exist.
        timeout: seconds to wait for another process.

    Raises:
        LockedError: when another process holds the lock for longer than that.
        LlmclsError: when a file of that name is not a lock: taking it would empty it.
        OSError: when the file cannot be made.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    path.parent.stat()  # refuses a folder that is not there, which filelock would make
    if os.path.lexists(path) and not _is_lock(path):
        raise LlmclsError(
            f"'{path}' is not a lock of llmcls, which makes one of that name; move it away, or choose another name."
        )
    lock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(_holder(path)) from None
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
    with suppress(OSError):  # a full disk; and on Windows nobody reads a locked file
        path.write_text(f"{_HELD.decode()}{os.getpid()} on {platform.node()}", encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held, so that nobody else's is deleted
            path.unlink()
        lock.release()


def _is_lock(path: Path) -> bool:
    """Whether a file is a lock, by what `locked` writes into it; an empty one was just made, or the disk was full."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_HELD)) in (b"", _HELD)
    except PermissionError:  # Windows lets nobody read a lock that is held
        return True
    except FileNotFoundError:  # let go of just now
        return True


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8") or "another process"
    return "another process"


def sha256_of(file: str | Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: str | Path, kind: str, limit: int = LONGEST_FILE) -> str:
    """A UTF-8 text that a user has written, without the byte-order mark that some editors begin it with.

    Line ends are read as `open` reads them, whatever the system writes.

    Args:
        path: the file.
        kind: what to call it in errors: `Template file`.
        limit: bytes that it may have.

    Raises:
        LlmclsError: when it cannot be read, is longer, or is not UTF-8.
    """
    try:
        content = read_bytes(path, kind, limit)
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        wide = error.object.startswith((b"\xff\xfe", b"\xfe\xff"))
        what = (
            "UTF-16" if wide else f"text in another encoding (byte {error.start + 1} is {error.object[error.start]:#x})"
        )
        raise LlmclsError(f"{kind} '{path}' cannot be read: it is {what}, not UTF-8; save it as UTF-8.") from error
    if "\0" in text:  # UTF-16 without its mark is valid UTF-8, with a NUL beside every letter
        raise LlmclsError(f"{kind} '{path}' cannot be read: it holds NULs, as UTF-16 does; save it as UTF-8.")
    return text


def read_bytes(path: str | Path, kind: str, limit: int = LONGEST_FILE) -> bytes:
    """The bytes of a file of others, `limit` of them at most.

    Raises:
        LlmclsError: when it cannot be read, or is longer.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise LlmclsError(f"{kind} '{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(content) > limit:
        raise LlmclsError(
            f"{kind} '{path}' cannot be read: it is larger than {limit / 2**20:g} MiB, which such a file never needs."
        )
    return content


def read_json(path: str | Path, kind: str) -> Any:
    """The content of a JSON file that others may have written, which is checked for size, depth and numbers.

    Args:
        path: the file.
        kind: what to call it in errors: `File`.

    Raises:
        LlmclsError: when it cannot be read, or is not the JSON of the standard, which has no NaN and no infinity.
    """
    text = read_text(path, kind)
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_read_float)
    except json.JSONDecodeError as error:
        what = "empty" if not text.strip() else f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
    except RecursionError:
        what = "nested too deeply"
    except ValueError as error:  # NaN, a number of thousands of digits
        what = f"not usable JSON: {error}"
    raise LlmclsError(f"{kind} '{path}' cannot be read: it is {what}; restore it.")


def find_json(path: str | Path) -> Any:
    """What a JSON file holds, to tell whose it is; None where there is none, or something else."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _read_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number


def shipped(folder: str) -> Path:
    """The folder `templates` or `launch` as shipped: inside the package (wheel), or beside it (checkout).

    Raises:
        LlmclsError: when the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / folder, package.parent / folder):
        if candidate.is_dir():
            return candidate
    raise LlmclsError(f"This installation of llmcls lacks its '{folder}' folder; install it again.")
