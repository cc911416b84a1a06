"""The same command under a launcher, started as its users start it: by the folder, at the root of a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcls.training.run import Run


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
