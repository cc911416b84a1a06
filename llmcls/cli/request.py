"""What `llmcls predict` is asked for, and how it will be done; all of it is known before a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcls.answers.form import Figure, Form, form_of
from llmcls.answers.refusals import refuse_missing
from llmcls.cli.formats import OutputFormat, format_of
from llmcls.cli.outputs import FileOutput, StandardOutput, TableOutput, ThroughOutput
from llmcls.cli.places import is_standard_output, writes_through
from llmcls.cli.predictions import Input
from llmcls.cli.shared import gather_settings, settings_for_run, split_labels
from llmcls.console import Reporter
from llmcls.data.paths import has_scheme, to_path
from llmcls.data.reader import FIELDS_OF_FORMAT, FileFormat
from llmcls.data.sources import warn_of_unused
from llmcls.errors import LlmclsError
from llmcls.settings import PredictionSettings, Settings, change_settings

if TYPE_CHECKING:
    from llmcls.labels import LabelSet
    from llmcls.runs.run import Run
    from llmcls.settings import DataSettings


@dataclass(frozen=True)
class Request:
    """What the command line asks for; the options' meaning is in their help."""

    texts: tuple[str, ...]
    run_path: str | None
    base_model: str | None
    labels: str | None
    task: str | None
    source: str | None
    output: str | None
    overwrite: bool
    resume: str
    template: str | None
    quantization: str | None
    dtype: str | None
    trust_remote_code: bool
    all_probabilities: bool
    label_mass: bool
    margin: bool
    prompt: bool
    escape_formulas: bool
    method: str | None
    threshold: float | None
    min_probability: float | None
    min_label_mass: float | None
    text_columns: tuple[str, ...]
    label_column: str | tuple[str, ...] | None
    files: tuple[str, ...]
    assignments: tuple[str, ...]
    quiet: bool
    as_json: bool

    def __post_init__(self) -> None:
        if bool(self.texts) == bool(self.source):
            also = "" if self.texts else ", or texts on the standard input, one a line"
            raise click.UsageError(f"Give either texts or --input FILE{also}.")
        if self.output == "-":
            raise click.UsageError("Leave --output out to write to the standard output.")
        if self.overwrite and not self.output:
            raise click.UsageError("--overwrite says that --output FILE may be replaced; give one.")
        if self.escape_formulas and self.as_json and not self.output:
            raise click.UsageError("--escape-formulas is for tables that a spreadsheet opens; JSON has no formulas.")
        if self.run_path and self.task:
            raise click.UsageError("--task is for zero-shot prediction; a run has its own task.")
        if (self.text_columns or self.label_column) and (self.texts or self.source == "-"):
            raise click.UsageError(
                "--text-column and --label-column are for --input FILE; these texts have no columns."
            )

    @cached_property
    def format(self) -> OutputFormat:
        """The format of the output.

        Raises:
            LlmclsError: when the file's ending names none, or another one than JSON where that is asked for.
        """
        if not self.output:
            return OutputFormat("jsonl" if self.as_json else "csv")
        chosen = format_of(self.output, self.as_json)
        if self.as_json and chosen.kind != "jsonl":
            raise LlmclsError(
                f"--json writes JSON lines, but '{self.output}' is named as {chosen.kind}; leave --json out, or name "
                "the file .jsonl."
            )
        return chosen

    @property
    def in_json(self) -> bool:
        """Whether rows are written as objects, in which lists stay lists."""
        return self.format.as_json

    @property
    def label_names(self) -> list[str] | None:
        """The labels given, or None."""
        return None if self.labels is None else split_labels(self.labels)

    @property
    def figures(self) -> dict[Figure, str]:
        """The figures asked for, each with its option."""
        asked: dict[Figure, bool] = {
            "label_mass": self.label_mass,
            "margin": self.margin,
            "probabilities": self.all_probabilities,
        }
        return {figure: f"--{figure.replace('_', '-')}" for figure, wanted in asked.items() if wanted}

    def open_input(self, run: Run | None, data: DataSettings) -> Input:
        """The rows to predict, of files that are written as these settings say.

        Raises:
            click.UsageError: where the settings name a format that these texts do not have.
        """
        form = FileFormat.of(data)
        said = form.beside(FileFormat.of(run.settings.data) if run else FileFormat())
        if said.given and (self.texts or self.source == "-"):
            named = " and ".join(f"data.{name}" for name in said.given)
            raise click.UsageError(f"{named}: of use with --input FILE only; other texts are UTF-8, one a line.")
        if self.texts:
            return Input.of_texts(self.texts)
        if self.source is None or self.source == "-":
            if sys.stdin is None:
                raise LlmclsError("--input - reads the standard input, which is closed; give a file.")
            return Input.of_lines(sys.stdin.buffer)
        text_columns = self.text_columns or (run.card["data"]["text_columns"] if run else ())
        separator = run.label_separator if run else None
        warn_of_unused(self.source, None, said)
        return Input.of_data(self.source, text_columns, self.label_column, separator, form)

    def open_output(self, reporter: Reporter, run: Run | None = None) -> FileOutput | StandardOutput:
        """Where the rows go.

        Raises:
            LlmclsError: when the file is read by this prediction, or belongs to the run.
        """
        if not self.output:
            as_table = bool(self.texts) and not self.as_json and sys.stdout.isatty()
            kind = TableOutput if as_table else StandardOutput
            return kind(reporter, self.escape_formulas)
        path = Path(self.output)
        if writes_through(path):
            if self.overwrite:
                raise LlmclsError(f"'{path}' is written through and never replaced; leave --overwrite out.")
            if is_standard_output(path):
                return StandardOutput(reporter, self.escape_formulas, self.format.delimiter)
            return ThroughOutput(path, reporter, self.escape_formulas)
        return FileOutput(
            path,
            reporter,
            overwrite=self.overwrite,
            sources=list(self._sources(run)),
            escape_formulas=self.escape_formulas,
        )

    def _sources(self, run: Run | None) -> Iterator[Path]:
        """All files and folders that this prediction reads: the data, the settings, the template, the run."""
        if self.source not in (None, "-") and not has_scheme(self.source or ""):
            path = to_path(self.source or "")
            yield path
            if not path.exists() and ":" in path.name:  # a sheet of a workbook
                yield path.with_name(path.name.rpartition(":")[0])
        elif self.source == "-" and (descriptor := Path("/dev/stdin")).exists():
            yield descriptor
        yield from map(Path, self.files)
        if self.template:
            yield Path(self.template)
        if run is not None:
            yield from (run.path / name for name in run.card["seal"])


