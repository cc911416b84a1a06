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
from llmcls.plugin.blame import blaming, named, place_of, remedy
from llmcls.plugin.manager import DISABLE_VARIABLE, load_plugins


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
        contract: the class that each of them must be an instance of.

    Raises:
        LlmclsError: when a hook fails, or returns no list of such instances; when two plugins register one name, of
            which both are named.
    """

    def __init__(self, manager: pluggy.PluginManager, hook: str, kind: str, contract: type[T] | None = None) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}
        self._owners: dict[str, str] = {}
        caller = getattr(manager.hook, hook)
        for implementation in caller.get_hookimpls():
            owner, function = implementation.plugin_name, implementation.function
            with blaming(owner, hook, function):
                things = function()
            where = f"({place_of(function)}). {remedy(owner)}"
            if not isinstance(things, list | tuple):
                raise LlmclsError(f"{hook}() of plugin '{owner}' must return a list, not {things!r:.100} {where}")
            for thing in cast("Sequence[T]", things):
                if problem := _problem(thing, contract):
                    raise LlmclsError(f"{named(owner)} registers {thing!r:.100} as a {kind}, {problem} {where}")
                if thing.name in self._things:
                    raise LlmclsError(
                        f"Two plugins register the {kind} '{thing.name}': "
                        f"{self._owners[thing.name]} and {owner}; rename one, or set {DISABLE_VARIABLE}={owner}."
                    )
                self._things[thing.name] = thing
                self._owners[thing.name] = owner

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


def _problem(thing: object, contract: type | None) -> str | None:
    """What keeps a thing from being registered, in the middle of a sentence."""
    if isinstance(thing, type):
        return f"which is a class; register an instance of it, {thing.__name__}()"
    if contract is not None and not isinstance(thing, contract):
        return f"which is not a {contract.__module__}.{contract.__name__}"
    if not isinstance(getattr(thing, "name", None), str):
        return "which has no name"
    return None


def hook_names() -> list[str]:
    """The names of all hooks, for `llmcls plugins`."""
    return sorted(name for name in dir(load_plugins().hook) if not name.startswith("_"))
