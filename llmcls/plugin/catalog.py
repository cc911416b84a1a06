"""Names to things: what the plugins registered, looked up by name; clashes and typos are loud.

Catalog(load_plugins(), "register_base_models", "base model")["nano"]

Each contract has the catalog of its kind beside it: `base_models()` in `llmcls.model.adapter`, `prompt_templates()` in
`llmcls.prompt.template`, `dataset_readers()` in `llmcls.data.reader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, cast

import pluggy

from llmcls.errors import LlmclsError, unknown
from llmcls.plugin.manager import blaming, load_plugins


class Named(Protocol):
    """Anything a plugin registers has a name."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


T = TypeVar("T", bound=Named)


class Catalog(Mapping[str, T], Generic[T]):
    """What all plugins registered through one hook, by name, in order of registration.

    Args:
        manager: the plugin manager to ask.
        hook: the hook's name, such as `register_base_models`.
        kind: what to call one of them in messages: "base model".

    Raises:
        LlmclsError: when two plugins register one name; both are named. When a hook returns no list.
    """

    def __init__(self, manager: pluggy.PluginManager, hook: str, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}
        self._owners: dict[str, str] = {}
        caller = getattr(manager.hook, hook)
        for implementation in caller.get_hookimpls():
            owner = implementation.plugin_name
            with blaming(owner, hook):
                things = implementation.function()
            if not isinstance(things, list | tuple):
                raise LlmclsError(
                    f"{hook}() of plugin '{implementation.plugin_name}' must return a list, not {things!r}."
                )
            for thing in cast("Sequence[T]", things):
                if not isinstance(getattr(thing, "name", None), str):
                    raise LlmclsError(
                        f"Plugin '{owner}' registers {thing!r:.100} as a {kind}, which has no name; repair or "
                        "uninstall it."
                    )
                if thing.name in self._things:
                    raise LlmclsError(
                        f"Two plugins register the {kind} '{thing.name}': "
                        f"{self._owners[thing.name]} and {implementation.plugin_name}; disable or rename one."
                    )
                self._things[thing.name] = thing
                self._owners[thing.name] = implementation.plugin_name

    def owner(self, name: str) -> str:
        """The name of the plugin that registered `name`."""
        return self._owners[name]

    def __getitem__(self, name: str) -> T:
        try:
            return self._things[name]
        except KeyError:
            raise LlmclsError(unknown(self.kind, name, self._things)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def hook_names() -> list[str]:
    """The names of all hooks, for `llmcls plugins`."""
    return sorted(name for name in dir(load_plugins().hook) if not name.startswith("_"))
