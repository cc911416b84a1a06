"""Checkpoints that leave less to the settings: quantised already, without sdpa, or with more than text inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Gemma3Config

from llmcls import Classifier, LlmclsError
from llmcls.errors import LlmclsWarning
from llmcls.model.loading import find_base_model, load_model
from llmcls.model.stored import stored_quantization
from llmcls.settings import make_settings

from ..families import save_family, settings_of
from .test_families import TEXTS, fit, probabilities

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("llama", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def quantised(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint in 4 bits and one in 8, as transformers saves them."""
    made = {}
    for name in ("4bit", "8bit"):
        made[name] = tmp_path_factory.mktemp(name)
        config = BitsAndBytesConfig(**{f"load_in_{name}": True})
        AutoModelForCausalLM.from_pretrained(plain, quantization_config=config).save_pretrained(made[name])
        AutoTokenizer.from_pretrained(plain).save_pretrained(made[name])
    return made


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        ({}, None),
        ({"quantization_config": None}, None),
        ({"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}, "4bit"),
        ({"quantization_config": {"_load_in_8bit": True}}, "8bit"),
        ({"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}, "8bit"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"text_config": {"quantization_config": {"load_in_4bit": True}}}, "4bit"),
    ],
)
def test_what_a_configuration_says(config: dict[str, Any], stored: str | None) -> None:
    assert stored_quantization(config) == stored


@pytest.mark.parametrize("stored", ["4bit", "8bit"])
@pytest.mark.parametrize("wanted", ["none", "8bit", "4bit"])
def test_weights_are_held_as_they_are_stored(
    stored: str, wanted: str, quantised: dict[str, Path], recwarn: pytest.WarningsRecorder
) -> None:
    settings = make_settings({"model": {"base_model": str(quantised[stored]), "quantization": wanted}})
    from llmcls.model.hardware import choose_formats

    model: Any = load_model(find_base_model(settings.model), settings.model, choose_formats(settings))
    said = [str(warning.message) for warning in recwarn if issubclass(warning.category, LlmclsWarning)]
    layer = model.model.layers[0].mlp.down_proj
    kind = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[stored]
    assert type(layer) is kind
    if stored == wanted:
        assert said == []
    else:
        assert len(said) == 1 and f"is stored in {stored[0]} bits" in said[0] and f"'{wanted}' has no effect" in said[0]


def test_a_4_bit_checkpoint_is_what_quantising_gives(quantised: dict[str, Path], plain: Path, tmp_path: Path) -> None:
    asked = []
    for place, wanted in ((quantised["4bit"], "none"), (plain, "4bit")):
        model = {"quantization": wanted, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}
        settings = make_settings({"model": model, "prompt": {"template": "minimal"}})
        asked.append(Classifier.zero_shot(str(place), ["late", "paid"], settings=settings).predict_proba(TEXTS))
    np.testing.assert_allclose(*asked, atol=2e-5)
    run, said = fit(quantised["4bit"], tmp_path / "run", training={"max_steps": 1})
    assert "CPU, 4-bit base weights" in said
    assert probabilities(run).shape == (len(TEXTS), 2)
    with pytest.raises(LlmclsError, match=r"'full' cannot be used.*stored in 4 bits"):
        fit(quantised["4bit"], tmp_path / "full", training={"tuning": "full"})


@pytest.mark.parametrize("kind", ["gemma2", "gptj", "bloom", "mpt"])
def test_a_family_without_sdpa_takes_eager_and_says_so(kind: str, tmp_path: Path) -> None:
    changes = {"gptj": {"rotary_dim": 8}, "gemma2": {"head_dim": 8, "sliding_window": 16}}
    model = save_family(kind, tmp_path, **changes.get(kind, {}))
    settings = make_settings({"model": {"quantization": "none"}, "prompt": {"template": "minimal"}})
    with pytest.warns(LlmclsWarning, match="has no attention 'sdpa' in transformers, so 'eager' is used") as said:
        classifier = Classifier.zero_shot(str(model), ["late", "paid"], settings=settings)
    assert sum("eager" in str(warning.message) for warning in said) == 1
    assert np.isfinite(classifier.predict_proba(TEXTS[:2])).all()


@pytest.mark.parametrize("objective", ["label", "head"])
def test_a_model_that_reads_images_as_well(objective: str, plain: Path, tmp_path: Path) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = AutoTokenizer.from_pretrained(plain)
    text = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = Gemma3Config(
        text_config={**settings_of("gemma3_text", 16), **text},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    template = "text" if objective == "head" else "minimal"
    run, said = fit(
        tmp_path / "model", tmp_path / "run", training={"objective": objective}, prompt={"template": template}
    )
    assert "padded" not in said
    trained = 2 * 7424 + (2 * 32 if objective == "head" else 0)  # the decoder's layers, not those that see
    assert f"Training {trained:,} LoRA parameters" in said
    np.testing.assert_allclose(probabilities(run), probabilities(run, "reference", merge=False), atol=2e-5)