@dataclass(frozen=True)
class Way:
    """How the texts are to be predicted, before any model is loaded.

    Attributes:
        run: the run, or None for a base model as it is.
        settings: the run's, or those given.
        how: how labels are found, and when none is given.
        labels: other labels than the run's, or None.
    """

    run: Run | None
    settings: Settings
    how: PredictionSettings
    labels: LabelSet | None = None

    @property
    def form(self) -> Form:
        """The form of answer."""
        return form_of(self.settings)


def choose_way(request: Request) -> Way:
    """Open the run and resolve the settings; whatever does not go together is refused here.

    Raises:
        LlmclsError: for figures that such predictions do not have, and for settings that would have no effect.
    """
    from llmcls.model.loading import may_have_head
    from llmcls.runs.assembly import check_run, choose_labels, find_template
    from llmcls.runs.run import Run

    run = Run.open(request.run_path) if request.run_path else None
    changes: dict[str, Any] = {
        "threshold": request.threshold,
        "min_probability": request.min_probability,
        "min_label_mass": request.min_label_mass,
    }
    if request.label_mass and run and run.has_head:
        raise LlmclsError("A classification head can say nothing but its labels; leave --label-mass out.")
    if run is None:
        changes |= {"method": request.method}
        options = {f"prediction__{name}": value for name, value in changes.items()}
        options["model__dtype"] = request.dtype
        options["model__trust_remote_code"] = request.trust_remote_code or None
        settings = gather_settings(request.files, request.assignments, task=request.task, **options)
        named = {"base_model": request.base_model or settings.model.base_model}
        settings = settings.model_copy(update={"model": settings.model.model_copy(update=named)})
        find_template(request.template or settings.prompt.template)
        way = Way(None, settings, settings.prediction)
        return way if may_have_head(settings.model) else _with_labels(request, way)
    refuse_missing(form_of(run.settings), request.figures)
    check_run(run, template=request.template, base_model=request.base_model, quantization=request.quantization)
    also = "--base-model, --quantization, --dtype, --template and --trust-remote-code"
    given = settings_for_run(run.settings, request.files, request.assignments, also)
    settings = change_settings(given, {"prediction": changes | {"method": request.method}})
    # How the files to predict are written is not a matter of the run.
    data = run.settings.data.model_copy(update={name: getattr(given.data, name) for name in FIELDS_OF_FORMAT})
    labels = None
    if request.labels is not None:
        labels = choose_labels(run.labels, split_labels(request.labels), head=run.has_head)
        form_of(run.settings).check(settings.prediction, labels)
    return Way(run, run.settings.model_copy(update={"data": data}), settings.prediction, labels)


def meet_base_model(request: Request, way: Way) -> Way:
    """The way to predict with a base model as it is, which may be a classifier with a head; that of a run is known.

    It asks transformers, which takes seconds, so that everything else is to be found wrong before.

    Raises:
        click.UsageError: when it has no labels of its own, and none are given.
        LlmclsError: for labels that are not the head's, and figures that such predictions do not have.
    """
    from llmcls.model.loading import find_base_model, may_have_head
    from llmcls.runs.assembly import labels_for_zero_shot, settle_for_head

    if way.run is not None or not may_have_head(way.settings.model):
        return way
    base = find_base_model(way.settings.model)
    if base.head_labels is None:
        return _with_labels(request, way)
    labels_for_zero_shot(base, request.label_names, way.settings.data)
    if request.label_mass:
        raise LlmclsError("A classification head can say nothing but its labels; leave --label-mass out.")
    settings = settle_for_head(way.settings, base, request.template)
    refuse_missing(form_of(settings), request.figures)
    return Way(None, settings, settings.prediction)


def _with_labels(request: Request, way: Way) -> Way:
    """The same way, for a base model without labels of its own.

    Raises:
        click.UsageError: when no labels are given.
    """
    from llmcls.runs.assembly import check_zero_shot

    if not request.labels:
        raise click.UsageError("Give --run DIR, or --labels A,B,C with a --base-model M (default: nano).")
    check_zero_shot(way.settings.model, request.label_names, way.settings.data)
    refuse_missing(form_of(way.settings), request.figures)
    return way
