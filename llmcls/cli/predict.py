"""`llmcls predict`: texts in, valid labels with probabilities out."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import click

from llmcls.cli.shared import (
    QUANTIZATIONS,
    column_options,
    gather_settings,
    output_options,
    settings_options,
    show,
    start,
    table,
)
from llmcls.errors import LlmclsError
from llmcls.processes import join_processes
from llmcls.progress import Reporter
from llmcls.settings import PredictionSettings, fields
from llmcls.training.stopping import failing_once

if TYPE_CHECKING:
    from llmcls.classifier import Classifier
    from llmcls.records import Example, Prediction
    from llmcls.settings import Settings
    from llmcls.training.run import Run

METHODS = click.Choice(get_args(PredictionSettings.model_fields["method"].annotation))


@click.command("predict", short_help="Classify texts.")
@click.argument("texts", nargs=-1)
@click.option("--run", "run_path", metavar="DIR", help="A trained run.")
@click.option("--base-model", metavar="M", help="Without --run: predict with a base model as it is (zero-shot).")
@click.option("--labels", metavar="A,B,C", help="The labels for zero-shot prediction; quote one that holds a comma.")
@click.option("--input", "source", metavar="FILE|-", help="Texts to classify; - reads one text a line from the input.")
@click.option("--output", metavar="FILE", help="CSV (or .jsonl) file to write; standard output when not given.")
@click.option("--template", metavar="T", help="Another template than the run's.")
@click.option("--method", type=METHODS, help="How labels are found (prediction.method).")
@click.option("--quantization", type=QUANTIZATIONS, help="How base weights are stored.")
@click.option("--probabilities", "all_probabilities", is_flag=True, help="Add one column per label: p(LABEL).")
@click.option("--label-mass", is_flag=True, help="Add how probable any valid label is; low: a text unlike the labels.")
@column_options
@settings_options
@output_options
@failing_once()
def command(
    texts: tuple[str, ...],
    run_path: str | None,
    base_model: str | None,
    labels: str | None,
    source: str | None,
    output: str | None,
    template: str | None,
    method: str | None,
    quantization: str | None,
    all_probabilities: bool,
    label_mass: bool,
    text_columns: tuple[str, ...],
    label_column: str | None,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Classify texts; adds the columns `predicted` and `probability`.

    \b
    llmcls predict --run runs/tickets "Where is my parcel?"
    llmcls predict --run runs/tickets --input new.csv --output labelled.csv
    llmcls predict --base-model llama-3.2-1b-instruct --template chat --labels spam,ham --input mails.csv
    """
    if bool(texts) == bool(source):
        raise click.UsageError("Give either texts or --input FILE.")
    if not run_path and not labels:
        raise click.UsageError("Give --run DIR, or --labels A,B,C with a --base-model M (default: nano).")
    if run_path and labels:
        raise click.UsageError("--labels is for zero-shot prediction; a run has its own labels.")
    settings = gather_settings(files, assignments, prediction__method=method)
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
    how = _prediction_settings(run, settings) if run else settings.prediction
    problems: list[str] = []
    columns, rows = _open(texts, source, run, text_columns, label_column, problems)
    with _replacing(output) as stream:
        if run:
            from llmcls.classifier import Classifier

            classifier = Classifier.load(
                run, template=template, base_model=base_model, quantization=quantization, prediction=how
            )
        else:
            base_model = base_model or settings.model.base_model
            classifier = _zero_shot(base_model, labels or "", template, quantization, settings)
        classifier = replace(classifier, processes=processes)
        reporter.say(f"Predicting with {run_path or classifier.base.name}: {classifier.formats.describe()}")
        added = _added_columns(classifier, all_probabilities, label_mass)
        if replaced := [name for name in columns if name in added]:
            reporter.warn(f"the input has columns that are replaced in the output: {', '.join(replaced)}.")
        raw, examples = tee(rows)
        # A bar and rows that share the terminal would run into each other.
        bar = Reporter(quiet=True) if output is None and not texts and sys.stdout.isatty() else reporter
        table_rows: list[dict[str, Any]] = []
        with bar.track("Predicting", total=len(texts) or None) as advance:
            predictions = classifier.stream(
                (example for _, example in examples), label_mass=label_mass, advance=advance
            )
            results = (
                _row(values, prediction, classifier, all_probabilities)
                for (values, _), prediction in zip(raw, predictions, strict=True)
            )
            if texts and not output and not as_json and sys.stdout.isatty():
                table_rows = list(results)
            elif as_json or (output and output.endswith((".jsonl", ".ndjson"))):
                for row in results:
                    stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            else:
                _write_csv(results, [name for name in columns if name not in added] + added, stream)
        if table_rows:
            _show_table(texts, table_rows)
    _report_problems(problems, output, reporter)


