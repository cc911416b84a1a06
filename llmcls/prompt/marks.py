"""Keeps data apart from frame while both are one string, so that data can never act as frame.

Templates and chat formats are string programs. `mark` wraps every value that enters them in Unicode noncharacters,
which survive both; `unmark` takes the marks out again, returns where the data stands, and takes apart every control
token and turn marker that touches data:

    text, spans = unmark(rendered, find_forgeries=re.compile(r"<\\|eot_id\\|>"))
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
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


def is_balanced(marked: str) -> bool:
    """Whether every mark that opens is closed, in the string and in each turn of a chat."""
    depth = 0
    for found in _MARKS.finditer(marked):
        depth += (found[0] in _OPEN.values()) - (found[0] == _CLOSE)
        if depth < 0 or (depth and found[0] in (TURN, TURN_END)):
            return False
    return depth == 0


def unmark(marked: str, find_forgeries: re.Pattern[str]) -> tuple[str, list[Span]]:
    """Remove the marks, and break every forgery.

    A forgery is a match of `find_forgeries` that contains at least one character of data; it gets a space inside, at
    the first place that belongs to the data, until none is left (one of a single character becomes U+FFFD instead).
    Text without forgeries is returned unchanged.

    Returns:
        The plain string, and the spans of data in it, in order, not overlapping.
    """
    text, spans = _remove_marks(marked)
    while found := list(_find_forgeries(text, spans, find_forgeries)):
        # All at once, then again: a space may complete another marker. One by one would be quadratic.
        pieces, position = [], 0
        for cut, breaker in found:
            pieces += [text[position:cut], breaker]
            position = cut + (breaker == REPLACEMENT)
        text = "".join([*pieces, text[position:]])
        spaces = [cut for cut, breaker in found if breaker == " "]
        spans = [
            Span(s.start + bisect_left(spaces, s.start), s.end + bisect_left(spaces, s.end), s.origin) for s in spans
        ]
    return text, spans


def _find_forgeries(text: str, spans: Sequence[Span], pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Where to break each forgery, and with what: a space before that place, or U+FFFD instead of the character."""
    position = 0
    while match := pattern.search(text, position):
        touched = bisect_right(spans, match.start(), key=lambda span: span.end)
        if touched == len(spans) or spans[touched].start >= match.end():
            position = match.start() + 1
        elif len(match[0].strip()) < 2:
            position = max(spans[touched].start, match.start())
            yield position, REPLACEMENT
            position += 1
        else:
            position = max(spans[touched].start, match.start() + 1)
            yield position, " "


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
