"""Two processes against one, the cost of checkpoints, and the start-up of each launcher, on this machine.

    python benchmarks/launch.py                                     # nano and the demo data
    python benchmarks/launch.py --base-model FOLDER --data FILE --rows 32 --repeats 5 --quantization none

Every measurement is a whole `llmcls train` in processes of their own, each with one thread (`OMP_NUM_THREADS=1`), so
two processes have two cores where one has one; all take the same rows a step (strong scaling). The plans take turns,
and each is compared with `1 process` of its own round, so that a busy minute disturbs both. Start-up ends with the line
"Training ..."; rows/s are the trainer's own, without start-up. What it does not know goes to `llmcls train`.
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
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ONE, SAVING = "1 process", "1 process, a checkpoint every step"


@dataclass(frozen=True)
class Measured:
    """One training: seconds until it begins, seconds it takes, rows of a second."""

    start_up: float
    seconds: float
    speed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", default="nano")
    parser.add_argument("--data", default="demo:")
    parser.add_argument("--rows", type=int, default=16, help="of a step, over all processes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are shown, and the ratios' spread")
    parser.add_argument("--plans", default="", help="only those whose name contains this, besides '1 process'")
    arguments, rest = parser.parse_known_args()
    common = ["--data", arguments.data, "--base-model", arguments.base_model, *rest]
    common += settings(max_steps=arguments.steps, eval_strategy="no", save_minutes=0)
    plans = {name: plan for name, plan in make_plans(arguments.rows).items() if name == ONE or arguments.plans in name}
    rounds: list[dict[str, Measured]] = []
    for number in range(arguments.repeats):
        rounds.append({})
        for name, options in plans.items():
            print(f"  round {number + 1}/{arguments.repeats}: {name}", file=sys.stderr, flush=True)
            rounds[-1][name] = measure([*common, *options])
    report(rounds, arguments.steps)


def make_plans(rows: int) -> dict[str, list[str]]:
    """Options of `llmcls train` by plan; the same rows a step for all."""
    whole, half = settings(per_device_train_batch_size=rows), settings(per_device_train_batch_size=rows // 2)
    plans = {ONE: whole, SAVING: [*whole, *settings(save_strategy="steps", save_steps=1)]}
    for backend in ("ddp", "zero2", "zero3"):
        if backend == "ddp" or importlib.util.find_spec("deepspeed"):
            plans[f"--launch {backend}, 2 processes"] = ["--launch", backend, "--num-processes", "2", *half]
    return plans


def settings(**values: object) -> list[str]:
    """`--set training.NAME=VALUE` for each."""
    return [word for name, value in values.items() for word in ("--set", f"training.{name}={value}")]


def measure(options: list[str]) -> Measured:
    """Train once."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        begun, started = time.monotonic(), 0.0
        process = subprocess.Popen(
            [sys.executable, "-m", "llmcls", "train", *options, "--output-dir", str(out)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("Training ") and not started:
                started = time.monotonic() - begun
        if process.wait():
            sys.exit("".join(lines))
        card = json.loads((out / "run.json").read_text(encoding="utf-8"))["training"]
        return Measured(started, card["train_runtime"], card["train_samples_per_second"])


def report(rounds: list[dict[str, Measured]], steps: int) -> None:
    """Medians over the rounds; ratios are of one round each."""
    print(f"{'':38}{'start-up':>10}{'rows/s':>10}   against '{ONE}' (least to most)")
    for name in rounds[0]:
        taken = [results[name] for results in rounds]
        ratios = [results[name].speed / results[ONE].speed for results in rounds]
        start_up, speed = median(one.start_up for one in taken), median(one.speed for one in taken)
        spread = f"{median(ratios):8.2f} x   ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:38}{start_up:9.1f}s{speed:10.1f}{spread}")
    if SAVING in rounds[0]:
        costs = [(results[SAVING].seconds - results[ONE].seconds) / steps for results in rounds]
        print(f"A checkpoint costs {median(costs):.3f} s ({min(costs):.3f} to {max(costs):.3f}).")


if __name__ == "__main__":
    main()
