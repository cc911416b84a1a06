"""What `llmcls evaluate` finds out besides the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls import Classifier


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_free_answers(llmcls: Callable[..., Any], run: Path) -> None:
    done = llmcls("evaluate", "--run", run, "--split", "train", "--free", 5)
    assert done.code == 0 and "Free answers, 5 rows" in done.out and "invalid answers (not a label)" in done.out
    folder = run / "evaluation" / "train"
    rows, metrics = read(folder / "free.csv"), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert len(rows) == metrics["free"]["rows"] == 5 and metrics["rows"] > 5
    found = json.loads(llmcls("evaluate", "--run", run, "--split", "train", "--free", 5, "--json").out)
    assert found["free"] == metrics["free"]
    assert found["free"]["invalid"] == sum(row["valid"] == "false" for row in rows) / 5
    assert {row["text"] for row in rows} <= {row["text"] for row in read(folder / "predictions.csv")}


def test_a_head_has_no_free_answers(refuse: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcls.classifier.load_model", None)  # whatever it is, it is found before
    monkeypatch.setattr("llmcls.runs.run.Run.has_head", True)
    assert "can say nothing but its labels" in refuse("evaluate", "--run", run, "--free", 5)


def test_samples_before_and_after(llmcls: Callable[..., Any], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    classify = Classifier.classify

    def counted(self: Classifier, examples: Any, **options: Any) -> Any:
        asked.append(len(examples))
        return classify(self, examples, **options)

    monkeypatch.setattr("llmcls.classifier.Classifier.classify", counted)
    done = llmcls("evaluate", "--run", run, "--split", "train", "--samples", 3)
    assert done.code == 0 and "Samples, 3 rows" in done.out and "base model" in done.out
    folder = run / "evaluation" / "train"
    alone, predicted = read(folder / "samples.csv"), read(folder / "predictions.csv")
    assert asked == [len(predicted), 3], "the base model answers these rows only"
    assert list(alone[0]) == ["source", "text", "label", "before", "after"]
    assert {(row["text"], row["label"], row["after"]) for row in alone} <= {
        (row["text"], row["label"], row["predicted"]) for row in predicted
    }
    assert not (folder / "metrics-before.json").exists()
    asked.clear()
    found = json.loads(llmcls("evaluate", "--run", run, "--split", "train", "--samples", 3, "--before", "--json").out)
    assert asked == [len(predicted)] * 2 and read(folder / "samples.csv") == alone
    assert found["samples"] == [{key: row[key] for key in ("text", "label", "before", "after")} for row in alone]


def test_numbers_of_rows(llmcls: Callable[..., Any], run: Path) -> None:
    for option in ("--free", "--samples"):
        done = llmcls("evaluate", "--run", run, option, 0)
        assert done.code == 2 and option in done.err
