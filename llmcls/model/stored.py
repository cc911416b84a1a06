"""How a checkpoint is stored, and what that leaves to the settings: it may be quantised already, or know no sdpa.

stored = stored_quantization(base.config)                 # None, '4bit', '8bit', or another method: 'gptq'
attention = usable_attention(model_class, "sdpa")         # 'eager' where the class has nothing else
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from llmcls.errors import LlmclsError, LlmclsWarning

_BITS = {"4bit": "in 4 bits (bitsandbytes)", "8bit": "in 8 bits (bitsandbytes)"}


def stored_quantization(config: Mapping[str, Any]) -> str | None:
    """How the weights of a checkpoint are quantised in its files; None where they are not.

    Args:
        config: its `config.json`.

    Returns:
        As `model.quantization` names what bitsandbytes does; any other method by transformers' name.
    """
    found = config.get("quantization_config") or {}
    if not isinstance(found, Mapping):
        found = found.to_dict()
    if found.get("load_in_4bit") or found.get("_load_in_4bit"):
        return "4bit"
    if found.get("load_in_8bit") or found.get("_load_in_8bit"):
        return "8bit"
    if found:
        return str(found.get("quant_method") or "an unknown method")
    text = config.get("text_config")
    return stored_quantization(text) if isinstance(text, Mapping) else None


def held_quantization(name: str, config: Mapping[str, Any], wanted: str) -> str:
    """How the weights will be held: as they are stored where they are quantised, which is said where it is not wanted.

    Args:
        name: the checkpoint, as messages call it.
        config: its `config.json`.
        wanted: `model.quantization`.
    """
    stored = stored_quantization(config)
    if stored is None:
        return wanted
    if stored != wanted and stored in _BITS:  # of another method, no setting could say so
        warnings.warn(
            f"'{name}' is stored {_how(stored)} already, so model.quantization '{wanted}' has no effect: its weights "
            "are held as they are; take an unquantised checkpoint to choose.",
            LlmclsWarning,
            stacklevel=2,
        )
    return stored


def check_trainable(name: str, config: Mapping[str, Any]) -> None:
    """Refuse to train all weights of a checkpoint that is quantised.

    Raises:
        LlmclsError: naming what to do.
    """
    if (stored := stored_quantization(config)) is not None:
        raise LlmclsError(
            f"training.tuning 'full' cannot be used with '{name}': it is stored {_how(stored)}, and quantised weights "
            "cannot be trained; use training.tuning lora, or an unquantised checkpoint."
        )


def _how(stored: str) -> str:
    return _BITS.get(stored, f"quantised ({stored})")


def usable_attention(model_class: Any, wanted: str) -> str:
    """The attention that a model is loaded with: `eager` where its class has no other and `sdpa` was to be taken.

    Args:
        model_class: transformers' class of the model, or None where it is not known before it is loaded.
        wanted: `model.attn_implementation`.
    """
    if wanted != "sdpa" or getattr(model_class, "_supports_sdpa", True):
        return wanted
    warn_of_eager(model_class.__name__)
    return "eager"


def warn_of_eager(name: str) -> None:
    """Say that a model is loaded with another attention than was to be taken."""
    warnings.warn(
        f"{name} has no attention 'sdpa' in transformers, so 'eager' is used, which cannot be packed and is slower.",
        LlmclsWarning,
        stacklevel=3,
    )
