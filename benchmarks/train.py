"""Training speed, peak memory and what is learned, against TRL's SFTTrainer on the same model, rows, batch and LoRA.

    python benchmarks/train.py --workloads tweets arxiv --models tinyllama --threads 2
    python benchmarks/train.py --workloads banking77 --models llama-3.2 --batches 8 --steps 2 --threads 2

Three ways to learn the same rows, each in a process of its own, so that its peak memory is its own; the ways take turns
and the fastest turn counts:

- `trl (a)`: prompt and label as one text, loss over all of it, padded batches of random rows, as in many tutorials;
  larger steps accumulate micro-batches of `--micro-a` rows.
- `trl (b)`: TRL at its best here: loss on the label only, rows grouped by length, the best of several micro-batches.
- `llmcls`: packed trees, the same loss as (b) (`objective sft`, normalised by token), packs of several sizes.

*peak* is the largest memory of the process, *grown* how much of it came after the model was loaded. The time runs from
the end of the first step to the end of the last, collation and optimizer included. `label loss` is the mean negative
log-likelihood of the label's tokens on 32 other rows after those steps: equal for (b) and `llmcls` up to the order of
rows. Random Llama of 42M parameters and embeddings, or nano, float32. Needs `shared` (`workloads.py`).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workloads import MODELS, SHARED, WORKLOADS, load_model, load_tokenizer

HELD_OUT = 32
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}


@dataclass(frozen=True)
class Rows:
    """Training rows first, then `HELD_OUT` others.

    Attributes:
        labels: the labels' names.
        prompts: whole prompts, which end in "label:".
        truth: each row's label, a position in `labels`.
    """

    labels: list[str]
    prompts: list[str]
    truth: list[int]


def read(name: str, count: int) -> Rows:
    """Rows from all over the training split, in the prompt of (a)."""
    folder, columns, label_column = WORKLOADS[name]
    with (SHARED / folder / "train.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    labels = sorted({record[label_column] for record in records})
    chosen = records[:: len(records) // count][:count]
    instruction = f"Classify the text into {', '.join(labels)} and return the answer as the exact text label."
    prompts = [f"{instruction}\ntext: {' '.join(record[column] for column in columns)}\nlabel:" for record in chosen]
    return Rows(labels, prompts, [labels.index(record[label_column]) for record in chosen])


class StepClock:
    """A `TrainerCallback` that notes when each step ends."""

    def __init__(self) -> None:
        from transformers import TrainerCallback

        self.ends: list[float] = []
        ends = self.ends

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(time.perf_counter())

        self.callback = Clock()


def answers_of(rows: Rows, tokenizer: Any) -> list[list[int]]:
    """Each label's tokens behind "label:", end token included."""
    before = len(tokenizer.encode("label:"))
    return [[*tokenizer.encode(f"label: {label}")[before:], tokenizer.eos_token_id] for label in rows.labels]


def make_ours(model: Any, tokenizer: Any, rows: Rows, options: argparse.Namespace, folder: str) -> Any:
    """llmcls's trainer, put together as `llmcls.train` does."""

    from llmcls.answers import form_named
    from llmcls.answers.single_label import SingleLabelLayout
    from llmcls.console import Reporter
    from llmcls.engine import LabelTrie
    from llmcls.engine.objectives import Objective
    from llmcls.model.hardware import choose_formats
    from llmcls.settings import make_settings
    from llmcls.training.batches import Collator
    from llmcls.training.configuration import make_config
    from llmcls.training.trainer import make_trainer

    training = {"per_device_train_batch_size": options.batch, "learning_rate": options.learning_rate}
    training |= {"lr_scheduler_type": "constant", "warmup_steps": 0, "logging_steps": 1, "eval_strategy": "no"}
    training |= {"num_train_epochs": 1, "objective": "sft", "loss_normalization": "token"}
    training |= {"pack_tokens": options.size}
    settings = make_settings({"model": {"quantization": "none"}, "lora": LORA, "training": training})
    adapter: Any = SimpleNamespace(learning_rate=None, lora_target_modules=None)
    config = make_config(settings, choose_formats(settings), Path(folder), has_validation=False)
    layout = SingleLabelLayout(LabelTrie(answers_of(rows, tokenizer)), Objective(normalization="token"))
    collator = Collator(layout, packed=True, pad_token_id=tokenizer.pad_token_id, pack_tokens=options.size)
    form, base = form_named("single_label"), SimpleNamespace(adapter=adapter)
    assembly: Any = SimpleNamespace(form=form, base=base, tokenizer=tokenizer)
    encoded = [
        {"input_ids": tokenizer.encode(prompt), "label": label}
        for prompt, label in zip(rows.prompts[:-HELD_OUT], rows.truth, strict=False)
    ]
    reporter = Reporter(quiet=True)
    return make_trainer(config, model, assembly, collator, encoded, [], settings, reporter)


