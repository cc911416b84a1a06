"""`llmcls models`: the base models with short names."""

from __future__ import annotations

import click

from llmcls.cli.shared import note, show, show_json, table


@click.group("models")
def command() -> None:
    """List base models."""


@command.command("list", short_help="List the short names of base models.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def list_(as_json: bool) -> None:
    """List the short names that --base-model takes, and what each stands for."""
    from rich.text import Text

    from llmcls.model.adapter import base_models
    from llmcls.model.loading import short_names

    names = short_names()
    if as_json:
        show_json({name: {"checkpoint": path, "adapter": adapter.name} for name, (path, adapter) in names.items()})
        return
    shown = table("", "name", "checkpoint", "adapter")
    for name, (checkpoint, adapter) in names.items():
        place = checkpoint if "/" in checkpoint and not checkpoint.startswith("/") else "shipped with its plugin"
        shown.add_row(name, Text(place), adapter.name)
    show(shown)
    catalog = base_models()
    for adapter in catalog.values():
        note(f"adapter {adapter.name} (plugin {catalog.owner(adapter.name)}): {adapter.description}")
    note(
        "Any other causal LM works by its Hub id or folder. Llama is gated: accept its licence on the Hub, then run "
        "`hf auth login` or set HF_TOKEN."
    )
