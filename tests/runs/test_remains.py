"""What a training that was killed after its run had its name has left: whoever opens the run next clears it away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmcls.errors import LlmclsError
from llmcls.runs.claim import claiming
from llmcls.runs.remains import clear_remains
from llmcls.runs.run import Run

FORMATS = Path(__file__).parent / "formats"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose state was not deleted any more."""
    newest = max(FORMATS.iterdir(), key=lambda folder: int(folder.name))
    source = next(path.parent for path in sorted(newest.rglob("run.json")))
    shutil.copytree(source, tmp_path / "run")
    (tmp_path / "run" / "trainer" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "run" / "trainer" / "checkpoint-2" / "optimizer.pt").write_bytes(b"0" * 100)
    (tmp_path / "run" / "resume.json").write_text("{}")
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
    assert names(run.parent) == {"run"}


def test_a_folder_that_is_not_a_run_and_a_damaged_run_are_left_alone(run: Path) -> None:
    (run / "settings.yaml").write_text("seed: 1\n")
    with pytest.raises(LlmclsError, match=r"settings\.yaml has changed"):
        Run.open(run)
    assert "trainer" in names(run), "what could still restore it stays"
    (run / "run.json").unlink()
    clear_remains(run)
    assert "trainer" in names(run)
