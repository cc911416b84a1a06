"""How much each row counts in training: numbers of a column, 0 or more.

read_weight("0.5", "importance")        # 0.5
train, note = leave_out_weightless(train, "importance")        # a weight of 0 is a row that is not there
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

from llmcls.data.one_hot import is_missing
from llmcls.errors import LlmclsError
from llmcls.records import Example

RULE = "a weight is a number, 0 or more"


def read_weight(value: Any, column: str) -> float:
    """The weight of a row, finite and 0 or more.

    Raises:
        ValueError: for anything else, an empty cell too, naming the column.
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"column '{column}' is empty; {RULE}")
    shown = repr(value) if isinstance(value, str) else str(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    try:
        # Truth values are numbers to Python, and 1_000 is one.
        usable = isinstance(value, str | Real | Decimal) and type(value).__name__ not in {"bool", "bool_"}
        weight = float(value) if usable and "_" not in str(value) else math.nan
    except (ValueError, OverflowError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ValueError(f"column '{column}' holds {shown}; {RULE}")
    return weight


def leave_out_weightless(train: Sequence[Example], column: str) -> tuple[list[Example], list[str]]:
    """The rows that count, and a note on the others: they carry no loss, so nothing is computed for them.

    Raises:
        LlmclsError: when no row counts.
    """
    kept = [example for example in train if example.weight > 0]
    if train and not kept:
        raise LlmclsError(f"Column '{column}' holds 0 in every training row; give a weight above 0 to rows that count.")
    without = len(train) - len(kept)
    return kept, [f"train: {without} of {len(train)} rows have weight 0 and are left out"] if without else []


def relative_weights(train: Sequence[Example]) -> list[float] | None:
    """(rows,) every weight as a share of the largest; None where all are equal: the loss is divided by their sum.

    As shares, no weight is too large or too small for float32, and equal ones change nothing, not even a bit.
    """
    largest = max((example.weight for example in train), default=1.0)
    if all(example.weight == largest for example in train):
        return None
    return [example.weight / largest for example in train]
