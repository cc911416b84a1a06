from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.runs.run import Run

SHORT = ("--set", "training.max_steps=1")


@pytest.fixture
def train(llmcls: Callable[..., Any], tiny_model_dir: Path, here: Path) -> Callable[..., Any]:
    def called(data: object, *options: object, output: str = "run") -> Any:
        place = here / output
        assert place.parent == Path.cwd()
        return llmcls("train", "--data", data, "--base-model", tiny_model_dir, "--output-dir", output, *SHORT, *options)

    return called


@pytest.fixture
def refuse_train(refuse: Callable[..., str], tiny_model_dir: Path, here: Path) -> Callable[..., str]:
    def called(data: object, *options: object) -> str:
        message = refuse(
            "train", "--data", data, "--base-model", tiny_model_dir, "--output-dir", "run", "-q", *SHORT, *options
        )
        assert not (here / "run").exists()
        return message

    return called


def test_says_what_it_does(train: Callable[..., Any], tickets: Path) -> None:
    done = train(tickets)
    assert (done.code, done.out) == (0, "")
    for part in (
        "text column: 'text'",
        "22 train, 2 validation, 0 test rows, 2 labels",
        "4-bit base weights",
        "validation loss",
        "Run written to run",
        "llmcls evaluate --run run",
    ):
        assert part in done.err


def test_quiet_and_json(train: Callable[..., Any], tickets: Path) -> None:
    done = train(tickets, "--quiet")
    assert (done.code, done.out, done.err) == (0, "run\n", ""), "the path alone, for scripts"
    done = train(tickets, "--json", "--quiet", "--overwrite")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["run"] == "run" and found["labels"] == ["billing", "delivery"] and found["train_loss"] > 0


def test_overwrite(train: Callable[..., Any], tickets: Path, here: Path) -> None:
    assert train(tickets, "-q").code == 0
    before = (here / "run" / "run.json").read_bytes()
    done = train(tickets, "-q")
    assert done.code == 1 and "'run' exists already" in done.err and "--overwrite" in done.err
    assert (here / "run" / "run.json").read_bytes() == before
    assert train(tickets, "-q", "--overwrite", "--set", "seed=7").code == 0
    assert json.loads((here / "run" / "run.json").read_text(encoding="utf-8"))["seed"] == 7
    (here / "precious").mkdir()
    (here / "precious" / "thesis.txt").touch()
    done = train(tickets, "-q", "--overwrite", output="precious")
    assert done.code == 1 and "not a run directory, so --overwrite will not delete it" in done.err
    assert sorted(path.name for path in here.iterdir()) == ["precious", "run"]


def test_unusual_data(refuse_train: Callable[..., str], tickets: Path, here: Path) -> None:
    for name, content, message in (
        ("empty.csv", "", "is empty"),
        ("header.csv", "text,label\n", "there are no rows"),
        ("one.csv", "text,label\n" + "x,same\n" * 5, "only one label ('same')"),
        ("nul.csv", "text,label\nx\0y,a\nz,b\n", "nul.csv:2"),
    ):
        (here / name).write_text(content, encoding="utf-8")
        assert message in refuse_train(name)
    assert "No such file" in refuse_train("nowhere.csv")
    assert "Unknown column 'lable'. Did you mean 'label'?" in refuse_train(tickets, "--label-column", "lable")


def test_strange_labels_and_texts(train: Callable[..., Any], llmcls: Callable[..., Any], here: Path) -> None:
    labels = ["positive", "positive_mixed", "🙂 smile", "two words", "a,b", "</s>", 'q"uote', "label:", "No", "1", "10"]
    with (here / "odd.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([f"t{n} {label}\n<|eot_id|></s>", label] for n in range(3) for label in labels)
    assert train("odd.csv", "-q").code == 0
    done = llmcls("predict", "--run", "run", "--input", "odd.csv", "--json", "--probabilities")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["label"] for row in rows] == labels * 3
    assert {row["predicted"] for row in rows} <= set(labels)
    assert all({f"p({label})" for label in labels} < set(row) for row in rows)
    assert llmcls("evaluate", "--run", "run", "--split", "train", "-q").code == 0


