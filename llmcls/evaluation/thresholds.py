"""From which probability on a label is predicted: one threshold per label, tuned on held-out rows.

    tuned = tune_thresholds(probabilities, true)      # both (rows, labels); true holds 0 and 1
    tuned.choose(labels.names, probabilities[0])      # ('joy', 'anger')

A label's threshold is the one with the best F1 of that label (SCut), and a label with too few positive rows for that
takes the one threshold of all labels with the best pooled (micro) F1. Yang: A Study of Thresholding Strategies for
Text Categorization, SIGIR 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

UNTUNED = 0.5

FEWEST_POSITIVES = 10
"""Positive rows below which a label's own threshold would be chance: it takes the one of all labels."""


@dataclass(frozen=True)
class Thresholds:
    """A label is predicted where its probability is at least its value.

    Attributes:
        values: one per label, each in [0, 1].
        pooled: the one threshold with the best micro-F1 over all labels.
        rows: rows they were tuned on; 0: not tuned.

    Raises:
        LlmclsError: for a value outside [0, 1].
    """

    values: tuple[float, ...]
    pooled: float = UNTUNED
    rows: int = 0

    def __post_init__(self) -> None:
        for value in (*self.values, self.pooled):
            if not 0 <= value <= 1:
                raise LlmclsError(f"Threshold {value} is no probability; it must be at least 0 and at most 1.")

    @classmethod
    def untuned(cls, labels: int, value: float = UNTUNED) -> Thresholds:
        """The same for every label."""
        return cls((value,) * labels, value)

    def choose(self, names: Sequence[str], probabilities: Sequence[float]) -> tuple[str, ...]:
        """The names of the labels that a row with these probabilities gets."""
        decided = zip(names, probabilities, self.values, strict=True)
        return tuple(name for name, probability, least in decided if probability >= least)


def tune_thresholds(
    probabilities: Any, true: Sequence[Sequence[int]] | Ints, fewest: int = FEWEST_POSITIVES
) -> Thresholds:
    """The thresholds with the best F1 = 2 TP / (2 TP + FP + FN) on these rows.

    A threshold lies in the middle between two probabilities that occur (or between one and 0 or 1); of equally good
    ones the one nearest to 0.5 is taken.

    Args:
        probabilities: (rows, labels) in [0, 1].
        true: (rows, labels), 1 where the row has the label, else 0.
        fewest: a label with fewer positive rows takes the threshold with the best micro-F1 over all labels.
    """
    import numpy as np

    p, t = np.asarray(probabilities, dtype=np.float64), np.asarray(true, dtype=np.int64)
    if not len(p):
        return Thresholds.untuned(p.shape[1])
    pooled = _best_threshold(p.reshape(-1), t.reshape(-1))
    values = [
        _best_threshold(p[:, label], t[:, label]) if t[:, label].sum() >= fewest else pooled
        for label in range(p.shape[1])
    ]
    return Thresholds(tuple(values), pooled, len(p))


def _best_threshold(p: Floats, t: Ints) -> float:
    import numpy as np

    order = np.argsort(-p, kind="stable")
    p, t = p[order], t[order]
    # Predicting the first k: only where the next probability is smaller can a threshold part them.
    cuts = np.flatnonzero(np.append(p[1:] < p[:-1], True)) + 1
    hits = np.cumsum(t)[cuts - 1]
    f1 = 2 * hits / np.maximum(cuts + t.sum(), 1)
    below = np.append(p, 0.0)[cuts]
    middle = (p[cuts - 1] + below) / 2
    # Half of the smallest float is 0, and a middle may round to the lower of two neighbours: never below the cut.
    middle = np.where(middle > below, middle, p[cuts - 1])
    best = np.flatnonzero(f1 == f1.max()) if f1.max() > 0 else np.array([], dtype=np.int64)
    if not len(best):
        return UNTUNED  # no positive row: nothing to tune for
    return float(middle[best[np.argmin(np.abs(middle[best] - 0.5))]])
