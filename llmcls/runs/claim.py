"""A run is trained by one process (or by the processes of one launcher) at a time.

with claiming("runs/tickets"):      # others are refused, also on other machines where the file system can
    ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llmcls.errors import LlmclsError
from llmcls.files import LockedError, locked
from llmcls.runs.writing import lock_file, no_place


@contextmanager
def claiming(path: str | Path, timeout: float = 10) -> Iterator[None]:
    """Hold `path.lock` for the block, so that no second process trains the same run.

    Args:
        path: the run directory.
        timeout: seconds to wait for another process; one whose launcher was killed needs a few to end.

    Raises:
        LlmclsError: when another process holds it, or the place cannot be written.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise LlmclsError(f"--output-dir '{path}' has no name of its own; name a folder, such as '{path / 'run'}'.")
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock_file(path), timeout))
        except LockedError as holder:
            raise LlmclsError(
                f"'{path}' is being trained by {holder}; wait for it, or choose another --output-dir."
            ) from None
        except OSError as error:
            raise no_place(path, error) from error
        yield
