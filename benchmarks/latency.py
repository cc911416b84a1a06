"""How long one text takes on a warm classifier, next to plain forwards of the same prompt: p50 and p95.

    python benchmarks/latency.py --threads 2

`Classifier.predict([text])` from the text to the label: prompt, tokens, scores. "Plain forward" is the model over the
whole prompt, from tokens to the next token's logits; "own tokens only" is the same with the keys and values of the
prefix all texts share already there, which is the least that anybody can compute. Interleaved text by text.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache
from workloads import WORKLOADS, load_tokenizer, load_workload

from llmcls import Classifier
from llmcls.cli.shared import start
from llmcls.engine.tree import shared_prefix_length
from llmcls.records import Example
from llmcls.settings import make_settings


def time_texts(name: str, options: argparse.Namespace) -> None:
    """Print one workload's figures."""
    rows = load_workload(name, load_tokenizer(options.model if options.model == "nano" else "tinyllama"), options.texts)
    texts = [text[text.index("\nText: ") + 7 : -len("\nLabel:")] for text in rows.texts]
    settings = make_settings(
        {"model": {"quantization": "none"}, "prediction": {"method": options.method}, "prompt": {"max_length": 2048}}
    )
    classifier = Classifier.zero_shot(options.model, rows.labels, settings=settings)
    prompts = [prompt.input_ids for prompt in classifier.encoder.encode([Example(text) for text in texts])]
    shared = shared_prefix_length(prompts)
    model = classifier._model
    seconds: dict[str, list[float]] = {"Classifier.predict": [], "plain forward": [], "own tokens only": []}
    with torch.no_grad():
        prefix = DynamicCache(config=model.config)
        model(torch.tensor([prompts[0][:shared]]), past_key_values=prefix, use_cache=True, logits_to_keep=1)
        for text, prompt in zip(texts, prompts, strict=True):
            cache = copy.deepcopy(prefix)
            calls: dict[str, Callable[[], Any]] = {
                "Classifier.predict": lambda t=text: classifier.predict([t]),
                "plain forward": lambda p=prompt: model(torch.tensor([p]), use_cache=False, logits_to_keep=1),
                "own tokens only": lambda p=prompt, c=cache: model(
                    torch.tensor([p[shared:]]), past_key_values=c, use_cache=True, logits_to_keep=1
                ),
            }
            for method, call in calls.items():
                begun = time.perf_counter()
                call()
                seconds[method].append(time.perf_counter() - begun)
    own = statistics.mean(len(prompt) - shared for prompt in prompts)
    print(f"\n### {name}: {len(rows.labels)} labels, prefix {shared} tokens, own {own:.1f}; {len(texts)} texts\n")
    print("| | p50, ms | p95, ms |")
    print("|---|---|---|")
    for method, times in seconds.items():
        warm = [1000 * value for value in times[options.warm_up :]]
        print(f"| {method} | {statistics.median(warm):.1f} | {statistics.quantiles(warm, n=20)[-1]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--model", default="nano", help="what --base-model takes")
    parser.add_argument("--method", default="exact")
    parser.add_argument("--texts", type=int, default=220)
    parser.add_argument("--warm-up", type=int, default=20, help="first texts that do not count")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start(quiet=True)
    for name in options.workloads:
        time_texts(name, options)


if __name__ == "__main__":
    main()
