"""Which modules of a model get LoRA weights: every name that is asked for must be one that LoRA can change.

    choose_targets(model, ("q_proj", "v_proj"))       # ['q_proj', 'v_proj']
    choose_targets(model, ("q_proj", "v_porj"))       # LlmclsError: PEFT alone would train q_proj and say nothing

PEFT takes a name that is the whole of a module's path, or its end behind a dot, and leaves out names that fit nothing.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llmcls.errors import LlmclsError, shorten

if TYPE_CHECKING:
    from peft import LoraConfig

ALL_LINEAR: Literal["all-linear"] = "all-linear"
"""What PEFT and llmcls call all linear layers but the output layer."""

# As PEFT has it (`peft.tuners.tuners_utils`): the kernels of these models read such weights past the module. PEFT takes
# dt_proj, but LoRA weights of it never get a gradient.
_MAMBA = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
_NOT_IN_MAMBA = {"out_proj", "conv1d", "dt_proj"}


def choose_targets(
    model: Any, wanted: Literal["all-linear"] | Sequence[str], whose: str = "lora.target_modules"
) -> Literal["all-linear"] | list[str]:
    """The target modules as PEFT is to be given them.

    Args:
        model: the base model, loaded.
        wanted: `all-linear`, or names of modules.
        whose: who asks for them, for messages.

    Returns:
        What is wanted; for Mamba models `all-linear` is the list of those that LoRA can change.

    Raises:
        LlmclsError: for names that are not those of a module, or of one that LoRA cannot change; all of them are named.
    """
    barred = _NOT_IN_MAMBA if getattr(model.config, "model_type", None) in _MAMBA else set()
    if isinstance(wanted, str):
        usable = _usable(model, barred)
        if not usable:
            raise LlmclsError(
                f"{whose} is {wanted!r}, but this {type(model).__name__} has no layer that LoRA can change; set "
                "training.tuning=full."
            )
        return sorted(usable) if barred else ALL_LINEAR
    problems = [problem for name in wanted for problem in _problems(model, name, barred)]
    if problems:
        raise LlmclsError(
            f"{whose}: {'; '.join(problems)}. Choose among {shorten(sorted(_usable(model, barred)), 20)}, or set "
            f"lora.target_modules to '{ALL_LINEAR}' for all of these."
        )
    return list(wanted)


def stacked_weights(config: LoraConfig, model: Any, targets: list[str] | None = None) -> list[str]:
    """The stacked weights of experts that PEFT takes target modules for: by the names they had as linear layers.

    Args:
        config: a LoRA configuration, left as it is.
        model: the base model.
        targets: names to ask about instead of those of `config`.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    tried = copy.deepcopy(config)  # whose patterns are changed in place
    if targets is not None:
        tried.target_modules = set(targets)
    try:
        convert_peft_config_for_transformers(tried, model, None)
    except ValueError:  # one of two names that are one weight now
        return [] if targets is None else targets
    return sorted(tried.target_parameters or ())


def _problems(model: Any, name: str, barred: set[str]) -> Iterator[str]:
    from peft import LoraConfig

    if name and stacked_weights(LoraConfig(), model, [name]):
        return
    found = [module for path, module in model.named_modules() if path == name or path.endswith(f".{name}")]
    if not name or not found:
        names = {path.rpartition(".")[2] for path, _ in _adaptable(model)} - barred
        close = difflib.get_close_matches(name, sorted(names), n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        yield f"this {type(model).__name__} has no module '{name}'{hint}"
    elif name.rpartition(".")[2] in barred:
        kind = model.config.model_type
        yield f"LoRA cannot change '{name}' of a {kind} model, whose kernels read its weights directly"
    elif others := sorted({type(module).__name__ for module in found if not _is_adaptable(module)}):
        yield f"'{name}' is a {' or '.join(others)}, which LoRA cannot change"


def _usable(model: Any, barred: set[str]) -> set[str]:
    """The names of the linear layers, as `all-linear` takes them: without the output layer, or a head."""
    output = model.get_output_embeddings()
    return {
        name
        for path, module in _adaptable(model)
        if (name := path.rpartition(".")[2]) not in barred
        and module is not output
        and path != "score"
        and type(module).__name__ != "Embedding"
    }


def _adaptable(model: Any) -> Iterator[tuple[str, Any]]:
    return ((path, module) for path, module in model.named_modules() if path and _is_adaptable(module))


def _is_adaptable(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.MultiheadAttention, Conv1D)
    # Layers of weights that are stored quantised (GPTQ, AWQ ...) are classes of their packages, which PEFT knows.
    stored = not list(module.children()) and hasattr(module, "in_features") and hasattr(module, "out_features")
    return isinstance(module, kinds) or stored
