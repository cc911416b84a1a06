"""The settings that say which rows of a source are taken, and for what.

check_size(0.1), check_size(200)      # a share of the rows, a number of rows
check_size(1.5)                       # ValueError: 1.5 is not a size; a size is ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import BeforeValidator

SIZE_RULE = "a size is a share of the rows (above 0, below 1), a whole number of rows (1 or more), or 0 for none"


def check_size(value: Any) -> Any:
    """The size of a split, as scikit-learn's `train_test_split` takes it: a float is a share, an integer is rows.

    Returns:
        An `int` or a `float`; None and what is not a number as it is.

    Raises:
        ValueError: with the rule, for any other number.
    """
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise ValueError(f"{value!r} is not a size; {SIZE_RULE}") from None
    if value is None:
        return None
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a size; {SIZE_RULE}")
    if isinstance(value, Integral):
        if (size := int(value)) >= 0:
            return size
    elif not math.isfinite(value):
        raise ValueError(f"{float(value)} is not a finite number; {SIZE_RULE}")
    elif 0 <= (share := float(value)) < 1:
        return share or 0
    raise ValueError(f"{value} is not a size; {SIZE_RULE}")


def check_kept(value: Any, as_names: Callable[[Any], Any]) -> Any:
    """Labels to keep: a tuple of names, or a rule: `{"top": n}`, `{"min_rows": n}`, or both.

    Raises:
        ValueError: for another mapping, and for fewer than two labels.
    """
    if isinstance(value, Mapping):
        least = {"top": 2, "min_rows": 1}
        if not value or set(value) - set(least):
            raise ValueError(
                f"{dict(value)!r} does not say which labels to keep; give a list of names, {{top: 5}} for the most "
                "frequent ones, or {min_rows: 3} for those of three rows and more"
            )
        for name, number in value.items():
            if isinstance(number, bool) or not isinstance(number, Integral) or number < least[name]:
                raise ValueError(f"{name} is {number!r}, but it is a whole number, {least[name]} or more")
        return {name: int(number) for name, number in value.items()}
    names = as_names(value)
    if isinstance(names, tuple) and (kept := tuple(dict.fromkeys(names))) and len(kept) < 2:
        raise ValueError(f"only {kept[0]!r} is kept, but a classifier needs at least two labels; name another one")
    return kept if isinstance(names, tuple) else names


# Union of two numbers: pydantic would take 0.0 for an integer, and say each problem twice.
Size = Annotated[int | float | None, BeforeValidator(check_size)]
