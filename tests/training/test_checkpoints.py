"""What an attempt finds of the ones before it: checkpoints that count, and remains that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcls.training.checkpoints import find_fault, remove_leftovers, seal_checkpoint


@pytest.fixture
def trainer(tmp_path: Path) -> Path:
    """Checkpoints 2, 4 and 6 of a run; the best is that of step 2, at a place where the run was once."""
    for step in (2, 4, 6):
        checkpoint = tmp_path / "run.unfinished" / "trainer" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text(str(step))
        state = {"best_model_checkpoint": "/elsewhere/trainer/checkpoint-2"}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        seal_checkpoint(checkpoint)
    return checkpoint.parent


def test_a_checkpoint_whose_best_one_is_damaged_cannot_keep_the_best(trainer: Path) -> None:
    assert [find_fault(checkpoint, best=True) for checkpoint in sorted(trainer.iterdir())] == [None] * 3
    (trainer / "checkpoint-2" / "weights").write_text("3")
    fault = "the best checkpoint so far, checkpoint-2, cannot be used: weights has changed"
    assert find_fault(trainer / "checkpoint-6", best=True) == fault
    assert find_fault(trainer / "checkpoint-6") is None
    assert find_fault(trainer / "checkpoint-2", best=True) == "weights has changed"


def test_what_the_killed_attempt_wrote_does_not_come_into_the_run(trainer: Path) -> None:
    folder = trainer.parent
    (folder / ".run.json.llmcls.tmp").write_text("half a ca")
    (folder / "run.json").write_text("{}")
    for name in ("adapter", "tokenizer", "tensorboard"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    remove_leftovers(trainer / "checkpoint-4")
    assert {path.name for path in folder.iterdir()} == {"trainer"}
    assert {path.name for path in trainer.iterdir()} == {"checkpoint-2", "checkpoint-4", "runs"}
    assert (trainer / "runs" / "file").is_file(), "the tracker's events go on"
