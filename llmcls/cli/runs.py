"""`llmcls runs`: what has been trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from llmcls.cli.shared import echo, show, show_json, table
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
    from llmcls.data.paths import shorten_path
    from llmcls.evaluation.tables import as_literal
    from llmcls.runs.run import find_runs

    entries = [_entry(path, card) for path, card in find_runs(root)]
    if as_json:
        show_json(entries)
        return
    if not entries:
        echo(f"No runs below '{root}'. Train one with: llmcls train --data demo:")
        return
    shown = table("", "run", "created", "base model", "data", "labels", "seconds", "accuracy")
    for entry in entries:
        if entry["fault"]:
            shown.add_row(as_literal(entry["run"], "red"), *["–"] * 6)
            continue
        accuracy = "–" if entry["accuracy"] is None else f"{entry['accuracy']:.3f} {entry['split']}"
        shown.add_row(
            as_literal(entry["run"]),
            as_literal(entry["created"][:16].replace("T", " ")),
            as_literal(entry["base_model"]),
            as_literal(shorten_path(entry["data"]) if entry["data"] else "from Python"),
            str(entry["labels"]),
            f"{entry['cost']['seconds']:,.0f}" if entry["cost"] else "–",
            accuracy,
        )
    show(shown)
    for entry in entries:
        if entry["fault"]:
            echo(f"'{entry['run']}' cannot be read: {entry['fault']}.")
    echo("seconds: of training, over resumes; `llmcls runs show RUN` has FLOPs, hardware and memory.")
    echo("accuracy: on the test split, else on validation, once `llmcls evaluate --run RUN` has measured it; of")
    echo("all labels of a row together where it may have several.")


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


def _entry(path: Path, card: dict[str, Any] | str) -> dict[str, Any]:
    """What the list says of a run; of one whose card says odd things, what is wrong with it: the others are listed."""
    nothing = dict.fromkeys(("created", "base_model", "data", "labels", "cost", "accuracy", "split"))
    if isinstance(card, str):
        return {"run": str(path), **nothing, "fault": card}
    try:
        cost, data = card.get("cost"), card["data"]["source"]  # runs of older versions have no cost
        f"{cost['seconds']:,.0f}" if cost else ""
        if data is not None and not isinstance(data, str):
            raise TypeError(f"its data is {data!r}")
        return {
            "run": str(path),
            "created": str(card["created"]),
            "base_model": str(card["base_model"]["name"]),
            "data": data,
            "labels": len(card["labels"]),
            "cost": cost,
            **_accuracy(path),
            "fault": None,
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return {"run": str(path), **nothing, "fault": f"its run.json is odd ({type(error).__name__}: {error})"}


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
