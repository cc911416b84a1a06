"""`llmcls evaluate`: how good is a run, before against after, and against a classical baseline."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcls.cli.shared import (
    column_options,
    output_options,
    prediction_options,
    show,
    show_json,
    start,
)
from llmcls.errors import LlmclsError, unknown
from llmcls.processes.stopping import failing_once
from llmcls.processes.world import join_prediction
from llmcls.settings import change_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcls.classifier import Classifier
    from llmcls.console import Reporter
    from llmcls.data.splits import DataSplits
    from llmcls.evaluation.files import Report
    from llmcls.records import Example
    from llmcls.runs.run import Run

# What --before and --baseline are called in tables; in JSON and file names they keep the options' names.
HEADINGS = {"before": "base model", "baseline": "TF-IDF + LR"}


@click.command("evaluate", short_help="Measure a run on labelled texts.")
@click.option("--run", "run_path", required=True, metavar="DIR", help="The run to evaluate.")
@click.option("--data", metavar="DIR|FILE|SPEC", help="Labelled texts; the run's own data when not given.")
@column_options
@click.option(
    "--split", metavar="SPLIT", help="train, validation or test; when not given, test, or a --data file's only split."
)
@click.option("--base-model", metavar="M", help="Where the run's base model is now, if not where it was.")
@click.option("--before", is_flag=True, help="Also evaluate the base model before training, and compare.")
@click.option("--baseline", is_flag=True, help="Also train TF-IDF + logistic regression on the same rows, and compare.")
@prediction_options
@click.option("--output-dir", metavar="DIR", help="Where the files go; RUN/evaluation/SPLIT (or /DATA) when not given.")
@output_options
@failing_once()
def command(
    run_path: str,
    data: str | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    split: str | None,
    base_model: str | None,
    before: bool,
    baseline: bool,
    method: str | None,
    threshold: float | None,
    min_probability: float | None,
    min_label_mass: float | None,
    output_dir: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Evaluate a run on labelled texts; writes metrics.json and predictions.csv."""
    reporter = start(quiet, as_json)
    from llmcls.classifier import Classifier
    from llmcls.evaluation import tables
    from llmcls.evaluation.files import write_metrics, write_predictions
    from llmcls.runs.run import Run

    if (text_columns or label_column) and data is None:
        raise click.UsageError("--text-column and --label-column are for --data; the run's own data has its own.")
    run = Run.open(run_path)
    if run.whole and base_model and not before:
        raise LlmclsError(
            f"Run '{run.path}' holds all of its model, so only --before needs a base model; leave --base-model out."
        )
    examples, name = _read(run, data, text_columns, label_column, split, reporter)
    own = _read_rows_of_baseline(run) if baseline else None
    folder = Path(output_dir) if output_dir else run.path / "evaluation" / name
    _make_folder(folder)
    world = join_prediction()
    changes = {"method": method, "threshold": threshold}
    changes |= {"min_probability": min_probability, "min_label_mass": min_label_mass}
    how = change_settings(run.settings, {"prediction": changes}).prediction
    where = None if run.whole else base_model
    classifier = replace(Classifier.load(run, base_model=where, prediction=how), world=world)
    reporter.say(f"Evaluating {run_path} on {name}, {len(examples)} rows: {classifier.formats.describe()}")
    predictions = classifier.classify(examples, reporter=reporter)
    if not world.is_main:  # rank 0 writes; the others still do their share of its predictions
        if before:
            _evaluate_untrained(classifier, base_model, examples, reporter)
        return
    report = classifier.report(examples, predictions)
    write_metrics(report, folder / "metrics.json")
    write_predictions(folder / "predictions.csv", examples, predictions)
    written = ["metrics.json", "predictions.csv"]
    others = {}
    if before:
        others["before"] = _evaluate_untrained(classifier, base_model, examples, reporter)
    if own is not None:
        reporter.say("Training TF-IDF + logistic regression")
        others["baseline"] = classifier.form.baseline(own.train, own.validation, examples, run.labels)
    for kind, other in others.items():
        written.append(f"metrics-{kind}.json")
        write_metrics(other, folder / written[-1])
    if as_json:
        compared = {kind: asdict(other) for kind, other in others.items()}
        show_json({"run": run_path, "split": name, **asdict(report), **compared})
        return
    for kind, other in others.items():
        show(tables.comparison_table(other, report, headings=(_heading(kind, run), "this run")))
    if not others:
        show(tables.summary_table(report, title=f"{run.path.name} on {name}"))
    show(tables.class_table(report))
    if report.confusion is not None:
        show(tables.confusion_table(report))
    reporter.say(f"Written to {folder}: {', '.join(written)}")


