"""What would steer a terminal, made visible: escapes, and marks that turn the direction of writing round.

    visible("a\\x1b[2J\\u202eb")             # 'a\\\\x1b[2J\\\\u202eb'
    make_console(stderr=True).print(table)  # a rich console that prints nothing else

Everything that llmcls prints for people passes one of the two. Files, and rows for other programs, hold text as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_SURROGATES = f"{chr(0xD800)}-{chr(0xDFFF)}"
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_STEERING = re.compile(f"[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029{_DIRECTIONS}{_SURROGATES}]")
_BREAKING = re.compile(r"[\t\n]")


def visible(text: str, *, lines: bool = True) -> str:
    r"""The text with escapes such as `\x1b` and `\u202e` in place of what would steer a terminal.

    Args:
        text: any text.
        lines: leave line feeds and tabs as they are.
    """
    shown = _STEERING.sub(_escape, text)
    return shown if lines else _BREAKING.sub(_escape, shown)


def visible_json(text: str) -> str:
    r"""JSON with its own escapes (`\u202e`), which stand for the same characters."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def make_console(**options: Any) -> Console:
    """A rich console, with the arguments of rich's own, that makes all text visible."""
    from rich.console import Console
    from rich.segment import Segment

    class VisibleConsole(Console):
        """Sees all text of whatever is printed, also inside tables, before it is cut into lines."""

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or not _STEERING.search(segment.text):
                    yield segment
                else:
                    yield Segment(visible(segment.text), segment.style)

    return VisibleConsole(**options)


class VisibleStream:
    """Text written to a terminal, made visible.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it; a carriage return before a line feed stays."""
        self._stream.write("\r\n".join(map(visible, text.split("\r\n"))))
        return len(text)

    def flush(self) -> None:
        """See `IO`."""
        self._stream.flush()


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
