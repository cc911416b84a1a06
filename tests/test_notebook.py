"""The notebook in `examples/`, run cell by cell, and what a notebook shows."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from llmcls.console import Reporter
from llmcls.evaluation.metrics import compute_report
from llmcls.evaluation.multilabel import compute_multilabel_report
from llmcls.labels import LabelSet
from llmcls.visible import make_console


@pytest.fixture(scope="module")
def cells(root: Path) -> list[dict[str, Any]]:
    notebook = json.loads((root / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return list(notebook["cells"])


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """As a notebook does: what the last line comes to is shown."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def test_it_is_stored_without_results(cells: list[dict[str, Any]]) -> None:
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert max(len(line.rstrip("\n")) for line in cell["source"]) <= 120
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds[0] == kinds[-1] == "markdown" and kinds.count("code") == 6


@pytest.mark.slow
def test_every_cell_runs(
    cells: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llmcls_nano")
    monkeypatch.chdir(tmp_path)
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for source in sources:
        assert source.count("STEPS = 100") == ("train(" in source)
        shown.append(run_cell(source.replace("STEPS = 100", "STEPS = 2"), names))
        if "splits =" in source:  # fewer rows: what is shown is shown all the same
            names["splits"] = {name: rows.groupby("label").head(2) for name, rows in names["splits"].items()}
    head, run, labels, probabilities, report, compared = shown
    assert list(head.columns) == ["text", "label"] and run.path == Path("runs/notebook")
    assert len(labels) == 3 and set(labels) <= set(run.labels.names)
    assert probabilities.shape == (3, 6) and probabilities.sum(axis=1).to_numpy() == pytest.approx(1, abs=0.01)
    assert report.rows == 12 and f"{report.accuracy:.4f}" in report._repr_html_()
    assert list(compared.columns) == ["before", "after"] and list(compared.index) == ["accuracy", "macro F1"]
    out, err = capfd.readouterr()
    assert out == "" and "Training 6,450,432 parameters" in err and "Loading weights" not in err


def test_reports_are_tables_of_escaped_names() -> None:
    labels = LabelSet.from_names(["<b>bold</b>", "tab\tand \x1b[2J", "never & ever"])
    names = labels.names
    single = compute_report([names[0], names[1]], [names[0]] * 2, labels)._repr_html_()
    several = compute_multilabel_report([(names[0],), ()], [(names[0],), (names[1],)], labels, None, None)._repr_html_()
    for shown in (single, several):
        assert "&lt;b&gt;bold&lt;/b&gt;" in shown and "never &amp; ever" in shown
        assert "<b>" not in shown and "\x1b" not in shown and "\t" not in shown
        assert shown.count("<table>") == 2 and shown.count("<tr>") > 6
    assert "0.5000" in single


def test_of_many_labels_the_worst_are_shown() -> None:
    names = [f"label {n}" for n in range(120)]
    report = compute_report(names, [names[0], *names[1:-1], names[0]], LabelSet.from_names(names))
    shown = report._repr_html_()
    assert "the 100 of 120 labels with the lowest F1" in shown
    assert shown.index(">label 119<") < shown.index(">label 5<")


def in_notebook(quiet: bool = False) -> Reporter:
    reporter = Reporter(quiet)
    reporter.console = make_console(stderr=True, force_jupyter=True)  # type: ignore[misc]
    return reporter


@pytest.mark.parametrize("total", [10, None])
def test_bars_are_text_that_a_cell_shows(capsys: pytest.CaptureFixture[str], total: int | None) -> None:
    def work(reporter: Reporter) -> str:
        with reporter.track("Encoding", total=total, done=2) as advance:
            advance(8)
        return capsys.readouterr().err

    drawn = work(in_notebook())
    lines = drawn.replace("\r", "\n").splitlines()
    assert "Encoding" in drawn and max(map(len, lines)) <= 80 and not lines[-1].strip(), "it is taken away at the end"
    assert total is None or "2/10" in drawn
    assert work(in_notebook(quiet=True)) == "" and work(Reporter()) == ""


def test_a_bar_is_taken_away_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), in_notebook().track("Training", total=2):
        raise ZeroDivisionError
    assert not capsys.readouterr().err.replace("\r", "\n").splitlines()[-1].strip()
