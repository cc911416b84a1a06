"""Labels as columns of zeros and ones, one column a label: which of a row's columns hold a one.

read_flags({"joy": "1", "fear": 0.0, "fun": True}, ("joy", "fear", "fun"))        # ["joy", "fun"]
find_flags(table.rows, table.columns)        # the columns that hold nothing else
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from numbers import Real
from typing import Any

from llmcls.data.reader import Row

_BITS = {"0": 0, "0.0": 0, "0.": 0, "false": 0, "1": 1, "1.0": 1, "1.": 1, "true": 1}
# What data sets write where nobody has looked; a row of nothing else has no labels yet.
_UNLABELLED = -1
_ROWS_TO_LOOK_AT = 100


def is_missing(value: object) -> bool:
    """Whether a value stands for nothing: None, NaN, pandas' NA and NaT."""
    # pandas' marks are told by the names of their types: importing pandas costs half a second.
    return (
        value is None or (isinstance(value, Real) and value != value) or type(value).__name__ in {"NAType", "NaTType"}
    )


def read_flags(values: Mapping[str, Any], columns: Sequence[str]) -> list[str] | None:
    """The columns that hold a one, in their order; None where every one is empty, or -1: the row has no labels.

    Ones and zeros are numbers, truth values or text of these. An empty cell is not a zero: nobody has said so.

    Raises:
        ValueError: for any other cell, naming all of them.
    """
    found = {column: _bit(values.get(column)) for column in columns}
    if all(_is_unlabelled(values.get(column)) for column in columns):
        return None
    wrong = [f"column '{column}' {_describe(values.get(column))}" for column, bit in found.items() if bit is None]
    if wrong:
        raise ValueError(f"{' and '.join(wrong)}; a label column among several holds 0 or 1")
    return [column for column, bit in found.items() if bit]


def find_flags(rows: Iterable[Row], columns: Sequence[str]) -> list[str]:
    """The columns that hold nothing but zeros and ones in the first 100 rows that can be read."""
    seen = [row.values for row in islice(rows, _ROWS_TO_LOOK_AT) if row.problem is None]
    return [column for column in columns if seen and all(_bit(values.get(column)) is not None for values in seen)]


def _bit(cell: Any) -> int | None:
    if isinstance(cell, str):
        return _BITS.get(cell.strip().lower())
    if type(cell).__name__ in {"bool", "bool_"}:  # NumPy's is not a number to Python
        return int(bool(cell))
    return int(cell == 1) if isinstance(cell, Real) and cell in (0, 1) else None


def _is_unlabelled(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip() in {"", "-1", "-1.0"}
    return is_missing(cell) or (isinstance(cell, Real) and cell == _UNLABELLED)


def _describe(cell: Any) -> str:
    if is_missing(cell) or (isinstance(cell, str) and not cell.strip()):
        return "is empty"
    shown = repr(cell) if isinstance(cell, str) else str(cell)
    return f"holds {shown if len(shown) <= 40 else f'{shown[:37]}...'}"
