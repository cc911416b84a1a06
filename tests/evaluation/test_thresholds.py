"""Thresholds against trying every one of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from llmcls.errors import LlmclsError
from llmcls.evaluation.thresholds import Thresholds, tune_thresholds

probabilities = st.sampled_from([0.0, 1e-300, 0.1, 0.2, np.nextafter(0.2, 1), 0.5, 0.7, 1.0]) | st.floats(0, 1)
columns = st.lists(st.tuples(probabilities, st.integers(0, 1)), min_size=1, max_size=12)


def best_f1(p: np.ndarray, t: np.ndarray) -> float:
    return max(f1_score(t, p >= threshold, zero_division=0) for threshold in [*p, 2.0])


@given(column=columns)
def test_no_threshold_is_better(column: list[tuple[float, int]]) -> None:
    p, t = (np.array(part) for part in zip(*column, strict=True))
    (value,) = tune_thresholds(p[:, None], t[:, None], fewest=0).values
    assert f1_score(t, p >= value, zero_division=0) == pytest.approx(best_f1(p, t))
    if not t.any():
        assert value == 0.5


@given(column=columns, other=columns)
def test_rare_labels_take_the_pooled_threshold(column: list[tuple[float, int]], other: list[tuple[float, int]]) -> None:
    size = min(len(column), len(other))
    both = np.array([column[:size], other[:size]])
    p, t = both[:, :, 0].T, both[:, :, 1].T.astype(int)
    tuned = tune_thresholds(p, t, fewest=size + 1)
    assert tuned.values == (tuned.pooled, tuned.pooled) and tuned.rows == size
    assert f1_score(t.ravel(), p.ravel() >= tuned.pooled, zero_division=0) == pytest.approx(
        best_f1(p.ravel(), t.ravel())
    )


def test_between_two_probabilities_and_near_a_half() -> None:
    p, t = np.array([[0.1], [0.3], [0.9], [0.95]]), np.array([[0], [0], [1], [1]])
    assert tune_thresholds(p, t, fewest=1).values == (0.6,)  # not 0.9, which would be as good on these rows
    # One threshold for the label with enough positives, the pooled one for the other.
    p, t = np.array([[0.2, 0.3], [0.4, 0.9], [0.1, 0.2]]), np.array([[1, 0], [1, 1], [0, 0]])
    tuned = tune_thresholds(p, t, fewest=2)
    assert tuned.values[0] == pytest.approx(0.15) and tuned.values[1] == tuned.pooled


def test_choose_and_refuse() -> None:
    thresholds = Thresholds((0.5, 0.2, 1.0))
    assert thresholds.choose(("a", "b", "c"), (0.5, 0.19, 1.0)) == ("a", "c")
    assert tune_thresholds(np.empty((0, 3)), np.empty((0, 3))) == Thresholds.untuned(3)
    with pytest.raises(LlmclsError, match=r"Threshold 1\.5 is no probability"):
        Thresholds((0.5, 1.5))
