"""Which files a command may write: its own and new ones; never what it reads, and never what somebody else has made.

refuse_read(names, [source])                       # the input by any of its paths
refuse_foreign(path, is_list_of_bad_rows)          # a file that does not begin as llmcls begins it
writes_through(Path("/dev/null"))                  # a device, a pipe: there is nothing to replace
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from llmcls.data.inputs import BadRow
from llmcls.errors import LlmclsError
from llmcls.files import find_json

_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/[^/]+/fd/\d+")


def writes_through(path: Path) -> bool:
    """Whether a path names what is not a regular file or folder, such as a pipe, a device or an open file."""
    if _DESCRIPTOR.fullmatch(os.path.normpath(path.absolute())):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_standard_output(path: Path) -> bool:
    """Whether writing to the path is writing to the standard output."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):  # no such file; a closed or a captured standard output
        return False


def behind_links(path: Path) -> Path:
    """The file that a link names, also where it is not there yet: a link is written through, not replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def refuse_read(names: Iterable[Path], sources: Iterable[Path], said: str = "--output") -> None:
    """Refuse to write what is read, by whatever path, link or hard link; a folder that is read is all that is in it.

    Args:
        names: all files that will be written.
        sources: all files and folders that are read.
        said: the option to change.

    Raises:
        LlmclsError: naming the first one.
    """
    doing = "evaluation" if said == "--output-dir" else "prediction"
    sources = [source for source in sources if not source.exists() or source.is_dir() or source.is_file()]
    for name in names:
        if any(_is_part_of(name, source) for source in sources):
            raise LlmclsError(f"'{name}' is read by this {doing}, which would replace it; choose another {said}.")


def refuse_foreign(path: Path, is_own: Callable[[Path], bool], said: str = "--output") -> None:
    """Refuse to replace a file that llmcls has not made; one without any content is nobody's.

    Args:
        path: the file, which need not be there.
        is_own: whether its content is llmcls's.
        said: the option to change.

    Raises:
        LlmclsError: with what to do.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file() or (path.stat().st_size and not is_own(path)):
        raise LlmclsError(
            f"'{path}' was not written by llmcls, but would be replaced; move it away, or choose another {said}."
        )


def begins_with(*heads: Sequence[str]) -> Callable[[Path], bool]:
    """Whether a CSV file's first line begins with one of these headers, quoted or not."""

    def is_own(path: Path) -> bool:
        with path.open("rb") as file:
            first = file.readline(1 << 16).decode("utf-8", errors="replace").rstrip("\r\n")
        cells = first.replace('"', "").split(",")
        return any(tuple(cells[: len(head)]) == tuple(head) for head in heads)

    return is_own


is_list_of_bad_rows = begins_with(BadRow._fields)
"""Whether a file is `FILE.errors.csv`."""


is_table_of_rows = begins_with(("source", "text", "label"))
"""Whether a file is one of the tables that `evaluate` writes, a row for each example."""


def is_metrics(path: Path) -> bool:
    """Whether a file holds the figures that `evaluate` writes."""
    content = find_json(path)
    return isinstance(content, dict) and content.keys() >= {"labels", "per_class", "rows"}


def is_batch_file(path: Path) -> bool:
    """Whether a file is what `llmcls launch slurm` writes."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return content.startswith("#!") and "#SBATCH" in content and "llmcls" in content


def _is_part_of(name: Path, source: Path) -> bool:
    """Whether an existing file is this one, or lies in this folder."""
    if not (name.exists() and source.exists()):
        return False
    return name.samefile(source) or (source.is_dir() and source.resolve() in name.resolve().parents)
