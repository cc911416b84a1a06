"""How fast `llmcls train` takes its steps: rows and tokens a second, and the share of what the processor can multiply.

    python benchmarks/steps.py --models nano smollm2 --repeats 3
    python benchmarks/steps.py --against ../other-checkout --settings "" "lora.lora_dropout=0"

Each training is a process of its own, in turns with the others; medians count. *tokens* are those that the model reads
(a shared prompt once a pack), counted by transformers. *share of peak* divides the floating-point operations of the
base model's layers (forward, gradients of activations and, where all weights are trained, of weights) by what
`torch.mm` of two 2,048 x 2,048 matrices reaches in this process, in the training's number format, at the same number of
threads. Needs `../shared/data` (or `--data`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"nano": 20, "smollm2": 4}  # a step of SmolLM2 takes seconds


class Speed(NamedTuple):
    """Of one training, a second."""

    rows: float
    tokens: float
    flops: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", default=["tweet_sentiment", "banking77"])
    parser.add_argument("--models", nargs="+", default=list(STEPS))
    parser.add_argument("--settings", nargs="+", default=[""], metavar="KEY=VALUE,...", help="one training each")
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout of llmcls")
    parser.add_argument("--steps", type=int, help="of 16 rows; 20 of nano and 4 of SmolLM2 when not given")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"now": ROOT} | ({"before": options.against.resolve()} if options.against else {})
    cases = list(itertools.product(options.models, options.sets, options.settings))
    speeds: dict[tuple[str, ...], list[Speed]] = {}
    for _ in range(options.repeats):
        for case in cases:
            for which, checkout in checkouts.items():
                speeds.setdefault((*case, which), []).append(train(checkout, options.data, options.steps, *case))
    peak = multiply(torch.float32)
    threads = torch.get_num_threads()
    print(f"\nfloat32, {threads} threads, torch.mm {peak / 1e9:.0f} GFLOP/s, medians of {options.repeats}\n")
    columns = ("base model", "data set", "settings", "llmcls", "rows/s", "tokens/s", "share of peak")
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    for (*case, which), found in speeds.items():
        rows, tokens, flops = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {' | '.join(case)} | {which} | {rows:.2f} | {tokens:.0f} | {flops / peak:.0%} |")


def train(checkout: Path, data: Path, steps: int | None, model: str, name: str, settings: str) -> Speed:
    """A few steps in a process of its own."""
    steps = steps or STEPS[model]
    assignments = ["training.per_device_train_batch_size=16", "training.eval_strategy=no", "training.tuning=lora"]
    assignments += [f"training.max_steps={steps}", *filter(None, settings.split(","))]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "llmcls", "train", "--data", str(data / name), "--base-model", model]
        command += ["--quantization", "none", "--output-dir", f"{folder}/run", "-q"]
        command += [part for assignment in assignments for part in ("--set", assignment)]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise SystemExit(f"{' '.join(command)}\n{finished.stderr}")
        card = json.loads(Path(folder, "run", "run.json").read_text())
        lora = Path(folder, "run", "adapter", "adapter_model.safetensors")
        added = sum(weight.numel() for weight in load_file(lora).values()) if lora.exists() else 0
        full = "tuning: full" in Path(folder, "run", "settings.yaml").read_text()
    seconds, layers = card["training"]["train_runtime"], weights_of_layers(card["base_model"]["checkpoint"])
    tokens = card["cost"]["flops"] / (6 * (layers + added))  # `llmcls.training.cost`: 6 for each weight and token
    return Speed(16 * steps / seconds, tokens / seconds, (6 if full else 4) * layers * tokens / seconds)


def weights_of_layers(checkpoint: str) -> int:
    """How many weights stand in the base model's layers: all but the embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmcls.training.cost import count_weights

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return count_weights(model)


def multiply(dtype: torch.dtype) -> float:
    """Operations a second of a large product, the best of ten."""
    left, right = torch.randn(2, 2048, 2048).to(dtype)
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begun)
    return float(2 * 2048**3 / min(seconds))


if __name__ == "__main__":
    main()
