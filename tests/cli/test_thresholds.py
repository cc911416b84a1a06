"""Abstaining and near-ties on the command line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TEXTS = ("where is it", "you took 5", "7", "no", "a very long story about nothing")


def predict(llmcls: Callable[..., Any], run: Path, *options: object) -> tuple[list[dict[str, str]], str]:
    done = llmcls("predict", "--run", run, *TEXTS, "--output", "out.csv", "--overwrite", *options)
    assert done.code == 0, done
    with Path("out.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream)), done.err


@pytest.mark.usefixtures("here")
def test_a_threshold_on_the_probability(llmcls: Callable[..., Any], run: Path) -> None:
    sure, _ = predict(llmcls, run)
    threshold = sorted(float(row["probability"]) for row in sure)[2]
    rows, _ = predict(llmcls, run, "--min-probability", threshold + 1e-5)
    assert list(rows[0]) == ["text", "predicted", "probability"]
    for row, before in zip(rows, sure, strict=True):
        unsure = float(before["probability"]) <= threshold
        assert row["predicted"] == ("no answer" if unsure else before["predicted"])
        assert row["probability"] == before["probability"]
    named, _ = predict(llmcls, run, "--min-probability", 1, "--set", "prediction.no_answer=human")
    assert {row["predicted"] for row in named} == {"human"}


@pytest.mark.usefixtures("here")
def test_a_threshold_on_the_label_mass(llmcls: Callable[..., Any], run: Path) -> None:
    sure, _ = predict(llmcls, run, "--label-mass")
    masses = sorted(float(row["label_mass"]) for row in sure)
    threshold = (masses[1] + masses[2]) / 2
    rows, _ = predict(llmcls, run, "--min-label-mass", threshold)
    assert [row["label_mass"] for row in rows] == [row["label_mass"] for row in sure]
    assert [row["predicted"] == "no answer" for row in rows] == [float(row["label_mass"]) < threshold for row in rows]


@pytest.mark.usefixtures("here")
def test_margins_and_near_ties(llmcls: Callable[..., Any], run: Path, monkeypatch: Any) -> None:
    rows, said = predict(llmcls, run, "--margin")
    assert list(rows[0]) == ["text", "predicted", "probability", "margin"]
    margins = sorted(float(row["margin"]) for row in rows)
    assert margins[0] > 0 and "near-tie" not in said
    monkeypatch.setattr("llmcls.engine.scores.TIE_TOLERANCE", {torch.float32: margins[1] + 1e-5})
    _, said = predict(llmcls, run)
    assert "2 of 5 rows are near-ties (margin below " in said and "--margin shows which" in said
    done = llmcls("predict", "--run", run, *TEXTS, "--json", "--margin")
    assert [json.loads(line)["margin"] for line in done.out.splitlines()] == [float(row["margin"]) for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-probability", "0.5", "--method", "generate"), "min_probability needs a probability that method"),
        (("--min-label-mass", "0.5", "--method", "best-first"), "min_label_mass needs a probability that method"),
        (("--min-probability", "0.5", "--set", "prediction.no_answer=billing"), "'billing', which is a label"),
    ],
)
def test_thresholds_that_cannot_work(refuse: Callable[..., str], run: Path, options: Any, message: str) -> None:
    assert message in refuse("predict", "--run", run, "x", *options)


@pytest.mark.usefixtures("here")
def test_evaluate_reports_coverage(llmcls: Callable[..., Any], run: Path, tickets: Path) -> None:
    every = ("evaluate", "--run", run, "--data", tickets, "--output-dir", "results")
    assert llmcls(*every).code == 0
    with Path("results/predictions.csv").open(encoding="utf-8", newline="") as stream:
        sure = list(csv.DictReader(stream))
    assert json.loads(Path("results/metrics.json").read_text())["coverage"] is None
    threshold = sorted(float(row["probability"]) for row in sure)[10] + 1e-6
    done = llmcls(*every, "--min-probability", threshold)
    assert done.code == 0 and "rows answered (coverage)" in done.out and "accuracy on answered rows" in done.out
    metrics = json.loads(Path("results/metrics.json").read_text())
    kept = [row for row in sure if float(row["probability"]) >= threshold]
    assert metrics["coverage"] == pytest.approx(len(kept) / 24) and 0 < len(kept) < 24
    assert metrics["answered_accuracy"] == pytest.approx(sum(row["correct"] == "true" for row in kept) / len(kept))
    with Path("results/predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["correct"] for row in rows if row["predicted"] == "no answer"} == {""}
    assert sum(row["predicted"] == "no answer" for row in rows) == 24 - len(kept)


def test_aliases_for_zero_shot_and_inspection(llmcls: Callable[..., Any], tiny_model_dir: Path) -> None:
    options = ("--base-model", tiny_model_dir, "--labels", "billing,delivery")
    aliases = ("--set", "data.label_aliases={billing: [invoice, paid]}")
    done = llmcls("predict", *options, *aliases, "x", "--probabilities", "--quiet")
    (row,) = csv.DictReader(io.StringIO(done.out))
    assert set(row) == {"text", "predicted", "probability", "p(billing)", "p(delivery)"}
    shown = llmcls("labels", "inspect", *options, *aliases, "--json")
    found = json.loads(shown.out)
    assert [(entry["label"], entry["answer"]) for entry in found["labels"]] == [
        ("billing", "billing"), ("delivery", "delivery"), ("billing", "invoice"), ("billing", "paid")
    ]  # fmt: skip
    assert found["trie"]["labels"] == 2 and found["auto"]["method"] == "exact"
    plain = llmcls("labels", "inspect", *options, *aliases).out
    assert "2 labels in 4 spellings" in plain and "invoice (billing)" in plain
    coded = llmcls("labels", "inspect", *options, "--set", "prompt.verbalizer=code")
    assert "A: billing" in coded.out and "Method auto on" in coded.out
