"""`llmcls predict`: texts in, valid labels with probabilities out."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcls import __version__
from llmcls.cli.outputs import FileOutput, StandardOutput
from llmcls.cli.predictions import PROMPT, Input, Tally, predict_batches, rows_at_once
from llmcls.cli.relabelled import changed_labels, report_labels
from llmcls.cli.request import Request, Way, choose_way, meet_base_model
from llmcls.cli.shared import (
    QUANTIZATIONS,
    TASKS,
    code_option,
    column_options,
    dtype_option,
    escape_option,
    output_options,
    prediction_options,
    prompt_option,
    settings_options,
    start,
    typed,
)
from llmcls.cli.texts import TextsCommand, texts_arrive
from llmcls.console import Reporter
from llmcls.errors import LlmclsError
from llmcls.processes.stopping import failing_once
from llmcls.processes.world import join_prediction

if TYPE_CHECKING:
    from llmcls.classifier import Classifier
    from llmcls.records import Prediction


@click.command("predict", cls=TextsCommand, short_help="Classify texts.")
@click.argument("texts", nargs=-1)
@click.option("--run", "run_path", metavar="DIR", help="A trained run.")
@click.option("--base-model", metavar="M", help="Without --run: predict with a base model as it is (zero-shot).")
@click.option(
    "--labels",
    metavar="A,B,C",
    help="The labels: for zero-shot prediction, or others than the run's. Quote one that holds a comma.",
)
@click.option("--task", type=TASKS, help="Zero-shot: one label a text (the default), or any number of them.")
@click.option(
    "--input",
    "source",
    metavar="FILE|-",
    help="Texts to classify; - reads one text a line from the standard input, as they come, which is also where texts "
    "come from when neither texts nor FILE are given.",
)
@click.option(
    "--output",
    metavar="FILE",
    help="File to write: .csv, .tsv, .jsonl (each also with .gz) or .parquet; else standard output.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE when it exists.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="auto: go on where the same command was interrupted; never: begin anew.",
)
@click.option("--template", metavar="T", help="Another template than the run's.")
@click.option("--quantization", type=QUANTIZATIONS, help="How base weights are stored.")
@dtype_option
@code_option
@click.option("--probabilities", "all_probabilities", is_flag=True, help="Add one column per label: p(LABEL).")
@click.option("--label-mass", is_flag=True, help="Add how probable any valid label is; low: a text unlike the labels.")
@click.option("--margin", is_flag=True, help="Add by how much the label beats every other one, in nats; 0: a tie.")
@prompt_option
@escape_option
@prediction_options
@column_options
@settings_options
@output_options
@failing_once()
def command(**options: Any) -> None:
    """Classify texts; adds the columns `predicted` and `probability`.

    Where a text may have several labels, `predicted` holds them as the label column does (in JSON as a list), and
    `probability` is that of exactly these labels, each decided on its own: that of every label, yes or no, multiplied.

    \b
    llmcls predict --run runs/tickets "Where is my parcel?"
    llmcls predict --run runs/tickets --input new.csv --output labelled.csv
    cat new.txt | llmcls predict --run runs/tickets
    llmcls predict --run runs/tickets --labels billing,delivery,complaint "I am not amused"
    llmcls predict --base-model llama-3.2-1b-instruct --template chat --labels spam,ham --input mails.csv

    Files may have any size. A row that cannot be used is left out of FILE and listed in FILE.errors.csv, with its
    place, what is wrong with it, and the row itself. Until all rows are predicted, FILE is called FILE.partial; the
    same command goes on with it after an interruption. A FILE that exists is replaced with --overwrite only; a pipe or
    a device is written through. Where no row at all can be used, the exit code is 1.

    A row below a threshold (--min-probability, --min-label-mass) gets "no answer" (prediction.no_answer) instead of a
    label, with the probability of its best one.
    """
    arriving = not options["texts"] and options["source"] is None and texts_arrive()
    request = Request(**options | ({"source": "-"} if arriving else {}))
    if request.output is None and typed(click.get_current_context(), "resume"):
        raise click.UsageError("--resume is for --output FILE; nothing else can be gone on with.")
    reporter = start(request.quiet, request.as_json)
    if arriving:  # whoever has forgotten the texts, and left a pipe open, would wait for ever
        reporter.say("Reading texts from the standard input, one a line.")
    _ = request.format  # an ending without a format is refused by all processes alike
    world = join_prediction()
    if world.size > 1 and request.source == "-":
        raise LlmclsError("--input - works in one process only; give several processes a file.")
    if not world.is_main:  # rank 0 writes
        request = replace(request, output=None, overwrite=False, escape_formulas=False)
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    # Whatever can be wrong with the input or the output is found before the model is loaded, which may take minutes.
    way = choose_way(request)
    given = request.open_input(way.run, way.settings.data)
    with request.open_output(reporter, way.run) as written:
        way = meet_base_model(request, way)
        classifier = replace(_load(request, way), world=world)
        from llmcls.runs.loading import describe_change  # imports torch, as the classifier does

        report_labels(classifier, reporter)
        reporter.say(f"Predicting with {request.run_path or classifier.base.name}: {classifier.formats.describe()}")
        if notice := describe_change(classifier.run, classifier.formats):
            reporter.say(notice)
        tally, speed = _predict(request, way, given, classifier, written, reporter)
    if not request.texts:
        where = f" into {request.output}" if request.output else ""
        reporter.say(f"Predicted {tally.predicted:,} of {tally.rows:,} rows{where}, {speed:,.1f} rows/s.")
    _report_ties(tally, classifier, reporter)
    _report_bad_rows(tally, written.listing, reporter)


def _load(request: Request, way: Way) -> Classifier:
    from llmcls.classifier import Classifier  # takes seconds, and what was wrong is known by now

    if way.run:
        classifier = Classifier.load(
            way.run,
            template=request.template,
            base_model=request.base_model,
            quantization=request.quantization,
            dtype=request.dtype,
            prediction=way.how,
            trust_remote_code=request.trust_remote_code,
        )
        return classifier if way.labels is None else classifier.with_labels(way.labels)
    settings = way.settings
    if request.quantization:
        held = settings.model.model_copy(update={"quantization": request.quantization})
        settings = settings.model_copy(update={"model": held})
    return Classifier.zero_shot(
        settings.model.base_model, request.label_names, template=request.template, settings=settings
    )


def _predict(
    request: Request,
    way: Way,
    given: Input,
    classifier: Classifier,
    written: FileOutput | StandardOutput,
    reporter: Reporter,
) -> tuple[Tally, float]:
    """Predict all rows; how far it came, and rows a second."""
    label_mass = request.label_mass or classifier.prediction.min_label_mass > 0
    if label_mass and classifier.run and classifier.run.settings.training.objective == "label":
        reporter.say(
            "  label mass means little here: training.objective label teaches which label it is,\n"
            "  not to say one at all; train with training.objective=sft for that."
        )
    added = _added_columns(request, classifier, label_mass)
    if replaced := [name for name in given.columns if name in added]:
        reporter.warn(f"the input has columns that are replaced in the output: {', '.join(replaced)}.")
    header = [name for name in given.columns if name not in added] + added
    if given.identity is not None:
        classifier.warm_up()
    identity = _identify(request, way, given, classifier, header) if request.output else None
    tally = written.begin(
        header,
        as_json=request.in_json,
        separator=classifier.assembly.settings.data.label_separator if classifier.form.rules.several else None,
        identity=identity,
        resume=request.resume == "auto",
    )
    tally = classifier.world.share(tally)
    # A bar and rows that share the terminal would run into each other.
    alone = isinstance(written, FileOutput) or bool(request.texts) or not sys.stdout.isatty()
    bar = reporter if alone else Reporter(quiet=True)
    done, begun = tally.rows, time.monotonic()
    with bar.track("Predicting", given.count() if bar.shows_progress else None, done) as advance:
        for batch in predict_batches(
            given.rows(done),
            classifier,
            size=rows_at_once(classifier),
            label_mass=label_mass,
            probabilities=request.all_probabilities or request.margin,  # a search knows a lower bound of the margin
            prompts=request.prompt,
            advance=advance,
            encode=classifier.encode,
        ):
            tally = tally.plus(batch)
            tally.check()
            rows = (_row(values, found, classifier, request) for values, found in batch.results)
            written.add(batch.with_prompts(rows), batch.bad, tally)
    written.finish(tally)
    return tally, (tally.rows - done) / max(time.monotonic() - begun, 1e-9)


def _identify(
    request: Request, way: Way, given: Input, classifier: Classifier, header: list[str]
) -> dict[str, Any] | None:
    """All that decides what is written. Device and sizes of forwards are free: they change a score's last bits only."""
    if given.identity is None:
        return None
    encoder = classifier.encoder
    separator = {"separator": classifier.assembly.settings.data.label_separator}
    return {
        **(separator if classifier.form.rules.several else {}),
        "llmcls": __version__,
        **given.identity,
        "columns": [*header, request.format.kind, *["escaped formulas"] * request.escape_formulas],
        "run": way.run and _digest(way.run.card),
        "base model": classifier.base.fingerprint,
        "number formats": [str(classifier.formats.dtype), classifier.formats.quantization],
        "template": _digest(encoder.template.source),
        "labels": _digest([asdict(label) for label in classifier.labels]),
        "prompt": [encoder.max_length, encoder.truncation_side, classifier.form.rules.name],
        "prediction": way.how.model_dump(mode="json", exclude={"batch_size", "pack_tokens"}),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _row(values: Mapping[str, Any], prediction: Prediction, classifier: Classifier, request: Request) -> dict[str, Any]:
    # Figures keep all their digits: of 10,000 labels rounded to six, the probabilities sum to 0.9998.
    predicted = prediction.label if prediction.labels is None or not request.in_json else list(prediction.labels)
    row = {**values, "predicted": predicted, "probability": prediction.probability}
    if request.margin:
        row["margin"] = prediction.margin
    if prediction.label_mass is not None:
        row["label_mass"] = prediction.label_mass
    if request.all_probabilities:
        names = (f"p({name})" for name in classifier.classes_)
        row |= dict(zip(names, prediction.probabilities, strict=True))
    return row | changed_labels(request.as_json, classifier)


def _added_columns(request: Request, classifier: Classifier, label_mass: bool) -> list[str]:
    added = ["predicted", "probability"] + ["margin"] * request.margin + ["label_mass"] * label_mass
    added += [f"p({name})" for name in classifier.classes_] * request.all_probabilities
    added += [PROMPT] * request.prompt
    return [*added, *changed_labels(request.as_json, classifier)]


def _report_ties(tally: Tally, classifier: Classifier, reporter: Reporter) -> None:
    if tally.ties:
        reporter.say(
            f"{tally.ties:,} of {tally.predicted:,} rows {'is a near-tie' if tally.ties == 1 else 'are near-ties'} "
            f"(margin below {classifier.tie_tolerance:g}): another batch size or device may turn the label round; "
            "--margin shows which."
        )


def _report_bad_rows(tally: Tally, listing: Path | None, reporter: Reporter) -> None:
    """Say what became of rows without a prediction.

    Raises:
        LlmclsError: when no row has one: whoever waits for predictions must not take this for success.
    """
    if not tally.bad:
        return
    many = tally.bad > 1
    where = f"see '{listing}'; " if listing else ""
    first = f"{'the first: ' if many else ''}{tally.first_problem.rstrip('.')}"
    if not tally.predicted:
        which = f"None of the {tally.rows:,} rows" if many else "The only row"
        raise LlmclsError(f"{which} has {'a' if many else 'no'} prediction: {where}{first}.")
    which = f"{tally.bad:,} rows have" if many else "1 row has"
    reporter.warn(f"{which} no prediction: {where}{first}.")
