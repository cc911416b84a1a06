"""`llmcls predict`: texts in, valid labels with probabilities out."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcls import __version__
from llmcls.cli.outputs import FileOutput, StandardOutput, TableOutput
from llmcls.cli.predictions import Input, Tally, predict_batches, rows_at_once
from llmcls.cli.shared import (
    QUANTIZATIONS,
    TASKS,
    change_prediction,
    column_options,
    gather_settings,
    output_options,
    prediction_options,
    settings_options,
    start,
)
from llmcls.errors import LlmclsError
from llmcls.processes import join_processes
from llmcls.progress import Reporter
from llmcls.settings import PredictionSettings, fields
from llmcls.training.stopping import failing_once

if TYPE_CHECKING:
    from llmcls.classifier import Classifier
    from llmcls.records import Prediction
    from llmcls.settings import Settings
    from llmcls.task import AnswerForm
    from llmcls.training.run import Run


@click.command("predict", short_help="Classify texts.")
@click.argument("texts", nargs=-1)
@click.option("--run", "run_path", metavar="DIR", help="A trained run.")
@click.option("--base-model", metavar="M", help="Without --run: predict with a base model as it is (zero-shot).")
@click.option("--labels", metavar="A,B,C", help="The labels for zero-shot prediction; quote one that holds a comma.")
@click.option("--task", type=TASKS, help="Zero-shot: one label a text (the default), or any number of them.")
@click.option("--input", "source", metavar="FILE|-", help="Texts to classify; - reads one text a line from the input.")
@click.option("--output", metavar="FILE", help="CSV (or .jsonl) file to write; standard output when not given.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="auto: go on where the same command was interrupted; never: begin anew.",
)
@click.option("--template", metavar="T", help="Another template than the run's.")
@click.option("--quantization", type=QUANTIZATIONS, help="How base weights are stored.")
@click.option("--probabilities", "all_probabilities", is_flag=True, help="Add one column per label: p(LABEL).")
@click.option("--label-mass", is_flag=True, help="Add how probable any valid label is; low: a text unlike the labels.")
@click.option("--margin", is_flag=True, help="Add by how much the label beats every other one, in nats; 0: a tie.")
@prediction_options
@column_options
@settings_options
@output_options
@failing_once()
def command(
    texts: tuple[str, ...],
    run_path: str | None,
    base_model: str | None,
    labels: str | None,
    task: str | None,
    source: str | None,
    output: str | None,
    resume: str,
    template: str | None,
    method: str | None,
    quantization: str | None,
    all_probabilities: bool,
    threshold: float | None,
    label_mass: bool,
    margin: bool,
    min_probability: float | None,
    min_label_mass: float | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Classify texts; adds the columns `predicted` and `probability`.

    Where a text may have several labels, `predicted` holds them as the label column does (in JSON as a list), and
    `probability` is that of the least probable of them; of a text without labels, that no label applies.

    \b
    llmcls predict --run runs/tickets "Where is my parcel?"
    llmcls predict --run runs/tickets --input new.csv --output labelled.csv
    llmcls predict --base-model llama-3.2-1b-instruct --template chat --labels spam,ham --input mails.csv

    Files may have any size. A row that cannot be used is left out of FILE and listed in FILE.errors.csv, with its
    place, what is wrong with it, and the row itself. Until all rows are predicted, FILE is called FILE.partial; the
    same command goes on with it after an interruption.

    A row below a threshold (--min-probability, --min-label-mass) gets "no answer" (prediction.no_answer) instead of a
    label, with the probability of its best one.
    """
    if bool(texts) == bool(source):
        raise click.UsageError("Give either texts or --input FILE.")
    if not run_path and not labels:
        raise click.UsageError("Give --run DIR, or --labels A,B,C with a --base-model M (default: nano).")
    if run_path and (labels or task):
        raise click.UsageError("--labels and --task are for zero-shot prediction; a run has its own labels and task.")
    settings = gather_settings(
        files,
        assignments,
        task=task,
        prediction__method=None if run_path else method,  # whether it fits depends on the run's task
        prediction__threshold=threshold,
        prediction__min_probability=min_probability,
        prediction__min_label_mass=min_label_mass,
    )
    reporter = start(quiet, as_json)
    processes = join_processes()
    if processes and source == "-":
        raise LlmclsError("--input - works in one process only; give several processes a file.")
    if processes and processes.rank:
        output, sys.stdout = None, Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - rank 0 writes
    from llmcls.training.run import Run

    # Whatever can be wrong with the input or the output is found before the model is loaded, which may take minutes.
    run = Run.open(run_path) if run_path else None
    if label_mass and run and run.has_head:
        raise LlmclsError("A classification head can say nothing but its labels; leave --label-mass out.")
    _check_figures(
        (run.settings if run else settings).answer_form,
        {"--label-mass": label_mass, "--margin": margin, "--probabilities": all_probabilities},
    )
    how = _prediction_settings(run, settings, method) if run else settings.prediction
    given = _open(texts, source, run, text_columns, label_column)
    lines = as_json or bool(output and output.endswith((".jsonl", ".ndjson")))
    with _destination(output, reporter, as_table=bool(texts) and not as_json and sys.stdout.isatty()) as written:
        from llmcls.classifier import Classifier  # takes seconds, and what was wrong is known by now

        classifier = (
            Classifier.load(run, template=template, base_model=base_model, quantization=quantization, prediction=how)
            if run
            else _zero_shot(base_model or settings.model.base_model, labels or "", template, quantization, settings)
        )
        classifier = replace(classifier, processes=processes)
        reporter.say(f"Predicting with {run_path or classifier.base.name}: {classifier.formats.describe()}")
        label_mass = label_mass or classifier.prediction.min_label_mass > 0
        added = _added_columns(classifier, all_probabilities, label_mass, margin)
        if replaced := [name for name in given.columns if name in added]:
            reporter.warn(f"the input has columns that are replaced in the output: {', '.join(replaced)}.")
        header = [name for name in given.columns if name not in added] + added
        if given.identity is not None:
            classifier.warm_up()
        identity = _identify(given, classifier, how, run, [*header, "JSON" if lines else "CSV"]) if output else None
        tally = written.begin(header, as_json=lines, identity=identity, resume=resume == "auto")
        if processes:
            tally = processes.from_first(tally)
        # A bar and rows that share the terminal would run into each other.
        bar = Reporter(quiet=True) if output is None and not texts and sys.stdout.isatty() else reporter
        done, begun = tally.rows, time.monotonic()
        with bar.track("Predicting", given.count() if bar.draws_bars else None, done) as advance:
            for batch in predict_batches(
                given.rows(done),
                classifier,
                size=rows_at_once(classifier),
                label_mass=label_mass,
                probabilities=all_probabilities or margin,  # a search knows but a lower bound of the margin
                advance=advance,
            ):
                tally = tally.plus(batch)
                rows = (
                    _row(values, found, classifier, all_probabilities, margin, lines) for values, found in batch.results
                )
                written.add(rows, batch.bad, tally)
        written.finish(tally)
    if not texts:
        speed = (tally.rows - done) / max(time.monotonic() - begun, 1e-9)
        reporter.say(f"Predicted {tally.predicted:,} of {tally.rows:,} rows, {speed:,.1f} rows/s.")
    _report_ties(tally, classifier, reporter)
    _report_bad_rows(tally, written.listing, reporter)


