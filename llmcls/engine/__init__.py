"""The engine: prompts as one token tree, answers as a label trie, exact label probabilities and their training loss.

    scorer = make_scorer(model, answers, method="exact", pad_token_id=0)
    scores = scorer.score(prompts)

It knows tokens only: no prompts' text, no templates, no settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcls.engine.attention import supports_packing
    from llmcls.engine.choice import AutoScorer
    from llmcls.engine.objectives import Objective, packed_batch, packed_loss, padded_batch, padded_loss
    from llmcls.engine.packed import PackedScorer
    from llmcls.engine.processor import LabelConstraintLogitsProcessor
    from llmcls.engine.reference import reference_scores
    from llmcls.engine.scorer import Method, make_scorer
    from llmcls.engine.scores import LabelScores, Scorer
    from llmcls.engine.search import SearchScorer
    from llmcls.engine.trie import LabelTrie, TrieStatistics

__all__ = [
    "AutoScorer",
    "LabelConstraintLogitsProcessor",
    "LabelScores",
    "LabelTrie",
    "Method",
    "Objective",
    "PackedScorer",
    "Scorer",
    "SearchScorer",
    "TrieStatistics",
    "make_scorer",
    "packed_batch",
    "packed_loss",
    "padded_batch",
    "padded_loss",
    "reference_scores",
    "supports_packing",
]

_LAZY = {
    "AutoScorer": "choice",
    "LabelConstraintLogitsProcessor": "processor",
    "LabelScores": "scores",
    "LabelTrie": "trie",
    "Method": "scorer",
    "Objective": "objectives",
    "PackedScorer": "packed",
    "Scorer": "scores",
    "SearchScorer": "search",
    "TrieStatistics": "trie",
    "make_scorer": "scorer",
    "packed_batch": "objectives",
    "packed_loss": "objectives",
    "padded_batch": "objectives",
    "padded_loss": "objectives",
    "reference_scores": "reference",
    "supports_packing": "attention",
}


def __getattr__(name: str) -> Any:
    # One module of the engine must not import all of them: the slow reference alone brings transformers' generation.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
