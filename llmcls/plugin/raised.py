"""Where a stranger's exception comes from, in a few words.

last_line(error)             # ' (.../my_plugin.py, line 7)'
"""

from __future__ import annotations

import traceback
from pathlib import Path

OWN = Path(__file__).resolve().parents[1]
"""The folder of llmcls itself."""


def last_line(error: BaseException, file: str | None = None) -> str:
    """The last place where an exception passed, in parentheses behind a space; "" where none is known.

    Args:
        error: what was raised.
        file: the file of interest: its own last line, where the exception passed it; else the very last one outside
            llmcls and Python's import machinery.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    found = [frame for frame in frames if frame.filename == file] or [
        frame
        for frame in frames
        if OWN not in Path(frame.filename).resolve().parents
        and not frame.filename.startswith("<frozen")
        and "importlib" not in Path(frame.filename).parts
    ]
    return f" ({found[-1].filename}, line {found[-1].lineno})" if found else ""
