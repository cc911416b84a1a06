"""What a plugin's dataset reader delivers, held to its contract while it is read: a row is a `Row`, not a dict.

tables = check_tables(reader, reader.read("tickets.ini"))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

from llmcls.data.reader import DatasetReader, Row, Table
from llmcls.errors import LlmclsError
from llmcls.plugin.blame import failure, is_foreign, named, owner_of, place_of, remedy


def check_tables(reader: DatasetReader, tables: Mapping[str, Table]) -> Mapping[str, Table]:
    """The tables of a plugin's reader, whose rows are looked at as they come; those of llmcls's own as they are.

    Raises:
        LlmclsError: for what is not a table. Walking the rows raises it for what is not a row, and for what the plugin
            raises.
    """
    if not is_foreign(reader):
        return tables
    for split, table in tables.items():
        if not isinstance(split, str) or not isinstance(table, Table):
            raise _wrong(reader, f"returns {table!r:.100} ({type(table).__name__}) as split {split!r}, not a Table")
        columns = table.columns
        listed = isinstance(columns, Iterable) and not isinstance(columns, str)
        if not listed or not all(isinstance(column, str) for column in columns):
            raise _wrong(reader, f"names the columns {table.columns!r:.100}, not a list of strings")
        if not isinstance(table.rows, Iterable):
            raise _wrong(reader, f"has {type(table.rows).__name__} as rows of split '{split}', which are not iterable")
    return {split: replace(table, rows=_checked(reader, split, table.rows)) for split, table in tables.items()}


def _checked(reader: DatasetReader, split: str, rows: Iterable[Row]) -> Iterable[Row]:
    """The same rows, of the same kind: some can be counted, some walked once only."""
    if isinstance(rows, Iterator):
        return _walk(reader, split, rows)
    return (_CountedRows if isinstance(rows, Sized) else _Rows)(reader, split, rows)


@dataclass(frozen=True)
class _Rows:
    reader: DatasetReader
    split: str
    rows: Any

    def __iter__(self) -> Iterator[Row]:
        return _walk(self.reader, self.split, self.rows)


class _CountedRows(_Rows):
    def __len__(self) -> int:
        return len(self.rows)


def _walk(reader: DatasetReader, split: str, rows: Iterable[Row]) -> Iterator[Row]:
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Row) or not isinstance(row.values, Mapping):
                what = row if not isinstance(row, Row) else row.values
                wanted = "a llmcls.data.reader.Row" if not isinstance(row, Row) else "a mapping as its values"
                kind = type(what).__name__
                raise _wrong(reader, f"gives {what!r:.100} ({kind}) as row {number} of split '{split}', not {wanted}")
            yield row
    except (LlmclsError, GeneratorExit):
        raise
    except Exception as error:  # a stranger's code may raise anything
        what = f"{type(reader).__name__}.read(), behind row {number} of split '{split}'"
        raise LlmclsError(failure(owner_of(reader), what, error, reader)) from error


def _wrong(reader: DatasetReader, what: str) -> LlmclsError:
    plugin = owner_of(reader)
    return LlmclsError(
        f"{named(plugin)}: dataset reader '{reader.name}' {what} ({place_of(type(reader).read)}). {remedy(plugin)}"
    )
