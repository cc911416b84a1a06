"""`llmcls evaluate`: how good is a run, before against after, and against a classical baseline."""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcls.cli.closer import (
    Evaluated,
    Finding,
    check_template_names,
    check_templates,
    classify_untrained,
    look_closer,
)
from llmcls.cli.labelled import Labelled, read_rows, read_rows_of_baseline
from llmcls.cli.places import (
    behind_links,
    is_metrics,
    is_table_of_rows,
    refuse_foreign,
    refuse_read,
    writes_through,
)
from llmcls.cli.shared import (
    ListCommand,
    code_option,
    column_options,
    dtype_option,
    escape_option,
    output_options,
    prediction_options,
    prompt_option,
    settings_for_run,
    settings_options,
    show,
    show_json,
    split_commas,
    start,
)
from llmcls.data.paths import has_scheme, to_path
from llmcls.data.reader import FIELDS_OF_FORMAT, FileFormat
from llmcls.errors import LlmclsError
from llmcls.processes.stopping import failing_once
from llmcls.processes.world import join_prediction
from llmcls.settings import Settings, change_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcls.evaluation.files import Report
    from llmcls.runs.run import Run

# What --before and --baseline are called in tables; in JSON and file names they keep the options' names.
HEADINGS = {"before": "base model", "baseline": "TF-IDF + LR"}


@dataclass(frozen=True)
class Request:
    """What the command line asks for; the options' meaning is in their help."""

    run_path: str
    data: str | None
    text_columns: tuple[str, ...]
    label_column: str | tuple[str, ...] | None
    split: str | None
    base_model: str | None
    dtype: str | None
    trust_remote_code: bool
    before: bool
    baseline: bool
    free: int | None
    samples: int | None
    prompt: bool
    escape_formulas: bool
    templates: tuple[str, ...]
    method: str | None
    threshold: float | None
    min_probability: float | None
    min_label_mass: float | None
    output_dir: str | None
    files: tuple[str, ...]
    assignments: tuple[str, ...]
    quiet: bool
    as_json: bool

    def __post_init__(self) -> None:
        if (self.text_columns or self.label_column) and self.data is None:
            raise click.UsageError("--text-column and --label-column are for --data; the run's own data has its own.")

    def settings(self, run: Run) -> Settings:
        """The run's settings, with what is given of how labels are found and how files of other data are written.

        Raises:
            LlmclsError: for settings that would have no effect.
            click.UsageError: for one that an option gives, too.
        """
        given = settings_for_run(
            run.settings, self.files, self.assignments, "--base-model, --dtype, --templates, --trust-remote-code"
        )
        own = run.settings.data
        changed = [f"data.{name}" for name in FIELDS_OF_FORMAT if getattr(given.data, name) != getattr(own, name)]
        if changed and self.data is None:
            raise LlmclsError(
                f"{' and '.join(changed)} can be changed for other data only: the run's own data is read as it was in "
                "training. Give other data with --data, or leave the setting out."
            )
        options = {"method": self.method, "threshold": self.threshold}
        options |= {"min_probability": self.min_probability, "min_label_mass": self.min_label_mass}
        assigned = {assignment.partition("=")[0].strip() for assignment in self.assignments}
        named = [f"prediction.{name}" for name, value in options.items() if value is not None]
        if twice := [name for name in named if name in assigned]:
            raise click.UsageError(f"{', '.join(twice)} is given by an option and by --set; keep one of the two.")
        how = change_settings(given, {"prediction": options}).prediction
        return given.model_copy(update={"prediction": how})

    def check(self, run: Run) -> None:
        """Refuse what does not go with this run.

        Raises:
            LlmclsError: with what to leave out.
        """
        from llmcls.answers.form import form_of
        from llmcls.answers.refusals import refuse_free

        if self.before or self.samples is not None:
            run.require_base_before()
        if run.whole and self.base_model and not self.before and self.samples is None:
            raise LlmclsError(
                f"Run '{run.path}' holds all of its model, so only --before and --samples need a base model; leave "
                "--base-model out."
            )
        if self.free is not None:
            refuse_free(form_of(run.settings), run.has_head)


