"""`llmcls runs`: what has been trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from llmcls.cli.run_list import SORTS, choose_entries, lay_out, read_entries, sort_entries
from llmcls.cli.shared import echo, note, show_json, width
from llmcls.errors import LlmclsError
from llmcls.settings import Settings, fields

SHOWN = 30  # labels


@click.group("runs")
def command() -> None:
    """List and show trained runs."""


@command.command("list", short_help="List runs, also unfinished ones.")
@click.argument("root", default="runs")
@click.option("--sort", type=click.Choice(list(SORTS)), default="created", show_default=True, help="What comes first.")
@click.option("--base-model", metavar="TEXT", help="Only runs whose base model's name holds this.")
@click.option("--data", metavar="TEXT", help="Only runs whose data's name holds this.")
@click.option("--search", metavar="TEXT", help="Only runs whose path, base model, data or labels hold this.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def list_(root: str, sort: str, base_model: str | None, data: str | None, search: str | None, as_json: bool) -> None:
    """List the runs below ROOT (default: runs), newest first, also those that are not finished.

    \b
    llmcls runs list --sort accuracy
    llmcls runs list experiments --base-model llama --data tickets
    """
    found = read_entries(root)
    entries = sort_entries(choose_entries(found, base_model, data, search), sort)
    if as_json:
        show_json([{key: value for key, value in entry.items() if key != "names"} for entry in entries])
        return
    if not found and root != "runs" and not Path(root).is_dir():
        raise LlmclsError(f"There is no folder '{root}' to list the runs of.")
    if not found:
        note(f"No runs below '{root}'. Train one with: llmcls train --data demo:")
        return
    if not entries:
        note(
            f"No run below '{root}' is such a one; `llmcls runs list {root}` lists {len(found)} without these options."
        )
        return
    for line in lay_out(entries, width()):
        echo(line)
    echo()
    note("seconds: of training, over resumes; `llmcls runs show RUN` has FLOPs, hardware and memory.")
    note(
        "accuracy: on the test split, else on validation, once `llmcls evaluate --run RUN` has measured it; of all "
        "labels of a row together where it may have several."
    )


@command.command("show", short_help="Show what a run is, and verify it.")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def show_(run: str, as_json: bool) -> None:
    """Show what a run is: model, data, labels, settings, versions. Verifies its seal."""
    from llmcls.evaluation.files import read_metrics
    from llmcls.runs.run import Run

    opened = Run.open(run)
    card = {key: value for key, value in opened.card.items() if key not in ("seal", "format")}
    settings = opened.settings
    if as_json:
        show_json({**card, "settings": settings.model_dump(mode="json")})
        return
    defaults = dict(flatten(Settings().model_dump(mode="json")))
    card["settings"] = {
        key: value for key, value in flatten(settings.model_dump(mode="json")) if value != defaults.get(key)
    } or "all at their defaults"
    card["labels"] = [entry["name"] for entry in card["labels"]]
    echo(f"{run} (seal intact, {len(opened.card['seal'])} files)")
    for key, value in card.items():
        lines = value if isinstance(value, dict) else {"": value}
        for position, (inner, content) in enumerate(lines.items()):
            line = f"{inner}: {_readable(content)}" if inner else _readable(content)
            note(line, "" if position else key.replace("_", " "), 13)
    echo()
    for metrics in sorted((opened.path / "evaluation").glob("*/metrics.json")):
        report = read_metrics(metrics)
        figures = ((name.replace("_f1", "-F1").replace("_", " "), getattr(report, name)) for name in report.HEADLINES)
        echo(f"{metrics.parent.name}: {', '.join(f'{name} {value:.4f}' for name, value in figures)}")


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(content)}" for key, content in value.items()) or "none"
    if isinstance(value, list):
        names = ", ".join(str(item) for item in value[:SHOWN])
        return (f"{names}, and {len(value) - SHOWN:,} more" if len(value) > SHOWN else names) or "none"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return "–" if value is None else str(value)


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested sections: `{"lora": {"r": 8}}` gives `("lora.r", 8)`."""
    names = {name for name, _ in fields()}
    for key, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in names:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
