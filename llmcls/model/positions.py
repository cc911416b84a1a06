"""How many tokens a model reads, and knows, by whatever name its configuration says so.

positions_of({"n_positions": 1024})                                           # 1024
positions_of({"text_config": {"max_position_embeddings": 8192}})              # 8192
positions_of({"model_type": "mamba"})                                         # None: as many as there are
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length"),
    *("seq_len", "context_length", "max_context_length", "model_max_length"),
)
"""What families call it, the first that counts first: Llama, GPT-2 and GPT-J, CodeGen, MPT, ChatGLM, RWKV."""

TEXT = ("text_config", "language_config", "llm_config", "text_model_config", "thinker_config", "decoder", "text_model")
"""Where models that read more than text keep what they say of their text model."""


def positions_of(config: Mapping[str, Any]) -> int | None:
    """The most tokens that a model can read, or None where its configuration says nothing of that.

    Args:
        config: a checkpoint's `config.json`; what its text model says counts before what stands outside of that.
    """
    return _number(config, NAMES)


def embeddings_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model has embeddings for, or None where its configuration does not say.

    Args:
        config: as `positions_of` takes it.
    """
    return _number(config, ("vocab_size",))


def _number(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    for name in TEXT:
        if isinstance(inner := config.get(name), Mapping) and (found := _number(inner, names)) is not None:
            return found
    for name in names:
        if type(value := config.get(name)) is int and value > 0:  # XLNet says -1 for any number
            return value
    return None
