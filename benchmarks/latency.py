"""How long one text takes on a warm classifier, next to plain forwards of the same tokens: p50, p95 and ratios.

    python benchmarks/latency.py --threads 2
    python benchmarks/latency.py --shape smollm2-135m --workloads banking77 --texts 40 --warm-up 4

Counted is a whole call of `Classifier`, from the text to the label or to all probabilities: prompt, tokens, scores. In
turn with it, text by text, run plain forwards of the model, from tokens to the next token's logits, nothing else:
"own and label tokens" has the text's own tokens and all label tokens that a choice depends on, which is what `exact`
reads, with the keys and values of the prefix that all texts share already there; "own tokens" is the same without the
label tokens, the least that anybody can compute; "whole prompt" is all of it anew. A ratio is the median of the texts'
own ratios to "own and label tokens", in processor time. `--shape` takes random weights in a real shape, with
TinyLlama's tokenizer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from real_shapes import SHAPES, write_checkpoint
from transformers import DynamicCache
from workloads import WORKLOADS, load_tokenizer, load_workload

from llmcls import Classifier
from llmcls.cli.shared import start
from llmcls.engine import LabelTrie
from llmcls.engine.plan import ScoringPlan
from llmcls.engine.state import cache_of
from llmcls.engine.tree import shared_prefix_length
from llmcls.records import Example
from llmcls.settings import make_settings

BASIS = "own and label tokens"


def time_texts(name: str, model_name: str, options: argparse.Namespace) -> None:
    """Print one workload's figures."""
    rows = load_workload(name, load_tokenizer(options.model if options.model == "nano" else "tinyllama"), options.texts)
    texts = [text[text.index("\nText: ") + 7 : -len("\nLabel:")] for text in rows.texts]
    # A real shape has a tokenizer here that is not its own.
    adapter = {"adapter": "auto"} if options.shape else {}
    settings = make_settings(
        {
            "model": {"quantization": "none", **adapter},
            "prediction": {"method": options.method},
            "prompt": {"max_length": 2048},
        }
    )
    classifier = Classifier.zero_shot(model_name, rows.labels, settings=settings)
    prompts = [prompt.input_ids for prompt in classifier.encoder.encode([Example(text) for text in texts])]
    shared = shared_prefix_length(prompts)
    encoder = classifier.encoder
    plan = ScoringPlan.for_trie(LabelTrie(encoder.answers, encoder.answer_labels), full=False)
    labels = plan.branch.tokens.tolist()
    model = classifier._model
    seconds: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    with torch.no_grad():
        prefix = DynamicCache(config=model.config)
        model(torch.tensor([prompts[0][:shared]]), past_key_values=prefix, use_cache=True, logits_to_keep=1)
        kept = [(layer.keys, layer.values) for layer in prefix.layers]

        def forward(tokens: list[int], cached: bool = True) -> Any:
            cache = cache_of(kept) if cached else None
            return model(torch.tensor([tokens]), past_key_values=cache, use_cache=cached, logits_to_keep=1)

        for text, prompt in zip(texts, prompts, strict=True):
            own = prompt[shared:]
            calls: dict[str, Callable[[], Any]] = {
                "Classifier.predict": lambda t=text: classifier.predict([t]),
                "Classifier.predict_proba": lambda t=text: classifier.predict_proba([t]),
                BASIS: lambda o=own: forward(o + labels),
                "own tokens": lambda o=own: forward(o),
                "whole prompt": lambda p=prompt: forward(p, cached=False),
            }
            for method, call in calls.items():
                begun = time.perf_counter(), time.process_time()
                call()
                seconds.setdefault(method, []).append(time.perf_counter() - begun[0])
                processor.setdefault(method, []).append(time.process_time() - begun[1])
    own_tokens = statistics.mean(len(prompt) - shared for prompt in prompts)
    print(
        f"\n### {name}: {len(rows.labels)} labels; prefix {shared} tokens, own {own_tokens:.1f}, label tokens "
        f"{len(labels)}; {len(texts)} texts\n"
    )
    print("| | p50, ms | p95, ms | ratio |")
    print("|---|---|---|---|")
    basis = processor[BASIS][options.warm_up :]
    for method, times in seconds.items():
        warm = [1000 * value for value in times[options.warm_up :]]
        ratio = statistics.median(
            one / other for one, other in zip(processor[method][options.warm_up :], basis, strict=True)
        )
        p95 = statistics.quantiles(warm, n=20)[-1]
        print(f"| {method} | {statistics.median(warm):.1f} | {p95:.1f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--model", default="nano", help="what --base-model takes")
    chosen.add_argument("--shape", choices=SHAPES, help="random weights in a real shape")
    parser.add_argument("--method", default="exact")
    parser.add_argument("--texts", type=int, default=220)
    parser.add_argument("--warm-up", type=int, default=20, help="first texts that do not count")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start(quiet=True)
    with tempfile.TemporaryDirectory() as temporary:
        model = options.model
        if options.shape:
            options.model = model = str(Path(temporary) / options.shape)
            write_checkpoint(options.shape, Path(model))
        for name in options.workloads:
            time_texts(name, model, options)


if __name__ == "__main__":
    main()
