"""The command line called in this process, as a user would call it, and one tiny trained run."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmcls.cli import main


@dataclass(frozen=True)
class Result:
    """What a user sees of a command: the exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def call(*arguments: object, stdin: bytes = b"") -> Result:
    """Call `llmcls ARGUMENTS`; an exception other than the exit is a failure of the test."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    try:
        with (
            warnings.catch_warnings(action="always"),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stopped,
        ):
            main([str(argument) for argument in arguments])
    finally:
        sys.stdin = before
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
    assert isinstance(stopped.value.code, int)
    return Result(stopped.value.code, *texts)


@pytest.fixture
def llmcls() -> Callable[..., Result]:
    """`llmcls("predict", "--run", run, "a text")`."""
    return call


@pytest.fixture
def refuse() -> Callable[..., str]:
    """Call it and expect exit code 1, nothing on standard output and one error message, which is returned."""

    def called(*arguments: object, stdin: bytes = b"") -> str:
        result = call(*arguments, stdin=stdin)
        assert result.code == 1, result
        assert result.out == "", result
        before, error, message = result.err.rpartition("Error: ")
        assert error and "Traceback" not in before, result
        return message.strip()

    return called


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file with 24 labelled rows."""
    rows = [(f"My parcel number {n} is late", "delivery") for n in range(12)]
    rows += [(f"You took {n} euros twice", "billing") for n in range(12)]
    path = tmp_path_factory.mktemp("tickets") / "tickets.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def _trained(tickets: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tickets"
    short = ("--set", "training.max_steps=2", "--set", "training.logging_steps=1")
    done = call("train", "--data", tickets, "--base-model", tiny_model_dir, "--output-dir", path, *short)
    assert done.code == 0, done
    return path


@pytest.fixture
def run(_trained: Path, tmp_path: Path) -> Path:
    """A trained run of this test's own."""
    return Path(shutil.copytree(_trained, tmp_path / "runs" / "tickets"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
