"""`llmcls plugins`: what is loaded, from where, with which hooks."""

from __future__ import annotations

from dataclasses import asdict

import click

from llmcls.cli.shared import note, show, show_json, table
from llmcls.plugin.catalog import hook_names
from llmcls.plugin.manager import DISABLE_VARIABLE, describe_plugins, load_plugins


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def command(as_json: bool) -> None:
    """List loaded plugins with versions and hooks."""
    infos = describe_plugins(load_plugins())
    if as_json:
        show_json([asdict(info) for info in infos])
        return
    shown = table("", "plugin", "from", "registers")
    for info in infos:
        hooks = [hook.removeprefix("register_").replace("_", " ") for hook in info.hooks]
        shown.add_row(info.name, f"{info.distribution} {info.version}\n{info.module}", "\n".join(hooks))
    show(shown)
    note(f"Hooks a plugin may implement: {', '.join(hook_names())}.")
    note(f"Leave one out with {DISABLE_VARIABLE}=NAME.")
