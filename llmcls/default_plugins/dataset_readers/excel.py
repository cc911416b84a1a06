"""Reads .xlsx, a row at a time: the one sheet that has rows, or the one that is named.

llmcls train --data tickets.xlsx
llmcls train --data tickets.xlsx:2024        # the sheet '2024' of several
"""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import ParseError

from llmcls.data.columns import check_header
from llmcls.data.paths import cannot_read, has_scheme, is_folder, path_exists, require_file
from llmcls.data.reader import FileFormat, Row, Table
from llmcls.default_plugins.dataset_readers.files import FileReader
from llmcls.errors import LlmclsError, unknown

LARGEST = 512 * 1024 * 1024
"""Bytes that all parts of a workbook may have unpacked: a million rows of 500 characters."""

_NAMED = re.compile(r"(.+\.xls[xm]):(.+)", re.IGNORECASE)
_OTHER = (".xls", ".xlsb", ".ods")
_ENCRYPTED = b"\xd0\xcf\x11\xe0"
_DAMAGE = (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, ParseError, EOFError)


class ExcelReader(FileReader):
    """Reads Excel workbooks."""

    name = "excel"
    description = "a sheet of an Excel workbook: tickets.xlsx, or tickets.xlsx:SHEET (pip install 'llmcls[excel]')"
    suffixes = (".xlsx", ".xlsm")

    def reads(self, spec: str) -> bool:
        """Whether the specification is a workbook or one of its sheets; older formats are refused by `read_as`."""
        path, _ = _split(spec)
        return not has_scheme(path) and path.lower().endswith((*self.suffixes, *_OTHER)) and not is_folder(path)

    def read_as(self, spec: str, form: FileFormat) -> dict[str, Table]:
        """The sheet as `{"train": table}`."""
        name, sheet = _split(spec)
        if name.lower().endswith(_OTHER):
            raise LlmclsError(f"'{name}' is a workbook of a kind that is not read; save it as .xlsx or .csv.")
        return {"train": self._sheet(require_file(name), sheet)}

    def table(self, path: Path) -> Table:
        """The only sheet with rows; the source of a row is its number in the sheet: `tickets.xlsx:row 2`."""
        return self._sheet(path, None)

    def _sheet(self, path: Path, sheet: str | None) -> Table:
        with _opened(path) as book:
            names = [each.title for each in book.worksheets]
            if sheet is not None and sheet not in names:
                raise LlmclsError(f"In '{path}': {unknown('sheet', sheet, names)}")
            wanted = [sheet] if sheet is not None else names
            found = {name: first for name in wanted if (first := next(_filled_rows(book[name]), None))}
        if not found:
            which = f"Sheet '{sheet}' of '{path}'" if sheet is not None else f"'{path}'"
            raise LlmclsError(f"{which} is empty; it needs a row with column names, such as text and label.")
        if len(found) > 1:
            shown = ", ".join(f"'{path}:{name}'" for name in found)
            raise LlmclsError(f"'{path}' has {len(found)} sheets with rows; name one of them: {shown}.")
        [(name, (number, cells))] = found.items()
        columns = [_as_name(cell.value) for cell in cells]
        check_header(columns, f"'{path}'")
        return Table(columns, ExcelRows(path, name, tuple(columns), number))


@dataclass(frozen=True, slots=True)
class ExcelRows:
    """The rows of a sheet below its header, in constant memory; can be walked often; empty ones do not count."""

    path: Path
    sheet: str
    columns: Sequence[str]
    header: int

    def __iter__(self) -> Iterator[Row]:
        with _opened(self.path) as book:
            for number, cells in _filled_rows(book[self.sheet]):
                if number > self.header:
                    yield self._row(cells, f"{self.path.name}:row {number}")

    def _row(self, cells: Sequence[Any], source: str) -> Row:
        values = {name: _as_shown(cell.value) for name, cell in zip(self.columns, cells, strict=False)}
        values |= dict.fromkeys(self.columns[len(cells) :])
        problems = [f"cell {cell.coordinate} holds the error {cell.value}" for cell in cells if _is_error(cell)]
        problems += [
            f"cell {cell.coordinate} is in a column without a name"
            for cell in cells[len(self.columns) :]
            if not _is_blank(cell)
        ]
        if problems:
            shown = ", ".join("" if _is_blank(cell) else str(_as_shown(cell.value)) for cell in cells)
            return Row(values, source, " and ".join(problems), shown)
        return Row(values, source)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The workbook, read as it is walked; formulas are the values that were last computed of them.

    Raises:
        LlmclsError: without openpyxl, and for files that are damaged, protected or no workbooks.
    """
    try:
        from openpyxl import load_workbook  # type: ignore[import-untyped]
        from openpyxl.utils.exceptions import InvalidFileException  # type: ignore[import-untyped]
    except ImportError as error:
        raise LlmclsError(
            f"'{path}' is an Excel workbook, which needs the package openpyxl: pip install 'llmcls[excel]', or save "
            "the sheet as .csv."
        ) from error
    try:
        with path.open("rb") as file:
            if file.read(len(_ENCRYPTED)) == _ENCRYPTED:
                raise LlmclsError(f"'{path}' is protected by a password, or in Excel's old format; save it as .xlsx.")
            _refuse_bomb(file, path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of charts, validation and other parts that are not looked at
                book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
            try:
                yield book
            finally:
                book.close()
    except OSError as error:
        raise cannot_read(path, error) from error
    except (InvalidFileException, *_DAMAGE) as error:
        raise LlmclsError(f"'{path}' is not an Excel workbook, or a damaged one: {error}.") from error


def _refuse_bomb(file: IO[bytes], path: Path) -> None:
    """Refuse a workbook that unpacks to more than its texts can be; a part never unpacks to more than it says."""
    file.seek(0)
    with zipfile.ZipFile(file) as parts:
        size = sum(part.file_size for part in parts.infolist())
    if size > LARGEST:
        raise LlmclsError(
            f"'{path}' unpacks to {size / 2**20:,.0f} MiB, more than the {LARGEST / 2**20:g} MiB that are read of a "
            "workbook; save the sheet as .csv."
        )
    file.seek(0)


def _filled_rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """Number and cells of every row that holds something, without the empty cells at its end."""
    sheet.reset_dimensions()  # some programs write a size that is too small
    for number, row in enumerate(sheet.iter_rows(), 1):
        cells = list(row)
        while cells and _is_blank(cells[-1]):
            cells.pop()
        if cells:
            yield number, cells


def _split(spec: str) -> tuple[str, str | None]:
    """A path and the sheet behind it; a file may be called `a.xlsx:b.xlsx` for all that."""
    found = None if path_exists(spec) else _NAMED.fullmatch(spec)
    return (found[1], found[2]) if found else (spec, None)


def _is_blank(cell: Any) -> bool:
    return cell.value is None or (isinstance(cell.value, str) and not cell.value.strip())


def _is_error(cell: Any) -> bool:
    return getattr(cell, "data_type", None) == "e"


def _as_name(value: Any) -> str:
    return "" if value is None else str(_as_shown(value))


def _as_shown(value: Any) -> Any:
    """A cell's value as people see it: Excel has no whole numbers, and midnight is a date."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, datetime.datetime):
        return str(value if value.time() != datetime.time() else value.date())
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    return value
