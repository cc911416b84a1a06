"""`llmcls train`: data in, run directory out."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import click

from llmcls.cli.shared import (
    QUANTIZATIONS,
    column_options,
    gather_settings,
    output_options,
    settings_options,
    show_json,
    start,
)
from llmcls.errors import LlmclsWarning


@click.command("train")
@click.option("--data", metavar="DIR|FILE|SPEC", help="Labelled texts: a folder, a file, demo:, hub:NAME, ...")
@column_options
@click.option("--base-model", metavar="M", help="A name from `llmcls models list`, a Hub id, or a folder.")
@click.option("--template", metavar="T", help="A name from `llmcls templates list`, or a .j2 file.")
@click.option("--quantization", type=QUANTIZATIONS, help="How base weights are stored while training.")
@click.option("--output-dir", metavar="DIR", help="Run directory to write; runs/DATA-MODEL-TIME when not given.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run.")
@settings_options
@output_options
def command(
    data: str | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    base_model: str | None,
    template: str | None,
    quantization: str | None,
    output_dir: str | None,
    overwrite: bool,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a classifier on labelled texts.

    \b
    llmcls train --data tickets.csv
    llmcls train --data arxiv/ --text-column title --text-column abstract --base-model llama-3.2-1b
    llmcls train --config examples/arxiv.yaml --data arxiv/ --set training.max_steps=100
    """
    settings = gather_settings(
        files,
        assignments,
        data__source=data,
        data__text_columns=text_columns,
        data__label_column=label_column,
        model__base_model=base_model,
        prompt__template=template,
        model__quantization=quantization,
        output_dir=output_dir,
    )
    reporter = start(quiet, as_json)
    from llmcls.training.api import train

    begun = time.monotonic()
    with warnings.catch_warnings():
        if not reporter.quiet:  # the notes say the same
            warnings.filterwarnings("ignore", category=LlmclsWarning, module=r"llmcls\.data")
        run = train(settings=settings, overwrite=overwrite, reporter=reporter)
    if as_json:
        show_json({"run": str(run.path), "labels": list(run.labels.names), **run.card["training"]})
        return
    size = sum(file.stat().st_size for file in Path(run.path).rglob("*") if file.is_file())
    reporter.say(f"Run written to {run.path} ({size / 1e6:.1f} MB) after {time.monotonic() - begun:.0f} s. Next:")
    reporter.say(f"  llmcls evaluate --run {run.path}")
    reporter.say(f'  llmcls predict --run {run.path} "a text to classify"')
