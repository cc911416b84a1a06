"""A model with LoRA weights as it was without them, sharing all other weights.

base = without_lora(model)         # `model`, which is PEFT's, stays as it is
"""

from __future__ import annotations

import copy
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper


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
    if isinstance(module, BaseTunerLayer):
        found = module.get_base_layer()
    elif isinstance(module, AuxiliaryTrainingWrapper):
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
