"""A logits processor that lets any `generate()` end in a valid answer and nothing else.

    processor = LabelConstraintLogitsProcessor(answers, prompt_length=inputs["input_ids"].shape[1], pad_token_id=0)
    model.generate(**inputs, max_new_tokens=processor.longest, logits_processor=LogitsProcessorList([processor]))

Works with batches, left padding, beams and several returned sequences: it keeps no state between steps, but reads how
far each sequence has come from its own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError


class LabelConstraintLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Masks every token but those that continue some label.

    After a finished answer only the padding token and that answer's own end token stay possible. Sequences that are on
    no label's path (dead beams, whose score is minus infinity already) may only pad.

    Args:
        answers: tokenised answers, one per label, end token included; or a ready `LabelTrie`.
        prompt_length: length of `input_ids` before the answer; left-padded batches share it.
        pad_token_id: what may follow a finished answer besides its own end token.

    Raises:
        LlmclsError: for answers that are no label set, or a negative prompt length.
    """

    def __init__(
        self, answers: Sequence[Sequence[int]] | LabelTrie, prompt_length: int, pad_token_id: int | None = None
    ) -> None:
        if prompt_length < 0:
            raise LlmclsError(f"prompt_length is {prompt_length}, but it counts tokens; give input_ids.shape[1].")
        self.trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
        self.prompt_length = prompt_length
        self.pad_token_id = pad_token_id

    @property
    def longest(self) -> int:
        """Tokens of the longest answer: what `max_new_tokens` must allow."""
        return self.trie.longest

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (sequences, vocabulary) with minus infinity at every token that continues no label."""
        allowed = [self.allowed(tokens) for tokens in input_ids[:, self.prompt_length :].tolist()]
        return mask_all_but(scores, allowed)

    def allowed(self, generated: Sequence[int]) -> list[int]:
        """The tokens that may come after `generated`, the tokens since the prompt."""
        node = 0
        for token in generated:
            if self.trie.label[node] >= 0:
                break
            node = self.trie.descend(node, token)
            if node < 0:
                ends = {answer[-1] for answer in self.trie.answers}
                return sorted(ends) if self.pad_token_id is None else [self.pad_token_id]
        if self.trie.label[node] >= 0:
            closing = {int(self.trie.token[node])}
            return sorted(closing if self.pad_token_id is None else closing | {self.pad_token_id})
        tokens: list[int] = self.trie.token[self.trie.children(node)].tolist()
        return tokens


def mask_all_but(scores: torch.FloatTensor, allowed: Sequence[Sequence[int]]) -> torch.FloatTensor:
    """Scores (sequences, vocabulary) with minus infinity at every token but each sequence's allowed ones."""
    rows = torch.tensor([row for row, tokens in enumerate(allowed) for _ in tokens], device=scores.device)
    columns = torch.tensor([token for tokens in allowed for token in tokens], device=scores.device)
    masked = torch.full_like(scores, float("-inf"))
    masked[rows, columns] = scores[rows, columns]
    return masked  # type: ignore[return-value]
