"""A run is trained by one process (with its fellows of one launcher) at a time.

with claiming("runs/tickets"):      # others are refused, also on other machines where the file system can
    ...

Locks of the operating system, so a killed process lets go; where a file system has none, nobody is refused.
"""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from llmcls.errors import LlmclsError
from llmcls.training.run import no_place


@contextmanager
def claiming(path: str | Path, timeout: float = 10) -> Iterator[None]:
    """Hold `path.lock` for the block, so that no second process trains the same run; a killed one lets go of it.

    Args:
        path: the run directory.
        timeout: seconds to wait for another process; one whose launcher was killed needs a few to end.

    Raises:
        LlmclsError: when another process holds it, or the place cannot be written.
    """
    path = Path(path)
    file, until = path.with_name(f"{path.name}.lock"), time.monotonic() + timeout
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while (stream := _lock(file)) is None:
            if time.monotonic() >= until:
                raise LlmclsError(
                    f"'{path}' is being trained by {_holder(file)}; wait for it, or choose another --output-dir."
                )
            time.sleep(0.1)
    except OSError as error:
        raise no_place(path, error) from error
    with stream:
        with suppress(OSError):  # a full disk
            os.write(stream.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield
        finally:
            with suppress(OSError):  # while it is held, so that nobody else's is deleted
                file.unlink()


def _lock(file: Path) -> TextIO | None:
    """The file, empty, opened and locked until it is closed; None when another process has locked it."""
    stream = file.open("a", encoding="utf-8")
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(stream.fileno()), file.stat()):
            raise BlockingIOError  # between opening and locking, who held it has deleted it
    except (BlockingIOError, FileNotFoundError):
        stream.close()
        return None
    except ImportError:  # Windows
        pass
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            stream.close()
            raise
    stream.truncate(0)
    return stream


def _holder(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8") or "another process"
    return "another process"
