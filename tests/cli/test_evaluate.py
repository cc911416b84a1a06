from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.data.sources import open_tables


def test_tables_and_files(llmcls: Callable[..., Any], run: Path) -> None:
    done = llmcls("evaluate", "--run", run)
    assert done.code == 0
    assert "there is no test split; evaluating on validation" in done.err
    for part in ("tickets on validation", "macro F1", "By label", "Confusion matrix", "billing", "delivery"):
        assert part in done.out
    folder = run / "evaluation" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == metrics["rows"] == 2
    assert llmcls("runs", "show", run).code == 0, "evaluation lies outside the seal"


def test_before_and_baseline(llmcls: Callable[..., Any], run: Path) -> None:
    printed = llmcls("evaluate", "--run", run, "--before", "--baseline", "--split", "train", "--json")
    assert printed.code == 0
    found = json.loads(printed.out)
    folder = run / "evaluation" / "train"
    for kind in ("before", "baseline"):
        on_disk = json.loads((folder / f"metrics-{kind}.json").read_text(encoding="utf-8"))
        assert found[kind]["accuracy"] == on_disk["accuracy"]
    assert found["baseline"]["accuracy"] == 1.0
    assert found["before"]["nll"] != found["nll"]
    shown = llmcls("evaluate", "--run", run, "--before", "--baseline", "-q").out
    assert "Base model and this run" in shown and "TF-IDF + LR and this run" in shown


def test_another_method(llmcls: Callable[..., Any], refuse: Callable[..., str], run: Path) -> None:
    usual, generated = (
        json.loads(llmcls("evaluate", "--run", run, "--split", "train", "--json", *options).out)
        for options in ((), ("--method", "generate"))
    )
    assert usual["nll"] > 0 and generated["nll"] is None and generated["accuracy"] == usual["accuracy"]
    assert "multi_label" in refuse("evaluate", "--run", run, "--threshold", "0.5")
    assert "min_probability" in refuse("evaluate", "--run", run, "--method", "greedy", "--min-probability", "0.5")


def test_other_data_is_never_the_runs_test_split(
    llmcls: Callable[..., Any], run: Path, tickets: Path, here: Path
) -> None:
    for name in ("tickets.csv", "test"):
        (here / name).mkdir() if name == "test" else (here / name).write_bytes(tickets.read_bytes())
    (here / "test" / "train.csv").write_bytes(tickets.read_bytes())
    (here / "test" / "test.csv").write_bytes(tickets.read_bytes())
    assert llmcls("evaluate", "--run", run, "--data", "tickets.csv", "-q").code == 0
    assert llmcls("evaluate", "--run", run, "--data", "test", "-q").code == 0
    assert llmcls("evaluate", "--run", run, "--data", "test", "--split", "train", "-q").code == 0
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == ["test-test", "test-train", "tickets.csv"]
    (entry,) = json.loads(llmcls("runs", "list", run.parent, "--json").out)
    assert entry["accuracy"] is None


def test_other_data_does_not_need_the_training_data(
    llmcls: Callable[..., Any], refuse: Callable[..., str], tiny_model_dir: Path, tickets: Path, here: Path
) -> None:
    (here / "mine.csv").write_bytes(tickets.read_bytes())
    done = llmcls(
        "train", "--data", "mine.csv", "--base-model", tiny_model_dir, "--output-dir", "run", "-q",
        "--set", "training.max_steps=1",
    )  # fmt: skip
    assert done.code == 0
    (here / "mine.csv").unlink()
    assert llmcls("evaluate", "--run", "run", "--data", tickets, "-q").code == 0
    message = refuse("evaluate", "--run", "run")
    assert "give other data with --data" in message and "mine.csv" in message
    (here / "mine.csv").write_text("text,label\n" + "other,billing\nwords,delivery\n" * 9, encoding="utf-8")
    assert "mine.csv' has changed since this run was trained on it" in llmcls("evaluate", "--run", "run").err


