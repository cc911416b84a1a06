"""`llmcls train`: data in, run directory out."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcls.cli.launch import machine_options
from llmcls.cli.launching import Launching, OnSeveralError
from llmcls.cli.shared import (
    QUANTIZATIONS,
    TASKS,
    code_option,
    column_options,
    echo,
    echo_data,
    find_origin,
    gather_settings,
    output_options,
    settings_options,
    show_json,
    split_labels,
    start,
    typed,
)
from llmcls.console import Reporter
from llmcls.errors import LlmclsError
from llmcls.settings import Settings

if TYPE_CHECKING:
    from llmcls.runs.run import Run

ANNOUNCED = ("training.learning_rate",)
"""Settings of which training says where they were given."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for; the options' meaning is in their help."""

    source: str | None
    data: str | None
    text_columns: tuple[str, ...]
    label_column: str | tuple[str, ...] | None
    labels: str | None
    task: str | None
    base_model: str | None
    trust_remote_code: bool
    template: str | None
    quantization: str | None
    epochs: float | None
    max_steps: int | None
    learning_rate: float | None
    batch_size: int | None
    output_dir: str | None
    overwrite: bool
    resume: str
    dry_run: bool
    force: bool
    launcher: str | None
    files: tuple[str, ...]
    assignments: tuple[str, ...]
    quiet: bool
    as_json: bool

    def settings(self) -> Settings:
        """What files, `--set` and options resolve to.

        Raises:
            LlmclsError: for impossible settings.
            click.UsageError: for what is given twice, or has no effect.
        """
        if self.source is not None and self.data is not None:
            raise click.UsageError(
                f"The data is given twice, as {self.source!r} and by --data {self.data!r}; keep one."
            )
        settings = gather_settings(
            self.files,
            self.assignments,
            task=self.task,
            data__source=self.data if self.source is None else self.source,
            data__text_columns=self.text_columns,
            data__label_column=self.label_column,
            data__labels=None if self.labels is None else tuple(split_labels(self.labels)),
            model__base_model=self.base_model,
            model__trust_remote_code=self.trust_remote_code or None,
            prompt__template=self.template,
            model__quantization=self.quantization,
            training__num_train_epochs=self.epochs,
            training__max_steps=self.max_steps,
            training__learning_rate=self.learning_rate,
            training__per_device_train_batch_size=self.batch_size,
            output_dir=self.output_dir,
        )
        if self.epochs is not None and (steps := settings.training.max_steps) > 0:
            raise click.UsageError(
                f"--epochs {self.epochs:g} has no effect, for training.max_steps is {steps} (--max-steps) and ends the "
                "training; leave one of them out, or set training.max_steps to -1."
            )
        return settings

    def refuse_idle(self, context: click.Context, settings: Settings, machines: Collection[str]) -> None:
        """Refuse options that have no effect beside the others.

        Raises:
            click.UsageError: which names them as typed.
        """
        if self.launcher is None and (alone := typed(context, *machines)):
            raise click.UsageError(f"{', '.join(alone)}: of use with --launch NAME only.")
        if self.force and self.resume == "never":
            raise click.UsageError(
                "--force is for going on with a run, but --resume never begins anew; keep one of them."
            )
        if self.dry_run and (idle := typed(context, "resume", *(["force"] if self.force else []))):
            raise click.UsageError(
                f"{', '.join(idle)}: of use to a training only, but --dry-run trains nothing; leave one of them out."
            )
        wanted = {"overwrite": self.overwrite, "resume": True, "force": self.force}
        idle = typed(context, *(name for name, given in wanted.items() if given))
        if settings.output_dir is None and self.resume == "auto" and idle:
            raise click.UsageError(
                f"{', '.join(idle)}: of use with --output-dir only; without it, every run gets a name of its own."
            )


class KeepsArguments(click.Command):
    """Leaves the arguments as they were typed in `ctx.meta`, for the processes that a launcher starts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's."""
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)


