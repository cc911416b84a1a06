"""Start-up time of each launcher, cost of checkpointing, and two processes against one, on this machine.

python benchmarks/launch.py --base-model nano --data demo:

Every line is a whole `llmcls train` in a process of its own. Start-up ends with the line "Training ..."; speed is the
trainer's own `train_samples_per_second`, start-up not included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", default="nano")
    parser.add_argument("--data", default="demo:")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    common = ["--data", arguments.data, "--base-model", arguments.base_model]
    common += ["--set", f"training.max_steps={arguments.steps}", "--set", "training.eval_strategy=no"]
    two = ["--num-processes", "2", "--set", "training.per_device_train_batch_size=4"]
    plans = {
        "1 process": [],
        "1 process, a checkpoint every step": [
            *["--set", "training.save_strategy=steps", "--set", "training.save_steps=1"],
        ],
        "--launch single": ["--launch", "single"],
        "--launch ddp, 2 processes": ["--launch", "ddp", *two],
    }
    if importlib.util.find_spec("deepspeed"):
        plans["--launch zero2, 2 processes"] = ["--launch", "zero2", *two]
        plans["--launch zero3, 2 processes"] = ["--launch", "zero3", *two]
    print(f"{'':36}{'start-up':>10}{'rows/s':>10}{'s/step':>10}")
    for name, options in plans.items():
        started, card = measure([*common, *options])
        speed = card["training"]["train_samples_per_second"]
        print(
            f"{name:36}{started:9.1f}s{speed:10.1f}{1 / card['training']['train_steps_per_second']:10.3f}", flush=True
        )


def measure(options: list[str]) -> tuple[float, dict]:
    """Seconds until training begins, and the card of the run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        begun, started = time.monotonic(), 0.0
        process = subprocess.Popen(
            [sys.executable, "-m", "llmcls", "train", *options, "--output-dir", str(out)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("Training ") and not started:
                started = time.monotonic() - begun
        if process.wait():
            sys.exit("".join(lines))
        return started, json.loads((out / "run.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
