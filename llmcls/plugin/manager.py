"""Loads plugins: the built-ins first, then every installed package with an `llmcls` entry point.

    manager = load_plugins()
    manager.hook.register_base_models()

`LLMCLS_DISABLE_PLUGINS=name,other` leaves plugins out; `LLMCLS_DISABLE_PLUGINS=*` leaves only the built-ins.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, version

import pluggy

from llmcls.errors import LlmclsError, unknown
from llmcls.plugin import hookspecs
from llmcls.plugin.raised import last_line

BUILT_INS = (
    "llmcls.default_plugins.base_models",
    "llmcls.default_plugins.prompt_templates",
    "llmcls.default_plugins.dataset_readers",
)
DISABLE_VARIABLE = "LLMCLS_DISABLE_PLUGINS"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What `llmcls plugins` says of one plugin; distribution and version are "" for one registered by a test."""

    name: str
    distribution: str
    version: str
    module: str
    hooks: tuple[str, ...]


def new_manager() -> pluggy.PluginManager:
    """A manager that knows the hooks and holds no plugin; what tests start from."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


@cache
def load_plugins() -> pluggy.PluginManager:
    """The process-wide manager with the built-ins and all enabled installed plugins.

    Raises:
        LlmclsError: when a plugin does not import, two plugins share a name, a plugin implements a hook
            that does not exist, or a name to disable is unknown.
    """
    manager = new_manager()
    for name, module in _built_ins().items():
        manager.register(importlib.import_module(module), name=name)
    points = _entry_points()
    disabled = _disabled([point.name for point, _ in points])
    owners = dict.fromkeys(_built_ins(), "llmcls itself")
    for point, dist in points:
        if point.name in disabled or "*" in disabled:
            continue
        origin = f"{dist.metadata['Name']} {dist.version}"
        if point.name in owners:
            raise LlmclsError(
                f"Two plugins are called '{point.name}': those of {owners[point.name]} and {origin}; "
                "uninstall one, or rename its entry point."
            )
        owners[point.name] = origin
        _register(manager, point, origin)
    check_hooks(manager)
    return manager


def check_hooks(manager: pluggy.PluginManager) -> None:
    """Refuse a plugin whose hook name or arguments match no specification.

    Raises:
        LlmclsError: naming the plugin and what is wrong.
    """
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = ", ".join(sorted(name for name, caller in vars(manager.hook).items() if caller.has_spec()))
        raise LlmclsError(
            f"Plugin '{manager.get_name(error.plugin)}' implements a hook that llmcls does not have: {error}. "
            f"Hooks: {hooks}."
        ) from error


def origin_of(plugin: str) -> str:
    """The package, with its version, that brings an installed plugin: `my-templates 1.0`; "" where none does."""
    return next(
        (f"{dist.metadata['Name']} {dist.version}" for point, dist in _entry_points() if point.name == plugin), ""
    )


def describe_plugins(manager: pluggy.PluginManager) -> list[PluginInfo]:
    """One record per loaded plugin, in order of registration."""
    origins = {point.name: (dist.metadata["Name"], dist.version) for point, dist in _entry_points()}
    origins |= dict.fromkeys(_built_ins(), ("llmcls", version("llmcls")))
    infos = []
    for name, plugin in manager.list_name_plugin():
        if plugin is None:
            continue
        distribution, its_version = origins.get(name, ("", ""))
        module = getattr(plugin, "__name__", type(plugin).__module__)
        hooks = sorted(caller.name for caller in manager.get_hookcallers(plugin) or [])
        infos.append(PluginInfo(name, distribution, its_version, module, tuple(hooks)))
    return infos


def _built_ins() -> dict[str, str]:
    return {module.rpartition(".")[2]: module for module in BUILT_INS}


def _entry_points() -> list[tuple[EntryPoint, Distribution]]:
    # A distribution can be found twice, in two places of the search path; the first one is what gets imported.
    first: dict[str, Distribution] = {}
    for dist in distributions():
        first.setdefault(re.sub(r"[-_.]+", "-", dist.metadata["Name"] or "").lower(), dist)
    return [(point, dist) for dist in first.values() for point in dist.entry_points if point.group == hookspecs.PROJECT]


def _disabled(known: list[str]) -> set[str]:
    names = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()}
    for name in names - {"*"}:
        if name not in known:
            raise LlmclsError(f"{DISABLE_VARIABLE}: {unknown('plugin', name, known)}")
    return names


def _register(manager: pluggy.PluginManager, point: EntryPoint, origin: str) -> None:
    try:
        plugin = point.load()
    except Exception as error:  # a stranger's module may raise anything at import
        raise LlmclsError(
            f"Plugin '{point.name}' of {origin} does not import: {type(error).__name__}: {error}{last_line(error)}. "
            f"Repair or uninstall it, or set {DISABLE_VARIABLE}={point.name}."
        ) from error
    try:
        manager.register(plugin, name=point.name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise LlmclsError(
            f"Plugin '{point.name}' of {origin} cannot be registered: {' '.join(str(error).split())}. "
            f"Repair or uninstall it, or set {DISABLE_VARIABLE}={point.name}."
        ) from error
