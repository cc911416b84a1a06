"""Nothing that a stranger has written steers the terminal: not labels, texts, headers, file names or run cards."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from llmcls.cli.outputs import StandardOutput, TableOutput
from llmcls.cli.predictions import Tally
from llmcls.cli.shared import show_json, table
from llmcls.console import Reporter
from llmcls.evaluation.metrics import compute_report
from llmcls.evaluation.tables import class_table
from llmcls.labels import LabelSet
from llmcls.visible import VisibleStream, make_console, visible, visible_json

EVIL = "a\x1b[2J\x1b]0;title\x07\u202etxt.exe\u2066\x9b31m\x7fb\rc"
SHOWN = "a\\x1b[2J\\x1b]0;title\\x07\\u202etxt.exe\\u2066\\x9b31m\\x7fb\\rc"
STEERING = set("\x1b\x07\u202e\u2066\x9b\x7f\r")


def is_calm(shown: str) -> bool:
    return not STEERING & set(shown)


def test_visible() -> None:
    assert visible(EVIL) == SHOWN and visible(SHOWN) == SHOWN
    assert visible("two\n\tlines") == "two\n\tlines" and visible("two\n\tlines", lines=False) == "two\\n\\tlines"
    plain = "plain, ünïcode, 标签, עברית, \U0001f469\u200d\U0001f4bb, [bold]"
    assert visible(plain) == plain
    text = json.dumps({"a": EVIL, "b": "\\x1b"}, ensure_ascii=False)
    assert json.loads(visible_json(text)) == {"a": EVIL, "b": "\\x1b"} and is_calm(visible_json(text))


def test_consoles_and_streams() -> None:
    stream = io.StringIO()
    console = make_console(file=stream, width=200, highlight=False, force_terminal=True)
    inner = Table("head", title=EVIL)
    inner.add_row(Text(EVIL))
    inner.add_row(EVIL)
    console.print(EVIL, inner, markup=False)
    console.print("bold", style="bold")
    said = stream.getvalue()
    assert "\x1b[1mbold\x1b[0m" in said, "rich's own escapes are the only ones"
    assert is_calm(said.replace("\x1b[", "")) and "\x1b[2J" not in said and "\\u202etxt.exe" in said
    stream = io.StringIO()
    VisibleStream(stream).write(f"{EVIL}\r\n")
    assert stream.getvalue() == f"{SHOWN}\r\n"


def test_messages_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.say(EVIL)
    reporter.warn(EVIL)
    show_json({"a": EVIL})
    labels = LabelSet.from_names([EVIL.replace("\r", ""), "b"])
    report = compute_report([labels.names[0]], [labels.names[0]], labels)
    make_console(width=200).print(class_table(report), table(EVIL, "text"))
    found = capsys.readouterr()
    assert is_calm(found.out) and is_calm(found.err)
    assert SHOWN in found.err and SHOWN.removesuffix("\\rc") in found.out


def test_predictions_on_a_terminal_and_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def written(stream: io.StringIO, kind: type[StandardOutput]) -> str:
        monkeypatch.setattr(sys, "stdout", stream)
        with kind(Reporter(quiet=True)) as output:
            output.begin(["text", "predicted"])
            output.add([{"text": EVIL, "predicted": EVIL}], [], Tally(1))
            output.finish(Tally(1))
        return stream.getvalue()

    assert EVIL in written(io.StringIO(), StandardOutput), "other programs get what the input has"
    assert written(Terminal(), StandardOutput).count(SHOWN) == 2
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    said = written(Terminal(), TableOutput)
    assert is_calm(said.replace("\x1b[1m", "").replace("\x1b[0m", "")) and "\\u202etxt.exe" in said


def test_errors(
    llmcls: Callable[..., Any], refuse: Callable[..., str], here: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "in\x1b[2J\u202e.csv"
    assert is_calm(refuse("predict", "--run", run, "--input", name))
    assert is_calm(refuse("predict", "--run", f"{run}\x1b[2J", "x"))
    done = llmcls("evaluate", "--run", run, "--odd\x1b[2J\u202e")
    assert done.code == 2 and is_calm(done.err) and "\\x1b[2J" in done.err
    (here / name).write_text('"te\x1b[31mxt","label"\n"",a\n', encoding="utf-8")
    monkeypatch.setattr("llmcls.cli.predict._load", lambda *_: pytest.fail("not reached"))
    assert is_calm(refuse("predict", "--run", run, "--input", name, "--text-column", "text"))


def odd(run: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    card = json.loads((run / "run.json").read_text(encoding="utf-8"))
    change(card)
    (run.parent / name).mkdir()
    (run.parent / name / "run.json").write_text(json.dumps(card), encoding="utf-8")


def test_odd_cards_are_listed_with_their_fault(llmcls: Callable[..., Any], run: Path) -> None:
    odd(run, "no-data", lambda card: card.pop("data"))
    odd(run, "no-base", lambda card: card.update(base_model=None))
    odd(run, "number", lambda card: card.update(labels=5))
    odd(run, "newer", lambda card: card.update(format=99))
    odd(run, "list", lambda card: card.update(format=[]))
    odd(run, "cost", lambda card: card.update(cost="much"))
    odd(run, "created", lambda card: card.update(created=None))
    odd(run, "evil", lambda card: card["base_model"].update(name=EVIL))
    (run.parent / "deep").mkdir()
    (run.parent / "deep" / "run.json").write_text("[" * 100_000, encoding="utf-8")
    done = llmcls("runs", "list", run.parent, "--json")
    assert done.code == 0 and not done.err
    faults = {Path(entry["run"]).name: entry["fault"] for entry in json.loads(done.out)}
    assert {name for name, fault in faults.items() if fault is None} == {"tickets", "evil"}
    assert faults["newer"] == "run format 99, but this llmcls reads up to 2"
    for name, field in (("no-data", "data"), ("number", "labels"), ("cost", "cost"), ("created", "created")):
        assert faults[name].startswith(f"its run.json is damaged ({field}"), faults[name]
    assert faults["deep"].startswith("its run.json is damaged (")
    shown = llmcls("runs", "list", run.parent)
    assert shown.code == 0 and is_calm(shown.out) and "  cannot be read: run format 99" in shown.out
