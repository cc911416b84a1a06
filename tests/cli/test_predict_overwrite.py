"""Predictions replace no file that they were not told to replace, and never what they read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llmcls.cli.outputs import FileOutput
from llmcls.cli.predictions import Tally
from llmcls.console import Reporter
from llmcls.errors import LlmclsError

QUIET = Reporter(quiet=True)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""
    monkeypatch.setattr("llmcls.runs.loading.load_model", None)


def prepare(here: Path) -> None:
    (here / "data").mkdir()
    for name in ("new.csv", "old.csv", "data/train.csv", "bad.csv.errors.csv", "other.jsonl", "out.csv.partial"):
        (here / name).write_text("text\nhello\n", encoding="utf-8")
    (here / "link.csv").symlink_to("new.csv")
    (here / "hard.csv").hardlink_to(here / "new.csv")


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("source", "output", "more", "said"),
    [
        (
            "new.csv",
            "old.csv",
            (),
            "'old.csv' exists already; replace it with --overwrite, or choose another --output.",
        ),
        ("new.csv", "old.csv", ("--resume", "never"), "'old.csv' exists already"),
        ("new.csv", "other.jsonl", (), "'other.jsonl' exists already"),
        ("new.csv", "bad.csv", (), "'bad.csv.errors.csv' exists already"),
        ("new.csv", "new.csv", (), "'new.csv' is read by this prediction"),
        ("new.csv", "new.csv", ("--overwrite",), "'new.csv' is read by this prediction"),
        ("new.csv", "./data/../new.csv", ("--overwrite",), "is read by this prediction"),
        ("new.csv", "link.csv", ("--overwrite",), "'link.csv' is read by this prediction"),
        ("link.csv", "new.csv", ("--overwrite",), "'new.csv' is read by this prediction"),
        ("new.csv", "hard.csv", ("--overwrite",), "'hard.csv' is read by this prediction"),
        ("data", "data/train.csv", ("--overwrite",), "'data/train.csv' is read by this prediction"),
        ("bad.csv.errors.csv", "bad.csv", ("--overwrite",), "'bad.csv.errors.csv' is read by this prediction"),
        ("new.csv", "data", ("--overwrite",), "it is a folder"),
        ("new.csv", "/dev/null", ("--overwrite",), "/dev/null"),
    ],
)
def test_refused(
    refuse: Callable[..., str], run: Path, here: Path, source: str, output: str, more: tuple[str, ...], said: str
) -> None:
    prepare(here)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert said in refuse("predict", "--run", run, "--input", source, "--output", output, *more)
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--output", "-"), "Leave --output out"), (("--overwrite",), "--overwrite says that --output FILE may be")],
)
def test_wrong_usage(llmcls: Callable[..., Any], options: tuple[str, ...], said: str) -> None:
    done = llmcls("predict", "--run", "r", *options, "x")
    assert done.code == 2 and said in done.err


def test_overwritten(llmcls: Callable[..., Any], run: Path, here: Path) -> None:
    prepare(here)
    (here / "old.csv.errors.csv").write_text("source,problem,raw\nold,old,old\n", encoding="utf-8")
    assert llmcls("predict", "--run", run, "--input", "new.csv", "--output", "old.csv", "--overwrite").code == 0
    assert (here / "old.csv").read_text(encoding="utf-8").startswith('"text","predicted"')
    assert not (here / "old.csv.errors.csv").exists()


def test_an_interrupted_overwriting_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old", encoding="utf-8")
    with suppress(KeyboardInterrupt), FileOutput(path, QUIET, overwrite=True) as output:
        output.begin(["text"])
        output.add([{"text": "a"}], [], Tally(1))
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_a_refused_output_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(LlmclsError, match="exists already"), FileOutput(path, QUIET):
            pass
    with FileOutput(path, QUIET, overwrite=True) as output:
        output.begin(["text"])
        output.finish(Tally())
    assert path.read_text(encoding="utf-8") == '"text"\n'
