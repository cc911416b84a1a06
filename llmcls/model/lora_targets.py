"""What of a model LoRA adapts where "all linear layers" does not say it: mixtures of experts, images beside the text.

    config = make_lora_config(settings, adapter, model)
    for line in suit_targets(config, model):      # the configuration is changed to what PEFT can train of this model
        reporter.say(line)

The experts of a mixture are one stacked weight a layer, not linear layers. PEFT takes `all-linear` to mean them and the
router as well for some architectures and not for others. Here it means the linear layers that read the text, whatever
the architecture: every expert's update would be added up at every forward, in the size of the experts themselves, and
a router that shifts with a few hundred rows forgets what its experts are for. Whoever names the experts gets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError, shorten
from llmcls.model.mixtures import has_experts
from llmcls.model.targets import ALL_LINEAR, stacked_weights

if TYPE_CHECKING:
    from peft import LoraConfig

_ROUTERS = {"gate", "router"}  # names of modules; the gate of a shared expert is another thing
LEFT_OUT = (
    "LoRA adapts this model's linear layers; experts and router stay as they are (lora.target_modules can name experts)"
)


def suit_targets(config: LoraConfig, model: Any) -> list[str]:
    """Change a LoRA configuration, in place, to what PEFT can train of a model.

    Args:
        config: as the settings say, not used yet.
        model: the base model, not wrapped.

    Returns:
        What is worth saying of it, a sentence each.

    Raises:
        LlmclsError: for DoRA on the stacked weights of experts.
    """
    if config.target_modules == ALL_LINEAR:
        kept = _adaptable_layers(config, model)
        if kept and (kept != _linear_layers(model) or stacked_weights(config, model)):
            config.target_modules = kept
        return [LEFT_OUT] if has_experts(model) else []
    if not (stacked := stacked_weights(config, model)):
        return []
    if config.use_dora:
        raise LlmclsError(
            f"lora.use_dora cannot be used with lora.target_modules {sorted(config.target_modules)!r}: PEFT has no "
            f"DoRA for the stacked weights of experts ({shorten(stacked)}); leave one of the two settings out."
        )
    if not config.lora_dropout:
        return []
    dropout, config.lora_dropout = config.lora_dropout, 0.0
    return [
        f"lora.lora_dropout is 0 here instead of {dropout:g}: PEFT has no dropout for the stacked weights of experts "
        f"({shorten(stacked)}), which lora.target_modules names."
    ]


def _linear_layers(model: Any) -> list[str]:
    """The names of what PEFT takes for `all-linear`: not the output layer, nor a classification head."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    output = (model.get_output_embeddings(), getattr(model, "score", None))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (Linear, Conv1D)) and all(module is not other for other in output)
    ]


def _adaptable_layers(config: LoraConfig, model: Any) -> list[str]:
    """Of the linear layers those that read the text, are not a router, nor taken for experts by PEFT."""
    decoder, mixed = model.get_decoder(), has_experts(model)
    inside = {id(module) for module in decoder.modules()}
    kept = []
    for name in _linear_layers(model):
        module = model.get_submodule(name)
        routes = mixed and (_ROUTERS & set(name.split(".")) or "Router" in type(module).__name__)
        if id(module) in inside and not routes:
            kept.append(name)
    leaves = {name.rpartition(".")[2] for name in kept}
    stacked = {leaf for leaf in leaves if stacked_weights(config, model, [leaf])}
    return [name for name in kept if name.rpartition(".")[2] not in stacked]
