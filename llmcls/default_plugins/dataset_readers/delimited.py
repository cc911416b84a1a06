"""Reads .csv and .tsv, a row at a time: UTF-8 (a byte-order mark is fine), header required, quotes as in RFC 4180.

A row that cannot be read becomes a `Row` with a problem at its true line, and reading goes on below it.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from llmcls.data.columns import check_header
from llmcls.data.reader import Row, Table
from llmcls.default_plugins.dataset_readers.files import FileReader, opened, refuse_wide_encoding, show_bytes
from llmcls.errors import LlmclsError

# In characters. Python's default of 131,072 is shorter than some documents; without any limit a quote that is
# never closed would take the rest of the file into memory.
LONGEST_CELL = 16 * 1024 * 1024

# How `errors="surrogateescape"` marks a byte that is not UTF-8.
_UNDECODED = re.compile("[\udc80-\udcff]")


class _DelimitedReader(FileReader):
    delimiter: str

    def table(self, path: Path) -> Table:
        with opened(path) as file:
            refuse_wide_encoding(file.read(4), path)
        rows = DelimitedRows(path, self.delimiter)
        return Table(rows.header(), rows)


class CsvReader(_DelimitedReader):
    """Reads comma-separated values."""

    name = "csv"
    description = "comma-separated values with a header, UTF-8: tickets.csv, tickets.csv.gz"
    suffixes = (".csv", ".csv.gz")
    delimiter = ","


class TsvReader(_DelimitedReader):
    """Reads tab-separated values."""

    name = "tsv"
    description = "tab-separated values with a header, UTF-8: tickets.tsv, tickets.tsv.gz"
    suffixes = (".tsv", ".tsv.gz")
    delimiter = "\t"


@dataclass(frozen=True, slots=True)
class DelimitedRows:
    """The rows of a delimited file in constant memory; can be walked more than once."""

    path: Path
    delimiter: str

    def header(self) -> list[str]:
        """The column names.

        Raises:
            LlmclsError: when the file is empty or its header cannot be used.
        """
        for record in self._records():
            if record.problem is not None:
                raise LlmclsError(f"The header of '{self.path}' cannot be read: {record.problem}.")
            check_header(record.cells, f"'{self.path}'")
            return record.cells
        raise LlmclsError(f"'{self.path}' is empty; it needs a header line with column names, and rows below it.")

    def __iter__(self) -> Iterator[Row]:
        records = self._records()
        columns = next(records).cells
        for record in records:
            problem = record.problem or record.compare(columns)
            source = f"{self.path.name}:{record.first}"
            if problem is None:
                yield Row(dict(zip(columns, record.cells, strict=True)), source)
            else:
                yield Row({}, source, problem, show_bytes(record.text.encode("utf-8", errors="surrogateescape")))

    def _records(self) -> Iterator[_Record]:
        """Every record, the header first; blank lines are left out."""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
        with opened(self.path) as file:
            lines = _Lines(file)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
            while True:
                lines.begin_record()
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    fault = _find_fault(lines.record, self.delimiter)
                    number = lines.number + fault.opened
                    problem = fault.describe(lines.number, str(error))
                    # Only the line with the fault is lost: those below it are read again as rows of their own.
                    lines.give_back(fault.opened + 1)
                    reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
                    yield _Record(number, number, [], problem, "".join(lines.record))
                    continue
                wrong = _find_bad_bytes(lines)
                if cells or wrong:
                    last = lines.number + len(lines.record) - 1
                    yield _Record(lines.number, last, cells, wrong, "".join(lines.record))


class _Record(NamedTuple):
    """One row's cells, its first and last line in the file, what is wrong with it, and its lines as they are."""

    first: int
    last: int
    cells: list[str]
    problem: str | None
    text: str

    def compare(self, columns: list[str]) -> str | None:
        """The problem of a record with more or fewer cells than there are columns."""
        count = len(self.cells)
        if count == len(columns):
            return None
        if self.last > self.first:
            advice = f"it runs to line {self.last}, so look for a quote that is closed too late"
        else:
            advice = "quote a cell that holds the separator" if count > len(columns) else "write all its separators"
        return f"the row has {count} cell{'s' * (count != 1)} where the header has {len(columns)}; {advice}"


class _Lines(Iterator[str]):
    """Physical lines for `csv.reader`, with the lines of the current record kept and their number known."""

    def __init__(self, file: IO[bytes]) -> None:
        # newline="" leaves line ends inside quotes as they are, and still ends a line at \n, \r\n or \r.
        self._file = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._held: deque[str] = deque()
        self.number = 1
        self.record: list[str] = []

    def __next__(self) -> str:
        line = self._held.popleft() if self._held else next(self._file)
        self.record.append(line)
        # csv refuses NUL in Python 3.10 and takes it from 3.11 on; here the record is refused later.
        return line.replace("\0", "")

    def begin_record(self) -> None:
        self.number += len(self.record)
        self.record = []

    def give_back(self, keep: int) -> None:
        """Hand all but the first `keep` lines of the record out again."""
        self._held.extendleft(reversed(self.record[keep:]))
        del self.record[keep:]


@dataclass(frozen=True, slots=True)
class _Fault:
    """Where a quote goes wrong, in lines of the record from 0.

    Attributes:
        opened: where it opens.
        closed: where it closes with text behind it; None when it never closes.
        quoted: False when no quote is open at the end: the cell is just too long.
    """

    opened: int
    closed: int | None
    quoted: bool = True

    def describe(self, number: int, error: str) -> str:
        if self.closed is None:
            if "field limit" in error and not self.quoted:
                return f"a cell is longer than {LONGEST_CELL:,} characters"
            return "the quote opened here is never closed; close it, or double each quote inside a quoted cell"
        if self.closed != self.opened:
            return (
                f"the quote opened here ends in the middle of line {number + self.closed}; close it before, "
                "or double each quote inside a quoted cell"
            )
        return "text follows the closing quote of a cell; double each quote inside a quoted cell"


def _find_fault(record: list[str], delimiter: str) -> _Fault:
    """Walk a refused record by hand, since `csv.Error` does not say where the quote was opened."""
    state, opened_at = "start", 0
    for offset, line in enumerate(record):
        for character in line:
            if state == "quoted":
                state = "quote" if character == '"' else "quoted"
            elif state == "quote" and character == '"':
                state = "quoted"  # a doubled quote
            elif character in (delimiter, "\r", "\n"):
                state = "start"
            elif state == "quote":
                return _Fault(opened_at, offset)
            elif state == "start" and character == '"':
                state, opened_at = "quoted", offset
            else:
                state = "plain"
    return _Fault(opened_at, None, quoted=state == "quoted")


def _find_bad_bytes(lines: _Lines) -> str | None:
    for offset, line in enumerate(lines.record):
        where = f" (line {lines.number + offset})" if len(lines.record) > 1 else ""
        if "\0" in line:
            return f"the row holds a NUL character{where}; is this a text file?"
        if not line.isascii() and (found := _UNDECODED.search(line)):
            byte = ord(found[0]) - 0xDC00
            return f"the byte 0x{byte:02X} is not UTF-8{where}; save the file as UTF-8"
    return None
