"""10,000 labels from names to scores: ten times the labels take ten times the work and memory, not a hundred times."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmcls.answers import form_named
from llmcls.data.splits import load_data
from llmcls.engine import LabelTrie, PackedScorer, SearchScorer
from llmcls.engine.inspection import PromptShape, inspect_answers
from llmcls.labels import LabelSet
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.shots import choose_shots
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.training.preparation import resolve_class_weights

GROWTH = 14  # of 10 times the labels: linear work, a logarithm for sorting, a few tokens more per name


def names_of(count: int) -> list[str]:
    rng = random.Random(0)
    words = ["red", "early", "parcel", "bank", "card", "lost", "number", "tree", "stone", "water"]
    return [f"{' '.join(rng.choices(words, k=2))} {number}" for number in range(count)]


def work_of(function: Callable[[], object]) -> tuple[int, int]:
    """Calls of functions and methods, and peak bytes that Python and numpy hold."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return calls, peak


@pytest.mark.slow
def test_work_and_memory_grow_with_the_labels(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
            num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        )
    )  # fmt: skip
    template = PromptTemplate("plain", "Sort.\n{{ text }}\nlabel:")

    def whole(count: int) -> Callable[[], None]:
        names = names_of(count)

        def work() -> None:
            rows = [{"text": f"text {at}", "label": name} for at, name in enumerate(names)]
            aliases = {name: [f"{name} too"] for name in names[:: count // 100]}
            splits = load_data(rows, aliases=aliases, validation_size=0)
            labels = LabelSet.from_names(splits.labels.names, dict.fromkeys(names, "x"), aliases)
            resolve_class_weights(dict.fromkeys(names, 2.0), labels, splits.train, form_named("single_label"))
            choose_shots(splits.train, labels, per_label=1, seed=0)
            encoder = Encoder(
                tokenizer,
                BaseModelAdapter().frame(tokenizer),
                template,
                labels,
                form_named("single_label"),
                max_length=4096,
            )
            trie = LabelTrie(encoder.answers, encoder.answer_labels)
            inspect_answers(trie, PromptShape(10, 10))
            prompts = [prompt.input_ids for prompt in encoder.encode([Example("one"), Example("another")])]
            exact = PackedScorer(model, trie, pack_tokens=4096).score(prompts)
            best = SearchScorer(model, trie).score(prompts)
            assert exact.local.shape == (2, count)
            assert torch.equal(exact.predicted, best.predicted)
            assert exact.local.exp().sum(1).tolist() == pytest.approx([1, 1], abs=1e-4)

        return work

    whole(100)()  # what is only made once
    calls, peak = work_of(whole(1_000))
    more_calls, more_peak = work_of(whole(10_000))
    assert more_calls < GROWTH * calls, (calls, more_calls)
    assert more_peak < GROWTH * peak, (peak, more_peak)
