"""Short ways to say the usual: options for a few settings, the data as an argument, texts through a pipe."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.cli.texts import texts_arrive
from llmcls.settings import Settings


class Begun(Exception):  # noqa: N818 - not an error: all has been read
    pass


def texts_of(printed: str) -> list[str]:
    return [row["text"] for row in csv.DictReader(io.StringIO(printed))]


@pytest.mark.parametrize("data", [("{}",), ("--data", "{}"), ("--", "{}")])
def test_options_stand_for_settings(
    llmcls: Callable[..., Any], tickets: Path, here: Path, monkeypatch: pytest.MonkeyPatch, data: tuple[str, ...]
) -> None:
    begun: list[Settings] = []

    def train(*, settings: Settings, **_: Any) -> None:
        begun.append(settings)
        raise Begun

    monkeypatch.setattr("llmcls.training.train.train", train)
    (here / "run.yaml").write_text("training: {max_steps: 9, num_train_epochs: 9, learning_rate: 9}", encoding="utf-8")
    given = [word.format(tickets) for word in data]
    short = ("--learning-rate", "1e-3", "--batch-size", "4")
    for options in (("--max-steps", "7"), ("--epochs", "0.5", "--set", "training.max_steps=-1")):
        with pytest.raises(Begun):
            llmcls("train", "--config", "run.yaml", *short, *options, *given)
    by_steps, by_epochs = (settings.training for settings in begun)
    assert [settings.data.source for settings in begun] == [str(tickets)] * 2
    assert (by_steps.max_steps, by_steps.learning_rate, by_steps.per_device_train_batch_size) == (7, 1e-3, 4)
    assert (by_epochs.max_steps, by_epochs.num_train_epochs) == (-1, 0.5)


def test_texts_may_begin_like_options(llmcls: Callable[..., Any], run: Path) -> None:
    texts = ["-5 degrees today", "--help me", "-", "->", "-1", "--run = x", "- a list\n- of two"]
    done = llmcls("predict", *texts[:2], "--run", run, *texts[2:], "-q", "--", "--help", "-q")
    assert done.code == 0, done
    assert texts_of(done.out) == [*texts, "--help", "-q"]


def test_a_value_that_begins_like_an_option_stays_a_value(llmcls: Callable[..., Any], run: Path) -> None:
    done = llmcls("predict", "--run", run, "--labels", "-a b,c", "-x y", "-q")
    assert done.code == 0, done
    assert texts_of(done.out) == ["-x y"]
    assert "requires an argument" in llmcls("predict", "-x y", "--run").err


def test_texts_come_through_a_pipe(llmcls: Callable[..., Any], run: Path, here: Path) -> None:
    stdin = b"one\n-5 degrees\n"
    done = llmcls("predict", "--run", run, stdin=stdin)
    assert done.code == 0 and texts_of(done.out) == ["one", "-5 degrees"]
    assert done.err.startswith("Reading texts from the standard input, one a line.\n")
    quiet = llmcls("predict", "--run", run, "-q", stdin=stdin)
    assert quiet.out == done.out == llmcls("predict", "--run", run, "--input", "-", stdin=stdin).out and not quiet.err
    assert llmcls("predict", "--run", run, "--output", "out.csv", stdin=stdin).code == 0
    assert texts_of((here / "out.csv").read_text(encoding="utf-8")) == ["one", "-5 degrees"]
    assert texts_of(llmcls("predict", "--run", run, "given", stdin=stdin).out) == ["given"]


def test_where_no_texts_can_come_from_they_are_asked_for(
    llmcls: Callable[..., Any], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcls.cli.predict.texts_arrive", lambda: False)
    done = llmcls("predict", "--run", run)
    assert done.code == 2
    assert "Give either texts or --input FILE, or texts on the standard input, one a line." in done.err


def test_a_pipe_or_a_file_holds_texts_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").touch()
    for place, holds in ((tmp_path / "texts", True), ("/dev/null", False)):
        with Path(place).open(encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            assert texts_arrive() is holds
    assert not texts_arrive(), "closed"
    monkeypatch.setattr(sys, "stdin", None)
    assert not texts_arrive()
