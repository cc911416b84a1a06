"""`llmcls launch`: the shipped accelerate configurations, the exact launcher line, and a batch file for SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from llmcls.cli.places import behind_links, is_batch_file, refuse_foreign, writes_through
from llmcls.cli.shared import echo, echo_data, show, table
from llmcls.errors import LlmclsError

F = TypeVar("F", bound=Callable[..., Any])

# Options end where `train` begins: the rest belongs to it.
REST_AS_IT_IS = {"ignore_unknown_options": True, "allow_interspersed_args": False}

launch_option = click.option(
    "--launch", "name", default="ddp", show_default=True, metavar="NAME|PATH", help="Configuration, as in `list`."
)


def machine_options(function: F) -> F:
    """`--num-processes` and where the machines are."""
    for option in (
        click.option("--main-process-port", type=int, metavar="P", help="A free port on machine 0."),
        click.option("--main-process-ip", metavar="IP", help="Address of machine 0."),
        click.option("--machine-rank", type=int, default=0, metavar="R", help="This machine's number, from 0."),
        click.option("--num-machines", type=int, default=1, metavar="M", help="How many machines take part."),
        click.option(
            "--num-processes", type=int, metavar="N", help="Processes of all machines; one per GPU when not given."
        ),
    ):
        function = option(function)
    return function


@click.group("launch", short_help="Show how several processes are started.")
def command() -> None:
    """Show how training is started on several processes (`llmcls train --launch NAME`)."""


@command.command("list")
def list_() -> None:
    """The shipped configurations, and when to choose which."""
    from rich.text import Text

    from llmcls.processes.launching import describe_config, launch_configs

    shown = table("Launch configurations", "name", "when")
    for name, path in launch_configs().items():
        shown.add_row(name, Text(describe_config(path)))
    show(shown)


@command.command("show", short_help="Print a configuration, to be changed and used.")
@click.argument("name")
def show_config(name: str) -> None:
    """Print a configuration, to be changed and used as --launch PATH.yaml."""
    from llmcls.files import read_text
    from llmcls.processes.launching import LaunchRequest

    echo_data(read_text(LaunchRequest(name).config_file, "Launch configuration"))


@command.command("command", context_settings=REST_AS_IT_IS)
@launch_option
@machine_options
@click.argument("arguments", nargs=-1, required=True)
def print_command(name: str, arguments: tuple[str, ...], **machines: Any) -> None:
    """Print the `accelerate launch` line that --launch NAME runs.

    \b
    llmcls launch command --launch zero2 --num-processes 8 train --data tickets.csv
    """
    from llmcls.processes.launching import LaunchRequest, accelerate_arguments

    request = LaunchRequest(name, **machines)
    echo_data(shlex.join(["accelerate", "launch", *accelerate_arguments(request, arguments)]) + "\n")


@command.command("slurm", short_help="Write a Slurm batch file for N nodes.", context_settings=REST_AS_IT_IS)
@launch_option
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="How many nodes.")
@click.option("--gpus-per-node", type=click.IntRange(1), default=8, show_default=True, help="GPUs of each.")
@click.option("--output", type=click.Path(path_type=Path), help="File to write; standard output when not given.")
@click.argument("arguments", nargs=-1, required=True)
def slurm(nodes: int, gpus_per_node: int, name: str, output: Path | None, arguments: tuple[str, ...]) -> None:
    """Write a batch file that trains on N nodes and goes on by itself after a preemption.

    \b
    llmcls launch slurm --nodes 2 --output job.sbatch train --data tickets.csv --output-dir runs/tickets
    sbatch job.sbatch
    """
    from llmcls.processes.launching import LaunchRequest, slurm_script

    if "--output-dir" not in arguments:
        raise LlmclsError("Name the run with --output-dir: without it, a job that starts again would begin anew.")
    request = LaunchRequest(name, num_machines=nodes, main_process_ip="MAIN" if nodes > 1 else None)
    request.config_file  # noqa: B018 - an unknown name is an error now, not in the queue
    script = slurm_script(request, arguments, gpus_per_node)
    if output is None:
        echo_data(script)
        return
    if not writes_through(output):
        refuse_foreign(behind_links(output), is_batch_file)
    try:
        output.write_text(script, encoding="utf-8")
    except OSError as error:
        raise LlmclsError(f"'{output}' cannot be written: {error.strerror}.") from error
    echo(f"Written: {output}. Start it with: sbatch {shlex.quote(str(output))}", err=True)