def _prediction_settings(run: Run, given: Settings) -> PredictionSettings:
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
    return run.settings.prediction.model_copy(update=wanted)


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
    return Classifier.zero_shot(
        base_model, [name.strip() for name in names], template=template or settings.prompt.template, settings=settings
    )


def _open(
    texts: tuple[str, ...],
    source: str | None,
    run: Run | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    problems: list[str],
) -> tuple[list[str], Iterator[tuple[Mapping[str, Any], Example]]]:
    """Column names and lazily read rows of the texts, the standard input, or a file."""
    from llmcls.data.inputs import load_examples
    from llmcls.records import Example

    if texts or source == "-":
        lines = enumerate(texts, 1) if texts else _input_lines(problems)
        return ["text"], (({"text": line}, Example(line, source=f"line {number}")) for number, line in lines)
    stream = load_examples(
        source,
        text_columns=text_columns or (run.card["data"]["text_columns"] if run else ()),
        label_column=label_column,
        on_problem=problems.append,
    )
    return list(stream.table.columns), stream.with_values()


def _input_lines(problems: list[str]) -> Iterator[tuple[int, str]]:
    """The numbered lines of the standard input: UTF-8, whatever the locale says."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            problems.append(f"line {number}: not UTF-8 ({error.reason} at byte {error.start + 1})")


def _row(
    values: Mapping[str, Any], prediction: Prediction, classifier: Classifier, all_probabilities: bool
) -> dict[str, Any]:
    row = {**values, "predicted": prediction.label, "probability": round(prediction.probability, 6)}
    if prediction.label_mass is not None:
        row["label_mass"] = float(f"{prediction.label_mass:.6g}")
    if all_probabilities:
        pairs = zip(classifier.classes_, prediction.probabilities, strict=True)
        row |= {f"p({name})": round(value, 6) for name, value in pairs}
    return row


def _added_columns(classifier: Classifier, all_probabilities: bool, label_mass: bool) -> list[str]:
    added = ["predicted", "probability", *(["label_mass"] if label_mass else [])]
    return added + [f"p({name})" for name in classifier.classes_] if all_probabilities else added


def _write_csv(rows: Iterator[dict[str, Any]], columns: list[str], stream: IO[str]) -> None:
    # QUOTE_NONNUMERIC: Python before 3.13 leaves a lone carriage return unquoted otherwise, which ends the row.
    writer = csv.DictWriter(stream, columns, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


@contextmanager
def _replacing(output: str | None) -> Iterator[IO[str]]:
    """The output file, which appears under its name only when complete; or standard output."""
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    path = Path(output)
    partial = path.with_name(f"{path.name}.partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with partial.open("w", encoding="utf-8", errors="replace", newline="") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        raise LlmclsError(f"'{output}' cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _show_table(texts: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    shown = table("", "text", "predicted", "probability")
    for text, row in zip(texts, rows, strict=True):
        shown.add_row(Text(text), Text(row["predicted"], style="bold"), f"{row['probability']:.3f}")
    show(shown)


def _report_problems(problems: list[str], output: str | None, reporter: Reporter) -> None:
    """Say how many rows have no prediction; beside an output file, list them in FILE.errors.txt."""
    listing = Path(f"{output}.errors.txt") if output else None
    if not problems:
        if listing:
            listing.unlink(missing_ok=True)  # of an earlier prediction
        return
    many = len(problems) > 1
    which = f"{len(problems)} rows" if many else "1 row"
    where = f"{'the first: ' if many else ''}{problems[0].rstrip('.')}."
    if listing:
        listing.write_text("\n".join(problems) + "\n", encoding="utf-8")
        where = f"see {listing}; {where}"
    reporter.warn(f"{which} could not be read and {'have' if many else 'has'} no prediction: {where}")
