"""Other ways to classify with a causal LM, for benchmarks/predict.py: each gives a label index a row, -1 for none.

    predict = Pipeline(model, tokenizer, workload)
    predict(rows_at_once)

Texts in, labels out: every rival tokenises its prompts in every call, as a user's new texts would be.

`outlines` and `skorch` are used where they are installed (`pip install outlines skorch`): outlines 1.3.3 and skorch
1.4.0 run on transformers 5.23. cappr 0.9.6, another scorer of labels, does not: importing it fails with "type object
'DynamicCache' has no attribute 'from_legacy_cache'".
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from transformers import DynamicCache, pipeline
from workloads import Workload

from llmcls.engine import LabelTrie


class Pipeline:
    """System A's way: the text-generation pipeline, one text at a time, then the answer compared with the labels.

    It generates as many tokens as the longest label has: a trained model needs no more.
    """

    def __init__(self, model: Any, tokenizer: Any, workload: Workload) -> None:
        self._generate = pipeline("text-generation", model=model, tokenizer=_plain(tokenizer))
        self._workload = workload

    def __call__(self, size: int) -> list[int]:
        workload = self._workload
        options = {"max_new_tokens": workload.trie.longest, "do_sample": False, "return_full_text": False}
        found = [self._generate(text, batch_size=size, **options)[0]["generated_text"] for text in workload.texts]
        return [_index(answer, workload.labels) for answer in found]


class Generate:
    """Length-sorted, left-padded `generate()` with `prefix_allowed_tokens_fn`.

    Args:
        cached: compute the shared prefix once and copy its keys and values to every batch.
    """

    def __init__(self, model: Any, tokenizer: Any, workload: Workload, *, cached: bool) -> None:
        self._model, self._tokenizer, self._workload, self._cached = model, tokenizer, workload, cached

    def __call__(self, size: int) -> list[int]:
        model, trie, end = self._model, self._workload.trie, self._workload.end
        prompts = self._tokenizer(self._workload.texts)["input_ids"]
        shared = self._workload.shared if self._cached else 0
        prefix = prompts[0][:shared]
        cache = DynamicCache(config=model.config)
        if shared:
            model(torch.tensor([prefix]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        found = [0] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            own = [prompts[row][shared:] for row in rows]
            width = max(map(len, own))
            ids = torch.tensor([prefix + [end] * (width - len(text)) + text for text in own])
            mask = torch.tensor([[1] * shared + [0] * (width - len(text)) + [1] * len(text) for text in own])
            past = {}
            if shared:
                layers = [(k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v, _ in cache]
                past["past_key_values"] = DynamicCache(layers)
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=trie.longest,
                do_sample=False,
                pad_token_id=end,
                eos_token_id=end,
                prefix_allowed_tokens_fn=_constraint(trie, ids.shape[1], end),
                **past,
            )
            for row, tokens in zip(rows, output[:, ids.shape[1] :].tolist(), strict=True):
                found[row] = int(trie.labels[trie.read(tokens)])
        return found


class Outlines:
    """outlines' batched generation of one of some choices, length-sorted. It may spell a label in other tokens."""

    def __init__(self, model: Any, tokenizer: Any, workload: Workload) -> None:
        import outlines
        from outlines.types import Choice

        choices = Choice([f" {label}" for label in workload.labels])
        self._generator = outlines.Generator(outlines.from_transformers(model, _plain(tokenizer)), choices)
        self._workload = workload
        self._longest = max(map(len, workload.labels)) + 2  # tokens, should each be one character

    def __call__(self, size: int) -> list[int]:
        texts, labels = self._workload.texts, self._workload.labels
        found = [0] * len(texts)
        order = sorted(range(len(texts)), key=lambda row: len(self._workload.prompts[row]))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            answers = self._generator.batch([texts[row] for row in rows], max_new_tokens=self._longest, do_sample=False)
            for row, answer in zip(rows, answers, strict=True):
                found[row] = _index(answer, labels)
        return found


class Skorch:
    """skorch's zero-shot classifier: every label's probability by `generate()` along its tokens, a text at a time.

    It leaves the end token out, so a label that another begins with counts for both.
    """

    def __init__(self, model: Any, tokenizer: Any, workload: Workload) -> None:
        from skorch.llm import ZeroShotClassifier

        plain = _plain(tokenizer)
        plain.add_bos_token = False  # it would be scored as a part of every label
        self._workload = workload
        self._classifier = ZeroShotClassifier(model=model, tokenizer=plain, prompt="{text}", probas_sum_to_1=False)
        with warnings.catch_warnings(action="ignore"):  # "missing keys: 'labels'": they are in the text already
            self._classifier.fit(None, workload.labels)

    def __call__(self, size: int) -> list[int]:
        self._classifier.clear_model_cache()
        with warnings.catch_warnings(action="ignore"):
            return [self._workload.labels.index(label) for label in self._classifier.predict(self._workload.texts)]


def available(name: str) -> bool:
    """Whether a package is installed; said if not."""
    found = find_spec(name) is not None
    if not found:
        print(f"  ({name} is not installed and left out)")
    return found


def _plain(tokenizer: Any) -> Any:
    """A copy that pads, without a chat template that the rivals would wrap the prompt in."""
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    plain.pad_token = plain.pad_token or plain.eos_token
    return plain


def _index(answer: str, labels: list[str]) -> int:
    return labels.index(answer.strip()) if answer.strip() in labels else -1


def _constraint(trie: LabelTrie, prompt_length: int, end: int) -> Callable[[int, torch.Tensor], list[int]]:
    """What a user would pass as `prefix_allowed_tokens_fn`."""

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        node = 0
        for token in ids[prompt_length:].tolist():
            node = trie.descend(node, token)
            if node < 0 or trie.label[node] >= 0:
                return [end]
        return [end] if trie.label[node] >= 0 else trie.token[trie.children(node)].tolist()

    return allowed
