"""`llmcls train`: data in, run directory out."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from llmcls.cli.launch import machine_options
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

ANNOUNCED = ("training.learning_rate",)
"""Settings of which training says where they were given."""


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
@click.option(
    "--max-steps", type=int, metavar="N", help="Optimizer steps, whatever --epochs there are (training.max_steps)."
)
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
def command(
    context: click.Context,
    /,
    source: str | None,
    data: str | None,
    text_columns: tuple[str, ...],
    label_column: str | tuple[str, ...] | None,
    labels: str | None,
    task: str | None,
    base_model: str | None,
    trust_remote_code: bool,
    template: str | None,
    quantization: str | None,
    epochs: float | None,
    max_steps: int | None,
    learning_rate: float | None,
    batch_size: int | None,
    output_dir: str | None,
    overwrite: bool,
    resume: str,
    dry_run: bool,
    force: bool,
    launcher: str | None,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **machines: Any,
) -> None:
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
    if source is not None and data is not None:
        raise click.UsageError(f"The data is given twice, as {source!r} and by --data {data!r}; keep one.")
    settings = gather_settings(
        files,
        assignments,
        task=task,
        data__source=data if source is None else source,
        data__text_columns=text_columns,
        data__label_column=label_column,
        data__labels=None if labels is None else tuple(split_labels(labels)),
        model__base_model=base_model,
        model__trust_remote_code=trust_remote_code or None,
        prompt__template=template,
        model__quantization=quantization,
        training__num_train_epochs=epochs,
        training__max_steps=max_steps,
        training__learning_rate=learning_rate,
        training__per_device_train_batch_size=batch_size,
        output_dir=output_dir,
    )
    if epochs is not None and (steps := settings.training.max_steps) > 0:
        raise click.UsageError(
            f"--epochs {epochs:g} has no effect, for training.max_steps is {steps} and ends the training; leave one "
            "of them out, or set training.max_steps to -1."
        )
    from llmcls.processes.stopping import EXIT_CODE, START_AGAIN, StoppedError, failing_once, tell_status
    from llmcls.processes.world import is_launched
    from llmcls.training.memory import DeviceFullError, advise, shrink

    if launcher is None and (alone := typed(context, *machines)):
        raise click.UsageError(f"{', '.join(alone)}: of use with --launch NAME only.")
    if force and resume == "never":
        raise click.UsageError("--force is for going on with a run, but --resume never begins anew; keep one of them.")
    if settings.output_dir is None and resume == "auto" and (idle := _without_effect(context, overwrite, force)):
        raise click.UsageError(
            f"{', '.join(idle)}: of use with --output-dir only; without it, every run gets a name of its own."
        )
    reporter = start(quiet, as_json)
    way = None if is_launched() else Launching(launcher, machines, context.meta[__name__], settings, quiet)
    origins = {name: origin for name in ANNOUNCED if (origin := find_origin(name, files, assignments, context))}
    if dry_run:
        from llmcls.cli.rehearsal import rehearse

        if typed(context, "resume"):
            raise click.UsageError("--resume is for a training, but --dry-run trains nothing; leave one of them out.")
        rehearse(settings, {"overwrite": overwrite, "force": force, "origins": origins}, way, reporter, as_json)
        return
    from llmcls.training.train import train

    begun = time.monotonic()
    try:
        # Standard output is for results; DeepSpeed prints there that it has compiled something.
        with redirect_stdout(sys.stderr), failing_once():
            run = train(
                settings=settings,
                overwrite=overwrite,
                resume=resume,
                force=force,
                reporter=reporter,
                when_checked=None if way is None else way.choose,
                origins=origins,
            )
    except _OnSeveralError:
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
    if reporter.silent:
        return
    if as_json:
        show_json({"run": str(run.path), "labels": list(run.labels.names), **run.card["training"]})
        return
    if quiet:
        echo_data(f"{run.path}\n")  # alone, for scripts
        return
    size = sum(file.stat().st_size for file in Path(run.path).rglob("*") if file.is_file())
    reporter.say(f"Run written to {run.path} ({size / 1e6:.1f} MB) after {time.monotonic() - begun:.0f} s. Next:")
    reporter.say(f"  llmcls evaluate --run {run.path}")
    reporter.say(f'  llmcls predict --run {run.path} "a text to classify"')


def _without_effect(context: click.Context, overwrite: bool, force: bool) -> list[str]:
    """Options about a run that is there already, as typed."""
    wanted = {"overwrite": overwrite, "resume": True, "force": force}
    return typed(context, *(name for name, given in wanted.items() if given))


class _OnSeveralError(Exception):
    """The training is for several processes, which a launcher starts."""


@dataclass
class Launching:
    """On how many processes to train, and how they are started; it is known once all else is known to be good.

    Attributes:
        launcher: as typed; None: by the visible GPUs.
        machines: the options of `machine_options`.
        arguments: the command's, for the other processes.
        settings: as resolved.
        quiet: say nothing.
    """

    launcher: str | None
    machines: dict[str, Any]
    arguments: list[str]
    settings: Settings
    quiet: bool

    def __post_init__(self) -> None:
        from llmcls.processes.launching import LaunchRequest, refuse_launch

        if self.launcher is None:
            return
        request = LaunchRequest(self.launcher, **self.machines)  # refuses numbers that do not go together
        if self.launcher != "single":
            refuse_launch(request)

    def choose(self) -> None:
        """Return where this process is to train by itself.

        Raises:
            _OnSeveralError: where it is not.
        """
        from llmcls.processes.launching import LaunchRequest, visible_gpus

        if self.launcher == "single":
            return
        if self.launcher is None:
            gpus = visible_gpus()
            if gpus < 2:
                return
            Reporter(self.quiet).say(
                f"{gpus} GPUs are visible: --launch ddp --num-processes {gpus} (--launch single: only one)"
            )
            self.launcher = "ddp"
        LaunchRequest(self.launcher, **self.machines).resolve_processes()  # refuses where nothing says how many
        raise _OnSeveralError

    def foresee(self) -> tuple[int, str]:
        """How many processes would train, and by which backend."""
        from llmcls.processes.launching import LaunchRequest, backend_of, visible_gpus

        if self.launcher == "single" or (self.launcher is None and visible_gpus() < 2):
            return 1, "single"
        request = LaunchRequest(self.launcher or "ddp", **self.machines)
        return request.resolve_processes(), backend_of(request)

    def launch(self) -> int:
        """Train on several processes and return their exit code."""
        from llmcls.processes.launching import LaunchRequest, launch
        from llmcls.runs.writing import default_path
        from llmcls.training.memory import explain

        arguments = self.arguments
        if self.settings.output_dir is None:  # every attempt goes on with the same run
            arguments = ["--output-dir", str(default_path(self.settings)), *arguments]
        request = LaunchRequest(self.launcher or "ddp", **self.machines)
        reporter = Reporter(self.quiet)
        return launch(request, ["train", *arguments], lambda smaller: reporter.warn(explain(smaller)))
