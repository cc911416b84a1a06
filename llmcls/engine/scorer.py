"""One interface to every way of finding labels.

scorer = make_scorer(model, answers, method="exact", pad_token_id=0)
scores = scorer.score(prompts, progress=bar.advance)
scores.predicted, scores.local
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from llmcls.engine.attention import supports_packing
from llmcls.engine.choice import AutoScorer
from llmcls.engine.decoder import has_head, vocabulary_size
from llmcls.engine.packed import PackedScorer, check_vocabulary
from llmcls.engine.reference import generate_answers, reference_scores
from llmcls.engine.scores import LabelScores, Progress, Prompts, Scorer
from llmcls.engine.search import SearchScorer
from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError, LlmclsWarning, unknown

Method = Literal["auto", "exact", "greedy", "best-first", "generate", "reference"]
"""`exact`: every label's probability, packed. `best-first`: the certified best label, visiting few labels.
`auto`: the cheaper of these two for the prompts of each call. `greedy`: the label that constrained `generate()` gives,
packed. `generate`: that `generate()` itself. `reference`: as `exact`, by one plain forward per row and label."""

SLOW_EQUIVALENT: dict[str, Method] = {
    "auto": "reference",
    "exact": "reference",
    "best-first": "reference",
    "greedy": "generate",
}


class UnsharedScorer:
    """What the slow scorers have in common: they share nothing between prompts, so there is nothing to warm up."""

    def warm_up(self, prompts: Prompts) -> None:
        """See `Scorer`; nothing to do."""


class ReferenceScorer(UnsharedScorer):
    """`reference_scores` as a `Scorer`."""

    def __init__(self, model: Any, answers: Sequence[Sequence[int]] | LabelTrie, *, batch_size: int = 8) -> None:
        self.model = model
        self.trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
        self.batch_size = batch_size

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> LabelScores:
        """See `reference_scores`."""
        return reference_scores(
            self.model, prompts, self.trie, want_global=want_global, batch_size=self.batch_size, progress=progress
        )


class GenerateScorer(UnsharedScorer):
    """`generate_answers` as a `Scorer`: predictions only, no probabilities."""

    def __init__(
        self,
        model: Any,
        answers: Sequence[Sequence[int]] | LabelTrie,
        *,
        pad_token_id: int,
        batch_size: int = 8,
    ) -> None:
        self.model = model
        self.trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> LabelScores:
        """See `generate_answers`; `local` and `margin` are NaN."""
        if want_global:
            raise LlmclsError("Method 'generate' computes no probabilities; use 'exact' for global scores.")
        found = generate_answers(
            self.model,
            prompts,
            self.trie,
            pad_token_id=self.pad_token_id,
            batch_size=self.batch_size,
            progress=progress,
        )
        failed, found = found < 0, found.clamp(min=0)
        lengths = torch.tensor([len(answer) - 1 for answer in self.trie.answers])
        return LabelScores(
            local=torch.full((len(found), len(self.trie)), float("nan")),
            predicted=torch.from_numpy(self.trie.labels)[found],
            margin=torch.full((len(found),), float("nan")),
            fed=lengths[found],
            failed=failed,
        )


def make_scorer(
    model: Any,
    answers: Sequence[Sequence[int]] | LabelTrie,
    *,
    method: str = "exact",
    pad_token_id: int,
    pack_tokens: int | None = None,
    batch_size: int = 8,
    resolution: float = 0.0,
) -> Scorer[LabelScores]:
    """Choose a scorer; where the model cannot take the packed mask, the slow one with the same answers.

    Args:
        model: a Hugging Face causal LM, possibly 4-bit or wrapped by PEFT.
        answers: tokenised answers, one per label, end token included; or a ready `LabelTrie`.
        method: see `Method`.
        pad_token_id: padding of `generate`; no scores depend on it.
        pack_tokens: tokens per forward of the packed methods; None chooses for the device.
        batch_size: prompts (`generate`) or labels (`reference`) per forward of the slow methods.
        resolution: margins below it are exact in `best-first`, too (see `TIE_TOLERANCE`).

    Raises:
        LlmclsError: for an unknown method, answers that are no label set, or `generate` with a classification head.
    """
    if method not in get_args(Method):
        raise LlmclsError(unknown("method", method, get_args(Method)))
    trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
    check_vocabulary(trie, vocabulary_size(model))
    if method == "generate" and has_head(model):
        raise LlmclsError(
            "Method 'generate' needs a model that writes, but a classification head does not; use 'exact'."
        )
    if method in SLOW_EQUIVALENT and (reason := supports_packing(model)):
        slow = "reference" if has_head(model) else SLOW_EQUIVALENT[method]
        warnings.warn(
            f"Method '{method}' cannot pack this model because {reason}; using '{slow}', which gives the same labels "
            "but takes many times longer.",
            LlmclsWarning,
            stacklevel=2,
        )
        method = slow
    if method == "exact":
        return PackedScorer(model, trie, pack_tokens=pack_tokens)
    if method == "auto":
        return AutoScorer(
            PackedScorer(model, trie, pack_tokens=pack_tokens),
            SearchScorer(model, trie, pack_tokens=pack_tokens, resolution=resolution),
        )
    if method == "reference":
        return ReferenceScorer(model, trie, batch_size=batch_size)
    if method == "generate":
        return GenerateScorer(model, trie, pad_token_id=pad_token_id, batch_size=batch_size)
    kind: Literal["greedy", "best-first"] = "greedy" if method == "greedy" else "best-first"
    return SearchScorer(model, trie, method=kind, pack_tokens=pack_tokens, resolution=resolution)
