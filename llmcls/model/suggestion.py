"""What the base model's adapter suggests of training, put in where nobody has said otherwise.

    adapter = known_adapter(settings.model)                       # None where config.json has to be fetched first
    settings, chosen = suggest(settings, given_settings(settings), adapter)
    describe_chosen(settings, chosen, "nano", adapter)            # "Chosen for nano: training.tuning full, ..."

How weights are stored, which of them are trained and how fast go together: 4-bit LoRA, right for a model of a billion
parameters, teaches one of six million less than all of its weights do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

from llmcls.files import find_json
from llmcls.model.adapter import BaseModelAdapter, base_models
from llmcls.model.loading import choose_adapter, short_names
from llmcls.settings import LoraSettings, ModelSettings, Settings
from llmcls.settings.sections import Quantization

_FOUR_BIT = {name for name in ModelSettings.model_fields if name.startswith("bnb_4bit_")}


def suggest(
    settings: Settings,
    given: Mapping[str, Collection[str]],
    adapter: BaseModelAdapter,
    fixed: Collection[str] = (),
    stored: str | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """Settings with the adapter's suggestions for what was not given; each setting that was given stays.

    `lora.*` that are given ask for LoRA, `model.bnb_4bit_*` for 4 bits, and quantised weights for LoRA: a suggestion
    that leaves them without effect is not followed.

    Args:
        settings: as resolved.
        given: the settings of each section that were given, see `given_settings`.
        adapter: of the base model.
        fixed: dotted names of settings that stay although they were not given, such as those of a run to go on from.
        stored: how the checkpoint's weights are quantised in its files (`llmcls.model.stored`), where they are: they
            are held so, and LoRA is what can be trained of them.

    Returns:
        The settings, and what was chosen of them, by dotted name; the learning rate is chosen where it is null.
    """
    model, training = settings.model, settings.training
    chosen: dict[str, Any] = {}

    def is_free(name: str) -> bool:
        section, _, key = name.partition(".")
        return key not in given.get(section, ()) and name not in fixed

    tuning, quantization = training.tuning, model.quantization
    quantised = not is_free("model.quantization") and quantization != "none"
    if stored is not None:
        quantised = True
        if is_free("model.quantization") and stored in get_args(Quantization):
            settings = settings.model_copy(update={"model": settings.model.model_copy(update={"quantization": stored})})
    elif is_free("model.quantization"):
        quantised = _asks(model, _FOUR_BIT, given.get("model", ()))
        quantization = "4bit" if quantised else adapter.quantization
        chosen["model.quantization"] = quantization
    if is_free("training.tuning"):
        lora = quantised or _asks(settings.lora, set(LoraSettings.model_fields), given.get("lora", ()))
        tuning = "lora" if lora else adapter.tuning
        chosen = {"training.tuning": tuning, **chosen}
    if tuning == "full" and "model.quantization" in chosen:
        chosen["model.quantization"] = "none"
    if training.learning_rate is None:
        chosen["training.learning_rate"] = adapter.full_learning_rate if tuning == "full" else adapter.learning_rate
    for name, value in chosen.items():
        section, _, key = name.partition(".")
        changed = getattr(settings, section).model_copy(update={key: value})
        settings = settings.model_copy(update={section: changed})
    return settings, chosen


def describe_chosen(settings: Settings, chosen: Mapping[str, Any], name: str, adapter: BaseModelAdapter) -> str:
    """What was chosen and why, in a line; '' where nothing was.

    Args:
        settings, chosen: from `suggest`.
        name: what the user calls the base model.
        adapter: whose suggestions they are.
    """
    listed = ", ".join(f"{key} {value}" for key, value in chosen.items())
    # The adapter's reason is one for all that it suggests, not for what follows from what was given.
    as_suggested = (settings.training.tuning, settings.model.quantization) == (adapter.tuning, adapter.quantization)
    why = f" ({adapter.why_suggested})" if as_suggested and len(chosen) > 1 else ""
    return f"Chosen for {name}: {listed}{why}" if listed else ""


def known_adapter(settings: ModelSettings) -> BaseModelAdapter | None:
    """The adapter of `settings.base_model` as far as names and a folder's `config.json` tell; imports no library."""
    adapters = base_models()
    if settings.adapter:
        return next((known for name, known in adapters.items() if name == settings.adapter), None)
    if (named := short_names().get(settings.base_model)) is not None:
        return named[1]
    config = find_json(Path(settings.base_model) / "config.json")  # None: no folder here, or training will refuse it
    return choose_adapter(settings.base_model, config) if isinstance(config, dict) else None


def _asks(section: Any, names: Collection[str], given: Collection[str]) -> bool:
    """Whether settings were given that only mean something with what they belong to.

    A settings file as `llmcls config init` writes it has all of them at their defaults, which asks for nothing.
    """
    usual = type(section)()
    differ = any(getattr(section, name) != getattr(usual, name) for name in names)
    some = set(names) & set(given)
    return bool(some) and (differ or some != set(names))