def test_problems(refuse: Callable[..., str], run: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcls.runs.loading.load_model", None)  # whatever it is, it is found before
    (here / "strange.csv").write_text("text,label\nx,billing\ny,refund\n", encoding="utf-8")
    (here / "header.csv").write_text("text,label\n", encoding="utf-8")
    (here / "file").touch()
    assert "Unknown split 'tset'. Did you mean 'test'?" in refuse("evaluate", "--run", run, "--split", "tset")
    message = refuse("evaluate", "--run", run, "--data", "strange.csv")
    assert "strange.csv:3" in message and "'refund'" in message
    assert "no rows" in refuse("evaluate", "--run", run, "--data", "header.csv")
    assert "There is no run directory 'nowhere'" in refuse("evaluate", "--run", "nowhere")
    message = refuse("evaluate", "--run", run, "--output-dir", "file")
    assert "cannot be written to 'file'" in message and "--output-dir" in message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_run(refuse: Callable[..., str], run: Path) -> None:
    run.chmod(0o555)
    try:
        assert "Permission denied" in refuse("evaluate", "--run", run)
    finally:
        run.chmod(0o755)


def test_no_rows_to_evaluate(
    llmcls: Callable[..., Any], refuse: Callable[..., str], tiny_model_dir: Path, here: Path
) -> None:
    (here / "two.csv").write_text("text,label\nhi,a\nho,b\n", encoding="utf-8")
    options = ("--base-model", tiny_model_dir, "--output-dir", "run", "-q", "--set", "training.max_steps=1")
    assert llmcls("train", "--data", "two.csv", *options).code == 0
    assert "has no test rows; say with --data" in refuse("evaluate", "--run", "run")


def test_other_data_is_read_as_it_is_written(
    llmcls: Callable[..., Any], refuse: Callable[..., str], run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "old.csv").write_bytes("text;label\nÄrger, immer;billing\nGrüße;delivery\n".encode("cp1252"))
    assert "encoding" in refuse("evaluate", "--run", run, "--data", "old.csv")
    opened: list[object] = []

    def open_once(data: object, *arguments: Any, **options: Any) -> Any:
        opened.append(data)
        return open_tables(data, *arguments, **options)

    for module in ("sources", "inputs"):
        monkeypatch.setattr(f"llmcls.data.{module}.open_tables", open_once)
    form = ("--set", "data.encoding=cp1252", "--set", "data.delimiter=;")
    done = llmcls("evaluate", "--run", run, "--data", "old.csv", *form, "--set", "prediction.batch_size=2", "-q")
    assert done.code == 0 and opened == ["old.csv"]
    with (run / "evaluation" / "old.csv" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["text"] for row in csv.DictReader(stream)] == ["Ärger, immer", "Grüße"]
    message = refuse("evaluate", "--run", run, *form)
    assert message.startswith("data.delimiter and data.encoding can be changed for other data only")
    message = refuse("evaluate", "--run", run, "--set", "seed=1")
    assert "so seed cannot be changed now" in message and "--templates" in message
    both = llmcls("evaluate", "--run", run, "--method", "greedy", "--set", "prediction.method=exact")
    assert both.code == 2 and "prediction.method is given by an option and by --set" in both.err
    (here / "rows.jsonl").write_text('{"text": "hi", "label": "billing"}\n', encoding="utf-8")
    unused = llmcls("evaluate", "--run", run, "--data", "rows.jsonl", "--set", "data.delimiter=;", "-q")
    assert unused.code == 0 and "is read without data.delimiter" in unused.err


def test_a_format_that_is_null_is_the_files_own(llmcls: Callable[..., Any], tiny_model_dir: Path, here: Path) -> None:
    (here / "semicolons.csv").write_text("text;label\nsome, words;a\nother, words;b\n" * 5, encoding="utf-8")
    options = ("--base-model", tiny_model_dir, "--output-dir", "run", "-q", "--set", "training.max_steps=1")
    assert llmcls("train", "--data", "semicolons.csv", *options, "--set", "data.delimiter=;").code == 0
    (here / "tabs.tsv").write_text("text\tlabel\nsome; words\ta\n", encoding="utf-8")
    assert llmcls("evaluate", "--run", "run", "--data", "tabs.tsv", "-q").code == 1
    null = ("--set", "data.delimiter=null", "-q")
    assert llmcls("evaluate", "--run", "run", "--data", "tabs.tsv", *null).code == 0
    done = llmcls("predict", "--run", "run", "--input", "tabs.tsv", *null)
    assert done.code == 0 and done.out.startswith('"text","label","predicted"')


def test_other_labels_take_their_aliases_along_when_a_run_is_evaluated(
    llmcls: Callable[..., Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"t{n},{'abc'[n % 3]}\n" for n in range(30)))
    given = ("--set", "data.keep_labels=[a,b]", "--set", "data.label_aliases={c: [cc], a: [aa]}")
    done = llmcls(
        "train", "--data", tmp_path / "rows.csv", "--base-model", tiny_model_dir, "--quantization", "none", *given,
        "--set", "training.max_steps=1", "--output-dir", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    done = llmcls("evaluate", "--run", tmp_path / "run", "--split", "train", "--json")
    assert done.code == 0 and "has changed" not in done.err, done.err
    assert sorted(json.loads(done.out)["labels"]) == ["a", "b"]
