"""Prediction speed, as ratios on this machine: packed scoring against `generate()` and against the floor.

    python benchmarks/predict.py --rows 64 --repeats 3 --threads 2

Same weights and prompts for all, methods interleaved, the fastest of the repeats counts. Three workloads with real
data: 77 intents (a long list of labels, short texts), 3 tweet labels (short texts), 5 arXiv labels (whole abstracts).
The model is a random Llama of about 60 million parameters with a real vocabulary. Needs the folder `shared` beside the
repository (or LLMCLS_SHARED), with `data/` and `tokenizers/`.

The floor is what reading costs at least: the bare decoder over the shared prefix once and the rows' own tokens,
without padding, in packs of the best of several sizes, no labels, no head, no attention between prefix and rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM

from llmcls.engine import LabelTrie, PackedScorer, SearchScorer
from llmcls.engine.tree import shared_prefix_length

SHARED = Path(os.environ.get("LLMCLS_SHARED") or Path(__file__).resolve().parents[1] / ".." / "shared").resolve()
WORKLOADS = {
    "banking77": ("data/banking77", ["text"], "label"),
    "tweets": ("data/tweet_sentiment", ["text"], "label"),
    "arxiv": ("data/arxiv_top5", ["title", "abstract"], "label_name"),
}


def load(name: str, tokenizer: Any, rows: int) -> tuple[list[list[int]], list[list[int]]]:
    """Tokenised prompts and answers of a workload."""
    folder, text_columns, label_column = WORKLOADS[name]
    with (SHARED / folder / "test.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    labels = sorted({record[label_column] for record in records})
    step = len(records) // rows
    texts = [" ".join(record[column] for column in text_columns) for record in records[: rows * step : step]]
    instruction = "Classify the text into one of these labels: " + ", ".join(labels) + ".\nText: "
    prompts = [tokenizer.encode(f"{instruction}{text}\nLabel: ") for text in texts]
    answers = [[*tokenizer.encode(label, add_special_tokens=False), tokenizer.eos_token_id] for label in labels]
    return prompts, answers


def random_llama(vocabulary: int, layers: int) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM(config).eval()


def constraint(trie: LabelTrie, prompt_length: int, end: int) -> Callable[[int, torch.Tensor], list[int]]:
    """What a user would pass as `prefix_allowed_tokens_fn`."""

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        node = 0
        for token in ids[prompt_length:].tolist():
            node = trie.descend(node, token)
            if node < 0 or trie.label[node] >= 0:
                return [end]
        return [end] if trie.label[node] >= 0 else trie.token[trie.children(node)].tolist()

    return allowed


def batched_generate(model: Any, prompts: list[list[int]], trie: LabelTrie, batch_size: int, cached: bool) -> list[int]:
    """Length-sorted, left-padded batches; `cached` computes the shared prefix once and copies it to every batch."""
    end = trie.answers[0][-1]
    shared = shared_prefix_length(prompts) if cached else 0
    prefix = prompts[0][:shared]
    cache = DynamicCache(config=model.config)
    if cached:
        model(torch.tensor([prefix]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    found = [0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        own = [prompts[row][shared:] for row in rows]
        width = max(map(len, own))
        ids = torch.tensor([prefix + [end] * (width - len(text)) + text for text in own])
        mask = torch.tensor([[1] * shared + [0] * (width - len(text)) + [1] * len(text) for text in own])
        past = {}
        if cached:
            layers = [(k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v, _ in cache]
            past["past_key_values"] = DynamicCache(layers)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=trie.longest,
            do_sample=False,
            pad_token_id=end,
            eos_token_id=end,
            prefix_allowed_tokens_fn=constraint(trie, ids.shape[1], end),
            **past,
        )
        for row, tokens in zip(rows, output[:, ids.shape[1] :].tolist(), strict=True):
            node = 0
            for token in tokens:
                node = trie.descend(node, token)
                if trie.label[node] >= 0:
                    break
            found[row] = int(trie.label[node])
    return found


def floor(model: Any, prompts: list[list[int]], pack: int) -> None:
    shared = shared_prefix_length(prompts)
    stream = torch.tensor([token for prompt in prompts for token in prompt[shared:]])
    model.model(torch.tensor([prompts[0][:shared]]), use_cache=False)
    for part in stream.split(pack):
        model.model(part[None], use_cache=False)


def measure(methods: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Fastest seconds and last result of each method, interleaved; one untimed round first."""
    best = dict.fromkeys(methods, float("inf"))
    results: dict[str, Any] = {}
    for turn in range(repeats + 1):
        for name, call in methods.items():
            start = time.perf_counter()
            results[name] = call()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best, results


def run(name: str, vocabulary: str, options: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / vocabulary)
    prompts, answers = load(name, tokenizer, options.rows)
    trie = LabelTrie(answers)
    model = random_llama(len(tokenizer), options.layers)
    shared = shared_prefix_length(prompts)
    own = sum(map(len, prompts)) - shared * len(prompts)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"\n{name}, {vocabulary} vocabulary, {parameters:.0f}M parameters, {len(prompts)} rows:", flush=True)
    print(f"  prefix {shared} tokens, own {own / len(prompts):.1f} a row; {trie.statistics}")

    def score(pack: int) -> Any:
        return PackedScorer(model, trie, pack_tokens=pack).score(prompts)

    def search(method: Any) -> Any:
        return SearchScorer(model, trie, method=method, pack_tokens=options.search_pack).score(prompts)

    methods: dict[str, Callable[[], Any]] = {
        f"exact, packs of {pack}": lambda p=pack: score(p) for pack in options.packs
    }
    methods |= {method: lambda m=method: search(m) for method in ("greedy", "best-first")}
    methods |= {f"floor, packs of {pack}": lambda p=pack: floor(model, prompts, p) for pack in options.packs}
    for size in options.batches:
        if not options.no_generate:
            methods[f"generate, {size}"] = lambda s=size: batched_generate(model, prompts, trie, s, cached=False)
        methods[f"generate + prefix, {size}"] = lambda s=size: batched_generate(model, prompts, trie, s, cached=True)
    with torch.no_grad():
        best, results = measure(methods, options.repeats)

    def fastest(kind: str) -> float:
        return min(seconds for method, seconds in best.items() if method.startswith(kind))

    exact = fastest("exact")
    for method, seconds in best.items():
        print(f"  {method:26s} {1000 * seconds / len(prompts):8.2f} ms/row   {seconds / exact:6.2f} x exact")
    certified = results["best-first"]
    packed = next(result for method, result in results.items() if method.startswith("exact"))
    reached = {method: fastest("floor") / fastest(method) for method in ("exact", "best-first", "greedy")}
    print("  of the floor: " + ", ".join(f"{method} {ratio:.2f}" for method, ratio in reached.items()))
    print(f"  tokens fed a row: exact {packed.fed[0]}, best-first {certified.fed.float().mean():.2f}")
    print(f"  best-first agrees with exact on {int((certified.predicted == packed.predicted).sum())} rows")
    for method, found in results.items():
        if method.startswith("generate"):
            same = sum(map(int.__eq__, found, results["greedy"].predicted.tolist()))
            print(f"  {method} agrees with greedy on {same} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--vocabularies", nargs="+", default=["tinyllama", "llama-3.2"])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--packs", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--search-pack", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-generate", action="store_true", help="leave out generate() without a prefix cache")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for vocabulary in options.vocabularies:
        for name in options.workloads:
            run(name, vocabulary, options)


if __name__ == "__main__":
    main()
