"""Names the plugin that is at fault: which one, of which package, in which file and line, and how to do without it.

    with blaming("triage", "register_prompt_templates", function):
        things = function()
    chosen = ask(reader, "reads", spec, gives=bool)

A plugin is a stranger's code. What it raises, and what it returns that is not what its contract says, becomes one
sentence here. llmcls's own adapters and readers are not looked after: an error of theirs is a fault of llmcls.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmcls.errors import LlmclsError
from llmcls.plugin.manager import BUILT_INS, DISABLE_VARIABLE, load_plugins, origin_of
from llmcls.plugin.raised import OWN, last_line


@contextmanager
def blaming(plugin: str, hook: str, code: object = None) -> Iterator[None]:
    """Turn whatever a plugin's hook raises into one sentence that names it.

    Args:
        plugin: the plugin's name.
        hook: what is called.
        code: the function that is called, or an instance of a plugin's class: its file is the one of interest.

    Raises:
        LlmclsError: for all that it raises.
    """
    try:
        yield
    except LlmclsError as error:
        if not is_foreign(code) or DISABLE_VARIABLE in str(error):  # which says it all
            raise
        raise LlmclsError(f"{named(plugin)}, {hook}(): {error} {remedy(plugin)}") from error
    except Exception as error:  # a stranger's code may raise anything
        raise LlmclsError(failure(plugin, f"{hook}()", error, code)) from error


def ask(thing: Any, method: str, *arguments: Any, gives: type | tuple[type, ...]) -> Any:
    """Call a method of what a plugin has registered, and see that it gives what the contract says.

    Args:
        thing: an adapter or reader; one of llmcls's own is simply called.
        method: the name of the method.
        arguments: for it.
        gives: the type that it must return.

    Raises:
        LlmclsError: that names the plugin; and the one that the plugin itself raises, as it is.
    """
    if not is_foreign(thing):
        return getattr(thing, method)(*arguments)
    what, plugin = f"{type(thing).__name__}.{method}()", owner_of(thing)
    try:
        result = getattr(thing, method)(*arguments)
    except LlmclsError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise LlmclsError(failure(plugin, what, error, thing)) from error
    if not isinstance(result, gives):
        raise wrong_result(thing, method, result, gives)
    return result


def wrong_result(thing: Any, method: str, result: object, gives: type | tuple[type, ...]) -> LlmclsError:
    """The error for what a method of a plugin returns against its contract."""
    wanted = " or ".join(kind.__name__ for kind in (gives if isinstance(gives, tuple) else (gives,)))
    plugin = owner_of(thing)
    return LlmclsError(
        f"{named(plugin)}: {type(thing).__name__}.{method}() returns {result!r:.100} ({type(result).__name__}), not a "
        f"{wanted} ({place_of(getattr(type(thing), method, type(thing)))}). {remedy(plugin)}"
    )


def failure(plugin: str | None, what: str, error: BaseException, code: object = None) -> str:
    """What is said of an exception that came out of a plugin."""
    said = " ".join(str(error).split())[:300].rstrip(".")
    module = (code.__module__ if inspect.isroutine(code) else type(code).__module__) if code is not None else ""
    where = last_line(error, getattr(sys.modules.get(module), "__file__", None))
    return f"{named(plugin)} fails in {what}: {type(error).__name__}: {said}{where}. {remedy(plugin)}"


def plugin_at_fault(error: BaseException) -> str | None:
    """What is said of an exception where, of llmcls and all plugins, a plugin's code was the last to run; else None."""
    files = _files()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        for name, place in files.items():
            if file == place or place in file.parents:
                said = " ".join(str(error).split())[:300].rstrip(".")
                where = f"{frame.filename}, line {frame.lineno}, {frame.name}"
                return f"{named(name)} fails: {type(error).__name__}: {said} ({where}). {remedy(name)}"
        if OWN in file.parents:
            return None
    return None


def named(plugin: str | None) -> str:
    """A plugin with its package: `Plugin 'triage' of my-templates 1.0`."""
    if plugin is None:
        return "A plugin"
    origin = origin_of(plugin)
    return f"Plugin '{plugin}'{f' of {origin}' if origin else ''}"


def remedy(plugin: str | None) -> str:
    """How to do without a plugin."""
    return f"Repair or uninstall it, or set {DISABLE_VARIABLE}={plugin or 'NAME'}."


def place_of(code: Any) -> str:
    """The file and line of a function or class, as far as that is known."""
    code = inspect.unwrap(code) if callable(code) else code
    try:
        file, (_, line) = inspect.getsourcefile(code), inspect.getsourcelines(code)
    except (TypeError, OSError):
        return "no source"
    return f"{file}, line {max(1, line)}"


def owner_of(thing: object) -> str | None:
    """The name of the plugin whose code a thing is, by the module of its class; None for what no plugin brought."""
    module = type(thing).__module__
    plugins = {name: _module_of(plugin) for name, plugin in load_plugins().list_name_plugin() if plugin is not None}
    exact = [name for name, own in plugins.items() if own == module]
    beside = [name for name, own in plugins.items() if own.partition(".")[0] == module.partition(".")[0]]
    return next(iter(exact + beside), None)


def is_foreign(code: object) -> bool:
    """Whether a function, or the class of an instance, is none of llmcls's own."""
    module = code.__module__ if inspect.isroutine(code) else type(code).__module__
    return code is not None and module.partition(".")[0] != __name__.partition(".")[0]


def _module_of(plugin: object) -> str:
    return getattr(plugin, "__name__", None) or type(plugin).__module__


def _files() -> dict[str, Path]:
    """The file, or the folder of the whole package, of each plugin that is not llmcls's own."""
    found = {}
    for name, plugin in load_plugins().list_name_plugin():
        module = "" if plugin is None else _module_of(plugin)
        for part in (module.partition(".")[0], module):
            file = getattr(sys.modules.get(part), "__file__", None)
            if file and module not in BUILT_INS:
                place = Path(file).resolve()
                found[name] = place.parent if place.name == "__init__.py" else place
                break
    return found
