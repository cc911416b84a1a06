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
    monkeypatch.setattr("llmcls.runs.loading.load_model", None)  # whatever it is, it is found before
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


def test_other_templates(llmcls: Callable[..., Any], run: Path, here: Path) -> None:
    (here / "my.j2").write_text("{{ text }}\nIs that {{ labels[0].name }}?\nlabel:", encoding="utf-8")
    options = ("--split", "train", "--templates", "chat", "my.j2", "--templates=instruction,minimal")
    done = llmcls("evaluate", "--run", run, *options, "-q")
    assert done.code == 0 and "instruction (this run's own)" in done.out and "labels changed" in done.out
    folder = run / "evaluation" / "train"
    rows, metrics = read(folder / "templates.csv"), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    found, names = metrics["templates"], ["chat", "instruction", "minimal", "my.j2"]
    assert sorted(found) == names and found["instruction"]["changed"] == 0
    assert found["instruction"]["accuracy"] == metrics["accuracy"]
    for name in names:
        answers = [row[f"predicted({name})"] for row in rows]
        assert found[name]["changed"] == sum(
            row["predicted"] != said for row, said in zip(rows, answers, strict=True)
        ) / len(rows)
        assert found[name]["accuracy"] == sum(
            row["label"] == said for row, said in zip(rows, answers, strict=True)
        ) / len(rows)
    texts = [row["text"] for row in rows]
    for name in ("chat", "my.j2"):  # the same as a classifier that is loaded with the template
        assert Classifier.load(run, template=name).predict(texts) == [row[f"predicted({name})"] for row in rows]


def test_templates_that_do_not_suit(
    llmcls: Callable[..., Any], refuse: Callable[..., str], run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcls.runs.loading.load_model", None)  # whatever it is, it is found before
    (here / "wrong.j2").write_text("{{ fields.colour }} {{ text }}\nlabel:", encoding="utf-8")
    message = refuse(
        "evaluate", "--run", run, "--templates", "few_shot", "caht", "multi_label_chat", "text", "wrong.j2"
    )
    assert "5 problems" in message
    for part in (
        "shows solved examples",
        "Did you mean 'chat'?",
        "for the task multi_label",
        "ends with the text itself",
    ):
        assert part in message
    assert "colour" in message and "is given 2 times" in refuse("evaluate", "--run", run, "--templates", "chat,chat")
    for arguments, part in (
        (("--templates", "--run", run), "names nothing"),
        (("--run", run, "--templates"), "names nothing"),
        (("--run", run, "chat"), "unexpected extra argument (chat)"),
        (("--run", run, "--templates", "chat", "--", "minimal"), "unexpected extra argument (minimal)"),
    ):
        done = llmcls("evaluate", *arguments)
        assert done.code == 2 and part in done.err
