"""Keeps data apart from frame while both are one string, so that data can never act as frame.

Templates and chat formats are string programs. `mark` wraps every value that enters them in Unicode noncharacters,
which survive both; `unmark` takes the marks out again, returns where the data stands, and takes apart every control
token and turn marker that touches data:

    text, spans = unmark(rendered, find_forgeries=re.compile(r"<\\|eot_id\\|>"))
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Origin = Literal["frame", "text", "data"]

# Noncharacters (Unicode 15, section 23.7) are reserved for a program's internal use: no text may contain them.
_OPEN: dict[Origin, str] = {"text": "\ufdd0", "data": "\ufdd1"}
_CLOSE = "\ufdd2"
TURN = "\ufdd3"
TURN_END = "\ufdd4"
_MARKS = re.compile("[\ufdd0-\ufdef]")
_SURROGATES = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch `[start, end)` of characters that came from data: the row's text, or any other value."""

    start: int
    end: int
    origin: Origin


def clean(value: str) -> str:
    """Replace what cannot be tokenised (lone surrogates) or would act as a mark (noncharacters) by U+FFFD."""
    return _SURROGATES.sub(REPLACEMENT, _MARKS.sub(REPLACEMENT, value))


def mark(value: str, origin: Origin) -> str:
    """Wrap a value that enters a template; `value` must be `clean` or already marked."""
    return f"{_OPEN[origin]}{value}{_CLOSE}"


def unmark(marked: str, find_forgeries: re.Pattern[str]) -> tuple[str, list[Span]]:
    """Remove the marks, and break every forgery.

    A forgery is a match of `find_forgeries` that contains at least one character of data; it gets a space inside, at
    the first place that belongs to the data, until none is left. Text without forgeries is returned unchanged.

    Returns:
        The plain string, and the spans of data in it, in order, not overlapping.
    """
    text, spans = _remove_marks(marked)
    position = 0
    while match := find_forgeries.search(text, position):
        touched = next((s for s in spans if s.start < match.end() and s.end > match.start()), None)
        if touched is None:
            position = match.start() + 1
            continue
        cut = max(touched.start, match.start() + 1)
        text = f"{text[:cut]} {text[cut:]}"
        spans = [_shift(span, cut) for span in spans]
        position = max(0, match.start() - 64)  # the space may complete another marker that began earlier
    return text, spans


def _remove_marks(marked: str) -> tuple[str, list[Span]]:
    pieces: list[str] = []
    spans: list[Span] = []
    stack: list[Origin] = []
    length = last = 0
    for found in _MARKS.finditer(marked):
        piece = marked[last : found.start()]
        last = found.end()
        if piece:
            pieces.append(piece)
            if stack:
                origin: Origin = "text" if "text" in stack else "data"
                spans.append(Span(length, length + len(piece), origin))
            length += len(piece)
        if found[0] == _CLOSE:
            del stack[-1:]
        else:
            stack += [origin for origin, opener in _OPEN.items() if opener == found[0]]
    pieces.append(marked[last:])
    return "".join(pieces), spans


def _shift(span: Span, cut: int) -> Span:
    return Span(span.start + (span.start > cut), span.end + (span.end > cut), span.origin)
