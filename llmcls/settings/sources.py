"""Settings from YAML files, `key=value` assignments and mappings, with every problem in one message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmcls.errors import LlmclsError, several
from llmcls.files import read_text
from llmcls.settings.schema import Settings, fields
from llmcls.settings.written import read_tree, read_value, route
from llmcls.settings.yaml_text import LONGEST_YAML

LONGEST_SHOWN = 300
"""Characters of a wrong value that a message shows."""


def load_settings(
    files: Iterable[str | Path] = (), assignments: Iterable[str] = (), options: Mapping[str, Any] | None = None
) -> Settings:
    """Merge YAML files, `dotted.key=value` assignments and `{dotted.key: value}` options, later ones winning.

    Raises:
        LlmclsError: with every unknown key, wrong type and impossible combination in one message.
    """
    return make_settings(merge_settings(files, assignments, options))


def merge_settings(
    files: Iterable[str | Path] = (), assignments: Iterable[str] = (), options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """As `load_settings`, but the nested values as given, unchecked.

    Raises:
        LlmclsError: for a file that cannot be read, or an assignment that is not one.
    """
    merged: dict[str, Any] = {}
    for path in files:
        _merge(merged, _read_yaml(Path(path)))
    for assignment in assignments:
        _merge(merged, _parse_assignment(assignment))
    for key, value in (options or {}).items():
        _merge(merged, nest(key, value))
    return merged


def change_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The same settings with some values of a nested mapping changed; None leaves one as it is.

    Raises:
        LlmclsError: for unknown settings, wrong types, and settings that contradict each other.
    """
    changed = settings.model_dump()
    _merge(changed, _without_none(changes))
    return make_settings(changed)


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Check a nested mapping of settings.

    Raises:
        LlmclsError: with all problems in one message.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise LlmclsError(several([_explain(detail) for detail in error.errors()], "Settings")) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = read_tree(read_text(path, "Settings file", LONGEST_YAML), f"Settings file '{path}'")
    except yaml.YAMLError as error:
        raise LlmclsError(f"Settings file '{path}' is no valid YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise LlmclsError(f"Settings file '{path}' must hold sections such as 'training:', not {loaded!r:.200}.")
    return loaded


def _parse_assignment(assignment: str) -> dict[str, Any]:
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise LlmclsError(f"'{assignment}' is no assignment; write it as training.max_steps=100.")
    path = route(key.strip())
    return nest(path, read_value(value, path, f"--set {assignment.strip()}"))


def nest(key: str | Sequence[str], value: Any) -> dict[str, Any]:
    """`nest("lora.r", 8)` and `nest(["lora", "r"], 8)` are `{"lora": {"r": 8}}`."""
    for part in reversed(key.split(".") if isinstance(key, str) else key):
        value = {part: value}
    return dict(value)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(detail: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return unknown_setting(path)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{path}: {message}" if path else str(message)
    return f"{path} = {_shown(detail['input'])}: {message[0].lower()}{message[1:]}"


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]} ..."


def unknown_setting(name: str) -> str:
    """Say that a setting does not exist, with the closest one."""
    known = [key for key, _ in fields()]
    leaves = {key.rpartition(".")[2]: key for key in known}
    sections = list(Settings.model_fields)
    if name in known:  # the key of a mapping was the dotted name
        section, _, leaf = name.rpartition(".")
        return f"'{name}' is a setting in a section; write it as {{'{section}': {{'{leaf}': ...}}}}"
    close = (
        difflib.get_close_matches(name, [*known, *sections], n=1, cutoff=0.75)
        or [leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.75)]
        or difflib.get_close_matches(name, sections, n=1)
    )
    hint = f"did you mean '{close[0]}'?" if close else "`llmcls config init` prints all."
    return f"there is no setting '{name}'; {hint}"
