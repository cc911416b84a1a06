"""`llmcls evaluate`: how good is a run, before against after, and against a classical baseline."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmcls.cli.shared import column_options, output_options, show, show_json, start
from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcls.classifier import Classifier
    from llmcls.evaluation.metrics import EvaluationReport
    from llmcls.progress import Reporter
    from llmcls.records import Example
    from llmcls.training.run import Run


@click.command("evaluate")
@click.option("--run", "run_path", required=True, metavar="DIR", help="The run to evaluate.")
@click.option("--data", metavar="DIR|FILE|SPEC", help="Labelled texts; the run's own data when not given.")
@column_options
@click.option("--split", default="test", show_default=True, help="train, validation or test.")
@click.option("--base-model", metavar="M", help="Where the run's base model is now, if not where it was.")
@click.option("--before", is_flag=True, help="Also evaluate the base model without the adapter, and compare.")
@click.option("--baseline", is_flag=True, help="Also train TF-IDF + logistic regression on the same rows, and compare.")
@click.option("--output-dir", metavar="DIR", help="Where the files go; RUN/evaluation/SPLIT when not given.")
@output_options
def command(
    run_path: str,
    data: str | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    split: str,
    base_model: str | None,
    before: bool,
    baseline: bool,
    output_dir: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Evaluate a run on labelled texts; writes metrics.json and predictions.csv."""
    reporter = start(quiet, as_json)
    from llmcls.classifier import Classifier
    from llmcls.evaluation import tables
    from llmcls.evaluation.baseline import evaluate_baseline
    from llmcls.evaluation.files import write_metrics, write_predictions
    from llmcls.training.run import Run

    run = Run.open(run_path)
    examples, train, split = _read(run, data, text_columns, label_column, split, reporter)
    classifier = Classifier.load(run, base_model=base_model)
    reporter.say(f"Evaluating {run_path} on {len(examples)} {split} rows: {classifier.formats.describe()}")
    predictions = classifier.classify(examples, reporter=reporter)
    report = classifier.report(examples, predictions)
    folder = Path(output_dir) if output_dir else run.path / "evaluation" / split
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(report, folder / "metrics.json")
    write_predictions(folder / "predictions.csv", examples, predictions)
    others = {}
    if before:
        others["base model"] = _evaluate_untrained(classifier, examples, reporter)
        write_metrics(others["base model"], folder / "metrics-before.json")
    if baseline:
        reporter.say("Training TF-IDF + logistic regression")
        others["TF-IDF + LR"] = evaluate_baseline(train, examples, run.labels)
        write_metrics(others["TF-IDF + LR"], folder / "metrics-baseline.json")
    if as_json:
        compared = {name: asdict(other) for name, other in others.items()}
        show_json({"run": run_path, "split": split, **asdict(report), **compared})
        return
    for name, other in others.items():
        show(tables.comparison_table(other, report, headings=(name, "this run")))
    if not others:
        show(tables.summary_table(report, title=f"{run.path.name} on {split}"))
    show(tables.class_table(report), tables.confusion_table(report))
    reporter.say(f"Written to {folder}: metrics.json, predictions.csv")


def _read(
    run: Run,
    data: str | None,
    text_columns: Sequence[str],
    label_column: str | None,
    split: str,
    reporter: Reporter,
) -> tuple[list[Example], list[Example], str]:
    """The rows to evaluate, the training rows, and the split they came from."""
    from llmcls.data.inputs import load_labelled
    from llmcls.data.sources import open_tables
    from llmcls.training.api import load_training_data

    settings = run.settings
    if data is None and settings.data.source is None:
        raise LlmclsError("This run was trained on data from Python; say with --data what to evaluate it on.")
    train: list[Example] = []
    if settings.data.source is not None:
        known = settings.model_copy(update={"data": settings.data.model_copy(update={"labels": run.labels.names})})
        splits = load_training_data(known)
        train = list(splits.train)
    if data is not None:
        examples = load_labelled(
            data,
            labels=run.labels,
            text_columns=text_columns or run.card["data"]["text_columns"],
            label_column=label_column or run.card["data"]["label_column"],
            split=split if split in open_tables(data) else None,
        )
        return examples, train, split
    if splits.fingerprint != run.card["data"]["fingerprint"]:
        reporter.warn(f"'{settings.data.source}' has changed since this run was trained on it.")
    if split == "test" and not splits.test:
        reporter.warn("there is no test split; evaluating on validation, which training may have looked at.")
        split = "validation"
    return list(splits[split]), train, split


def _evaluate_untrained(classifier: Classifier, examples: Sequence[Example], reporter: Reporter) -> EvaluationReport:
    reporter.say("The base model as it was, without the adapter")
    with classifier.untrained():
        return classifier.evaluate(examples, reporter=reporter)
