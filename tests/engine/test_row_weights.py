"""Weights of rows: the loss of a weighted batch is the weighted sum over its rows, each computed alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmcls.engine import LabelTrie, Objective, packed_batch, packed_loss, padded_batch, padded_loss
from llmcls.engine.packing import Batch
from llmcls.engine.yesno import packed_yes_no_batch, padded_yes_no_batch

from .test_head import MODEL as HEAD
from .test_head import TRIE as HEAD_TRIE
from .test_objectives import LABELS, MODEL, PROMPTS, TRIE, WEIGHTS, gradients
from .test_yesno import LABELS as YES_NO_LABELS
from .test_yesno import QUESTIONS

OWN = [1.0, 0.25, 3.0, 0.0, 7.5, 2.0]
HEAD_LABELS, HEAD_WEIGHTS = [2, 0, 1, 3, 1, 2], (1.0, 4.0, 0.5, 2.0)
CASES = {
    **{
        f"{goal.name} {goal.normalization}": (MODEL, TRIE, LABELS, goal, packed_batch, padded_batch)
        for goal in (
            Objective("sft", "example", WEIGHTS, 0.1),
            Objective("sft", "token", WEIGHTS),
            Objective("label", class_weights=WEIGHTS),
        )
    },
    "head": (HEAD, HEAD_TRIE, HEAD_LABELS, Objective("label", class_weights=HEAD_WEIGHTS), packed_batch, padded_batch),
    "yes or no": (
        MODEL, QUESTIONS, YES_NO_LABELS, Objective("label", class_weights=WEIGHTS),
        packed_yes_no_batch, padded_yes_no_batch,
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_a_weighted_batch_is_the_weighted_sum_over_single_rows(case: str, layout: str) -> None:
    model, answers, labels, goal, packed, padded = CASES[case]
    lay_out: Callable[..., Batch] = packed
    loss: Callable[..., Any] = packed_loss
    if layout == "padded":
        loss = padded_loss
        lay_out = lambda *given: padded(*given, pad_token_id=0)  # noqa: E731
    own, prompts = OWN[: len(labels)], PROMPTS[: len(labels)]
    found = gradients(model, loss(model, lay_out(prompts, labels, answers, goal, own)))
    total = 0.0
    expected = {name: torch.zeros_like(gradient) for name, gradient in found.items()}
    for weight, prompt, label in zip(own, prompts, labels, strict=True):
        alone = lay_out([prompt], [label], answers, goal)
        total += weight * float(alone["normalizer"])
        for name, gradient in gradients(model, loss(model, alone, 1.0)).items():
            expected[name] += weight * gradient
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name] / total, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_ones_are_no_weights(case: str) -> None:
    _, answers, labels, goal, packed, padded = CASES[case]
    prompts, ones = PROMPTS[: len(labels)], [1.0] * len(labels)
    for plain, weighted in (
        (packed(prompts, labels, answers, goal), packed(prompts, labels, answers, goal, ones)),
        (
            padded(prompts, labels, answers, goal, pad_token_id=0),
            padded(prompts, labels, answers, goal, ones, pad_token_id=0),
        ),
    ):
        assert plain.keys() == weighted.keys()
        assert all(torch.equal(plain[name], weighted[name]) for name in plain)


def test_one_weight_a_row() -> None:
    with pytest.raises(ValueError, match="zip"):
        packed_batch(PROMPTS, LABELS, LabelTrie([[5, 2], [6, 2], [7, 2], [8, 2], [9, 2], [10, 2]]), Objective(), [1.0])
