"""Settings that the adapter of the base model suggests where nobody gives them.

    leave_to_adapter({"training": {"tuning": None}})     # {"training": {}}: null is as good as nothing
    given_settings(settings)["training"]                 # {"max_steps"}: what was given of a section, by name

The base model is known only later, to `llmcls.model.suggestion`, which puts the suggestions in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

SUGGESTED = ("model.quantization", "training.tuning", "training.learning_rate")
"""They go together: what is right for one depends on the others."""
_NULL = tuple(name for name in SUGGESTED if name != "training.learning_rate")  # which may be null itself


def leave_to_adapter(values: Any) -> Any:
    """Settings as given, without those that are null to say: as the base model's adapter suggests.

    Who trains all weights can only mean weights that are not quantised: that follows where nothing is said of it.
    """
    if not isinstance(values, Mapping):
        return values
    left = dict(values)
    for name in _NULL:
        section, _, key = name.partition(".")
        if isinstance(given := left.get(section), Mapping) and key in given and given[key] is None:
            left[section] = {other: value for other, value in given.items() if other != key}
    model = left.get("model", {})
    if _value(left.get("training"), "tuning") == "full" and "quantization" not in _names(model):
        none = {"quantization": "none"}
        left["model"] = model.model_copy(update=none) if isinstance(model, BaseModel) else model
        if isinstance(model, Mapping):
            left["model"] = {**model, **none}
    return left


def given_settings(settings: BaseModel | Mapping[str, Any]) -> dict[str, set[str]]:
    """The settings of each section that were given, by name; those that are null to be left to the adapter are not."""
    sections: Any = settings if isinstance(settings, Mapping) else dict(settings)
    given = {name: _names(section) for name, section in sections.items() if isinstance(section, (Mapping, BaseModel))}
    for name in _NULL:
        section, _, key = name.partition(".")
        if _value(sections.get(section), key) is None:
            given.get(section, set()).discard(key)
    return given


def _names(section: Any) -> set[str]:
    """What is given in a section; of what is not one, nothing."""
    if isinstance(section, BaseModel):
        return set(section.model_fields_set)
    return set(section) if isinstance(section, Mapping) else set()


def _value(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)