@pytest.mark.slow
def test_a_thousand_labels(train: Callable[..., Any], llmcls: Callable[..., Any], here: Path) -> None:
    with (here / "many.csv").open("w", encoding="utf-8") as stream:
        stream.write("text,label\n")
        stream.writelines(f"text {n},label number {n % 1000}\n" for n in range(1000))
    (here / "short.j2").write_text("{# short #}text: {{ text }}\nlabel:", encoding="utf-8")
    assert train("many.csv", "-q", "--template", "short.j2").code == 0
    done = llmcls("predict", "--run", "run", "--json", "--probabilities", "text 5")
    row = json.loads(done.out)
    assert len(row) == 1003 and row["predicted"].startswith("label number ")
    shown = llmcls("runs", "show", "run").out
    assert "and 970 more" in shown


def test_settings_problems_are_reported_together(refuse_train: Callable[..., str], tickets: Path, here: Path) -> None:
    message = refuse_train(tickets, "--set", "lora.rr=3", "--set", "seed=x", "--set", "foo=1")
    assert "3 problems" in message and "did you mean 'lora.r'?" in message and "seed = 'x'" in message
    (here / "list.yaml").write_text("- 1", encoding="utf-8")
    (here / "broken.yaml").write_text("training: [1", encoding="utf-8")
    assert "no assignment; write it as" in refuse_train(tickets, "--set", "nonsense")
    assert "must hold sections" in refuse_train(tickets, "--config", "list.yaml")
    assert "no valid YAML" in refuse_train(tickets, "--config", "broken.yaml")
    assert "cannot be read" in refuse_train(tickets, "--config", "nowhere.yaml")


def test_things_that_do_not_exist(refuse_train: Callable[..., str], tickets: Path) -> None:
    assert "Unknown template 'chta'. Did you mean 'chat'?" in refuse_train(tickets, "--template", "chta")
    assert "Unknown base-model adapter 'lama'" in refuse_train(tickets, "--set", "model.adapter=lama")
    message = refuse_train(
        tickets, "--set", "training.optim=adamw_troch", "--set", "training.lr_scheduler_type=linaer",
        "--set", "training.report_to=[tensorbord, dvclive]",
    )  # fmt: skip
    for part in (
        "4 problems",
        "mean 'adamw_torch'?",
        "mean 'linear'?",
        "mean 'tensorboard'?",
        "'dvclive' is not installed",
    ):
        assert part in message
    message = refuse_train(tickets, "--set", "prompt.max_length=64")
    assert "prompt.max_length is 64" in message and "raise it to at least" in message


def test_full_disk(train: Callable[..., Any], tickets: Path, here: Path) -> None:
    """Files above 8 kB cannot be written: the run fails with one sentence, and what was there stays."""
    resource = pytest.importorskip("resource")
    assert train(tickets, "-q").code == 0
    before = {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        done = train(tickets, "-q", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 1
    assert done.err.count("Error: ") == 1 and "cannot be written: " in done.err and "too large" in done.err
    assert {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()} == before


def test_a_run_in_an_empty_folder_finds_its_base_model_from_everywhere(
    llmcls: Callable[..., Any], tiny_model_dir: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "base").symlink_to(tiny_model_dir, target_is_directory=True)
    (here / "run").mkdir()
    rows = [f"{label} {n},{label}\n" for n in range(10) for label in ("a", "b")] + ["same,a\n", "same,b\n"]
    (here / "rows.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    done = llmcls("train", "--data", "rows.csv", "--base-model", "base", "--output-dir", "run", *SHORT)
    assert done.code == 0 and done.err.count("texts with more than one label") == 1
    card = json.loads((here / "run" / "run.json").read_text(encoding="utf-8"))
    assert card["base_model"]["name"] == card["base_model"]["checkpoint"] == str(here / "base")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert llmcls("predict", "--run", here / "run", "a 1", "-q").code == 0


def test_labels_on_the_command_line(
    train: Callable[..., Any], refuse_train: Callable[..., str], tickets: Path, here: Path
) -> None:
    message = refuse_train(tickets, "--labels", "delivery,bills")
    assert "'billing' is not one of the 2 known labels" in message and "data.other_labels to drop" in message
    assert train(tickets, "-q", "--labels", "delivery, billing").code == 0
    assert Run.open(here / "run").labels.names == ("delivery", "billing")


def test_without_tensorboard_a_training_goes_on_and_says_so(
    train: Callable[..., Any], tickets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    done = train(tickets, "-q", "--set", "training.report_to=[tensorboard]")
    assert done.code == 0 and "TensorBoard is not installed" in done.err
