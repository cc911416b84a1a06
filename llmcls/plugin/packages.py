"""Which package brings what is not there: a name of a plugin that is not installed, or that is switched off.

raise LlmclsError(packaged("base model", "nano") or unknown("base model", "nano", names))
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from llmcls.plugin.manager import DISABLE_VARIABLE, load_plugins

# What the packages of this project bring. Each has a plugin of the name behind `llmcls-`.
_PACKAGES = {
    "base model": {
        "nano": "llmcls-nano",
        **dict.fromkeys(("smollm2", "smollm2-135m", "smollm2-360m", "smollm2-1.7b"), "llmcls-smollm2"),
    },
    "base-model adapter": {"nano": "llmcls-nano", "smollm2": "llmcls-smollm2"},
    "data set": {"demo:": "llmcls-nano"},
}


def packaged(kind: str, name: str) -> str | None:
    """What to do to have something that a package of this project brings; None for what none does.

        packaged("base model", "nano")
        # "The base model 'nano' comes with the package llmcls-nano, which is not installed; pip install llmcls-nano."

    Args:
        kind: `base model`, `base-model adapter` or `data set`.
        name: what is wanted.
    """
    package = _PACKAGES[kind].get(name)
    if package is None:
        return None
    state = _state({package.removeprefix("llmcls-"): package})
    return f"The {kind} '{name}' comes with the package {package}, which {state}"


def missing_plugins(known: Mapping[str, str]) -> str | None:
    """Which of the plugins that were there once are not now, and what to do; None where all are.

        missing_plugins({"nano": "llmcls-nano 0.1.0"})
        # "llmcls-nano 0.1.0, which is not installed; pip install llmcls-nano."

    Args:
        known: the package, with its version, of each plugin by the plugin's name.
    """
    manager = load_plugins()
    gone = {name: package for name, package in known.items() if package.strip() and not manager.has_plugin(name)}
    if not gone:
        return None
    return f"{' and '.join(dict.fromkeys(gone.values()))}, which {_state(gone)}"


def _state(plugins: Mapping[str, str]) -> str:
    """Whether plugins, given with their packages, are switched off or not installed, and what to do."""
    switched_off = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")}
    if off := [name for name in plugins if name in switched_off or "*" in switched_off]:
        return f"is switched off; take '{'*' if '*' in switched_off else off[0]}' out of {DISABLE_VARIABLE}."
    verb = "is" if len(plugins) == 1 else "are"
    return f"{verb} not installed; pip install {_names(list(plugins.values()))}."


def _names(packages: Sequence[str]) -> str:
    return " ".join(dict.fromkeys(package.split()[0] for package in packages))
