"""LoRA weights where nothing is trained any more: merged into the weights they change, or left out.

model = merged(model)              # PEFT's model to a plain one, where that gives the same labels
base = without_lora(model)         # as it was without them, sharing all other weights; `model` stays as it is
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

from llmcls.model.wrapped import is_adapted, is_replaced, is_wrapped

if TYPE_CHECKING:
    from peft import PeftModel


def merged(model: Any) -> Any:
    """The same model with its LoRA weights added to the weights they change, which costs a text nothing any more.

    The sum is computed in float32 and rounded once to what the weights are stored in. In float32, log-probabilities
    change by some 1e-5; in bfloat16 by as much as bfloat16 itself changes them. The base weights are overwritten, one
    layer after the other, so that memory does not double.

    It is the model as it was where a sum would not be the same: weights that are quantised, or shared by several
    modules (an output layer tied to the embeddings, of which LoRA may change one only), and DoRA in less than float32,
    whose norms PEFT would round.
    """
    if not is_wrapped(model) or not _mergeable(model):
        return model
    return model.merge_and_unload()


def _mergeable(model: PeftModel) -> bool:
    import torch
    from peft.tuners.lora import LoraLayer

    modules = list(model.modules())
    owners = Counter(id(weight) for module in modules for weight in module._parameters.values())
    for layer in (module for module in modules if is_adapted(module)):
        stacked = getattr(layer, "parameter_name", "weight")  # of experts
        weight = getattr(layer.get_base_layer(), stacked, None)
        if not isinstance(layer, LoraLayer) or type(weight) is not torch.nn.Parameter or owners[id(weight)] > 1:
            return False
        if layer.lora_variant and weight.dtype != torch.float32:
            return False
        if any(other.dtype != torch.float32 for name, other in layer.named_parameters() if "lora_" in name):
            return False
    return True


def can_leave_lora_out(model: Any) -> bool:
    """Whether the base model is still there: LoRA weights are kept apart, and no bias was trained (`lora.bias`)."""
    return is_wrapped(model) and all(config.bias == "none" for config in model.peft_config.values())


def without_lora(model: PeftModel) -> Any:
    """The base model of a model with LoRA weights: its own modules around the very same weights.

    Nothing is copied but the modules that hold others, and nothing is switched: the model itself can go on predicting,
    in other threads, too. (`disable_adapter` would switch it off for all of them.) A classification head that was
    trained is the one that training began with. Biases that were trained stay trained (`lora.bias`).
    """
    return _twin(model.get_base_model(), {})


def _twin(module: Any, made: dict[int, Any]) -> Any:
    """The module where nothing below it is LoRA's, else a copy that shares its weights and holds what LoRA stands for.

    Args:
        module: any module.
        made: what has been made of each module, by its id: some stand in several places.
    """
    if id(module) in made:
        return made[id(module)]
    found = module
    if is_adapted(module):
        found = module.get_base_layer()
        if hasattr(module, "parameter_name"):  # experts, into which PEFT writes within every forward of its own
            found = copy.copy(found)
            found._parameters = dict(found._parameters)
    elif is_replaced(module):
        found = module.original_module
    children = {name: child and _twin(child, made) for name, child in found._modules.items()}
    if any(child is not found._modules[name] for name, child in children.items()):
        found = copy.copy(found)
        found._modules = children
        if hasattr(found, "_hf_hook"):
            # accelerate's hook has replaced `forward` by one that is bound to the module that was copied. Where all
            # weights are on one device it has nothing to do but to move inputs there, where the engine puts them.
            for name in ("_hf_hook", "_old_forward", "forward"):
                found.__dict__.pop(name, None)
    made[id(module)] = found
    return found
