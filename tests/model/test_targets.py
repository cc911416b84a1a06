"""Which modules get LoRA weights: PEFT leaves out a name that fits nothing, which must not be silent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from llmcls.errors import LlmclsError
from llmcls.model.targets import choose_targets
from llmcls.settings import make_settings
from llmcls.training.configuration import clear_target_errors

SMALL: dict[str, Any] = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 2}


def llama() -> Any:
    config = LlamaConfig(**SMALL, intermediate_size=16, num_attention_heads=2, num_key_value_heads=2)
    return LlamaForCausalLM(config)


def mamba() -> Any:
    return MambaForCausalLM(MambaConfig(**SMALL, state_size=2))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=2))


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (llama, "all-linear"),
        (llama, ["q_proj", "v_proj"]),
        (llama, ["layers.0.mlp.up_proj", "self_attn.o_proj", "embed_tokens"]),
        (gpt2, ["c_attn"]),
        (gpt2, "all-linear"),
        (mamba, ["x_proj", "embeddings"]),
    ],
)
def test_what_peft_takes_is_left_as_it_is(build: Any, wanted: Any) -> None:
    model = build()
    assert choose_targets(model, wanted) == wanted
    get_peft_model(model, LoraConfig(target_modules=wanted))


@pytest.mark.parametrize(
    ("build", "wanted", "says"),
    [
        (llama, ["norm"], r"'norm' is a LlamaRMSNorm, which LoRA cannot change\. Choose among 'down_proj', "),
        (llama, ["q_proj", "v_porj"], r"no module 'v_porj' \(did you mean 'v_proj'\?\)\. Choose"),
        (
            llama,
            ["q_porj", "mlp", "nope"],
            r"no module 'q_porj' .*; 'mlp' is a LlamaMLP, .*; this .* no module 'nope'\.",
        ),
        (llama, ["proj"], "no module 'proj'"),
        (llama, ["model", ""], "'model' is a LlamaModel.* no module ''"),
        (llama, ["Q_PROJ"], "no module 'Q_PROJ'"),
        (gpt2, ["q_proj"], r"GPT2LMHeadModel has no module 'q_proj'.*'c_attn'"),
        (
            mamba,
            ["out_proj", "conv1d"],
            r"LoRA cannot change 'out_proj' of a mamba model.*; LoRA cannot change 'conv1d'",
        ),
        (mamba, ["q_proj"], r"no module 'q_proj'.* Choose among 'in_proj', 'x_proj', or"),
    ],
)
def test_every_name_is_one_that_lora_can_change(build: Any, wanted: list[str], says: str) -> None:
    with pytest.raises(LlmclsError, match=says) as refused:
        choose_targets(build(), wanted)
    assert str(refused.value).startswith("lora.target_modules: ") and "\n" not in str(refused.value)


def test_all_linear_layers_of_mamba_are_those_that_lora_can_change() -> None:
    model = mamba()
    targets = choose_targets(model, "all-linear")
    assert targets == ["in_proj", "x_proj"]
    adapted = get_peft_model(model, LoraConfig(target_modules=targets))
    adapted(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()
    learnt = {
        name.split(".lora_")[0].rpartition(".")[2] for name, p in adapted.named_parameters() if p.grad is not None
    }
    assert learnt == set(targets)


def test_a_model_without_linear_layers_is_told() -> None:
    model = llama()
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(
        LlmclsError, match=r"'all-linear', but this LlamaForCausalLM has no layer.*training\.tuning=full"
    ):
        choose_targets(model, "all-linear")


def test_an_adapter_s_choice_is_blamed_on_the_adapter() -> None:
    with pytest.raises(
        LlmclsError, match=r"^the modules of adapter 'x': this .* no module 'a'.*set lora\.target_modules to"
    ):
        choose_targets(llama(), ["a"], "the modules of adapter 'x'")


def test_what_peft_alone_refuses_names_a_way_out_that_is_another_one() -> None:
    for wanted, remedy in ((["q_proj"], r"Set it to 'all-linear', or"), ("all-linear", "Name other modules in it, or")):
        lora = make_settings({"lora": {"target_modules": wanted}}).lora
        with pytest.raises(LlmclsError, match=remedy), clear_target_errors(lora):
            raise ValueError("Target module X() is not supported.")
    with pytest.raises(ValueError, match=r"^other$"), clear_target_errors(lora):
        raise ValueError("other")
