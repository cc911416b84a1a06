"""Several labels as one answer, `joy, anger`: constrained `generate()` in which only valid lists can come out.

    items = ListItems(first=[(30,), (31,)], later=[(9, 30), (9, 31)], end=2)
    items.allowed([30])                  # [2, 9]: the end, or a comma and one of the labels not yet said
    ListScorer(model, items, pad_token_id=0).score(prompts)     # [(0,), (1, 0)]

A list holds each label at most once, in any order, and closes with the end token; the empty list is the end token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from llmcls.engine.processor import mask_all_but
from llmcls.engine.reference import generate_behind
from llmcls.engine.scorer import UnsharedScorer
from llmcls.engine.scores import Progress, Prompts
from llmcls.engine.tree import check_prompts
from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError

# How far a reading of the tokens has come: the labels said, whether the next is a later one, its node in that trie.
_State = tuple[tuple[int, ...], bool, int]


class ListItems:
    """The labels as items of a list.

    Args:
        first: tokens of each label as the first item.
        later: tokens of each label as a later item, the comma before it included.
        end: the token that closes a list; stands in no item.

    Raises:
        LlmclsError: for items that are no label set, or hold the end token.
    """

    def __init__(self, first: Sequence[Sequence[int]], later: Sequence[Sequence[int]], end: int) -> None:
        if len(first) != len(later):
            raise LlmclsError(f"There are {len(first)} first and {len(later)} later items; give both of each label.")
        if any(end in item for item in (*first, *later)):
            raise LlmclsError(f"A label holds token {end}, which closes a list; rename it.")
        self.first, self.later, self.end = (*map(tuple, first),), (*map(tuple, later),), end
        self._tries = LabelTrie([(*item, end) for item in first]), LabelTrie([(*item, end) for item in later])

    @property
    def longest(self) -> int:
        """Tokens of a list of all labels, at most."""
        return sum(max(map(len, pair)) for pair in zip(self.first, self.later, strict=True)) + 1

    def tokens(self, labels: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a list, end token included."""
        items = [self.later[label] if place else self.first[label] for place, label in enumerate(labels)]
        return (*(token for item in items for token in item), self.end)

    def allowed(self, generated: Sequence[int]) -> list[int]:
        """The tokens that may come after `generated`, ascending; none where a list is closed, or cannot be one."""
        if self.end in generated:
            return []
        tokens = set() if generated else {self.end}
        for said, is_later, node in self._readings(generated):
            trie = self._tries[is_later]
            tokens |= {int(trie.token[child]) for child in trie.children(node) if self._opens(trie, int(child), said)}
        return sorted(tokens)

    def read(self, generated: Sequence[int]) -> tuple[int, ...] | None:
        """The labels of a closed list, in the order said; None where the tokens are none.

        Where one label is spelt like a list of others, the reading with the fewest labels counts.
        """
        if self.end not in generated:
            return None
        body = generated[: list(generated).index(self.end)]
        found = [said for said, is_later, node in self._readings(body) if is_later and node == 0 and said]
        return min(found, key=len, default=None) if body else ()

    def _readings(self, generated: Sequence[int]) -> list[_State]:
        """Every way to read the tokens as the beginning of a list: more than one where labels begin with others."""
        states = list(self._closure(((), False, 0)))
        for token in generated:
            states = [
                reached
                for said, is_later, node in states
                if (child := self._tries[is_later].descend(node, token)) >= 0
                and self._opens(self._tries[is_later], child, said)
                for reached in self._closure((said, is_later, child))
            ]
        return states

    def _closure(self, state: _State) -> Iterator[_State]:
        """The state, and where it completes a label that one in which the next item may begin."""
        yield state
        said, is_later, node = state
        trie = self._tries[is_later]
        child = trie.descend(node, self.end)
        if child >= 0 and int(trie.label[child]) not in said:
            yield (*said, int(trie.label[child])), True, 0

    def _opens(self, trie: LabelTrie, node: int, said: tuple[int, ...]) -> bool:
        """Whether some label at or below a node has not been said."""
        return any(label >= 0 and int(label) not in said for label in trie.label[node : trie.exit[node]])


class LabelListLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Masks every token but those that continue some list of distinct labels; for anyone's `generate()`.

    Behind a closed list only the padding token and the end token stay possible, and so for sequences that are no list
    (dead beams, whose score is minus infinity already).

    Args:
        items: the labels as items.
        prompt_length: length of `input_ids` before the answer; left-padded batches share it.
        pad_token_id: what may follow a closed list besides the end token.
    """

    def __init__(self, items: ListItems, prompt_length: int, pad_token_id: int) -> None:
        self._items, self._prompt_length = items, prompt_length
        self._closed = sorted({items.end, pad_token_id})

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (sequences, vocabulary) with minus infinity at every token that continues no list."""
        generated = input_ids[:, self._prompt_length :].tolist()
        return mask_all_but(scores, [self._items.allowed(tokens) or self._closed for tokens in generated])


@dataclass(frozen=True)
class ListScorer(UnsharedScorer):
    """Greedy `model.generate()` under the list constraint.

    Its scores are the label indices of each row, in the order said; a list has no probabilities.

    Attributes:
        model: any Hugging Face causal LM.
        items: the labels as items.
        pad_token_id: fills the left of shorter prompts and the right of shorter lists.
        batch_size: prompts per call of `generate`.
    """

    model: Any
    items: ListItems
    pad_token_id: int
    batch_size: int = 8

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> list[tuple[int, ...] | None]:
        """See `Scorer`; None where the logits were NaN or infinite."""
        if want_global:
            raise LlmclsError("A list of labels has no label mass; leave want_global out.")
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.items.longest,
            pad_token_id=self.pad_token_id,
            eos_token_id=self.items.end,
        )
        said = generate_behind(
            self.model,
            check_prompts(prompts),
            config,
            lambda width: LabelListLogitsProcessor(self.items, width, self.pad_token_id),
            batch_size=self.batch_size,
            progress=progress,
        )
        return [None if tokens is None else self.items.read(tokens) or () for tokens in said]
