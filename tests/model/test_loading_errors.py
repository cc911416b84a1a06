"""What the libraries refuse when a base model is loaded, in one sentence with a way out that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.utils
from transformers import MambaConfig, MambaForCausalLM

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.model.hardware import Formats
from llmcls.model.kernels import with_usable_attention
from llmcls.model.loading import find_base_model, load_model
from llmcls.model.loading_errors import clear_errors
from llmcls.settings import ModelSettings, make_settings
from llmcls.testing import build_tiny_tokenizer

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ImportError(
                "FlashAttention2 has been toggled on, but it cannot be used due to the following error: absent."
            ),
            "toggled on, .* error: absent. Leave model.attn_implementation out, or set it to 'eager'.",
        ),
        (
            ValueError("X does not support Flash Attention 2 yet. Please request to add support where it is hosted"),
            "'m' cannot be loaded: X does not support Flash Attention 2 yet. Leave model.attn_implementation out",
        ),
        (ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes"), "or use --quantization none"),
        (
            ImportError("This needs the following packages that were not found in your environment: mamba_ssm"),
            "needs a package that is not installed here.*: mamba_ssm. Install it",
        ),
        (
            ValueError(
                "The checkpoint has model type `new` but Transformers does not recognize this architecture. This"
            ),
            "model type `new`.* The installed transformers does not know models of this type; choose another",
        ),
        (KeyError("weird"), r"a file of it is damaged, .*\(KeyError 'weird'"),
        (OSError("no such file"), "no such file. Check the name or folder"),
    ],
)
def test_a_refusal_has_a_way_out(error: Exception, says: str) -> None:
    with pytest.raises(LlmclsError, match=says) as told, clear_errors("m"):
        raise error
    assert "\n" not in str(told.value)


def test_a_kernel_that_does_not_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    flash, flex = (ModelSettings(attn_implementation=name) for name in ("flash_attention_2", "flex_attention"))
    with pytest.raises(LlmclsError, match=r"attn_implementation 'flash_attention_2' cannot .* CPU; leave it out"):
        with_usable_attention(flash, CPU, training=False)
    with pytest.raises(LlmclsError, match="FlexAttention does not train on a CPU"):
        with_usable_attention(flex, CPU, training=True)
    assert with_usable_attention(flex, CPU, training=False) is flex
    for installed in (False, True):
        for name in ("is_flash_attn_2_available", "is_kernels_available"):
            monkeypatch.setattr(transformers.utils, name, lambda installed=installed: installed)
        if installed:
            assert with_usable_attention(flash, CUDA, training=True) is flash
        else:
            with pytest.raises(LlmclsError, match="the package flash-attn is not installed"):
                with_usable_attention(flash, CUDA, training=True)
    with pytest.warns(LlmclsWarning, match="the run was trained with .* 'sdpa' is used instead"):
        held = with_usable_attention(flash, CPU, training=False, asked=False)
    assert held.attn_implementation == "sdpa"


def test_a_model_without_attention_is_loaded_by_default(tmp_path: Path) -> None:
    tokenizer = build_tiny_tokenizer()
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, state_size=2)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = make_settings({"model": {"base_model": str(tmp_path), "quantization": "none"}}).model
    formats = Formats(CPU, torch.float32, "no", "none")
    assert type(load_model(find_base_model(settings), settings, formats)) is MambaForCausalLM
    for wanted in ("flash_attention_2", "flex_attention"):
        other = settings.model_copy(update={"attn_implementation": wanted})
        with pytest.raises(LlmclsError, match=r"Leave model\.attn_implementation out") as told:
            load_model(find_base_model(other), other, formats)
        assert "https" not in str(told.value)


def test_an_unknown_architecture_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama9", "architectures": ["Llama9ForCausalLM"]}))
    settings: Any = ModelSettings(base_model=str(tmp_path))
    with pytest.raises(LlmclsError, match=r"`llama9`.*installed transformers does not know models of this type"):
        find_base_model(settings)