@click.command("evaluate", cls=ListCommand, short_help="Measure a run on labelled texts.")
@click.option("--run", "run_path", required=True, metavar="DIR", help="The run to evaluate.")
@click.option("--data", metavar="DIR|FILE|SPEC", help="Labelled texts; the run's own data when not given.")
@column_options
@click.option(
    "--split", metavar="SPLIT", help="train, validation or test; when not given, test, or a --data file's only split."
)
@click.option("--base-model", metavar="M", help="Where the run's base model is now, if not where it was.")
@dtype_option
@code_option
@click.option("--before", is_flag=True, help="Also evaluate the base model before training, and compare.")
@click.option("--baseline", is_flag=True, help="Also train TF-IDF + logistic regression on the same rows, and compare.")
@click.option(
    "--free",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also let the model answer N rows freely, and compare its answers with the labels, string by string.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also show N rows with the answers of the base model before training and of the run.",
)
@click.option(
    "--templates",
    multiple=True,
    metavar="T...",
    help="Also ask with these templates (names or .j2 files), and count the rows whose label changes.",
)
@prompt_option
@escape_option
@prediction_options
@click.option("--output-dir", metavar="DIR", help="Where the files go; RUN/evaluation/SPLIT (or /DATA) when not given.")
@settings_options
@output_options
@failing_once()
def command(**options: Any) -> None:
    """Evaluate a run on labelled texts; writes metrics.json and predictions.csv.

    With --prompt, predictions.csv has the prompts as well.

    The N rows of --free and --samples are drawn at random, by the run's seed.

    Free answers have 8 tokens, or as many as the longest label, the most probable one each time. An answer counts when
    it is a label or an alias of it, white space around it aside. free.csv has all of them.

    samples.csv has text, label, and the answers before and after training; both are always labels. Of the base model it
    needs these rows only.

    \b
    llmcls evaluate --run runs/tickets --data old.csv --set data.encoding=cp1252

    reads other data as it is written: data.encoding, data.delimiter and data.quoting are else the run's.

    \b
    llmcls evaluate --run runs/tickets --templates instruction chat my.j2

    asks the same rows in other words; templates.csv has the answers. The closer to 0 the share of changed labels, the
    less they hang on the wording.
    """
    request = Request(**options)
    reporter = start(request.quiet, request.as_json)
    from llmcls.classifier import Classifier
    from llmcls.evaluation.files import write_metrics, write_predictions
    from llmcls.runs.assembly import check_run
    from llmcls.runs.loading import describe_change
    from llmcls.runs.run import Run

    run = Run.open(request.run_path)
    request.check(run)
    settings = request.settings(run)
    where, names = None if run.whole else request.base_model, split_commas(request.templates)
    check_run(run, base_model=where)
    check_template_names(run, names)
    form = FileFormat.of(settings.data)
    given = Labelled(request.data, request.text_columns, request.label_column, request.split, form)
    examples, name = read_rows(run, given, reporter)
    own = read_rows_of_baseline(run) if request.baseline else None
    folder = Path(request.output_dir) if request.output_dir else run.path / "evaluation" / name
    _make_folder(folder)
    _refuse_names(request, folder)
    if names:
        check_templates(run, names, where, examples, request.trust_remote_code)
    world = join_prediction()
    # LoRA weights kept apart, as in training: the same figures to the last bit, and the base model is at hand.
    loaded = Classifier.load(
        run,
        base_model=where,
        dtype=request.dtype,
        prediction=settings.prediction,
        trust_remote_code=request.trust_remote_code,
        merge=False,
    )
    classifier = replace(loaded, world=world)
    reporter.say(f"Evaluating {request.run_path} on {name}, {len(examples)} rows: {classifier.formats.describe()}")
    if notice := describe_change(classifier.run, classifier.formats):
        reporter.say(notice)
    predictions = classifier.classify(examples, reporter=reporter)
    report = classifier.report(examples, predictions)
    written = ["metrics.json", "predictions.csv"]
    if world.is_main:  # rank 0 writes; the others still do their share of its predictions
        write_metrics(report, folder / "metrics.json")
        prompts = classifier.encoder.read_prompts(examples) if request.prompt else None
        write_predictions(
            folder / "predictions.csv", examples, predictions, prompts, escape_formulas=request.escape_formulas
        )
    others: dict[str, Report] = {}
    untrained = None
    if request.before:
        untrained = classify_untrained(classifier, request.base_model, examples, reporter)
        others["before"] = classifier.untuned().report(examples, untrained)
    evaluated = Evaluated(classifier, examples, predictions, untrained, request.base_model, request.escape_formulas)
    findings = look_closer(evaluated, reporter, free=request.free, samples=request.samples, templates=names)
    if not world.is_main:
        return
    if own is not None:
        reporter.say("Training TF-IDF + logistic regression")
        others["baseline"] = classifier.form.baseline(own.train, own.validation, examples, run.labels)
    for kind, other in others.items():
        written.append(f"metrics-{kind}.json")
        write_metrics(other, folder / written[-1])
    for finding in findings:
        written.append(finding.file)
        finding.write(folder / finding.file)
    found = {finding.key: finding.content for finding in findings}
    if figures := {finding.key: finding.content for finding in findings if finding.measures}:
        write_metrics(report, folder / "metrics.json", figures)
    if request.as_json:
        compared = {kind: asdict(other) for kind, other in others.items()}
        show_json({"run": request.run_path, "split": name, **asdict(report), **compared, **found})
        return
    _show(report, others, findings, run, name)
    reporter.say(f"Written to {folder}: {', '.join(written)}")


def _show(report: Report, others: dict[str, Report], findings: Sequence[Finding], run: Run, name: str) -> None:
    from llmcls.evaluation import tables

    for kind, other in others.items():
        show(tables.comparison_table(other, report, headings=(_heading(kind, run), "this run")))
    if not others:
        show(tables.summary_table(report, title=f"{run.path.name} on {name}"))
    show(tables.class_table(report))
    if report.confusion is not None:
        show(tables.confusion_table(report))
    for finding in findings:
        show(finding.table)


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


def _refuse_names(request: Request, folder: Path) -> None:
    """Keep what stands there: the rows that are read, and files of these names that no evaluation has written."""
    options = {"before": request.before, "baseline": request.baseline}
    names = ["metrics.json", *(f"metrics-{kind}.json" for kind, asked in options.items() if asked)]
    tables = {"free": request.free, "samples": request.samples, "templates": request.templates}
    names += ["predictions.csv", *(f"{kind}.csv" for kind, asked in tables.items() if asked)]
    sources = [to_path(request.data)] if request.data and not has_scheme(request.data) else []
    refuse_read([folder / name for name in names], [*sources, *map(Path, request.files)], "--output-dir")
    for place in (behind_links(folder / name) for name in names):
        if writes_through(place):
            continue
        refuse_foreign(place, is_metrics if place.suffix == ".json" else is_table_of_rows, "--output-dir")


def _heading(kind: str, run: Run) -> str:
    return "untrained head" if kind == "before" and run.has_head else HEADINGS[kind]
