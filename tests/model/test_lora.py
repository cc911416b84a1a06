"""LoRA weights merged for prediction, and left out: the same model, the base model, and nothing spoilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
)

from llmcls import Classifier, train
from llmcls.console import Reporter
from llmcls.files import sha256_of
from llmcls.model.lora import can_leave_lora_out, merged, without_lora

IDS = torch.tensor([[5, 6, 7, 8, 9, 4]])
TEXTS = ["where is my parcel", "you took the money twice", "", "🙂 " * 20]


def wrapped(model: Any, **config: Any) -> PeftModel:
    """With LoRA weights that say something."""
    config.setdefault("target_modules", "all-linear")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return get_peft_model(model, LoraConfig(r=4, **config), autocast_adapter_dtype=True).eval()


def llama(**config: Any) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    chosen = LlamaConfig(**{"vocab_size": 97, "tie_word_embeddings": True, **sizes, **config})
    return AutoModelForCausalLM.from_config(chosen).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float().clone()


@pytest.mark.parametrize(
    ("config", "model", "merges"),
    [
        ({"init_lora_weights": False}, {}, True),
        ({"init_lora_weights": False, "use_rslora": True, "lora_alpha": 16}, {}, True),
        ({"init_lora_weights": False, "use_dora": True}, {}, True),
        ({"init_lora_weights": False, "bias": "all"}, {"attention_bias": True}, True),
        ({"init_lora_weights": False, "target_modules": ["lm_head", "q_proj"]}, {"tie_word_embeddings": False}, True),
        ({"init_lora_weights": False, "target_modules": ["lm_head", "q_proj"]}, {}, False),
        ({"init_lora_weights": False, "target_modules": ["embed_tokens", "q_proj"]}, {}, False),
    ],
)
def test_merged_says_the_same(config: dict[str, Any], model: dict[str, Any], merges: bool) -> None:
    adapted = wrapped(llama(**model), **config)
    before = logits(adapted)
    found = merged(adapted)
    assert isinstance(found, PeftModel) is not merges
    torch.testing.assert_close(logits(found), before, atol=2e-5, rtol=0)
    assert not any("lora" in name for name, _ in found.named_parameters()) or not merges


def test_other_layers_and_other_weights(tiny_model_dir: Path) -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4)).eval()
    adapted = wrapped(gpt2, init_lora_weights=False, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    before = logits(adapted)
    torch.testing.assert_close(logits(merged(adapted)), before, atol=2e-5, rtol=0)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    quantised = AutoModelForCausalLM.from_pretrained(tiny_model_dir, quantization_config=config, dtype=torch.float32)
    adapted = wrapped(quantised, init_lora_weights=False)
    assert merged(adapted) is adapted
    plain = llama()
    assert merged(plain) is plain


def test_a_trained_head_is_kept(tiny_model_dir: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=3, pad_token_id=0)
    fresh = model.score.weight.clone()
    adapted = wrapped(model, init_lora_weights=False, task_type="SEQ_CLS")
    with torch.no_grad():
        adapted.base_model.model.score.modules_to_save["default"].weight.mul_(3)
    before, trained = logits(adapted), fresh * 3
    base = without_lora(adapted)
    assert torch.equal(base.score.weight, fresh) and base is not adapted.get_base_model()
    torch.testing.assert_close(logits(adapted), before, atol=0, rtol=0)
    found = merged(adapted)
    assert torch.equal(found.score.weight, trained)
    torch.testing.assert_close(logits(found), before, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    """The sum in float32, rounded to the weights' type; DoRA's norms would be rounded before, so it stays apart."""
    base = llama().to(dtype)
    kept = {name: weight.clone() for name, weight in base.named_parameters()}
    adapted = wrapped(base, init_lora_weights=False)
    layer = adapted.base_model.model.model.layers[1].mlp.up_proj
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default").float()
    found = merged(adapted)
    assert torch.equal(found.model.layers[1].mlp.up_proj.weight, exact.to(dtype))
    assert {name for name, weight in found.named_parameters() if torch.equal(weight, kept[name])} == {
        name for name in kept if "norm" in name or "embed" in name
    }
    dora = wrapped(llama().to(dtype), init_lora_weights=False, use_dora=True)
    assert merged(dora) is dora


def test_without_lora_shares_all_weights() -> None:
    base = llama()
    expected = logits(base)
    adapted = wrapped(base, init_lora_weights=False)
    before = logits(adapted)
    found = without_lora(adapted)
    assert can_leave_lora_out(adapted) and not can_leave_lora_out(wrapped(llama(), bias="all"))
    torch.testing.assert_close(logits(found), expected, atol=0, rtol=0)
    torch.testing.assert_close(logits(adapted), before, atol=0, rtol=0)
    assert (before - expected).abs().max() > 1e-2
    weights = {weight.data_ptr() for weight in adapted.parameters()}
    assert all(weight.data_ptr() in weights for weight in found.parameters())
    with torch.no_grad():
        adapted.base_model.model.model.norm.weight.mul_(2)
    assert (logits(found) - expected).abs().max() > 1e-3, "the same weights, not a copy"


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with an unquantised base model."""
    rows = [{"text": f"{text} {n}", "label": label} for n in range(3) for text, label in (("a", "no"), ("b", "yes"))]
    given = {
        "model": {"base_model": str(tiny_model_dir), "quantization": "none"},
        "training": {"max_steps": 3, "learning_rate": 0.05, "eval_strategy": "no"},
    }
    folder = tmp_path_factory.mktemp("merged") / "run"
    train(rows, settings=given, output_dir=folder, reporter=Reporter(quiet=True))
    return folder


def test_a_classifier_merges_unless_asked(run: Path, tiny_model_dir: Path) -> None:
    checkpoint = tiny_model_dir / "model.safetensors"
    digest = sha256_of(checkpoint)
    one, apart = Classifier.load(run), Classifier.load(run, merge=False)
    assert isinstance(apart._model, PeftModel) and not isinstance(one._model, PeftModel)
    assert isinstance(Classifier.load(run, quantization="4bit")._model, PeftModel)
    assert one.predict(TEXTS) == apart.predict(TEXTS)
    after = apart.predict_proba(TEXTS)
    np.testing.assert_allclose(np.log(one.predict_proba(TEXTS)), np.log(after), atol=2e-5)
    with one.untrained() as base, apart.untrained() as shared:
        assert base.run is one.run and shared._model is not apart._model
        before = shared.predict_proba(TEXTS)
        np.testing.assert_allclose(base.predict_proba(TEXTS), before, atol=1e-6)
    assert abs(before - after).max() > 1e-3
    np.testing.assert_array_equal(apart.predict_proba(TEXTS), after)
    assert sha256_of(checkpoint) == digest, "the checkpoint on disk is not written to"
