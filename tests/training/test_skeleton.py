"""A model's shape from its configuration alone: the counts of the model itself, for families of all kinds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from llmcls.model.adapter import BaseModelAdapter
from llmcls.model.lora_targets import suit_targets
from llmcls.settings import make_settings
from llmcls.training.configuration import make_lora_config
from llmcls.training.skeleton import _number, measure_shape

SMALL = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 16},
    "gpt2": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "bloom": {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gemma2": {**SMALL, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 16},
    "mamba": {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2},
    "gpt_neox": {**SMALL, "intermediate_size": 80},
}


def assembly_of(folder: Path, settings: dict[str, Any]) -> Any:
    base = SimpleNamespace(
        checkpoint=str(folder), hub_arguments={}, trust_remote_code=False, adapter=BaseModelAdapter()
    )
    return SimpleNamespace(settings=make_settings(settings), base=base, head=None, encoder=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(family, **FAMILIES[family])
    config.save_pretrained(tmp_path)
    model: Any = AutoModelForCausalLM.from_config(config)
    weights = sum(weight.numel() for weight in model.parameters())
    whole = {"training": {"tuning": "full"}, "model": {"quantization": "none"}}
    full, packed = measure_shape(assembly_of(tmp_path, whole))
    assert (full.weights, full.trained, full.adapted) == (weights, weights, 0)
    assert (full.hidden, full.layers, full.outputs) == (32, 2, 99)
    assert full.attention == (64 if "head_dim" in FAMILIES[family] else 32)
    assert packed is (family in ("llama", "gpt2", "gpt_neox"))
    assembly = assembly_of(tmp_path, {"lora": {"r": 4}})
    lora, _ = measure_shape(assembly)
    config = make_lora_config(assembly.settings, assembly.base.adapter, model)
    suit_targets(config, model)
    wrapped = get_peft_model(model, config)
    assert lora.weights == weights
    assert lora.trained == sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad) > 0
    assert lora.ranks % 4 == 0 and lora.adapted > 0


def test_a_configuration_may_give_each_layer_its_own_number() -> None:
    config = SimpleNamespace(sizes=[10, 30, 20], none=None, text="many", empty=[])
    assert _number(config, "sizes", 1) == 30
    assert [_number(config, name, 7) for name in ("none", "text", "empty", "missing")] == [7] * 4
