"""`llmcls runs`: what has been trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from llmcls.cli.shared import show, show_json, table
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.settings import Settings, fields

SHOWN = 30  # labels


@click.group("runs")
def command() -> None:
    """List and show trained runs."""


@command.command("list")
@click.argument("root", default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def list_(root: str, as_json: bool) -> None:
    """List the runs below ROOT (default: runs), newest first."""
    from rich.text import Text

    from llmcls.data.paths import shorten_path
    from llmcls.runs.run import list_runs

    found = list_runs(root)
    entries = [
        {
            "run": str(path),
            "created": card["created"],
            "base_model": card["base_model"]["name"],
            "data": card["data"]["source"],
            "labels": len(card["labels"]),
            "cost": card.get("cost"),  # runs of older versions have none
            **_accuracy(path),
        }
        for path, card in found
    ]
    if as_json:
        show_json(entries)
        return
    if not entries:
        click.echo(f"No runs below '{root}'. Train one with: llmcls train --data demo:")
        return
    shown = table("", "run", "created", "base model", "data", "labels", "seconds", "accuracy")
    for entry in entries:
        accuracy = "–" if entry["accuracy"] is None else f"{entry['accuracy']:.3f} {entry['split']}"
        shown.add_row(
            Text(entry["run"]),
            entry["created"][:16].replace("T", " "),
            Text(entry["base_model"]),
            Text(shorten_path(entry["data"]) if entry["data"] else "from Python"),
            str(entry["labels"]),
            f"{entry['cost']['seconds']:,.0f}" if entry["cost"] else "–",
            accuracy,
        )
    show(shown)
    click.echo("seconds: of training, over resumes; `llmcls runs show RUN` has FLOPs, hardware and memory.")
    click.echo("accuracy: on the test split, else on validation, once `llmcls evaluate --run RUN` has measured it; of")
    click.echo("all labels of a row together where it may have several.")


@command.command("show", short_help="Show what a run is, and verify it.")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def show_(run: str, as_json: bool) -> None:
    """Show what a run is: model, data, labels, settings, versions. Verifies its seal."""
    from rich.text import Text

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
    shown = table(f"{run} (seal intact, {len(opened.card['seal'])} files)", "", "")
    for key, value in card.items():
        lines = value if isinstance(value, dict) else {"": value}
        for position, (inner, content) in enumerate(lines.items()):
            line = f"{inner}: {_readable(content)}" if inner else _readable(content)
            shown.add_row("" if position else key.replace("_", " "), Text(line))
    show(shown)
    for metrics in sorted((opened.path / "evaluation").glob("*/metrics.json")):
        report = read_metrics(metrics)
        figures = ((name.replace("_f1", "-F1").replace("_", " "), getattr(report, name)) for name in report.HEADLINES)
        click.echo(f"{metrics.parent.name}: {', '.join(f'{name} {value:.4f}' for name, value in figures)}")


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


def _accuracy(path: Path) -> dict[str, Any]:
    """The accuracy that was measured on the run's own data, and on which split; test wins over validation."""
    from llmcls.evaluation.files import read_metrics

    for split in ("test", "validation"):
        metrics = path / "evaluation" / split / "metrics.json"
        if not metrics.is_file():
            continue
        try:
            report = read_metrics(metrics)
        except LlmclsError as error:  # one damaged file does not hide the other runs
            warnings.warn(str(error), LlmclsWarning, stacklevel=2)
            continue
        return {"accuracy": float(getattr(report, report.HEADLINES[0])), "split": split}
    return {"accuracy": None, "split": None}
