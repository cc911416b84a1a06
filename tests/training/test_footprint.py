"""The formula of memory against what autograd, optimizers and the system count."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from llmcls.engine.attention import attention_mask
from llmcls.testing import build_tiny_model, build_tiny_tokenizer
from llmcls.training.footprint import (
    KEPT_BY_ALLOCATOR,
    OPTIMIZER_BYTES,
    Held,
    Load,
    Shape,
    estimate,
    optimizer_bytes,
)
from llmcls.training.names import OPTIMIZERS

SHAPES = {
    "narrow": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    "wide": {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 2},
}


def build(name: str, full: bool, dropout: float) -> Any:
    config = LlamaConfig(vocab_size=300, num_key_value_heads=2, **SHAPES[name])
    model: Any = LlamaForCausalLM(config)
    if full:
        return model.train()
    lora = LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora).train()


def shape_of(model: Any) -> Shape:
    config = model.config
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    inner = sum(weight.numel() for name, weight in model.named_parameters() if "lora" not in name)
    return Shape(
        weights=inner,
        quantizable=0,
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        attention=config.hidden_size,
        intermediate=config.intermediate_size,
        outputs=config.vocab_size,
        ranks=4 * len(adapted),
        adapted=sum(module.in_features for module in adapted),
    )


def kept_bytes(model: Any, tokens: int) -> tuple[int, torch.Tensor]:
    """What autograd keeps of a forward pass, weights aside, and its logits."""
    weights = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    enter = torch.arange(tokens)
    mask = attention_mask(enter, enter, torch.full_like(enter, tokens))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(
            input_ids=enter[None] % 300, position_ids=enter[None], attention_mask=mask, use_cache=False,
            logits_to_keep=torch.tensor([tokens - 1]),
        ).logits  # fmt: skip
    return sum(kept.values()), logits


@pytest.mark.parametrize(("full", "dropout"), [(False, 0.0), (False, 0.1), (True, 0.0)])
@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_what_autograd_keeps(name: str, full: bool, dropout: float) -> None:
    model = build(name, full, dropout)
    held = Held("cpu", "none", 4, 4, full=full, dropout=dropout > 0)
    found = estimate(shape_of(model), Load(256, 256 * 256, 1), held).activations / KEPT_BY_ALLOCATOR["cpu"]
    assert found == pytest.approx(kept_bytes(model, 256)[0], rel=0.08)


@pytest.mark.parametrize("full", [False, True])
def test_weights_gradients_and_optimizer_are_those_of_torch(full: bool) -> None:
    model = build("narrow", full, 0.0)
    found = estimate(shape_of(model), Load(8, 64, 1), Held("cpu", "none", 4, 4, full=full))
    optimizer = torch.optim.AdamW(weight for weight in model.parameters() if weight.requires_grad)
    kept_bytes(model, 8)[1].sum().backward()
    optimizer.step()
    gradients = sum(weight.grad.nbytes for weight in model.parameters() if weight.grad is not None)
    state = sum(value.nbytes for each in optimizer.state.values() for value in each.values() if value.ndim)
    assert found.weights == sum(weight.nbytes for weight in model.parameters())
    assert (found.gradients, found.optimizer) == (gradients, state)


def test_what_each_choice_saves_or_costs() -> None:
    shape = Shape(10_000, 8_000, 500, 4, 64, 64, 128, 1000, ranks=100, adapted=2048)
    load = Load(256, 256 * 256, 8, row_tokens=10_000)

    def parts(**changed: Any) -> dict[str, float]:
        held = {"device": "cuda", "quantization": "none", "weight_bytes": 2, "compute_bytes": 2} | changed
        return estimate(shape, load, Held(**held)).parts

    usual = parts()
    assert usual["program"] == usual["rows"] == 0 and parts(device="cpu", resident=10**9)["program"] > 10**9
    assert parts(quantization="4bit")["weights"] < parts(quantization="8bit")["weights"] < usual["weights"]
    assert parts(checkpointing=True)["activations"] < usual["activations"] / 2
    assert parts(dropout=True)["activations"] > usual["activations"]
    assert parts(compute_bytes=4)["activations"] > usual["activations"]
    assert parts(optim="adamw_bnb_8bit")["optimizer"] == usual["optimizer"] / 4
    four = {backend: parts(processes=4, backend=backend) for backend in ("ddp", "zero1", "zero2", "zero3", "fsdp")}
    assert four["ddp"]["gradients"] == 2 * usual["gradients"] and four["ddp"]["optimizer"] == usual["optimizer"]
    assert four["zero1"]["optimizer"] == usual["optimizer"] / 4 and four["zero1"]["weights"] == usual["weights"]
    assert four["zero2"]["gradients"] == usual["gradients"] / 4 and four["zero2"]["weights"] == usual["weights"]
    assert four["zero3"] == four["fsdp"] and four["fsdp"]["weights"] == usual["weights"] / 4


def test_optimizers_are_known_by_how_they_begin() -> None:
    wanted = {"adamw_torch_fused": 8, "adamw_8bit": 2, "adamw_torch_4bit": 1, "lion_32bit": 4, "paged_lion_8bit": 1}
    assert {name: optimizer_bytes(name) for name in wanted} == wanted
    assert all(any(key in name for name in OPTIMIZERS) for key in OPTIMIZER_BYTES)


@pytest.mark.slow
def test_the_estimate_is_near_what_the_process_takes(tmp_path: Path) -> None:
    tokenizer = build_tiny_tokenizer()
    base = build_tiny_model(tmp_path / "base", tokenizer)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    wide = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "head_dim": 64}
    LlamaForCausalLM(LlamaConfig(**{**config, **wide, "initializer_range": 0.02})).save_pretrained(base)
    rows = [f"{'a text of many letters ' * 9}{n},{'ab'[n % 2]}" for n in range(24)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "llmcls", "train", "rows.csv", "--base-model", str(base), "--output-dir", "run"]
    checkout = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*command, "--quantization", "none", "--max-steps", "2", "--set", "training.pack_tokens=1500"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": checkout},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = re.search(r"Memory +about ([0-9.]+)", done.stderr)
    taken = re.search(r"at most ([0-9.]+) GB of the process", done.stderr)
    assert said and taken, done.stderr
    assert float(said[1]) == pytest.approx(float(taken[1]), rel=0.25)
