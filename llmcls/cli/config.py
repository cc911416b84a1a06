"""`llmcls config`: the settings, resolved, as a schema, or as a commented starter file."""

from __future__ import annotations

from pathlib import Path

import click

from llmcls.cli.shared import gather_settings, settings_options, show_json
from llmcls.errors import LlmclsError
from llmcls.settings import Settings, starter_file


@click.group("config", short_help="Show, describe and start settings files.")
def command() -> None:
    """Show, describe and start settings files."""


@command.command("show")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def show(files: tuple[str, ...], assignments: tuple[str, ...], as_json: bool) -> None:
    """Print the settings that --config and --set resolve to."""
    import yaml

    resolved = gather_settings(files, assignments).model_dump(mode="json")
    if as_json:
        show_json(resolved)
    else:
        click.echo(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).rstrip())


@command.command("schema")
def schema() -> None:
    """Print the JSON schema of the settings, for editors."""
    show_json(Settings.model_json_schema())


@command.command("init", short_help="Write a commented file with all settings.")
@click.argument("path", required=False)
def init(path: str | None) -> None:
    """Write a commented settings file with all defaults to PATH, or print it."""
    if path is None:
        click.echo(starter_file().rstrip())
        return
    if Path(path).exists():
        raise LlmclsError(f"'{path}' exists already; choose another name, or delete it.")
    try:
        Path(path).write_text(starter_file(), encoding="utf-8")
    except OSError as error:
        raise LlmclsError(f"'{path}' cannot be written: {error.strerror}.") from error
    click.echo(f"Written to {path}. Use it with: llmcls train --config {path}")
