"""`llmcls readers`: what --data and --input can read."""

from __future__ import annotations

import click

from llmcls.cli.shared import show, show_json, table


@click.group("readers")
def command() -> None:
    """List dataset readers."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def list_(as_json: bool) -> None:
    """List the dataset readers and what each can read."""
    from rich.text import Text

    from llmcls.data.reader import dataset_readers

    catalog = dataset_readers()
    if as_json:
        show_json({name: reader.description for name, reader in catalog.items()})
        return
    shown = table("", "reader", "reads", "plugin")
    for name, reader in catalog.items():
        shown.add_row(name, Text(reader.description), catalog.owner(name))
    show(shown)
