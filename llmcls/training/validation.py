"""How often the label predicted during training is right.

label_metrics([0, 1, 1], [0, 1, 0])      # {"accuracy": 0.67, "macro_f1": 0.67, "balanced_accuracy": 0.75}
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score


def multilabel_metrics(true: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> dict[str, float]:
    """As `label_metrics` for rows of 0 or 1 for every label; a row is accurate when all its labels are right.

    Returns:
        `accuracy`, `macro_f1` and `micro_f1`.
    """
    t, p = np.asarray(true), np.asarray(predicted)
    known = np.flatnonzero((t | p).any(axis=0))
    return {
        "accuracy": float((t == p).all(axis=1).mean()),
        "macro_f1": float(f1_score(t, p, labels=known, average="macro", zero_division=0)) if len(known) else 0.0,
        "micro_f1": float(f1_score(t, p, average="micro", zero_division=0)),
    }


def label_metrics(true: Sequence[int], predicted: Sequence[int]) -> dict[str, float]:
    """Figures of the validation split, defined as in an evaluation report.

    Args:
        true: label index of each row.
        predicted: the predicted one.

    Returns:
        `accuracy`; `macro_f1`, the mean over the labels that occur or were predicted; `balanced_accuracy`, the mean
        recall over the labels that occur.
    """
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)),
        "balanced_accuracy": float(
            recall_score(true, predicted, labels=sorted(set(true)), average="macro", zero_division=0)
        ),
    }
