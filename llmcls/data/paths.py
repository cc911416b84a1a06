"""Files and folders a user names: is it there, and if not, what was probably meant.

path = require_file("data/tickets.csv")
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from llmcls.errors import LlmclsError

# `hub:ag_news`, `demo:`; two characters at least, so that `C:\data.csv` stays a path.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]+:")


def has_scheme(spec: str) -> bool:
    """Whether a specification starts like `hub:`, and is not a path for all that: a file may be called `a:b.csv`."""
    return _SCHEME.match(spec) is not None and not path_exists(spec)


def looks_like_path(spec: str) -> bool:
    """Whether a specification was probably meant as a file or folder."""
    return not has_scheme(spec) and (
        os.sep in spec or "/" in spec or Path(spec).suffix != "" or spec in {"", ".", ".."}
    )


def to_path(spec: str) -> Path:
    """The path a specification means, with `~` resolved; `~stranger` stays as it is."""
    try:
        return Path(spec).expanduser()
    except RuntimeError:  # no such user
        return Path(spec)


def is_folder(spec: str) -> bool:
    """Whether there is such a folder; False for what can be no path at all (NUL in it, too long)."""
    try:
        return not has_scheme(spec) and to_path(spec).is_dir()
    except (OSError, ValueError):
        return False


def path_exists(spec: str) -> bool:
    """Whether there is such a file or folder; False for what can be no path at all."""
    try:
        return to_path(spec).exists()
    except (OSError, ValueError):
        return False


def locate_data(spec: str) -> str:
    """The same specification, with a file or folder, or the workbook of a sheet, by its absolute path.

    So it is found from every directory. `hub:ag_news` and the like stay as they are: what follows is not a path.
    """
    if path_exists(spec):
        return str(to_path(spec).absolute())
    path, mark, part = spec.rpartition(":")
    if mark and part and not has_scheme(spec) and path_exists(path):
        return f"{to_path(path).absolute()}:{part}"
    return spec


def shorten_path(spec: str) -> str:
    """The same specification, relative where it lies below the current directory, else by its last name."""
    path = Path(spec)
    if has_scheme(spec) or not path.is_absolute():
        return spec
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name or spec


def require_file(spec: str) -> Path:
    """The path of an existing, readable file.

    Raises:
        LlmclsError: when there is none (with the closest match beside it), or it may not be read.
    """
    path = to_path(spec)
    try:
        if path.is_file():
            with path.open("rb"):
                return path
    except OSError as error:
        raise cannot_read(path, error) from error
    if path_exists(spec):
        raise LlmclsError(f"'{spec}' is not a regular file; give a data file or a folder.")
    raise LlmclsError(no_such_path(spec))


def no_such_path(spec: str) -> str:
    """Say that there is no such file or folder, with the closest match in the nearest folder that exists."""
    path = to_path(spec)
    # Climb to the first missing step, so that a misspelt folder is the one that gets the suggestion.
    while not is_folder(str(path.parent)) and path.parent != path:
        path = path.parent
    message = f"No such file or folder: '{spec}'."
    if is_folder(str(path.parent)) and os.access(path.parent, os.R_OK):
        close = difflib.get_close_matches(
            path.name, sorted(item.name for item in path.parent.iterdir()), n=1, cutoff=0.6
        )
        if close:
            message += f" Did you mean '{path.parent / close[0]}'?"
    return message


def cannot_read(path: Path, error: OSError) -> LlmclsError:
    """The one sentence for an operating-system error on a data file."""
    if isinstance(error, PermissionError):
        return LlmclsError(f"Cannot read '{path}': permission denied; give yourself read access to it.")
    return LlmclsError(f"Cannot read '{path}': {error.strerror or error}.")
