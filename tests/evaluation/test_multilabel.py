"""Multi-label figures against scikit-learn's own, the files and tables, and the baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn import metrics

from llmcls.errors import LlmclsError
from llmcls.evaluation.baseline import evaluate_multilabel_baseline
from llmcls.evaluation.files import LATER, read_metrics, write_metrics
from llmcls.evaluation.multilabel import MultiLabelReport, compute_multilabel_report, indicator_matrix
from llmcls.evaluation.tables import class_table, comparison_table, summary_table
from llmcls.evaluation.thresholds import Thresholds
from llmcls.labels import LabelSet
from llmcls.records import Example

LABELS = LabelSet.from_names(["joy", "anger", "fear"])
bits = st.lists(st.integers(0, 1), min_size=3, max_size=3)
rows = st.lists(st.tuples(bits, st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3)), min_size=1, max_size=8)


def named(matrix: np.ndarray) -> list[tuple[str, ...]]:
    return [tuple(name for name, has in zip(LABELS.names, row, strict=True) if has) for row in matrix]


def report_on(t: np.ndarray, p: np.ndarray, thresholds: Thresholds) -> MultiLabelReport:
    return compute_multilabel_report(named(t), named(p >= thresholds.values), LABELS, p, thresholds, truncated=0)


@settings(max_examples=40, deadline=None)
@given(drawn=rows)
def test_figures(drawn: list[tuple[list[int], list[float]]]) -> None:
    t, p = np.array([row for row, _ in drawn]), np.array([row for _, row in drawn])
    y = (p >= 0.5).astype(int)
    report = report_on(t, p, Thresholds.untuned(3))
    assert report.micro_f1 == pytest.approx(metrics.f1_score(t, y, average="micro", zero_division=0))
    known = [j for j in range(3) if t[:, j].any() or y[:, j].any()]
    expected = metrics.f1_score(t, y, average=None, zero_division=0)[known].mean() if known else 0.0
    assert report.macro_f1 == pytest.approx(expected)
    assert report.weighted_f1 == pytest.approx(metrics.f1_score(t, y, average="weighted", zero_division=0))
    theirs = metrics.classification_report(t, y, labels=known, output_dict=True, zero_division=0) if known else {}
    for average in ("micro", "macro", "weighted") if known else ():
        for figure, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert (getattr(report, f"{average}_{figure}") or 0) == pytest.approx(theirs[f"{average} avg"][name])
    assert report.subset_accuracy == pytest.approx(metrics.accuracy_score(t, y))
    assert report.hamming_loss == pytest.approx(metrics.hamming_loss(t, y))
    assert report.log_loss == pytest.approx(-np.log(np.where(t == 1, p, 1 - p)).mean())
    present = t.any(axis=0)
    if present.all():
        assert report.mean_average_precision == pytest.approx(metrics.average_precision_score(t, p, average="macro"))
        if not t.all(axis=0).any():
            assert report.macro_roc_auc == pytest.approx(metrics.roc_auc_score(t, p, average="macro"))
    for j, entry in enumerate(report.per_class):
        assert (entry.recall is None) == (not present[j]) == (entry.average_precision is None)
        assert (entry.precision is None) == (not y[:, j].any())
        if entry.precision is not None:
            assert entry.precision == pytest.approx(metrics.precision_score(t[:, j], y[:, j], zero_division=0))
    assert report.never_occurred == tuple(name for name, has in zip(LABELS.names, present, strict=True) if not has)


@pytest.fixture
def report() -> MultiLabelReport:
    t = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
    p = np.array([[0.9, 0.3, 0.1], [0.4, 0.8, 0.2], [0.1, 0.1, 0.1], [0.6, 0.7, 0.2]])
    return report_on(t, p, Thresholds((0.5, 0.25, 0.5)))


def test_files(report: MultiLabelReport, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(report, path)
    assert read_metrics(path) == report
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: content[key] for key in content.keys() - LATER}), encoding="utf-8")
    assert read_metrics(path) == replace(report, **dict.fromkeys(LATER))


def test_tables(report: MultiLabelReport) -> None:
    console = Console(width=80, record=True)
    console.print(summary_table(report), class_table(report), comparison_table(report, report, ("one", "two")))
    shown = console.export_text()
    for part in ("subset accuracy", "0.2500", "fear", "Hamming loss", "F1 by label", "threshold"):
        assert part in shown
    other = report_on(np.zeros((4, 3), dtype=int), np.full((4, 3), 0.1), Thresholds.untuned(3))
    with pytest.raises(LlmclsError, match="differ in their rows of each label"):
        comparison_table(report, other)


def test_what_is_refused() -> None:
    with pytest.raises(LlmclsError, match=r"Unknown label 'jo'\. Did you mean 'joy'"):
        indicator_matrix([["jo"]], LABELS)
    for p in (np.full((1, 3), np.nan), np.full((1, 3), 1.5)):
        with pytest.raises(LlmclsError, match="1 of 1 rows of probabilities"):
            compute_multilabel_report([()], [()], LABELS, p, Thresholds.untuned(3))
    for true, predicted in (([], []), ([()], [])):
        with pytest.raises(LlmclsError, match="and at least one row"):
            compute_multilabel_report(true, predicted, LABELS, None, None)
    with pytest.raises(LlmclsError, match=r"shape \(1, 2\), but \(1, 3\)"):
        compute_multilabel_report([()], [()], LABELS, np.zeros((1, 2)), Thresholds.untuned(3))


def test_without_probabilities(tmp_path: Path) -> None:
    t = np.array([[1, 0, 0], [1, 1, 0]])
    bare = compute_multilabel_report(named(t), named(t), LABELS, None, None)
    assert bare.micro_f1 == 1.0 and bare.log_loss is bare.macro_roc_auc is bare.mean_average_precision is None
    assert {entry.threshold for entry in bare.per_class} == {None}
    write_metrics(bare, tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == bare
    Console(width=80).print(summary_table(bare), class_table(bare))


def test_the_baseline_learns_and_tunes() -> None:
    words = {"joy": "glad", "anger": "furious"}
    made = [
        Example(" ".join(words[name] for name in names) + f" today {n}", "", labels=names)
        for n in range(12)
        for names in ((), ("joy",), ("anger",), ("joy", "anger"))
    ]
    report = evaluate_multilabel_baseline(made[:32], made[32:40], made[40:], LABELS)
    assert report.micro_f1 == report.subset_accuracy == 1.0
    assert report.per_class[2].predicted == 0  # fear, which no row has
    untuned = evaluate_multilabel_baseline(made[:32], [], made[40:], LABELS)
    assert {entry.threshold for entry in untuned.per_class} == {0.5}
