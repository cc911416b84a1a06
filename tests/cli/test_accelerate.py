"""The same command under a launcher, started as its users start it: by the folder, at the root of a checkout."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.classifier import Classifier
from llmcls.cli import outputs, predictions
from llmcls.runs.run import Run


@pytest.mark.slow
def test_accelerate_launch_trains(root: Path, tickets: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = subprocess.run(
        [
            *launch, "llmcls", "train", "--data", str(tickets), "--base-model", str(tiny_model_dir), "--json",
            "--output-dir", str(tmp_path / "run"), "--set", "training.max_steps=2",
        ],
        cwd=root, capture_output=True, text=True, timeout=300, env={**os.environ, "ACCELERATE_DISABLE_RICH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(tmp_path / "run")
    assert Run.open(tmp_path / "run").labels.names == ("billing", "delivery")


@pytest.mark.slow
def test_two_processes_go_on_with_an_interrupted_prediction(
    llmcls: Callable[..., Any], run: Path, root: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one process has left, two go on with: every row once, in order, with the same scores but for last bits.

    One row cannot be encoded, which only the process that has it in its share would know.
    """
    (here / "t.j2").write_text("{{ 6 // (fields.id | int - 31) }} {{ text }}\nlabel:")
    texts = [f"row {number}" if number % 9 else "" for number in range(60)]
    (here / "new.csv").write_text("id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    words = ["predict", "--run", str(run), "--template", "./t.j2", "--input", "new.csv", "--output"]
    assert llmcls(*words, "whole.csv").code == 0
    stream, left = Classifier.stream, iter(range(4))

    def interrupted(self: Classifier, *arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return stream(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "ROWS_AT_ONCE", {"cpu": 8})
        patch.setattr(outputs, "SAVE_EVERY", 0)
        patch.setattr(Classifier, "stream", interrupted)
        assert llmcls(*words, "out.csv").code == 130
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launch, "--main_process_port", "0", "-m", "llmcls", *words, "out.csv"],
        cwd=here, capture_output=True, text=True, timeout=300,
        env={**os.environ, "ACCELERATE_DISABLE_RICH": "1", "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Going on after row 24 of an earlier attempt.") == 1
    assert done.stderr.count("Predicted 59 of 60 rows") == 1
    found, expected = (list(csv.DictReader((here / name).open())) for name in ("out.csv", "whole.csv"))
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    probabilities = [[float(row["probability"]) for row in rows] for rows in (found, expected)]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
    assert (here / "out.csv.errors.csv").read_bytes() == (here / "whole.csv.errors.csv").read_bytes()
