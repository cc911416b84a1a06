"""Every benchmark still runs, on as little as it can: its figures mean nothing here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PLAN = """
some:
  - {name: x, sets: [tweet_sentiment], recipes: [examples/quickstart.yaml], per_class: 2,
     rows: {validation: 9, test: 9}, set: {training.max_steps: 1}}
  - {name: asked, sets: [goemotions], recipes: [], untrained: true, rows: {train: 40, validation: 20, test: 9}}
"""
COMMANDS = {
    "train.py --models nano --workloads tweets --batches 2 --micro 2 --steps 1": "llmcls, packs of 512",
    "memory.py --lengths 32": "packed, per token",
    "predict.py --models nano --workloads tweets --rows 4 --slow-rows 1 --packs 256 --batches 4 --repeats 1 "
    "--without outlines skorch": "llmcls exact",
    "many_labels.py --counts 0 20 --rows 2 --layers 1 --repeats 1": "best-first",
    "latency.py --workloads tweets --texts 3 --warm-up 1": "Classifier.predict",
    "encoding.py --rows 40 --repeats 1 --tokenizers nano --templates instruction": "| nano | instruction |",
    "start.py --repeats 1 --only version": "| version |",
    "launch.py --steps 1 --rows 2 --repeats 1 --plans ddp": "--launch ddp, 2 processes",
    "quality.py --data {shared}/data --plan plan.yaml --output quality": "| tweet_sentiment | 6 | 1 | **llmcls**, x |",
    "steps.py --data {shared}/data --sets tweet_sentiment --models nano --steps 1 --repeats 1": "| nano | tweet",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.partition(".")[0])
def test_runs(command: str, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    script, *arguments = command.format(shared=shared).split()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"LLMCLS_SHARED": str(shared)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert COMMANDS[command] in done.stdout
