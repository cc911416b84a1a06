"""What a model says when nothing constrains it: greedy `generate()`, cut at the token that ends an answer.

said = generate_free(model, prompts, ends=(2,), pad_token_id=0, max_new_tokens=8)
said[0]                                    # [30, 31]: the tokens up to the end, which is left out
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import takewhile
from typing import Any

from transformers import GenerationConfig

from llmcls.engine.reference import generate_behind
from llmcls.engine.scores import Progress, Prompts
from llmcls.engine.tree import check_prompts
from llmcls.errors import LlmclsError


def generate_free(
    model: Any,
    prompts: Prompts,
    *,
    ends: Collection[int],
    pad_token_id: int,
    max_new_tokens: int,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Greedy `model.generate()` without any constraint, in left-padded batches.

    Args:
        model: any Hugging Face causal LM.
        prompts: token ids, each prompt at least one token.
        ends: tokens each of which ends an answer.
        pad_token_id: fills the left of shorter prompts and the right of shorter answers.
        max_new_tokens: tokens of an answer at most, its end included.
        batch_size: prompts per call of `generate`.
        progress: called with the number of rows finished since its last call.

    Returns:
        The tokens of each answer up to its end; all of them where the model did not end it.

    Raises:
        LlmclsError: when the model's logits are not finite.
    """
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad_token_id, eos_token_id=sorted(ends)
    )
    said = generate_behind(model, check_prompts(prompts), config, batch_size=batch_size, progress=progress)
    if failed := said.count(None):
        raise LlmclsError(
            f"The model's logits are NaN or infinite for {failed:,} of {len(said):,} free answers; "
            "set model.dtype to 'bfloat16' or 'float32', or leave the free answers out."
        )
    return [list(takewhile(lambda token: token not in ends, tokens or ())) for tokens in said]