def _check_figures(form: AnswerForm, asked: Mapping[str, bool]) -> None:
    """Refuse columns that would be empty: which figures there are depends on what the model answers."""
    if form == "label":
        return
    lacking = ["--label-mass", "--margin"] + (["--probabilities"] if form == "list" else [])
    if wrong := [option for option in lacking if asked[option]]:
        answer = "a list of labels has no probabilities" if form == "list" else "a text may have several labels"
        raise LlmclsError(f"With task multi_label there is no {' and no '.join(wrong)}: {answer}; leave it out.")


def _destination(output: str | None, reporter: Reporter, as_table: bool) -> FileOutput | StandardOutput:
    if output:
        return FileOutput(Path(output), reporter)
    return TableOutput(reporter) if as_table else StandardOutput(reporter)


def _identify(
    given: Input, classifier: Classifier, how: PredictionSettings, run: Run | None, columns: list[str]
) -> dict[str, Any] | None:
    """All that decides what is written. Device and sizes of forwards are free: they change a score's last bits only."""
    if given.identity is None:
        return None
    encoder = classifier.encoder
    return {
        "llmcls": __version__,
        **given.identity,
        "columns": columns,
        "run": run and _digest(run.card),
        "base model": classifier.base.fingerprint,
        "number formats": [str(classifier.formats.dtype), classifier.formats.quantization],
        "template": _digest(encoder.template.source),
        "labels": _digest([asdict(label) for label in classifier.labels]),
        "prompt": [encoder.max_length, encoder.truncation_side, encoder.form],
        "prediction": how.model_dump(mode="json", exclude={"batch_size", "pack_tokens"}),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _prediction_settings(run: Run, given: Settings, method: str | None) -> PredictionSettings:
    """The run's way of predicting, changed by what was given.

    Raises:
        LlmclsError: for any other setting that is not the run's: it would have no effect.
    """
    changes = given.model_dump(exclude_unset=True)
    wanted = changes.pop("prediction", {})
    trained = run.settings.model_dump()
    ignored = [
        key for key, _ in fields() if (value := _look_up(changes, key)) is not None and value != _look_up(trained, key)
    ]
    if ignored:
        raise LlmclsError(
            f"A run keeps the settings it was trained with, so {', '.join(ignored)} cannot be changed now; "
            "only prediction.*, and --base-model, --quantization and --template."
        )
    return change_prediction(run, **wanted, **({"method": method} if method else {}))


def _look_up(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _zero_shot(
    base_model: str, labels: str, template: str | None, quantization: str | None, settings: Settings
) -> Classifier:
    from llmcls.classifier import Classifier

    if quantization:
        settings = settings.model_copy(
            update={"model": settings.model.model_copy(update={"quantization": quantization})}
        )
    (names,) = csv.reader([labels], skipinitialspace=True)  # a label that holds a comma is written in quotes
    return Classifier.zero_shot(base_model, [name.strip() for name in names], template=template, settings=settings)


def _open(
    texts: tuple[str, ...],
    source: str | None,
    run: Run | None,
    text_columns: Sequence[str],
    label_column: str | None,
) -> Input:
    if texts:
        return Input.of_texts(texts)
    if source is None or source == "-":
        return Input.of_lines(sys.stdin.buffer)
    text_columns = text_columns or (run.card["data"]["text_columns"] if run else ())
    return Input.of_data(source, text_columns, label_column, run.label_separator if run else None)


def _row(
    values: Mapping[str, Any],
    prediction: Prediction,
    classifier: Classifier,
    all_probabilities: bool,
    margin: bool,
    in_json: bool,
) -> dict[str, Any]:
    predicted = prediction.label if prediction.labels is None or not in_json else list(prediction.labels)
    probability = None if math.isnan(prediction.probability) else round(prediction.probability, 6)  # JSON has no NaN
    row = {**values, "predicted": predicted, "probability": probability}
    if margin:
        row["margin"] = round(prediction.margin, 6)
    if prediction.label_mass is not None:
        row["label_mass"] = float(f"{prediction.label_mass:.6g}")
    if all_probabilities:
        pairs = zip(classifier.classes_, prediction.probabilities, strict=True)
        row |= {f"p({name})": round(value, 6) for name, value in pairs}
    return row


def _added_columns(classifier: Classifier, all_probabilities: bool, label_mass: bool, margin: bool) -> list[str]:
    added = ["predicted", "probability", *(["margin"] if margin else []), *(["label_mass"] if label_mass else [])]
    return added + [f"p({name})" for name in classifier.classes_] if all_probabilities else added


def _report_ties(tally: Tally, classifier: Classifier, reporter: Reporter) -> None:
    if tally.ties:
        reporter.say(
            f"{tally.ties:,} of {tally.predicted:,} rows {'is a near-tie' if tally.ties == 1 else 'are near-ties'} "
            f"(margin below {classifier.tie_tolerance:g}): another batch size or device may turn the label round; "
            "--margin shows which."
        )


def _report_bad_rows(tally: Tally, listing: Path | None, reporter: Reporter) -> None:
    if not tally.bad:
        return
    many = tally.bad > 1
    which = f"{tally.bad:,} rows have" if many else "1 row has"
    where = f"see '{listing}'; " if listing else ""
    first = f"{'the first: ' if many else ''}{tally.first_problem.rstrip('.')}"
    reporter.warn(f"{which} no prediction: {where}{first}.")
