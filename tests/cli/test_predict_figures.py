"""Figures of predictions keep all their digits, in every format."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmcls.classifier import Classifier
from llmcls.cli.formats import RowWriter
from llmcls.cli.predict import _row
from llmcls.records import Prediction


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(("labels", "spread"), [(2, 1.0), (3, 40.0), (1000, 1.0), (10_000, 1.0), (10_000, 60.0)])
def test_probabilities_come_back_as_they_were(labels: int, spread: float, as_json: bool) -> None:
    scores = np.random.default_rng(labels).uniform(-spread, 0, labels)
    p = (np.exp(scores) / np.exp(scores).sum()).tolist()
    names = tuple(f"label {n}" for n in range(labels))
    classifier: Any = SimpleNamespace(classes_=names, added_labels=(), removed_labels=())
    request: Any = SimpleNamespace(in_json=as_json, as_json=as_json, prompt=False, margin=True, all_probabilities=True)
    found = Prediction(names[0], p[0], tuple(p), 1.23456789012345, label_mass=1.23456789e-12)
    row = _row({"text": "t"}, found, classifier, request)
    stream = io.StringIO()
    writer = RowWriter(stream, list(row), as_json, warn=pytest.fail)
    writer.write_header()
    writer.write([row])
    text = stream.getvalue()
    (back,) = [json.loads(text)] if as_json else csv.DictReader(io.StringIO(text))
    assert [float(back[f"p({name})"]) for name in names] == p
    assert math.fsum(float(back[f"p({name})"]) for name in names) == pytest.approx(1, abs=1e-9)
    assert float(back["probability"]) == p[0] and min(float(back[f"p({name})"]) for name in names) > 0
    assert (float(back["margin"]), float(back["label_mass"])) == (1.23456789012345, 1.23456789e-12)


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_a_file_holds_what_python_says(llmcls: Callable[..., Any], run: Path, here: Path, name: str) -> None:
    texts = ["where is it", "you took 5", "x"]
    options = ("--probabilities", "--label-mass", "--margin", "-q")
    assert llmcls("predict", "--run", run, "--output", name, *options, *texts).code == 0
    lines = (here / name).read_text(encoding="utf-8")
    rows: list[Any] = list(csv.DictReader(io.StringIO(lines)))
    if name.endswith("l"):
        rows = [json.loads(line) for line in lines.splitlines()]
    p = np.array([[float(row["p(billing)"]), float(row["p(delivery)"])] for row in rows])
    assert abs(p.sum(axis=1) - 1).max() < 1e-6
    classifier = Classifier.load(run)
    classifier.warm_up()
    assert p == pytest.approx(classifier.predict_proba(texts), abs=1e-6)
    assert [float(row["probability"]) for row in rows] == p.max(axis=1).tolist()
