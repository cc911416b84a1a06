"""Reads .csv and .tsv, a row at a time: UTF-8 (a byte-order mark is fine), header required, quotes as in RFC 4180.

Semicolons, tabs, commas and bars are told from the header, or from a first line `sep=;` as Excel has it.

In files separated by tabs quotation marks may as well be text: see `quoting`.
A row that cannot be read becomes a `Row` with a problem at its true line, and reading goes on below it.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

from llmcls.data.columns import check_header
from llmcls.data.reader import FIELDS_OF_FORMAT, FileFormat, Row, Table
from llmcls.default_plugins.dataset_readers.files import (
    TOO_LONG,
    FileReader,
    not_decoded,
    opened,
    read_line,
    refuse_wide_encoding,
    show_bytes,
)
from llmcls.default_plugins.dataset_readers.quoting import Marks, Record
from llmcls.errors import LlmclsError

# In characters. Python's default of 131,072 is shorter than some documents; without any limit a quote that is
# never closed would take the rest of the file into memory.
LONGEST_CELL = 16 * 1024 * 1024

LONGEST_RECORD = 64 * 1024 * 1024
"""Characters of all cells of a row together."""

DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?\s*$', re.IGNORECASE)

# How `errors="surrogateescape"` marks a byte that is not UTF-8.
_UNDECODED = re.compile("[\udc80-\udcff]")


class _DelimitedReader(FileReader):
    delimiter: str
    takes = FIELDS_OF_FORMAT

    def table(self, path: Path) -> Table:
        return self.table_as(path, FileFormat())

    def table_as(self, path: Path, form: FileFormat) -> Table:
        """The file's table, whose rows can be walked more than once."""
        with opened(path) as file:
            refuse_wide_encoding(file.read(4), path, form.encoding)
        rows = DelimitedRows(path, form.delimiter or self.delimiter, encoding=form.encoding)
        if form.delimiter is None:
            rows = replace(rows, delimiter=rows.find_delimiter())
        quoted = rows.quote_cells() if form.quoting == "auto" else form.quoting == "quoted"
        rows = replace(rows, quoted=quoted)
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
    quoted: bool = True
    encoding: str | None = None

    def find_delimiter(self) -> str:
        """What separates cells: what a first line `sep=;` names, else the one that does where this one does not.

        Raises:
            LlmclsError: where several others do.
        """
        with opened(self.path) as file:
            lines = _Lines(file, self.encoding)
            declared = _SEPARATOR_LINE.match(lines.read())
        if declared:
            return declared[1]
        first = next(self._records(), None)
        if first is None or len(first.cells) != 1:
            return self.delimiter
        found = [mark for mark in DELIMITERS if mark in first.text and replace(self, delimiter=mark)._is_regular()]
        if len(found) > 1:
            marks = " or ".join(map(repr, found))
            raise LlmclsError(f"Cells of '{self.path}' may be separated by {marks}; set data.delimiter to one of them.")
        return found[0] if found else self.delimiter

    def _is_regular(self) -> bool:
        """Whether the header and nearly all of the rows next to it have the same number of cells, and several."""
        widths = [len(record.cells) for record in islice(self._records(), 20)]
        return widths[0] > 1 and widths.count(widths[0]) >= 0.8 * len(widths)

    def quote_cells(self) -> bool:
        """Whether quotation marks enclose cells; only where tabs separate them may they be text.

        Raises:
            LlmclsError: where the file can be read either way.
        """
        if self.delimiter != "\t" or not self._has_leading_quote():
            return True
        marks = Marks.count(replace(self, quoted=True)._records(), self.delimiter)
        quoted = marks.quote_cells()
        if quoted is None:
            line = f" (see line {marks.doubtful})" if marks.doubtful else ""
            raise LlmclsError(
                f"It cannot be told whether the quotation marks in '{self.path}' enclose cells or are text{line}; "
                "set data.quoting to quoted or to plain."
            )
        return quoted

    def _has_leading_quote(self) -> bool:
        mark = f'{self.delimiter}"'
        with opened(self.path) as file:
            lines = _Lines(file, self.encoding)
            return any(line.startswith('"') or mark in line for line in iter(lines.read, ""))

    def header(self) -> list[str]:
        """The column names.

        Raises:
            LlmclsError: when the file is empty or its header cannot be used.
        """
        for record in self._records():
            if record.problem is not None:
                raise LlmclsError(f"The header of '{self.path}' cannot be read: {record.problem.rstrip('?')}.")
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

    def _records(self) -> Iterator[Record]:
        """Every record, the header first; blank lines are left out."""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
        with opened(self.path) as file:
            lines = _Lines(file, self.encoding)
            lines.skip_separator_line()
            reader = self._parse(lines)
            while True:
                lines.begin_record()
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except _LongLineError:
                    last = lines.number + len(lines.record) - 1
                    where = f" (line {last})" if last > lines.number else ""
                    yield Record(lines.number, last, [], f"{TOO_LONG}{where}", "".join(lines.record)[-2000:])
                    reader = self._parse(lines)
                    continue
                except csv.Error as error:
                    fault = _find_fault(lines.record, self.delimiter) if self.quoted else _Fault(0, None, quoted=False)
                    number = lines.number + fault.opened
                    problem = fault.describe(lines.number, str(error))
                    # Only the line with the fault is lost: those below it are read again as rows of their own.
                    lines.give_back(fault.opened + 1)
                    reader = self._parse(lines)
                    yield Record(number, number, [], problem, "".join(lines.record))
                    continue
                wrong = _find_bad_bytes(lines)
                if cells or wrong:
                    last = lines.number + len(lines.record) - 1
                    yield Record(lines.number, last, cells, wrong, "".join(lines.record))

    def _parse(self, lines: Iterator[str]) -> Iterator[list[str]]:
        if self.quoted:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, strict=True, quoting=csv.QUOTE_NONE)


class _LongLineError(csv.Error):
    """A line is too long, or the lines of one record together."""


class _Cut(str):
    """The beginning of a line that is too long."""

    __slots__ = ()


class _Lines(Iterator[str]):
    """Physical lines for `csv.reader`, with the lines of the current record kept and their number known."""

    def __init__(self, file: IO[bytes], encoding: str | None) -> None:
        # newline="" leaves line ends inside quotes as they are, and still ends a line at \n, \r\n or \r.
        self._file = io.TextIOWrapper(file, encoding=encoding or "utf-8-sig", errors="surrogateescape", newline="")
        self.encoding = encoding
        self._held: deque[str] = deque()
        self.number = 1
        self.record: list[str] = []
        self._size = 0

    def read(self) -> str:
        """The next line, of one that is too long the beginning; empty at the end of the file."""
        if self._held:
            return self._held.popleft()
        line, too_long = read_line(self._file)
        return _Cut(line) if too_long else line

    def __next__(self) -> str:
        line = self.read()
        if not line:
            raise StopIteration
        self.record.append(line)
        self._size += len(line)
        if isinstance(line, _Cut) or self._size > LONGEST_RECORD:
            raise _LongLineError
        # csv refuses NUL in Python 3.10 and takes it from 3.11 on; here the record is refused later.
        return line.replace("\0", "")

    def skip_separator_line(self) -> None:
        """Leave out a first line such as `sep=;`, which still counts as a line."""
        line = self.read()
        self.record.append(line)
        if not _SEPARATOR_LINE.match(line):
            self.give_back(0)

    def begin_record(self) -> None:
        self.number += len(self.record)
        self.record, self._size = [], 0

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
            return not_decoded(ord(found[0]) - 0xDC00, lines.encoding, where)
    return None
