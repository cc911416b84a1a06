"""What a row costs with 100, 1,000 and 10,000 labels: time against tokens fed, and peak memory.

    python benchmarks/many_labels.py --threads 2 --output labels.json

Labels are two to four random words, as in `card_declined_abroad`, drawn from the words of banking77, in TinyLlama's
vocabulary on the random Llama of `workloads.py`; rows are its texts, in a prompt that does not list the labels. Each
line is measured in a process of its own, whose peak memory is that of model, texts and labels together; the line with 0
labels is the floor, the texts alone. Time grows with the tokens fed, so "us a token" should stay about the same.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from workloads import Workload, floor, load_model, load_tokenizer, load_workload, measure

from llmcls.engine import PackedScorer, SearchScorer


def random_labels(count: int, words: list[str], seed: int = 0) -> list[str]:
    """Distinct names."""
    draw = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        names["_".join(draw.choices(words, k=draw.randint(2, 4)))] = None
    return list(names)


def measure_one(count: int, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one number of labels."""
    tokenizer = load_tokenizer("tinyllama")
    model = load_model("tinyllama", tokenizer, options.layers)
    base = load_workload("banking77", tokenizer, options.rows)
    texts = ["Classify the text.\n" + text[text.index("\nText: ") + 1 :] for text in base.texts]
    prompts = [tokenizer.encode(text) for text in texts]
    words = sorted({word for label in base.labels for word in label.split("_") if word.isalpha()})
    names = random_labels(count, words) if count else base.labels
    before = len(tokenizer.encode("Label:"))
    answers = [[*tokenizer.encode(f"Label: {name}")[before:], tokenizer.eos_token_id] for name in names]
    workload = Workload(names, texts, prompts, answers)
    begun = time.perf_counter()
    trie = workload.trie
    own = sum(map(len, prompts)) / len(prompts) - workload.shared
    if not count:
        call: Callable[[], Any] = lambda: floor(model, workload, 256)  # noqa: E731
    else:
        scorer = PackedScorer(model, trie) if method == "exact" else SearchScorer(model, trie, method="best-first")
        call = lambda: scorer.score(prompts)  # noqa: E731
    with torch.no_grad():
        call()
        prepared = time.perf_counter() - begun
        seconds, results = measure({"it": call}, options.repeats)
    fed = float(results["it"].fed.float().mean()) if count else 0.0
    per_row = seconds["it"] / len(prompts)
    return {
        "labels": count,
        "method": method if count else "floor",
        "trie_nodes": trie.size if count else 0,
        "fed": fed,
        "own": own,
        "ms_per_row": 1000 * per_row,
        "us_per_token": 1e6 * per_row / (own + fed),
        "first_call_seconds": prepared,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 100, 1000, 10_000])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="a JSON file with all figures")
    parser.add_argument("--one", nargs=2, metavar=("LABELS", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure_one(int(options.one[0]), options.one[1], options)))
        return
    print("| labels | method | trie nodes | own tokens | fed | ms a row | us a token | first call, s | peak, GiB |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    figures = []
    for count in options.counts:
        for method in ("exact", "best-first") if count else ("exact",):
            done = subprocess.run(
                [sys.executable, *sys.argv, "--one", str(count), method], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            figures.append(found)
            print(
                "| {labels:,} | {method} | {trie_nodes:,} | {own:.1f} | {fed:,.1f} | {ms_per_row:.1f} "
                "| {us_per_token:.0f} | {first_call_seconds:.1f} | {peak_gib:.2f} |".format(**found),
                flush=True,
            )
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
