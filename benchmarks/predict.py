"""Prediction speed, as ratios on this machine: llmcls against other ways with the same model, and against the floor.

    python benchmarks/predict.py --models tinyllama --workloads tweets --threads 2 --output tweets.json
    python benchmarks/predict.py --threads 2 --output speed.json      # everything: three workloads, three models

Texts in, labels out, for every contestant: each call turns its texts into tokens anew, llmcls by its own encoder, the
rivals by the tokenizer's batched call or by themselves. The floor alone has its tokens given.

Same weights and prompts for all (`workloads.py`), methods interleaved, the fastest of the repeats counts. Rivals that
work in batches (`rivals.py`) first try several sizes, once each, and then run with the best one; llmcls runs as it is
installed. The slow ones (a text at a time) read fewer rows, `--slow-rows`; all times are per row. The floor is what
reading alone costs: see `workloads.floor`.

benchmarks/many_labels.py has up to 10,000 labels, benchmarks/latency.py single texts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rivals import Generate, Outlines, Pipeline, Skorch, available
from workloads import MODELS, WORKLOADS, Workload, floor, load_model, load_tokenizer, load_workload, measure

from llmcls.engine import PackedScorer, SearchScorer
from llmcls.records import Example


@dataclass(frozen=True)
class Method:
    """One way to classify.

    Attributes:
        predict: called with a size; gives label indices, or None.
        sizes: rows of a batch (or tokens of a pack) to try.
        rows: how many rows it reads.
    """

    predict: Callable[[int], Any]
    sizes: list[int]
    rows: int


def make_methods(model: Any, tokenizer: Any, workload: Workload, options: argparse.Namespace) -> dict[str, Method]:
    """All methods that can run here."""
    exact, best_first = PackedScorer(model, workload.trie), SearchScorer(model, workload.trie, method="best-first")
    greedy = SearchScorer(model, workload.trie, method="greedy")
    everything, own = len(workload.prompts), [exact.pack_tokens]
    encoder, examples = workload.encoder(tokenizer), [Example(text) for text in workload.rows]

    def score(scorer: Any) -> list[int]:
        scorer.prefixes.forget()  # a first call's work: nothing is left from the call before
        return scorer.score([prompt.input_ids for prompt in encoder.encode(examples)]).predicted.tolist()

    methods = {
        "llmcls exact": Method(lambda _: score(exact), own, everything),
        "llmcls best-first": Method(lambda _: score(best_first), own, everything),
        "llmcls greedy": Method(lambda _: score(greedy), own, everything),
        "floor": Method(lambda size: floor(model, workload, size), options.packs, everything),
        "generate": Method(Generate(model, tokenizer, workload, cached=False), options.batches, everything),
        "generate, cached prefix": Method(
            Generate(model, tokenizer, workload, cached=True), options.batches, everything
        ),
    }
    few = workload.head(options.slow_rows)
    methods["pipeline, one text at a time"] = Method(Pipeline(model, tokenizer, few), [1], len(few.prompts))
    if available("outlines"):
        methods["outlines"] = Method(Outlines(model, tokenizer, workload), options.batches, everything)
    if available("skorch"):
        # A forward of the whole prompt for nearly every label.
        one = workload.head(1 if len(workload.labels) > 20 else options.slow_rows)
        methods["skorch zero-shot"] = Method(Skorch(model, tokenizer, one), [1], len(one.prompts))
    return {name: method for name, method in methods.items() if not name.startswith(tuple(options.without))}


def run(name: str, model_name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one workload with one model and print its table."""
    tokenizer = load_tokenizer(model_name)
    model = load_model(model_name, tokenizer, options.layers)
    workload = load_workload(name, tokenizer, options.rows)
    own = sum(map(len, workload.prompts)) / len(workload.prompts) - workload.shared
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"\n### {name}, {model_name}: {parameters:.0f}M parameters, {len(workload.prompts)} rows", flush=True)
    print(f"\nShared prefix {workload.shared} tokens, own {own:.1f} a row; {workload.trie.statistics}\n", flush=True)
    with torch.no_grad():
        methods = make_methods(model, tokenizer, workload, options)
        sizes = {}
        for title, method in methods.items():
            tried = {size: lambda m=method, s=size: m.predict(s) for size in method.sizes}
            # One size has nothing to be compared with, but its first call must not be the one that counts.
            seconds, _ = measure(tried, 1)
            sizes[title] = min(seconds, key=seconds.__getitem__)
        best, results = measure(
            {title: lambda m=method, s=sizes[title]: m.predict(s) for title, method in methods.items()}, options.repeats
        )
    cost = {title: best[title] / method.rows for title, method in methods.items()}
    print("| method | batch or pack | rows | ms a row | times exact | share of floor | labels as exact, greedy |")
    print("|---|---|---|---|---|---|---|")
    found: dict[str, Any] = {}
    for title, method in methods.items():
        equal = {
            reference: sum(map(int.__eq__, results[title], results[f"llmcls {reference}"]))
            for reference in ("exact", "greedy")
            if results[title] is not None
        }
        found[title] = {
            "size": sizes[title],
            "rows": method.rows,
            "seconds_per_row": cost[title],
            "times_exact": cost[title] / cost["llmcls exact"],
            "share_of_floor": cost["floor"] / cost[title],
            "equal": equal,
        }
        agreement = ", ".join(str(count) for count in equal.values()) or "-"
        print(
            f"| {title} | {sizes[title]} | {method.rows} | {1000 * cost[title]:.1f} "
            f"| {found[title]['times_exact']:.2f} | {found[title]['share_of_floor']:.2f} | {agreement} |",
            flush=True,
        )
    return {"workload": name, "model": model_name, "prefix": workload.shared, "own": own, "methods": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--slow-rows", type=int, default=4)
    parser.add_argument("--layers", type=int, default=12, help="of the random Llama")
    parser.add_argument("--packs", type=int, nargs="+", default=[128, 256, 512, 1024], help="of the floor")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32], help="of the batched rivals")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without", nargs="+", default=["-"], help="beginnings of methods to leave out")
    parser.add_argument("--output", help="a JSON file with all figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = []
    for model in options.models:
        for name in options.workloads:
            figures.append(run(name, model, options))
            if options.output:
                Path(options.output).write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
