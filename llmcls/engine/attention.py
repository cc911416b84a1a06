"""Which attention mask a model gets, and whether it can take one: the one place that knows.

reason = supports_packing(model)                      # None, or why the packed layout cannot be used
mask = attention_mask(query_enter, key_enter, key_exit)
"""

from __future__ import annotations

from typing import Any

import torch

from llmcls.engine.decoder import bare
from llmcls.model.wrapped import is_wrapped

VERIFIED = frozenset(
    {
        *("arcee", "cohere", "ernie4_5", "gemma", "glm", "glm4", "gpt2", "gpt_neox", "granite", "granitemoe", "helium"),
        *("llama", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe"),
        *("qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
    }
)
"""Model types whose packed scores a test compares with plain forwards."""

LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
"""Rope types whose angles change with the longest position in the batch: a row's scores would depend on its
neighbours. They are exact only one row at a time."""


def supports_packing(model: Any) -> str | None:
    """Why `model` cannot take the packed layout's 4-D attention mask, or None when it can."""
    if is_wrapped(model) and any(config.is_prompt_learning for config in model.peft_config.values()):
        return "its PEFT weights add virtual prompt tokens"
    base = bare(model)
    if base.config.is_encoder_decoder:
        return "it is an encoder-decoder model"
    config = base.config.get_text_config(decoder=True)
    if config.model_type not in VERIFIED:
        return f"model type {config.model_type!r} has not been verified with the packed mask"
    if config._attn_implementation != "sdpa":
        return f"it was loaded with attention {config._attn_implementation!r}; load it with attn_implementation='sdpa'"
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "sliding_window", None) is not None and (not kinds or "sliding_attention" in kinds):
        return f"it uses sliding-window attention (window {config.sliding_window})"
    if kinds - {"full_attention"}:
        return f"it has layers of type {', '.join(sorted(kinds - {'full_attention'}))}"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in LENGTH_DEPENDENT_ROPE:
        return f"its rope scaling {rope['rope_type']!r} depends on the longest sequence in the batch"
    return None


def attention_mask(query_enter: torch.Tensor, key_enter: torch.Tensor, key_exit: torch.Tensor) -> torch.Tensor:
    """The bool mask that scaled-dot-product attention takes.

    Returns:
        (1, 1, queries, keys) bool, True where `key_enter[k] <= query_enter[q] < key_exit[k]`.
    """
    query = query_enter[:, None]
    return ((key_enter[None, :] <= query) & (query < key_exit[None, :]))[None, None]
