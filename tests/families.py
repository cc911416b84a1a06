"""A tiny configuration of every family of models that llmcls claims, and a random checkpoint of it.

model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings_of(kind)))
folder = save_family("mixtral", tmp_path / "model")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmcls.engine.attention import WINDOW_BY_LAYER
from llmcls.testing import build_tiny_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4},
    **{"num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 16},
    **{"shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
}
MIXTURES = (
    *("deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "flex_olmo", "glm4_moe", "granitemoe", "granitemoeshared"),
    *("hunyuan_v1_moe", "jetmoe", "minimax_m2", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"),
)
LATENT = {
    **{"num_key_value_heads": 4, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    "head_dim": 8,
}
OWN: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.4},
    "cohere2": {"logit_scale": 0.4},
    "deepseek_v2": {**LATENT, "q_lora_rank": None},
    "deepseek_v3": {**LATENT, "q_lora_rank": 16},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    **{kind: {"head_dim": 8} for kind in ("gemma", "gemma3_text", "glm", "glm4", "glm4_moe", "helium", "minimax_m2")},
    **{kind: {"head_dim": 8} for kind in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral", "qwen3", "qwen3_moe")},
}


def settings_of(kind: str, window: int | None = None) -> dict[str, Any]:
    """What a tiny configuration of a family says, but for its vocabulary.

    Args:
        kind: the model type.
        window: how many tokens its layers look back; None: all look to the beginning. Of a family that has a type for
            each layer, the first layer only.
    """
    settings = SIZES | (EXPERTS if kind in MIXTURES else {}) | OWN.get(kind, {})
    settings |= {"sliding_window": window, "use_sliding_window": window is not None}
    if kind in WINDOW_BY_LAYER:
        first = "full_attention" if window is None else "sliding_attention"
        settings |= {"layer_types": [first, "full_attention"], "sliding_window": window or 4096}
    return settings


def save_family(kind: str, folder: Path, **changes: Any) -> Path:
    """Save a random checkpoint of a family, whose answers are spread, and a tokenizer of bytes; returns `folder`."""
    tokenizer = build_tiny_tokenizer()
    settings = {"vocab_size": len(tokenizer), **settings_of(kind)}
    settings |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings | changes))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
