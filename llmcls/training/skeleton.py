"""A model's shape without its weights: built on torch's meta device, from its configuration alone.

shape, packed = measure_shape(assembly)  # layers, widths, parameters, how many are trained; whether rows are packed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llmcls.engine.attention import supports_packing
from llmcls.model.loading_errors import clear_errors
from llmcls.model.lora_targets import suit_targets
from llmcls.model.wrapped import import_quickly
from llmcls.training.footprint import Shape

if TYPE_CHECKING:
    from llmcls.runs.assembly import Assembly


def measure_shape(assembly: Assembly) -> tuple[Shape, bool]:
    """The shape of the model that is to be trained, and whether it will be trained on packed rows.

    Raises:
        LlmclsError: when the architecture has no classification head, or LoRA does not fit the model.
    """
    import_quickly()  # before PEFT does it slowly
    from llmcls.training.configuration import clear_target_errors, make_lora_config

    settings = assembly.settings
    model = _build(assembly)
    # Built with torch's own attention, whatever is asked for: another kind may need a GPU, or a package.
    packed = settings.training.packing and settings.model.attn_implementation == "sdpa" and not supports_packing(model)
    weights = {id(weight): weight for weight in model.parameters()}
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    inner = [module for module in linear if module is not model.get_output_embeddings() and module is not _head(model)]
    outputs, hidden = model.get_input_embeddings().weight.shape
    config = model.config.get_text_config(decoder=True)
    heads = _number(config, "num_attention_heads", 1)
    dimensions = {
        "weights": sum(weight.numel() for weight in weights.values()),
        "quantizable": sum(module.weight.numel() for module in inner),
        "layers": _number(config, "num_hidden_layers", 1),
        "hidden": hidden,
        "attention": heads * _number(config, "head_dim", hidden // heads),
        "intermediate": _number(config, "intermediate_size", 4 * hidden),
        "outputs": len(assembly.encoder.labels) if assembly.head else outputs,
    }
    if settings.training.tuning == "full":
        return Shape(trained=dimensions["weights"], **dimensions), packed
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    lora = make_lora_config(settings, assembly.base.adapter, model)
    with torch.device("meta"), clear_target_errors(settings.lora):
        suit_targets(lora, model)
        model = get_peft_model(model, lora)
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return Shape(
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        ranks=sum(rank for module in adapted for rank in module.r.values()),
        adapted=sum(getattr(module, "in_features", None) or 0 for module in adapted),
        **dimensions,
    ), packed


def _build(assembly: Assembly) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmcls.model.head import head_class

    base = assembly.base
    with clear_errors(base.checkpoint), torch.device("meta"):
        config = AutoConfig.from_pretrained(base.checkpoint, **base.hub_arguments)
        if assembly.head is None:
            # Code that a checkpoint brings is that of its revision, not of what its repository has become.
            brought = base.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
            revision = {"code_revision": base.revision} if brought and base.revision else {}
            return AutoModelForCausalLM.from_config(config, trust_remote_code=base.trust_remote_code, **revision)
        for name, value in assembly.head.write_into(config).items():
            if name != "config":
                setattr(config, name, value)
        return head_class(config)._from_config(config)


def _number(config: Any, name: str, usual: int) -> int:
    """A number of the configuration, the largest where each layer has its own; `usual` where the family has none."""
    value = getattr(config, name, None)
    value = max(value, default=None) if isinstance(value, (list, tuple)) else value
    return value if isinstance(value, int) and value > 0 else usual


def _head(model: Any) -> Any:
    """The classification head; None where there is none."""
    return getattr(model, "score", None)