def _read(
    run: Run,
    data: str | None,
    text_columns: Sequence[str],
    label_column: str | None,
    split: str | None,
    reporter: Reporter,
) -> tuple[list[Example], str]:
    """The rows to evaluate, and what to call them: a split of the run's own data, or the name of other data."""
    from llmcls.data.inputs import load_labelled
    from llmcls.data.reader import SPLITS, FileFormat
    from llmcls.data.sources import open_tables
    from llmcls.data.split_names import standard_name

    if split is not None and standard_name(split) not in SPLITS:
        raise LlmclsError(unknown("split", split, SPLITS))
    if data is None:
        return _read_own(run, standard_name(split or "test"), reporter)
    form = FileFormat.of(run.settings.data)
    tables = open_tables(data, form=form)
    chosen = None if len(tables) == 1 else split or "test"
    notes: list[str] = []
    examples = load_labelled(
        data,
        labels=run.labels,
        text_columns=text_columns or run.card["data"]["text_columns"],
        label_column=label_column or run.card["data"]["label_column"],
        label_separator=run.label_separator,
        split=chosen,
        form=form,
        order=run.settings.data.labels,
        drop_others=run.settings.data.drops_other_labels,
        notes=notes,
    )
    for note in notes:
        reporter.say(note)
    # Never 'test' alone: `llmcls runs list` would show it as the run's accuracy on its own test split.
    name = re.sub(r"[^\w.-]+", "-", data).strip("-.") or "data"
    return examples, f"{name}-{chosen or 'data'}" if chosen or name in SPLITS else name


def _read_own(run: Run, split: str, reporter: Reporter) -> tuple[list[Example], str]:
    splits = _load_own(run)
    if splits.fingerprint != run.card["data"]["fingerprint"]:
        reporter.warn(f"'{run.settings.data.source}' has changed since this run was trained on it.")
    if split == "test" and not splits.test and splits.validation:
        reporter.warn("there is no test split; evaluating on validation, which training may have looked at.")
        split = "validation"
    if not splits[split]:
        raise LlmclsError(
            f"'{run.settings.data.source}' has no {split} rows; say with --data what to evaluate the run on."
        )
    if split in splits.left_out:
        reporter.say(splits.left_out[split])
    return list(splits[split]), split


def _load_own(run: Run) -> DataSplits:
    """The data that the run was trained on, read again.

    Raises:
        LlmclsError: when it came from Python, has moved, or cannot be read.
    """
    from llmcls.data.splits import load_training_data

    settings = run.settings
    if settings.data.source is None:
        raise LlmclsError("This run was trained on data from Python; say with --data what to evaluate it on.")
    data = settings.data
    changes: dict[str, Any] = {"labels": run.labels.names}
    if data.keep_labels:
        # Zeros and ones are named by all labels that were given; by the names kept, where none were.
        changes = {"keep_labels": run.labels.names} if data.labels else {**changes, "keep_labels": ()}
        changes["other_labels"] = "drop" if data.drops_other_labels else "error"
    known = settings.model_copy(update={"data": data.model_copy(update=changes)})
    try:
        return load_training_data(known)
    except LlmclsError as error:
        raise LlmclsError(
            f"The data that '{run.path}' was trained on cannot be read; give other data with --data. {error}"
        ) from error


def _read_rows_of_baseline(run: Run) -> DataSplits:
    """The rows that a baseline is trained, and its thresholds tuned on."""
    if run.settings.data.source is None:
        raise LlmclsError("--baseline needs the training rows, but this run was trained on data from Python.")
    return _load_own(run)


def _make_folder(folder: Path) -> None:
    """Make the folder for the results before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise LlmclsError(
            f"The results cannot be written to '{folder}': {error.strerror}. Choose another --output-dir."
        ) from error


def _heading(kind: str, run: Run) -> str:
    return "untrained head" if kind == "before" and run.has_head else HEADINGS[kind]


def _evaluate_untrained(
    classifier: Classifier, base_model: str | None, examples: Sequence[Example], reporter: Reporter
) -> Report:
    run = classifier.run
    kept = "the head it began with" if run and run.has_head else "its own output layer"
    reporter.say(f"The base model as it was before training, with {kept}")
    with classifier.untuned().untrained(base_model) as before:
        return before.evaluate(examples, reporter=reporter)
