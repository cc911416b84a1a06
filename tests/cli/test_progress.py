"""Bars and lines on a terminal; silence elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from llmcls.console import Reporter


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
