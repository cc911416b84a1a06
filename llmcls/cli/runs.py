"""`llmcls runs`: what has been trained."""

from __future__ import annotations

import json
from pathlib import Path

import click

from llmcls.cli.shared import show, show_json, table


@click.group("runs")
def command() -> None:
    """List and show trained runs."""


@command.command("list")
@click.argument("root", default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def list_(root: str, as_json: bool) -> None:
    """List the runs below ROOT (default: runs), newest first."""
    from rich.text import Text

    from llmcls.training.run import list_runs

    found = list_runs(root)
    entries = [
        {
            "run": str(path),
            "created": card["created"],
            "base_model": card["base_model"]["name"],
            "data": card["data"]["source"],
            "labels": len(card["labels"]),
            "accuracy": _accuracy(path),
        }
        for path, card in found
    ]
    if as_json:
        show_json(entries)
        return
    if not entries:
        click.echo(f"No runs below '{root}'. Train one with: llmcls train --data demo:")
        return
    shown = table("", "run", "created", "base model", "data", "labels", "test accuracy")
    for entry in entries:
        accuracy = "–" if entry["accuracy"] is None else f"{entry['accuracy']:.3f}"
        shown.add_row(
            Text(entry["run"]),
            entry["created"][:16].replace("T", " "),
            Text(entry["base_model"]),
            Text(str(entry["data"])),
            str(entry["labels"]),
            accuracy,
        )
    show(shown)


@command.command("show")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def show_(run: str, as_json: bool) -> None:
    """Show what a run is: model, data, labels, settings, versions. Verifies its seal."""
    from rich.text import Text

    from llmcls.training.run import Run

    opened = Run.open(run)
    card = {key: value for key, value in opened.card.items() if key != "seal"}
    if as_json:
        show_json({**card, "settings": opened.settings.model_dump(mode="json")})
        return
    shown = table(f"{run} (seal intact, {len(opened.card['seal'])} files)", "", "")
    for key, value in card.items():
        if key == "labels":
            value = ", ".join(entry["name"] for entry in value)
        for position, (inner, content) in enumerate(value.items() if isinstance(value, dict) else [("", value)]):
            shown.add_row(key if not position else "", Text(f"{inner}: {content}" if inner else str(content)))
    show(shown)
    for metrics in sorted((opened.path / "evaluation").glob("*/metrics.json")):
        figures = json.loads(metrics.read_text(encoding="utf-8"))
        click.echo(f"{metrics.parent.name}: accuracy {figures['accuracy']:.4f}, macro-F1 {figures['macro_f1']:.4f}")


def _accuracy(path: Path) -> float | None:
    metrics = path / "evaluation" / "test" / "metrics.json"
    if not metrics.is_file():
        return None
    return float(json.loads(metrics.read_text(encoding="utf-8"))["accuracy"])