@click.command("train", cls=KeepsArguments)
@click.argument("source", metavar="[DATA]", required=False)
@click.option("--data", metavar="DATA", help="Labelled texts: a folder, a file, demo:, hub:NAME, ...")
@column_options
@click.option(
    "--labels", metavar="A,B,C", help="The labels in the order wanted (data.labels); quote one that holds a comma."
)
@click.option("--task", type=TASKS, help="Whether a text has one label (the default), or any number of them.")
@click.option(
    "--base-model", metavar="M", help="A name from `llmcls models list`, a Hub id, a folder, or a run to go on from."
)
@code_option
@click.option("--template", metavar="T", help="A name from `llmcls templates list`, or a .j2 file.")
@click.option("--quantization", type=QUANTIZATIONS, help="How base weights are stored while training.")
@click.option("--epochs", type=float, metavar="N", help="Passes over the training rows (training.num_train_epochs).")
@click.option("--max-steps", type=int, metavar="N", help="Optimizer steps, in place of --epochs (training.max_steps).")
@click.option("--learning-rate", type=float, metavar="R", help="Peak learning rate (training.learning_rate).")
@click.option(
    "--batch-size",
    type=int,
    metavar="N",
    help="Rows per device and forward pass in training (training.per_device_train_batch_size).",
)
@click.option("--output-dir", metavar="DIR", help="Run directory to write; runs/DATA-MODEL-TIME when not given.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run.")
@click.option(
    "--resume",
    metavar="auto|never|DIR",
    default="auto",
    show_default=True,
    help="Go on with an unfinished run of this --output-dir by itself, begin anew, or go on from a checkpoint.",
)
@click.option("--dry-run", is_flag=True, help="Say what training would do, within seconds; write nothing.")
@click.option("--force", is_flag=True, help="Go on although settings or data have changed since the checkpoint.")
@click.option(
    "--launch",
    "launcher",
    metavar="NAME|PATH",
    help="Start several processes: ddp, zero2, zero3, fsdp, ... (`llmcls launch list`), or an accelerate file.",
)
@machine_options
@settings_options
@output_options
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Train a classifier on labelled texts.

    DATA is what --data names, too: a folder, a file, demo:, hub:NAME, ...

    \b
    llmcls train tickets.csv
    llmcls train tickets.csv --epochs 5 --learning-rate 1e-4 --batch-size 16
    llmcls train --data arxiv/ --text-column title --text-column abstract --base-model llama-3.2-1b
    llmcls train --config examples/arxiv.yaml --data arxiv/ --set training.max_steps=100
    llmcls train tickets.csv --launch zero2 --num-processes 8
    llmcls train tickets.csv --base-model llama-3.2-1b --dry-run
    """
    asked = {field.name for field in fields(Request)}
    request = Request(**{name: options[name] for name in asked})
    machines = {name: value for name, value in options.items() if name not in asked}
    settings = request.settings()
    from llmcls.processes.world import is_launched

    request.refuse_idle(context, settings, machines)
    reporter = start(request.quiet, request.as_json)
    arguments = context.meta[__name__]
    way = None if is_launched() else Launching(request.launcher, machines, arguments, settings, request.quiet)
    origins = {name: find_origin(name, request.files, request.assignments, context) for name in ANNOUNCED}
    given = {
        "overwrite": request.overwrite,
        "force": request.force,
        "origins": {name: origin for name, origin in origins.items() if origin},
    }
    if request.dry_run:
        from llmcls.cli.rehearsal import rehearse

        rehearse(settings, given, way, reporter, request.as_json)
        return
    begun = time.monotonic()
    run = _train(context, settings, given | {"resume": request.resume}, way, reporter)
    if reporter.silent:
        return
    if request.as_json:
        show_json({"run": str(run.path), "labels": list(run.labels.names), **run.card["training"]})
    elif request.quiet:
        echo_data(f"{run.path}\n")  # alone, for scripts
    else:
        _tell(run, time.monotonic() - begun, reporter)


def _train(
    context: click.Context, settings: Settings, given: dict[str, Any], way: Launching | None, reporter: Reporter
) -> Run:
    """Train here, or leave with the exit code of the processes that were started for it."""
    from llmcls.processes.stopping import EXIT_CODE, START_AGAIN, StoppedError, failing_once, tell_status
    from llmcls.training.memory import DeviceFullError, advise, shrink
    from llmcls.training.train import train

    try:
        # Standard output is for results; DeepSpeed prints there that it has compiled something.
        with redirect_stdout(sys.stderr), failing_once():
            when_checked = None if way is None else way.choose
            return train(settings=settings, reporter=reporter, when_checked=when_checked, **given)
    except OnSeveralError:
        context.exit(way.launch() if way else 1)
    except StoppedError as stopped:
        if not reporter.silent:
            echo(str(stopped), err=True)
            tell_status(EXIT_CODE, {})
        context.exit(EXIT_CODE)
    except DeviceFullError as error:
        if (smaller := shrink(settings.training)) is None:
            raise
        if not tell_status(START_AGAIN, smaller):
            raise LlmclsError(f"{error} {advise(smaller)}") from error
        context.exit(START_AGAIN)
    finally:
        reporter.close()


def _tell(run: Run, seconds: float, reporter: Reporter) -> None:
    """Say where the run is, and what to do with it."""
    size = sum(file.stat().st_size for file in Path(run.path).rglob("*") if file.is_file())
    reporter.say(f"Run written to {run.path} ({size / 1e6:.1f} MB) after {seconds:.0f} s. Next:")
    reporter.say(f"  llmcls evaluate --run {run.path}")
    reporter.say(f'  llmcls predict --run {run.path} "a text to classify"')
