"""The slow obvious path: one plain forward per row and label, and `generate()` with the logits processor.

    reference_scores(model, prompts, answers)                              # LabelScores
    generate_answers(model, prompts, trie, pad_token_id=0)                 # (rows,) answer indices

No cache, no packing, no tree. The fast paths are tested against it, and models whose attention cannot take the packed
mask are served by it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from llmcls.engine.decoder import evaluating, turn
from llmcls.engine.processor import LabelConstraintLogitsProcessor
from llmcls.engine.scores import LabelScores
from llmcls.engine.tree import check_prompts
from llmcls.engine.trie import LabelTrie
from llmcls.model.wrapped import bare


def reference_scores(
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]] | LabelTrie,
    *,
    want_global: bool = True,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> LabelScores:
    """Score every answer of every prompt by a forward over prompt and answer, padded on the right.

    Args:
        model: any Hugging Face causal LM.
        prompts: token ids, each prompt at least one token.
        answers: tokenised answers, end token included; or a ready `LabelTrie`.
        want_global: also return `global_` and `label_mass`; free here.
        batch_size: answers per forward; all belong to one prompt.
        progress: called with the number of rows finished since its last call.
    """
    trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
    rows = check_prompts(prompts)
    answers = trie.answers
    local = torch.zeros(len(rows), len(answers))
    global_ = torch.zeros(len(rows), len(answers))
    fed = sum(len(answer) - 1 for answer in answers)
    # The tokens by which some answer continues each node: one list a node, not one an answer (10,000 of 10,000).
    following = {node: trie.token[trie.children(node)].tolist() for node in np.flatnonzero(trie.degree).tolist()}
    valid = [[following[int(trie.parent[node])] for node in trie.path(leaf)] for leaf in map(int, trie.leaf)]
    with torch.no_grad(), evaluating(model):
        for row, prompt in enumerate(rows):
            for start in range(0, len(answers), batch_size):
                batch = range(start, min(start + batch_size, len(answers)))
                with turn(model):
                    logits = _answer_logits(model, prompt, [answers[number] for number in batch])
                for number, answer_logits in zip(batch, logits, strict=True):
                    for at, token in enumerate(answers[number]):
                        step = answer_logits[at].float()
                        global_[row, number] += step.log_softmax(0)[token].cpu()
                        choice = valid[number][at].index(token)
                        local[row, number] += step[valid[number][at]].log_softmax(0)[choice].cpu()
            if progress is not None:
                progress(1)
    return LabelScores.from_exact(local, global_ if want_global else None, fed, trie)


def generate_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    *,
    pad_token_id: int,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Greedy `model.generate()` under the label constraint.

    Args:
        model: any Hugging Face causal LM.
        prompts: token ids, each prompt at least one token.
        trie: the tokenised answers.
        pad_token_id: fills the left of shorter prompts and the right of shorter answers.
        batch_size: prompts per call of `generate`.
        progress: called with the number of rows finished since its last call.

    Returns:
        (rows,) int64 answer indices; `trie.labels` has the label of each answer. -1 where the logits were NaN or
        infinite.
    """
    rows = check_prompts(prompts)
    # `generate` may stop at an answer's last token only where that token never stands inside another answer.
    ends = {answer[-1] for answer in trie.answers}
    inside = {token for answer in trie.answers for token in answer[:-1]}
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=trie.longest,
        pad_token_id=pad_token_id,
        eos_token_id=None if ends & inside else sorted(ends),
    )
    said = generate_behind(
        model,
        rows,
        config,
        lambda width: LabelConstraintLogitsProcessor(trie, width, pad_token_id),
        batch_size=batch_size,
        progress=progress,
    )
    return torch.tensor([-1 if tokens is None else trie.read(tokens) for tokens in said], dtype=torch.int64)


def generate_behind(
    model: Any,
    rows: Sequence[list[int]],
    config: GenerationConfig,
    constraint: Callable[[int], LogitsProcessor] | None = None,
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> list[list[int] | None]:
    """`model.generate()` in left-padded batches: the tokens that follow each row, padding behind them included.

    None where the logits of the tokens that were possible were NaN or infinite: the tokens would say nothing.

    Args:
        model: any Hugging Face causal LM.
        rows: token ids, each row at least one token.
        config: how to generate, and what to pad with; nothing else counts (`only_config`).
        constraint: makes the logits processor of a batch from its prompts' padded length; None: every token is allowed.
        batch_size: rows per call of `generate`.
        progress: called with the number of rows finished since its last call.
    """
    said: list[list[int] | None] = []
    pad, device = config.pad_token_id, bare(model).device
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            width = max(map(len, batch))
            seen = [[0] * (width - len(row)) + [1] * len(row) for row in batch]
            watch = FiniteLogits(width, pad)
            with turn(model), only_config(model, config):
                output = model.generate(
                    input_ids=torch.tensor([[pad] * (width - len(row)) + row for row in batch], device=device),
                    attention_mask=torch.tensor(seen, device=device),
                    use_cache=True,
                    logits_processor=LogitsProcessorList([*([constraint(width)] if constraint else []), watch]),
                )
            answers = zip(output[:, width:].tolist(), watch.failed(len(batch)), strict=True)
            said += [None if failed else tokens for tokens, failed in answers]
            if progress is not None:
                progress(len(batch))
    return said


class FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Changes no scores; remembers the sequences for which the best of them was not a finite number.

    Args:
        prompt_length: length of `input_ids` before the answer.
        pad_token_id: a sequence that holds it behind the prompt has ended, and its scores count no more.
    """

    def __init__(self, prompt_length: int, pad_token_id: int) -> None:
        self._prompt_length, self._pad = prompt_length, pad_token_id
        self._failed: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """See transformers."""
        ended = (input_ids[:, self._prompt_length :] == self._pad).any(1)
        failed = ~scores.amax(1).isfinite() & ~ended
        self._failed = failed if self._failed is None else self._failed | failed
        return scores

    def failed(self, rows: int) -> list[bool]:
        """Which of the batch's rows have failed, once it has been generated."""
        return [False] * rows if self._failed is None else [bool(failed) for failed in self._failed.cpu()]


def _answer_logits(model: Any, prompt: list[int], answers: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """(answers, tokens, vocabulary): the logits that predict each answer's tokens after `prompt`."""
    longest = max(map(len, answers))
    sequences = [prompt + list(answer[:-1]) for answer in answers]
    width = len(prompt) + longest - 1
    device = bare(model).device
    inputs = {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids in sequences], device=device),
        "attention_mask": torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=device),
        "use_cache": False,
    }
    # With a 128k vocabulary the logits of a long prompt would fill gigabytes, and only the last ones are read.
    if "logits_to_keep" in inspect.signature(bare(model).forward).parameters:
        inputs["logits_to_keep"] = longest
    logits: torch.Tensor = model(**inputs).logits
    return logits[:, -longest:]


@contextmanager
def only_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Generate by `config` alone: a checkpoint's own file (penalties, suppressed tokens) would fill every gap in it."""
    owners = {id(owner): owner for owner in (model, bare(model))}.values()
    before = [(owner, owner.generation_config) for owner in owners]
    for owner in owners:
        owner.generation_config = config
    try:
        yield
    finally:
        for owner, saved in before:
            owner.generation_config = saved
