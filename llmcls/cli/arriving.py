"""The lines of the standard input as they arrive: what is there is predicted, without waiting for more.

rows = ArrivingRows(sys.stdin.buffer)
while chunk := rows.take(128): ...           # the lines that have arrived, 128 at most; [] at the end
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, Queue
from threading import Thread
from typing import IO

from llmcls.data.examples import too_long
from llmcls.data.inputs import BadRow, GoodRow
from llmcls.records import Example

PATIENCE = 0.02
"""Seconds that the first line waits for others: a program that writes many lines writes them within this time, and a
person does not notice it."""

PIECE = 1 << 16
"""Bytes that are read at once, as many as a pipe holds."""

PIECES_AHEAD = 64
"""Pieces that are read while the model is busy with those before; the writer waits then."""


LONGEST_LINE = 32 * 1024 * 1024
"""Bytes of a line; the rest of a longer one is dropped as it arrives."""


class TooLong(bytes):
    """The beginning of a line that is too long."""


class ArrivingRows:
    """A row for each line of a stream, UTF-8 whatever the locale says.

    Args:
        stream: is read by a thread of its own from the first `take` on, by its descriptor where it has one: a thread
            that holds the stream's own lock while it waits would keep Python from exiting.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._pieces: Queue[bytes | OSError] = Queue(PIECES_AHEAD)
        self._reader: Thread | None = None
        self._lines: deque[bytes] = deque()
        self._begun: list[bytes] = []  # the pieces of a line that has not ended yet
        self._size = 0  # bytes of these, also of those that were dropped
        self._ended = False
        self._number = 0

    def __iter__(self) -> Iterator[GoodRow | BadRow]:
        while rows := self.take(1):
            yield from rows

    def take(self, size: int) -> list[GoodRow | BadRow]:
        """The next rows: at least one, for which it waits, and as many of those behind it as are there.

        Raises:
            OSError: when the system cannot read on.
        """
        if self._reader is None:
            self._reader = Thread(target=self._read, name="standard input", daemon=True)
            self._reader.start()
        # Lines that were left over have waited already.
        until = time.monotonic() if self._lines else None
        while len(self._lines) < size and not self._ended:
            # Without a line at all, one second at a time: Windows delivers no Ctrl-C to a thread that waits for a lock.
            wait = 1.0 if until is None else max(0.0, until - time.monotonic())
            try:
                self._add(self._pieces.get(timeout=wait))
            except Empty:
                if until is not None:
                    break
            if self._lines and until is None:
                until = time.monotonic() + PATIENCE
        return [self._row(self._lines.popleft()) for _ in range(min(size, len(self._lines)))]

    def _read(self) -> None:
        try:
            piece = self._reads()
            while found := piece():
                self._pieces.put(found)
        except OSError as error:
            self._pieces.put(error)
        else:
            self._pieces.put(b"")

    def _reads(self) -> Callable[[], bytes]:
        try:
            descriptor = self._stream.fileno()
        except OSError:  # a stream in memory
            return lambda: self._stream.read(PIECE)
        return lambda: os.read(descriptor, PIECE)

    def _add(self, piece: bytes | OSError) -> None:
        if isinstance(piece, OSError):
            self._ended = True
            raise piece
        self._ended = not piece
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._begin(line)
            self._end_line()
        self._begin(rest)
        if self._ended and self._size:
            self._end_line()

    def _begin(self, part: bytes) -> None:
        """Keep a part of a line, unless the line is too long already."""
        if part and self._size <= LONGEST_LINE:
            self._begun.append(part)
        self._size += len(part)

    def _end_line(self) -> None:
        too_long = self._size > LONGEST_LINE
        self._lines.append(TooLong(self._begun[0]) if too_long else b"".join(self._begun))
        self._begun.clear()
        self._size = 0

    def _row(self, line: bytes) -> GoodRow | BadRow:
        self._number += 1
        source = f"line {self._number}"
        if isinstance(line, TooLong):
            begun = line[:1000].decode("utf-8", errors="backslashreplace")
            return BadRow(source, f"the line is longer than {LONGEST_LINE:,} bytes; cut its text", f"{begun} ...")
        try:
            text = line.decode("utf-8-sig" if self._number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raw = line.decode("utf-8", errors="backslashreplace").rstrip("\r\n")
            return BadRow(source, f"not UTF-8 ({error.reason} at byte {error.start + 1})", raw)
        if problem := too_long(text):
            return BadRow(source, problem, f"{text[:1000]} ...")
        return GoodRow({"text": text}, Example(text, source=source))
