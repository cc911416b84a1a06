"""Bars and lines on a terminal; lines with the pace elsewhere."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmcls import console
from llmcls.console import Pace, Reporter, in_words
from llmcls.memory_use import machine_memory, memory_in_use, peak_resident, resident
from llmcls.training.progress import ProgressCallback


def on_terminal() -> tuple[Reporter, io.StringIO]:
    reporter, screen = Reporter(), io.StringIO()
    reporter.console = Console(file=screen, force_terminal=True, width=80, highlight=False)  # type: ignore[misc]
    return reporter, screen


def lines(screen: io.StringIO) -> list[str]:
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()))


def test_a_line_stands_above_the_bar() -> None:
    reporter, screen = on_terminal()
    with reporter.track("Training", total=4) as advance:
        advance(1)
        reporter.say("step 1: [loss] 0.5")
        advance(3)
    assert "step 1: [loss] 0.5" in [line.rstrip() for line in lines(screen)]
    assert any("Training" in line and "4/4" in line for line in lines(screen))


def test_a_bar_that_an_error_left_is_taken_away() -> None:
    reporter, screen = on_terminal()
    reporter.track("Training", total=4).__enter__()
    reporter.close()
    assert screen.getvalue().count("\x1b[?25h") == 1, "the cursor is back"
    with reporter.track("Training again", total=1) as advance:
        advance(1)


def test_nothing_but_warnings_when_quiet_or_not_rank_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def speak(reporter: Reporter) -> str:
        with reporter.track("Training", total=1) as advance:
            advance(1)
        reporter.say("a line")
        reporter.warn("a risk.")
        out, err = capsys.readouterr()
        assert out == ""
        return err

    assert speak(Reporter()) == "a line\nWarning: a risk.\n"
    assert speak(Reporter(quiet=True)) == "Warning: a risk.\n"
    monkeypatch.setenv("RANK", "1")
    assert speak(Reporter()) == ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still unless a test moves it."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_bar_within_another_one_is_drawn_below_and_goes() -> None:
    reporter, screen = on_terminal()
    with reporter.track("Training", total=4) as advance:
        advance(2)
        with reporter.track("Validating", total=10) as inner:
            inner(10)
        advance(1)
    drawn = "\n".join(lines(screen))
    assert "Validating" in drawn and "0/10" in drawn and "3/4" in drawn
    reporter.close()
    with reporter.track("Encoding", total=2) as advance:
        advance(2)
    assert "2/2" in "\n".join(lines(screen))


def test_without_a_terminal_progress_is_told_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "memory_in_use", lambda: 1_234_000_000)
    with Reporter().track("Encoding train", total=2000, done=1000) as advance:
        for seconds in (5, 6, 10, 20):
            clock[0] += seconds
            advance(100)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "  Encoding train: 1,200/2,000, 11 s, 44 s left, 18 rows/s, 1.23 GB",
        "  Encoding train: 1,400/2,000, 41 s, 62 s left, 9.8 rows/s, 1.23 GB",
    ]
    for reporter, options in ((Reporter(), {"lines": False}), (Reporter(quiet=True), {})):
        with reporter.track("Encoding", total=None, **options) as advance:
            clock[0] += 100
            advance(1)
    assert capsys.readouterr().err == ""
    with Reporter().track("Predicting", total=None) as advance:
        clock[0] += 100
        advance(5000)
    assert capsys.readouterr().err == "  Predicting: 5,000, 2 min, 50 rows/s, 1.23 GB\n"


def test_training_says_when_it_will_end_and_what_a_validation_found(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(console, "memory_in_use", lambda: 2_000_000_000)
    callback, control = ProgressCallback(Reporter()), TrainerControl()
    args = TrainingArguments(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2, use_cpu=True)
    state = TrainerState(global_step=10, max_steps=100, epoch=0.5)  # as after an interruption
    callback.on_train_begin(args, state, control)
    for seconds in (20, 2, 4, 4):  # the first step sets up much
        state.global_step += 1
        clock[0] += seconds
        callback.on_step_end(args, state, control)
    callback.on_log(args, state, control, {"loss": 0.5, "accuracy": 0.75})
    callback.on_log(args, state, control, {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_macro_f1": 0.625})
    callback.on_log(args, state, control, {"train_runtime": 1.0})
    callback.on_train_end(args, state, control)
    pace = "(30 s, 11 min left, 2.1 rows/s, 2.00 GB)"
    assert capsys.readouterr().err.splitlines() == [
        "  About 4 min to go: 87 steps of 3 s",
        f"  step 14/100, epoch 0.50: loss 0.5000, accuracy 0.7500 {pace}",
        f"  step 14/100, epoch 0.50: validation loss 0.5000, accuracy 0.7500, macro-F1 0.6250 {pace}",
    ]


def test_what_ends_soon_is_not_announced(
    clock: list[float], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    callback, control = ProgressCallback(Reporter()), TrainerControl()
    args, state = TrainingArguments(tmp_path, use_cpu=True), TrainerState(max_steps=5)
    callback.on_train_begin(args, state, control)
    for _ in range(5):
        state.global_step += 1
        clock[0] += 1
        callback.on_step_end(args, state, control)
    assert capsys.readouterr().err == ""


def test_a_bar_shows_the_pace_and_lines_do_not_repeat_it(tmp_path: Path) -> None:
    reporter, screen = on_terminal()
    callback, control = ProgressCallback(reporter), TrainerControl()
    args, state = TrainingArguments(tmp_path, use_cpu=True), TrainerState(max_steps=5)
    callback.on_train_begin(args, state, control)
    callback.on_log(args, state, control, {"loss": 0.5, "accuracy": 0.75})
    callback.on_train_end(args, state, control)
    assert "  step 0/5, epoch 0.00: loss 0.5000, accuracy 0.7500" in [line.rstrip() for line in lines(screen)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (42.3, "42 s"), (754, "13 min"), (7500, "2 h 5 min"), (200_000, "2 d 7 h"), (5940, "99 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_pace_of_nothing_yet() -> None:
    assert re.fullmatch(r"0 s, \d+\.\d\d GB", str(Pace(10)))


def test_memory_is_asked_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now, most, machine = resident(), peak_resident(), machine_memory()
    assert now and most and machine and 10**7 < now <= most + 10**6 and most < machine
    assert memory_in_use() == pytest.approx(now, rel=0.1)
    monkeypatch.setattr("llmcls.memory_use._STATUS", tmp_path / "nowhere")
    assert resident() == pytest.approx(most, rel=0.1)
