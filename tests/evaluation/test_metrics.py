import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from llmcls.errors import LlmclsError
from llmcls.evaluation.metrics import EvaluationReport, calibration_error, compute_report
from llmcls.labels import LabelSet

ABC = LabelSet.from_names(["c", "a", "b"])  # not in alphabetical order: columns must follow the label set


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@st.composite
def evaluations(draw):
    """(label set, true, predicted, probabilities), labels may be absent from any of them."""
    size = draw(st.integers(2, 6))
    labels = LabelSet.from_names([f"label {i}" for i in reversed(range(size))])
    rows = draw(st.integers(1, 40))
    names = st.lists(st.sampled_from(labels.names), min_size=rows, max_size=rows)
    weights = draw(
        st.lists(
            st.lists(st.floats(0, 1), min_size=size, max_size=size).filter(lambda row: sum(row) > 1e-3),
            min_size=rows,
            max_size=rows,
        )
    )
    p = np.array(weights)
    return labels, draw(names), draw(names), (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def slow_calibration_error(confidence, correct, bins=15):
    """Guo et al. 2017, equations 3 to 5, word for word."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [
            i for i, value in enumerate(confidence) if (m - 1) / bins < value <= m / bins or (m == 1 and value == 0)
        ]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean_confidence = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean_confidence)
    return total


def test_hand_computed_case():
    report = compute_report(
        ["a", "a", "b", "c"],
        ["a", "b", "b", "b"],
        ABC,
        probabilities=[[0.1, 0.7, 0.2], [0.1, 0.3, 0.6], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]],
        truncated=1,
    )
    assert (report.labels, report.rows, report.truncated) == (("c", "a", "b"), 4, 1)
    assert report.accuracy == report.micro_f1 == 0.5
    assert report.balanced_accuracy == pytest.approx((0 + 1 / 2 + 1) / 3)
    c, a, b = report.per_class
    assert (c.precision, c.recall, c.f1, c.support, c.predicted) == (None, 0, 0, 1, 0)
    assert (a.precision, a.recall, a.f1, a.support, a.predicted) == (1, 0.5, pytest.approx(2 / 3), 2, 1)
    assert (b.precision, b.recall, b.f1, b.support, b.predicted) == (pytest.approx(1 / 3), 1, 0.5, 1, 3)
    assert report.macro_f1 == pytest.approx((0 + 2 / 3 + 1 / 2) / 3)
    assert (report.macro_precision, report.macro_recall) == pytest.approx(((0 + 1 + 1 / 3) / 3, (0 + 1 / 2 + 1) / 3))
    assert (report.weighted_precision, report.weighted_recall) == pytest.approx(((0 + 2 + 1 / 3) / 4, 0.5))
    assert report.weighted_f1 == pytest.approx((0 + 2 * 2 / 3 + 1 / 2) / 4)
    assert report.confusion == ((0, 0, 1), (0, 1, 1), (0, 0, 1))
    assert report.never_occurred == ()
    assert report.nll == pytest.approx(-(math.log(0.7) + math.log(0.3) + 0 + math.log(0.2)) / 4)
    assert report.brier == pytest.approx((0.01 + 0.09 + 0.04 + 0.01 + 0.49 + 0.36 + 0 + 0.64 + 0.09 + 0.25) / 4)
    assert report.mean_confidence == pytest.approx((0.7 + 0.6 + 1 + 0.5) / 4)
    assert report.ece == pytest.approx((0.3 + 0.6 + 0 + 0.5) / 4)  # every row lies in a bin of its own
    # One against the rest: c ranks above 3 of 3 others, a is at 0.7 and 0.3 against 0 and 0.3 (a tie), b above 2 of 3.
    assert report.macro_roc_auc == pytest.approx((1 + 3.5 / 4 + 1) / 3)


def test_two_labels_keep_the_range_of_the_brier_score():
    labels = LabelSet.from_names(["no", "yes"])
    report = compute_report(["no", "yes"], ["yes", "no"], labels, probabilities=[[0, 1], [1, 0]])
    assert report.brier == 2
    assert report.macro_roc_auc == 0
    assert report.ece == report.mean_confidence == 1
    assert report.nll == pytest.approx(-math.log(np.finfo(float).eps))


def test_a_label_that_is_absent_and_never_predicted_does_not_pull_the_means_down():
    report = compute_report(["a", "b"], ["a", "b"], ABC, probabilities=[[0, 1, 0], [0, 0, 1]])
    assert report.macro_f1 == report.weighted_f1 == report.balanced_accuracy == 1
    assert report.never_occurred == ("c",)
    assert (report.per_class[0].precision, report.per_class[0].recall, report.per_class[0].f1) == (None, None, None)
    assert report.macro_roc_auc is None
    assert report.nll == pytest.approx(0)


def test_a_label_that_is_absent_but_predicted_counts():
    report = compute_report(["a", "b", "b"], ["a", "b", "c"], ABC)
    assert report.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert report.balanced_accuracy == pytest.approx((1 + 1 / 2) / 2)
    assert (report.per_class[0].precision, report.per_class[0].recall, report.per_class[0].f1) == (0, None, 0)


def test_all_wrong():
    report = compute_report(["a", "b", "c"], ["b", "c", "a"], ABC)
    assert report.accuracy == report.macro_f1 == report.micro_f1 == report.weighted_f1 == 0
    assert report.nll is report.brier is report.ece is report.macro_roc_auc is report.mean_confidence is None


def test_one_row():
    report = compute_report(["a"], ["a"], ABC, probabilities=[[0.25, 0.5, 0.25]])
    assert report.accuracy == report.macro_f1 == report.balanced_accuracy == 1
    assert report.never_occurred == ("c", "b")
    assert report.ece == report.mean_confidence == 0.5


def test_confidence_is_that_of_the_predicted_label_not_of_the_largest():
    report = compute_report(["a"], ["c"], ABC, probabilities=[[0.3, 0.6, 0.1]])
    assert report.mean_confidence == pytest.approx(0.3)


@given(evaluations())
@settings(deadline=None)
def test_figures_equal_those_of_sklearn(evaluation):
    labels, true, predicted, p = evaluation
    report = compute_report(true, predicted, labels, probabilities=p)
    assert report.accuracy == pytest.approx(sk.accuracy_score(true, predicted))
    assert report.macro_f1 == pytest.approx(sk.f1_score(true, predicted, average="macro", zero_division=0))
    assert report.weighted_f1 == pytest.approx(sk.f1_score(true, predicted, average="weighted", zero_division=0))
    theirs = sk.classification_report(true, predicted, output_dict=True, zero_division=0)
    for average in ("macro", "weighted"):
        for figure, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert getattr(report, f"{average}_{figure}") == pytest.approx(theirs[f"{average} avg"][name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert report.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    one_hot = np.array([[name == label for label in labels.names] for name in true], float)
    p = p.astype(float) / p.astype(float).sum(axis=1, keepdims=True)
    assert report.brier == pytest.approx(((p - one_hot) ** 2).sum(axis=1).mean())
    assert report.nll == pytest.approx(-np.log((p * one_hot).sum(axis=1).clip(np.finfo(float).eps)).mean(), abs=1e-9)
    if set(true) == set(labels.names):
        areas = [sk.roc_auc_score(one_hot[:, j], p[:, j]) for j in range(len(labels))]
        # For two labels sklearn ranks by one column; rounding may break a tie in the other.
        assert report.macro_roc_auc == pytest.approx(areas[1] if len(labels) == 2 else np.mean(areas))
    else:
        assert report.macro_roc_auc is None


@given(evaluations())
@settings(deadline=None)
def test_invariants(evaluation):
    labels, true, predicted, p = evaluation
    report = compute_report(true, predicted, labels, probabilities=p)
    assert sum(map(sum, report.confusion)) == report.rows == len(true)
    assert report.micro_f1 == pytest.approx(report.accuracy)
    for i, entry in enumerate(report.per_class):
        assert entry.support == sum(report.confusion[i]) == true.count(entry.label)
        assert entry.predicted == sum(row[i] for row in report.confusion) == predicted.count(entry.label)
        assert (entry.recall is None) == (entry.support == 0)
        assert (entry.precision is None) == (entry.predicted == 0)
        assert (entry.f1 is None) == (entry.support == entry.predicted == 0)
    assert set(report.never_occurred) == set(labels.names) - set(true)
    assert 0 <= report.ece <= 1 and 0 <= report.brier <= 2 and 0 <= report.nll < 37
    assert abs(report.accuracy - report.mean_confidence) <= report.ece + 1e-9
    plain = compute_report(true, predicted, labels)
    assert (plain.confusion, plain.macro_f1, plain.nll) == (report.confusion, report.macro_f1, None)


# On a bin's edge: 1/15 = 0.0666... is what both sides compute for it.
confidences = st.floats(0, 1) | st.sampled_from([m / 15 for m in range(16)])


@given(st.lists(st.tuples(confidences, st.booleans()), min_size=1, max_size=60))
def test_calibration_error_equals_the_slow_loop(rows):
    confidence, correct = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    # linspace and m / bins differ in the last bit of some edges: rows there may go to either neighbour, skip them.
    edges = np.linspace(0, 1, 16)
    on_edge = np.isclose(confidence[:, None], edges, rtol=0, atol=1e-15) & (confidence[:, None] != 0)
    exact = np.array([edges[m] == m / 15 for m in range(16)])
    keep = ~(on_edge & ~exact).any(axis=1)
    if keep.any():
        confidence, correct = confidence[keep], correct[keep]
        assert calibration_error(confidence, correct) == pytest.approx(slow_calibration_error(confidence, correct))


def test_calibration_error_of_calibrated_and_of_opposite_confidence():
    confidence = np.full(10, 0.7)
    assert calibration_error(confidence, np.arange(10) < 7) == pytest.approx(0)
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1
    assert calibration_error(np.zeros(4), np.zeros(4, bool)) == 0
    # 0.1 and 0.9 in different bins do not cancel out; in one bin they do.
    assert calibration_error(np.array([0.1, 0.9]), np.array([True, False])) == pytest.approx(0.9)
    assert calibration_error(np.array([0.1, 0.9]), np.array([True, False]), bins=1) == pytest.approx(0)


def test_bins_are_closed_on_the_right():
    # 0.2 = 3/15 belongs to (2/15, 3/15]: with 0.15 (wrong), not with 0.22.
    assert np.linspace(0, 1, 16)[3] == 0.2
    value = calibration_error(np.array([0.15, 0.2, 0.22]), np.array([False, True, True]))
    assert value == pytest.approx((abs(1 - 0.35) + 0.78) / 3)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0.5, math.nan, 0.5], "hold NaN"),
        ([0.5, math.inf, 0.5], "sum inf"),
        ([-0.5, 1.0, 0.5], "negative"),
        ([0.5, 0.6, 0.5], "sum 1.6"),
        ([-1.0, -2.0, -0.3], "sum -3.3"),
        ([0.0, 0.0, 0.0], "sum 0"),
    ],
)
def test_probabilities_that_are_none_are_refused(row, said):
    with pytest.raises(LlmclsError, match=r"1 of 2 rows .*first: row 1") as caught:
        compute_report(["a", "b"], ["a", "b"], ABC, probabilities=[[0.2, 0.3, 0.5], row])
    assert said in str(caught.value)


def test_probabilities_of_another_shape_are_refused():
    with pytest.raises(LlmclsError, match=r"shape \(1, 2\), but \(1, 3\)"):
        compute_report(["a"], ["a"], ABC, probabilities=[[0.5, 0.5]])


def test_rounded_probabilities_are_accepted_without_a_warning():
    thirds = np.array([[0.3333, 0.3333, 0.3333]], np.float16)
    report = compute_report(["a"], ["a"], ABC, probabilities=thirds)
    assert report.nll == pytest.approx(math.log(3), abs=1e-6)


def test_labels_outside_the_set_are_listed_together():
    with pytest.raises(LlmclsError, match=r"Unknown true label 'd'\. Available: a, b, c"):
        compute_report(["a", "d"], ["a", "b"], ABC)
    with pytest.raises(LlmclsError) as caught:
        compute_report(["x", "d"], ["y", "b"], ABC)
    assert all(part in str(caught.value) for part in ("true label 'x'", "true label 'd'", "predicted label 'y'"))


@pytest.mark.parametrize(("true", "predicted"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_lengths_are_checked(true, predicted):
    with pytest.raises(LlmclsError, match=f"{len(true)} true and {len(predicted)} predicted"):
        compute_report(true, predicted, ABC)


def test_a_report_that_contradicts_itself_is_refused():
    good = compute_report(["a", "b"], ["a", "b"], ABC)
    fields = {name: getattr(good, name) for name in (field.name for field in dataclasses.fields(good))}
    assert EvaluationReport(**fields) == good
    with pytest.raises(LlmclsError) as caught:
        EvaluationReport(**{**fields, "rows": 3, "truncated": 4, "per_class": good.per_class[:2]})
    assert all(part in str(caught.value) for part in ("per-class", "holds 2 rows", "truncated is 4"))
    with pytest.raises(LlmclsError, match="3 x 3"):
        EvaluationReport(**{**fields, "confusion": ((1, 0), (0, 1))})


def test_ten_thousand_rows_and_many_labels():
    labels = LabelSet.from_names([f"intent {i}" for i in range(300)])
    true = [labels.names[i % 300] for i in range(10_000)]
    report = compute_report(true, true[::-1], labels)
    assert report.rows == 10_000 and len(report.confusion) == 300
