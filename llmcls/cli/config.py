"""`llmcls config`: the settings, resolved, as a schema, or as a commented starter file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from llmcls.cli.places import writes_through
from llmcls.cli.shared import echo, echo_data, gather_settings, settings_options, show_json
from llmcls.errors import LlmclsError
from llmcls.settings import SUGGESTED, Section, Settings, given_settings
from llmcls.settings.task import OneOf, dependent

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


@click.group("config", short_help="Show settings, and start files of them.")
def command() -> None:
    """Show settings, and start files of them."""


@command.command("show")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def show(files: tuple[str, ...], assignments: tuple[str, ...], as_json: bool) -> None:
    """Print the settings that --config and --set resolve to.

    What the base model suggests stands in place of what is not given, and a comment says so.
    """
    import yaml

    from llmcls.model.suggestion import describe_chosen, known_adapter, suggest

    settings, note = gather_settings(files, assignments), ""
    if (adapter := known_adapter(settings.model)) is not None:
        settings, chosen = suggest(settings, given_settings(settings), adapter)
        note = describe_chosen(settings, chosen, settings.model.base_model, adapter)
    resolved = settings.model_dump(mode="json")
    if as_json:
        show_json(resolved)
    else:
        comment = f"# {' '.join(note.split())}\n" if note else ""
        echo_data(comment + yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).rstrip() + "\n")


@command.command("schema")
def schema() -> None:
    """Print the JSON schema of the settings, for editors."""
    show_json(Settings.model_json_schema())


@command.command("init", short_help="Write a commented file with all settings.")
@click.argument("path", required=False)
def init(path: str | None) -> None:
    """Write a commented settings file with all defaults to PATH, or print it."""
    if path is None:
        echo_data(starter_file().rstrip() + "\n")
        return
    if Path(path).exists() and not writes_through(Path(path)):
        raise LlmclsError(f"'{path}' exists already; choose another name, or delete it.")
    try:
        Path(path).write_text(starter_file(), encoding="utf-8")
    except OSError as error:
        raise LlmclsError(f"'{path}' cannot be written: {error.strerror}.") from error
    echo(f"Written to {path}. Use it with: llmcls train --config {path}")


def starter_file() -> str:
    """A YAML file with every setting at its default, commented with what it means."""
    lines = ["# Settings of llmcls. Every line is a default; keep what you change and delete the rest."]
    defaults = Settings().model_dump(mode="json")
    # Written out, they would stand against another form of answer, or another base model's suggestion.
    for name in (*dependent(), *SUGGESTED):
        section, _, key = name.partition(".")
        defaults[section][key] = None
    for name, info in Settings.model_fields.items():
        lines += ["", f"# {info.description}"]
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            lines.append(f"{name}:")
            for key, inner in info.annotation.model_fields.items():
                lines += [
                    f"  # {inner.description}{_choices(inner)}",
                    f"  {_line(key, defaults[name][key])}",
                ]
        else:
            lines.append(_line(name, defaults[name]))
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any) -> str:
    import yaml

    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return f"{key}: {dumped.removesuffix('...' + chr(10)).strip()}"


def _choices(info: FieldInfo) -> str:
    options = [str(arg) for arg in get_args(info.annotation) if isinstance(arg, str)]
    options += [value for part in info.metadata if isinstance(part, OneOf) for value in part.values()]
    return f" One of: {', '.join(options)}." if len(options) > 1 else ""