def make_theirs(model: Any, tokenizer: Any, rows: Rows, options: argparse.Namespace, folder: str) -> Any:
    """TRL's trainer, (a) or (b)."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    at_best = options.method == "trl (b)"
    pairs = [(prompt, " " + rows.labels[label]) for prompt, label in zip(rows.prompts, rows.truth, strict=True)]
    records = [
        {"prompt": prompt, "completion": label} if at_best else {"text": prompt + label}
        for prompt, label in pairs[:-HELD_OUT]
    ]
    config = SFTConfig(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=options.size,
        gradient_accumulation_steps=options.batch // options.size,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        logging_steps=1,
        max_length=None,
        completion_only_loss=at_best,
        train_sampling_strategy="group_by_length" if at_best else "random",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(records),
        peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM"),
    )


def label_loss(model: Any, tokenizer: Any, rows: Rows) -> float:
    """Mean negative log-likelihood of the label's tokens on the rows held out."""
    import torch

    from llmcls.answers.single_label import SingleLabelLayout
    from llmcls.engine import LabelTrie
    from llmcls.engine.objectives import Objective, packed_loss
    from llmcls.training.batches import Collator

    layout = SingleLabelLayout(LabelTrie(answers_of(rows, tokenizer)), Objective(normalization="token"))
    collator = Collator(layout, packed=True, pad_token_id=tokenizer.pad_token_id)
    packs = collator(
        [
            {"input_ids": tokenizer.encode(prompt), "label": label}
            for prompt, label in zip(rows.prompts[-HELD_OUT:], rows.truth[-HELD_OUT:], strict=True)
        ]
    )
    total = sum(float(pack["normalizer"]) for pack in packs)
    model.eval()
    with torch.no_grad():
        return sum(float(packed_loss(model, pack, total)) for pack in packs)


def measure_one(options: argparse.Namespace) -> dict[str, float]:
    """Train in this process."""
    import psutil
    import torch

    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    count = options.batch * (options.steps + 1)
    rows = read(options.workload, count + HELD_OUT)
    model = load_model(options.model, tokenizer, options.layers)
    make = make_ours if options.method == "llmcls" else make_theirs
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(model, tokenizer, rows, options, folder)
        trainer.add_callback(clock.callback)
        loaded = psutil.Process().memory_info().rss / 2**30
        trainer.train()
    assert len(clock.ends) == options.steps + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "seconds": (clock.ends[-1] - clock.ends[0]) / (options.batch * options.steps),
        "peak": peak,
        "grown": peak - loaded,
        "loss": label_loss(trainer.model, tokenizer, rows),
    }


def measure(workload: str, model: str, batch: int, method: str, size: int, options: argparse.Namespace) -> Any:
    """Train in a new process; None when it was killed, which is what a full memory looks like."""
    given = {"workload": workload, "model": model, "batch": batch, "method": method, "size": size}
    given |= {name: getattr(options, name) for name in ("steps", "layers", "threads", "learning_rate")}
    threads = str(options.threads)
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(given)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode == -9:
        return None
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(workload: str, model: str, batch: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One table; its lines as figures."""
    ways = [("trl (a)", min(batch, options.micro_a))] if not options.skip_a else []
    ways += [("trl (b)", size) for size in options.micro if size <= batch]
    ways += [("llmcls", size) for size in options.packs]
    found: dict[tuple[str, int], dict[str, float] | None] = {}
    for _ in range(options.repeats):
        for way in ways:
            result = measure(workload, model, batch, *way, options)
            before = found.get(way)
            if before is None or (result is not None and result["seconds"] < before["seconds"]):
                found[way] = result

    def best(method: str) -> float:
        return min((r["seconds"] for (name, _), r in found.items() if name == method and r), default=float("nan"))

    print(f"\n{workload}, {model}, {batch} rows a step, {options.steps} steps measured:")
    print(f"  {'':26s} {'rows/s':>8s} {'of (a)':>8s} {'of (b)':>8s} {'peak GiB':>9s} {'grown':>6s} {'label loss':>11s}")
    for (method, size), result in found.items():
        name = f"{method}, {'packs' if method == 'llmcls' else 'micro-batches'} of {size}"
        if result is None:
            print(f"  {name:26s} {'memory full':>17s}", flush=True)
            continue
        seconds = result["seconds"]
        ratios = [f"{best(other) / seconds:7.2f}x" for other in ("trl (a)", "trl (b)")]
        figures = (
            f"{1 / seconds:8.2f} {' '.join(ratios)} {result['peak']:9.2f} {result['grown']:6.2f} {result['loss']:11.4f}"
        )
        print(f"  {name:26s} {figures}", flush=True)
    which = {"workload": workload, "model": model, "batch": batch}
    return [which | {"method": method, "size": size} | (result or {}) for (method, size), result in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--models", nargs="+", default=["tinyllama", "llama-3.2"], choices=MODELS)
    parser.add_argument("--batches", type=int, nargs="+", default=[8], help="rows of an optimizer step")
    parser.add_argument("--micro", type=int, nargs="+", default=[2, 8], help="micro-batches that (b) chooses from")
    parser.add_argument("--micro-a", type=int, default=8, help="largest micro-batch of (a)")
    parser.add_argument("--packs", type=int, nargs="+", default=[512], help="training.pack_tokens to try")
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one that is not")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--skip-a", action="store_true", help="leave (a) out, which takes the longest")
    parser.add_argument("--output", help="a JSON file with all figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(argparse.Namespace(**json.loads(options.one)))))
        return
    figures = []
    for model in options.models:
        for workload in options.workloads:
            for batch in options.batches:
                figures += compare(workload, model, batch, options)
                if options.output:
                    Path(options.output).write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
