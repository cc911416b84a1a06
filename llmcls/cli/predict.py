"""`llmcls predict`: texts in, valid labels with probabilities out."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
from llmcls.settings import PredictionSettings

if TYPE_CHECKING:
    from llmcls.classifier import Classifier
    from llmcls.progress import Reporter
    from llmcls.records import Example, Prediction
    from llmcls.settings import Settings

METHODS = click.Choice(get_args(PredictionSettings.model_fields["method"].annotation))


@click.command("predict")
@click.argument("texts", nargs=-1)
@click.option("--run", "run_path", metavar="DIR", help="A trained run.")
@click.option("--base-model", metavar="M", help="Without --run: predict with a base model as it is (zero-shot).")
@click.option("--labels", metavar="A,B,C", help="The labels for zero-shot prediction.")
@click.option("--input", "source", metavar="FILE|-", help="Texts to classify; - reads one text a line from the input.")
@click.option("--output", metavar="FILE", help="CSV or .jsonl file to write; standard output when not given.")
@click.option("--template", metavar="T", help="Another template than the run's.")
@click.option("--method", type=METHODS, help="How labels are found (prediction.method).")
@click.option("--quantization", type=QUANTIZATIONS, help="How base weights are stored.")
@click.option("--probabilities", "all_probabilities", is_flag=True, help="Add one column per label: p(LABEL).")
@click.option("--label-mass", is_flag=True, help="Add how probable any valid label is; low: a text unlike the labels.")
@column_options
@settings_options
@output_options
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
    if not run_path and not (base_model and labels):
        raise click.UsageError("Give --run DIR, or --base-model M with --labels A,B,C.")
    if run_path and labels:
        raise click.UsageError("--labels is for zero-shot prediction; a run has its own labels.")
    settings = gather_settings(files, assignments, prediction__method=method)
    reporter = start(quiet, as_json)
    classifier = _load(run_path, base_model, labels, template, quantization, settings)
    reporter.say(f"Predicting with {run_path or base_model}: {classifier.formats.describe()}")
    problems: list[str] = []
    columns, rows = _open(texts, source, classifier, text_columns, label_column, problems)
    raw, examples = tee(rows)
    with reporter.track("Predicting", total=len(texts) or None) as advance:
        predictions = classifier.stream((example for _, example in examples), label_mass=label_mass, advance=advance)
        results = (
            _row(values, prediction, classifier, all_probabilities)
            for (values, _), prediction in zip(raw, predictions, strict=True)
        )
        if texts and not output and not as_json and sys.stdout.isatty():
            _show_table(texts, list(results))
        else:
            _write(results, columns, classifier, output, as_json, all_probabilities, label_mass)
    _report_problems(problems, output, reporter)


def _load(
    run_path: str | None,
    base_model: str | None,
    labels: str | None,
    template: str | None,
    quantization: str | None,
    settings: Settings,
) -> Classifier:
    from llmcls.classifier import Classifier

    if run_path:
        how = settings.prediction if settings.prediction != PredictionSettings() else None
        return Classifier.load(
            run_path, template=template, base_model=base_model, quantization=quantization, prediction=how
        )
    if quantization:
        settings = settings.model_copy(
            update={"model": settings.model.model_copy(update={"quantization": quantization})}
        )
    names = [name.strip() for name in (labels or "").split(",")]
    return Classifier.zero_shot(
        base_model or "", names, template=template or settings.prompt.template, settings=settings
    )


def _open(
    texts: tuple[str, ...],
    source: str | None,
    classifier: Classifier,
    text_columns: tuple[str, ...],
    label_column: str | None,
    problems: list[str],
) -> tuple[list[str], Iterator[tuple[Mapping[str, Any], Example]]]:
    """Column names and lazily read rows of the texts, the standard input, or a file."""
    from llmcls.data.inputs import load_examples
    from llmcls.records import Example

    if texts or source == "-":
        lines = texts or (line.rstrip("\n") for line in sys.stdin)
        return ["text"], (({"text": line}, Example(line, source=f"line {n}")) for n, line in enumerate(lines, 1))
    trained = classifier.run.card["data"] if classifier.run else {"text_columns": ()}
    stream = load_examples(
        source,
        text_columns=text_columns or trained["text_columns"],
        label_column=label_column,
        on_problem=problems.append,
    )
    return list(stream.table.columns), stream.with_values()


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


def _write(
    rows: Iterator[dict[str, Any]],
    columns: list[str],
    classifier: Classifier,
    output: str | None,
    as_json: bool,
    all_probabilities: bool,
    label_mass: bool,
) -> None:
    added = ["predicted", "probability", *(["label_mass"] if label_mass else [])]
    added += [f"p({name})" for name in classifier.classes_] if all_probabilities else []
    with _replacing(output) as stream:
        if as_json or (output and output.endswith((".jsonl", ".ndjson"))):
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            return
        # QUOTE_NONNUMERIC: Python before 3.13 leaves a lone carriage return unquoted otherwise, which ends the row.
        writer = csv.DictWriter(
            stream,
            [name for name in columns if name not in added] + added,
            quoting=csv.QUOTE_NONNUMERIC,
            lineterminator="\n",
        )
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _replacing(output: str | None) -> Iterator[IO[str]]:
    """The output file, which appears under its name only when complete; or standard output."""
    if output is None:
        yield sys.stdout
        return
    path = Path(output)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise LlmclsError(f"'{output}' cannot be written: {error.strerror or error}.") from error


def _show_table(texts: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    shown = table("", "text", "predicted", "probability")
    for text, row in zip(texts, rows, strict=True):
        shown.add_row(Text(text), Text(row["predicted"], style="bold"), f"{row['probability']:.3f}")
    show(shown)


def _report_problems(problems: list[str], output: str | None, reporter: Reporter) -> None:
    if not problems:
        return
    where = "the first: " + problems[0]
    if output:
        path = Path(f"{output}.errors.txt")
        path.write_text("\n".join(problems) + "\n", encoding="utf-8")
        where = f"all are listed in {path}; {where}"
    reporter.warn(f"{len(problems)} rows could not be read and have no prediction; {where}.")
