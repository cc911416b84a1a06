"""What `llmcls evaluate` finds out besides the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
