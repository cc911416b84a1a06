"""How figures leave the program: what is not a finite number is null in JSON and empty in a table.

    to_json({"accuracy": 0.5, "nll": math.nan})        # '{"accuracy": 0.5, "nll": null}'
    finite([1.0, -math.inf])                           # [1.0, None]
    escaped("=1+2")                                    # "'=1+2", which a spreadsheet does not compute

Every JSON text that llmcls prints or writes is made by `to_json`, and every CSV cell passes `finite`: JSON has neither
NaN nor infinity (https://www.rfc-editor.org/rfc/rfc8259#section-6), and strict readers refuse the whole file.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What makes text a formula to spreadsheets: https://owasp.org/www-community/attacks/CSV_Injection."""


def finite(value: Any) -> Any:
    """The value with None for every NaN and infinity, also inside mappings, lists and tuples; numbers stay exact."""
    if isinstance(value, str | Integral) or value is None:
        return value
    if isinstance(value, Real | Decimal):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def escaped(cell: Any) -> Any:
    """A cell with an apostrophe before text that Excel and its like would compute, `=1+2`; figures stay figures."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell


def to_json(value: Any, **options: Any) -> str:
    """The value as JSON, floats with all their digits; what JSON has no form for is written as text.

    Args:
        value: anything; NumPy's arrays and scalars are written as lists and numbers.
        options: those of `json.dumps`, such as `indent` and `sort_keys`.
    """
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, default=_plain, **options)


def _plain(value: Any) -> Any:
    return finite(value.tolist()) if hasattr(value, "tolist") else str(value)


def _key(key: Any) -> Any:
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key
