"""Texts, classes and weights as scikit-learn's callers give them, for `llmcls.estimator`.

as_texts(frame["text"])            # a list of strings, or InvalidInputError
class_names(np.array([0.0, 1.0]))  # ('0', '1')
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_array
from sklearn.utils.multiclass import type_of_target

from llmcls.errors import LlmclsError, several
from llmcls.labels import LabelSet


class InvalidInputError(LlmclsError, ValueError):
    """`X` or `y` cannot be used; also a `ValueError`, which is what scikit-learn's callers expect of bad input."""


def has_several_labels(y: Any) -> bool:
    """Whether `y` is an indicator matrix, or holds lists of classes."""
    if isinstance(y, list | tuple) and any(
        isinstance(classes, list | tuple | set) and len(classes) != 1 for classes in y
    ):
        return True
    return bool(type_of_target(y) == "multilabel-indicator")


def as_texts(X: Any) -> list[str]:  # noqa: N803
    """The texts of a list, an array, a pandas column or a table of one column.

    Raises:
        InvalidInputError: naming the rows that are not strings, or the shape.
    """
    if isinstance(X, str | bytes):
        raise InvalidInputError("Give a list of texts, not one string: [text].")
    values = np.asarray(X.to_numpy() if hasattr(X, "to_numpy") else X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InvalidInputError(
            f"X has shape {values.shape}, but every row is one text; give one column, for example X['text'], or join "
            "several into one."
        )
    problems = [
        f"row {row} is {value!r:.40}, of type {type(value).__name__}"
        for row, value in enumerate(values)
        if not isinstance(value, str)
    ]
    if problems:
        raise InvalidInputError(several(problems, "X must hold strings", shown=5))
    return [str(value) for value in values]


def as_weights(sample_weight: Any, rows: int) -> list[float]:
    """(rows,) weights, checked as scikit-learn checks them.

    Raises:
        InvalidInputError: with all that is wrong with them.
    """
    if isinstance(sample_weight, Real):
        sample_weight = np.full(rows, float(sample_weight))
    try:
        weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"sample_weight cannot be used, give a finite number a row: {error}") from error
    problems = []
    if weights.shape != (rows,):
        problems.append(f"it has shape {weights.shape}, but there are {rows} rows; give a number a row, or one for all")
    if (weights < 0).any():
        problems.append(f"row {np.argmin(weights)} has {weights.min():g}, but a weight is 0 or more")
    if not weights.any():
        problems.append("all weights are zero, so that no row counts; give at least one above 0")
    if problems:
        raise InvalidInputError(several(problems, "sample_weight cannot be used"))
    return [float(weight) for weight in weights]


def class_names(classes: npt.NDArray[Any]) -> tuple[str, ...]:
    """What the model is taught to answer for each class: its text, as llmcls reads a label column.

    Raises:
        InvalidInputError: for fewer than two classes, and names that are not a label set.
    """
    names = tuple(str(int(c)) if isinstance(c, float) and c.is_integer() else str(c) for c in classes.tolist())
    if len(names) == 1:
        raise InvalidInputError(f"y has 1 class, {names[0]!r}, but a classifier needs at least two.")
    try:
        return LabelSet.from_names(names).names
    except LlmclsError as error:
        raise InvalidInputError(f"The classes of y are the labels. {error}") from error
