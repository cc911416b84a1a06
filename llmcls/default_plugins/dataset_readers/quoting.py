"""Whether quotation marks in a tab-separated file quote cells, as spreadsheets write them, or are text.

    if Marks.count(records, "\\t").quote_cells(): ...

No cell can tell: `"Great"` is either. The whole file nearly always can, since only one of the two readings leaves
every line with as many cells as the header has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

_LINE_END = re.compile("\r\n|\r|\n")


class Record(NamedTuple):
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


@dataclass
class Marks:
    """What speaks for and against quoting in a file.

    Attributes:
        bad_quoted: the rows with a wrong quote, or too many or few cells, where marks quote.
        bad_plain: the lines with too many or few cells where they are text.
        against: marks that no writer leaves so: within cells without quotes, or wrong ones.
        strong: cells in which each mark is doubled, as only a writer does it.
        doubtful: the first line of a row that would enclose whole rows; 0 for none.
        header: whether all column names are quoted.
        quoted, filled: by column, the cells in quotes and those that are not empty.
        needless: quoted cells with nothing in them that a writer quotes.
        commas: cells with a comma and without quotes, though Excel quotes them.
    """

    bad_quoted: int = 0
    bad_plain: int = 0
    against: int = 0
    strong: int = 0
    doubtful: int = 0
    header: bool = False
    quoted: Counter[int] = field(default_factory=Counter)
    filled: Counter[int] = field(default_factory=Counter)
    needless: int = 0
    commas: int = 0

    @classmethod
    def count(cls, records: Iterable[Record], delimiter: str) -> Marks:
        """Weigh all records of a file, the header first."""
        marks, columns, width = cls(), 0, 0
        for number, record in enumerate(records):
            lines = [line for line in _LINE_END.split(record.text) if line]
            if number == 0:
                columns, width = len(record.cells), lines[0].count(delimiter) + 1 if lines else 0
            right = sum(line.count(delimiter) + 1 == width for line in lines)
            marks.bad_plain += len(lines) - right
            if not record.cells:
                marks.bad_quoted += 1
                marks.against += 1
                continue
            marks.bad_quoted += record.problem is not None or len(record.cells) != columns
            if '"' not in record.text:
                marks.filled.update(at for at, cell in enumerate(record.cells) if cell and number)
                marks.commas += sum("," in cell for cell in record.cells)
                continue
            if len(lines) > 1 and right * 2 > len(lines) and not marks.doubtful:
                # Lines that are rows by themselves are hardly one cell's.
                marks.doubtful = record.first
            marks._count_cells(record, len(lines) == 1, header=number == 0)
        return marks

    def _count_cells(self, record: Record, one_line: bool, *, header: bool) -> None:
        text, place, enclosed = record.text.replace("\0", ""), 0, 0
        for at, cell in enumerate(record.cells):
            if text.startswith('"', place):
                enclosed += 1
                place += len(cell) + cell.count('"') + 3
                self.strong += one_line and '"' in cell
                self.needless += bool(cell) and not re.search('[",\t\r\n]|^ | $', cell)
                self.quoted[at] += bool(cell) and not header
            else:
                place += len(cell) + 1
                self.against += '"' in cell
                self.commas += "," in cell
            self.filled[at] += bool(cell) and not header
        self.header |= header and enclosed == len(record.cells)

    def quote_cells(self) -> bool | None:
        """Whether marks quote cells; None where it cannot be told."""
        for_quotes = self.strong > 0 or self.header
        if self.doubtful:
            if for_quotes != (self.against > 0):
                return True if for_quotes else (False if self.bad_plain <= self.bad_quoted else None)
            return None
        if self.bad_quoted < self.bad_plain:
            return True
        if self.against and for_quotes:
            return None
        if self.bad_plain < self.bad_quoted:
            return False
        if self.against or for_quotes:
            return for_quotes
        always = any(self.quoted[at] == self.filled[at] for at in self.quoted if self.quoted[at])
        return always or not (self.needless or (self.commas and any(self.quoted.values())))
