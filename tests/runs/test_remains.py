"""What a training that was killed after its run had its name has left: whoever opens the run next clears it away."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llmcls.errors import LlmclsError
from llmcls.runs.claim import claiming
from llmcls.runs.remains import clear_remains
from llmcls.runs.run import Run
from llmcls.runs.writing import MARK, MARKED, check_unfinished

FORMATS = Path(__file__).parent / "formats"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose state was not deleted any more."""
    newest = max(FORMATS.iterdir(), key=lambda folder: int(folder.name))
    source = next(path.parent for path in sorted(newest.rglob("run.json")))
    shutil.copytree(source, tmp_path / "run")
    (tmp_path / "run" / "trainer" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "run" / "trainer" / "checkpoint-2" / "optimizer.pt").write_bytes(b"0" * 100)
    (tmp_path / "run" / "resume.json").write_text('{"effective batch": 8, "rows of data": "x"}')
    return tmp_path / "run"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_opening_a_run_clears_its_state_away(run: Path) -> None:
    Run.open(run)
    assert not {"trainer", "resume.json"} & names(run)
    assert names(run.parent) == {"run"}, "not even a lock stays"
    before = names(run)
    Run.open(run)
    assert names(run) == before


def test_what_another_process_is_about_to_clear_is_left_to_it(run: Path) -> None:
    with claiming(run):
        Run.open(run)
        assert {"trainer", "resume.json"} <= names(run)
    Run.open(run)
    assert not {"trainer", "resume.json"} & names(run)


def test_the_run_that_was_replaced_goes_and_one_that_is_trained_stays(run: Path) -> None:
    replaced = run.with_name("run.unfinished")
    shutil.copytree(run, replaced)
    clear_remains(run)
    assert "trainer" in names(replaced) and "trainer" not in names(run), "it has a resume.json: it can go on"
    (replaced / "resume.json").unlink()
    clear_remains(run)
    assert names(run.parent) == {"run", "run.unfinished"}, "a run may be called so"
    (replaced / MARK).write_text(MARKED)
    (replaced / "notes.txt").write_text("mine")
    clear_remains(run)
    assert names(run.parent) == {"run", "run.unfinished"}, "somebody has put something there"
    (replaced / "notes.txt").unlink()
    clear_remains(run)
    assert names(run.parent) == {"run"}


def test_another_programs_folder_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    (folder / "trainer").mkdir(parents=True)
    for name in ("run.json", "resume.json", "unfinished.txt", "trainer/precious.txt"):
        (folder / name).write_text("{}")
    clear_remains(folder)
    assert {path.name for path in folder.rglob("*")} == {
        *("run.json", "resume.json", "unfinished.txt", "trainer", "precious.txt")
    }


def test_a_run_is_opened_from_within_and_beside_a_file_called_as_its_lock(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.with_name("run.lock").write_text("hello")
    Run.open(run)
    monkeypatch.chdir(run)
    Run.open(".")
    assert "trainer" in names(run) and run.with_name("run.lock").read_text() == "hello"


@pytest.mark.parametrize("left", range(1, 12))
def test_a_kill_while_clearing_leaves_what_the_next_one_clears(
    run: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = run.with_name("run.unfinished")
    shutil.copytree(run, replaced)
    (replaced / "resume.json").unlink()
    (replaced / MARK).write_text(MARKED)
    unlink, budget = os.unlink, [left]

    def dying(*arguments: Any, **options: Any) -> None:
        budget[0] -= 1
        if budget[0] < 0:
            raise KeyboardInterrupt
        unlink(*arguments, **options)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(os, "unlink", dying)
        clear_remains(run)
    check_unfinished(run)
    clear_remains(run)
    assert names(run.parent) - {"run.lock"} == {"run"}


def test_a_folder_that_is_not_a_run_and_a_damaged_run_are_left_alone(run: Path) -> None:
    (run / "settings.yaml").write_text("seed: 1\n")
    with pytest.raises(LlmclsError, match=r"settings\.yaml has changed"):
        Run.open(run)
    assert "trainer" in names(run), "what could still restore it stays"
    (run / "run.json").unlink()
    clear_remains(run)
    assert "trainer" in names(run)
