"""Every benchmark still runs, on as little as it can: its figures mean nothing here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = "--set training.max_steps=1 --set prompt.template=minimal"
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
    "quality.py --data {shared}/data --sets tweet_sentiment --seeds 1 --runs runs --output quality.json " + TINY + " "
    "--set data.max_per_class.train=4 --set data.max_per_class.validation=2 --set data.max_per_class.test=2": (
        "tweet_sentiment"
    ),
    "multilabel.py --data . --rows 12 --output-dir runs/multilabel " + TINY: "TF-IDF, tuned thresholds",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.partition(".")[0])
def test_runs(command: str, shared: Path, tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        lines = [f"{split} {number},{('red', 'blue', 'red|blue')[number % 3]}" for number in range(18)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,labels", *lines]), encoding="utf-8")
    script, *arguments = command.format(shared=shared).split()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"LLMCLS_SHARED": str(shared)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert COMMANDS[command] in done.stdout
