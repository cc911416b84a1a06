"""Which attention mask a model gets, and whether it can take one: the one place that knows.

reason = supports_packing(model)                      # None, or why the packed layout cannot be used
mask = attention_mask(query_enter, key_enter, key_exit)
masks = windows_of(model).narrow(mask, query_position, key_position)       # what the layers of this model get
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llmcls.model.wrapped import bare, is_wrapped

ONE_WINDOW = frozenset({"ministral3", "mistral", "mixtral", "phi3", "phimoe", "qwen3_moe", "starcoder2"})
"""Model types whose layers all look back as far as `sliding_window` says."""

WINDOW_BY_LAYER = frozenset(
    {
        *("cohere2", "cwm", "dots1", "exaone4", "gemma3_text", "ministral", "olmo3", "qwen2", "qwen2_moe", "qwen3"),
        "smollm3",
    }
)
"""Model types whose `layer_types` say which layers look back `sliding_window` tokens and which to the beginning: they
take a mask for each type."""

VERIFIED = (
    ONE_WINDOW
    | WINDOW_BY_LAYER
    | {
        *("apertus", "arcee", "biogpt", "cohere", "deepseek_v2", "deepseek_v3", "ernie4_5", "ernie4_5_moe", "falcon"),
        *("flex_olmo", "gemma", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "granitemoe"),
        *("granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jetmoe", "llama", "minimax_m2"),
        *("nemotron", "olmo", "olmo2", "olmoe", "opt", "persimmon", "phi", "seed_oss", "stablelm"),
    }
)
"""Model types whose packed scores and gradients a test compares with plain forwards."""

SLIDING, FULL = "sliding_attention", "full_attention"

LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
"""Rope types whose angles change with the longest position in the batch: a row's scores would depend on its
neighbours. They are exact only one row at a time."""

Masks = torch.Tensor | dict[str, torch.Tensor]
"""One mask for all layers, or one for each type of layer."""


@dataclass(frozen=True)
class Windows:
    """How far the layers of a model look back.

    Attributes:
        size: a token sees itself and the `size` - 1 before it; None: all before it.
        by_layer: whether layers differ in that, and the model takes a mask for each type of layer.
    """

    size: int | None = None
    by_layer: bool = False

    def narrow(self, mask: torch.Tensor, query_position: torch.Tensor, key_position: torch.Tensor) -> Masks:
        """The masks of a model's layers, from the mask of layers that see everything.

        Args:
            mask: (1, 1, queries, keys) bool.
            query_position: (queries,) position ids.
            key_position: (keys,) position ids. Of a token and what it sees, places in one row differ as positions do.
        """
        if self.size is None:
            return mask
        narrow = mask & (query_position[:, None] - key_position[None, :] < self.size)
        return {FULL: mask, SLIDING: narrow} if self.by_layer else narrow


def windows_of(model: Any) -> Windows:
    """How far the layers of a model that `supports_packing` look back.

    Args:
        model: a causal LM, possibly wrapped by PEFT, DDP, FSDP or DeepSpeed.
    """
    while isinstance(inner := getattr(model, "module", None), torch.nn.Module):  # what trains on several devices
        model = inner
    config = bare(model).config.get_text_config(decoder=True)
    size = getattr(config, "sliding_window", None)
    if size and config.model_type in ONE_WINDOW:
        return Windows(size)
    if size and config.model_type in WINDOW_BY_LAYER and SLIDING in (config.layer_types or ()):
        return Windows(size, by_layer=True)
    return Windows()


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
    known = {FULL, SLIDING} if config.model_type in WINDOW_BY_LAYER else {FULL}
    kinds = set(getattr(config, "layer_types", None) or ()) if config.model_type not in ONE_WINDOW else set()
    if kinds - known:
        return f"it has layers of type {', '.join(sorted(kinds - known))}"
    if getattr(config, "alibi", False):
        return "its attention counts places instead of positions (alibi)"
    if getattr(config, "use_bidirectional_attention", False):
        return "its tokens see those behind them (use_bidirectional_attention)"
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
