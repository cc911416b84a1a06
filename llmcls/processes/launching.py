"""Starts llmcls on several processes through accelerate's own launcher, with the configurations in `launch/`.

request = LaunchRequest("zero2", num_processes=2)
accelerate_arguments(request, ["train", "--data", "tickets.csv"])   # what follows `accelerate launch`
exit_code = launch(request, ["train", "--data", "tickets.csv"])
slurm_script(request, ["train", ...], gpus_per_node=8)
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from llmcls.errors import LlmclsError, unknown
from llmcls.files import read_text, shipped
from llmcls.processes.stopping import GRACE_SECONDS, START_AGAIN, STATUS
from llmcls.processes.world import ASKED

PORT = 29500
SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Seconds that torchrun leaves its processes after a signal before it kills them."""


@dataclass(frozen=True)
class LaunchRequest:
    """How to start the processes.

    Attributes:
        name: a configuration of `launch_configs()`, or the path of one that `accelerate config` wrote.
        num_processes: of all machines together; by the configuration and the visible GPUs when None.
        num_machines: how many machines take part.
        machine_rank: this machine's number, from 0.
        main_process_ip: address of machine 0.
        main_process_port: a port that is free there.

    Raises:
        LlmclsError: when the numbers do not go together.
    """

    name: str
    num_processes: int | None = None
    num_machines: int = 1
    machine_rank: int = 0
    main_process_ip: str | None = None
    main_process_port: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.machine_rank < self.num_machines:
            raise LlmclsError(
                f"--machine-rank is {self.machine_rank}, but must be from 0 to {self.num_machines - 1} for "
                f"--num-machines {self.num_machines}."
            )
        if self.num_machines > 1 and self.main_process_ip is None:
            raise LlmclsError(f"--num-machines {self.num_machines} needs --main-process-ip, machine 0's address.")
        if self.num_machines == 1 and self.main_process_ip is not None and self.name != "multi_node":
            raise LlmclsError(
                f"--main-process-ip {self.main_process_ip} is for several machines; say with --num-machines how many, "
                "or leave it out."
            )
        if self.name == "single" and self.main_process_port is not None:
            raise LlmclsError("--launch single is one process, which needs no --main-process-port; leave it out.")
        if self.name == "single" and (self.num_processes or 1) * self.num_machines > 1:
            raise LlmclsError("--launch single is one process on one machine; use --launch ddp for more.")
        if self.num_processes is not None and (self.num_processes < 1 or self.num_processes % self.num_machines):
            raise LlmclsError(
                f"--num-processes {self.num_processes} counts all machines' processes; it must be a positive "
                f"multiple of --num-machines {self.num_machines}."
            )

    @property
    def config_file(self) -> Path:
        """The accelerate configuration.

        Raises:
            LlmclsError: when there is none of that name.
        """
        if self.name.endswith((".yaml", ".yml", ".json")):
            if not Path(self.name).is_file():
                raise LlmclsError(f"Launch configuration '{self.name}' is no file; `llmcls launch list` shows names.")
            return Path(self.name)
        known = launch_configs()
        if self.name not in known:
            raise LlmclsError(f"{unknown('launch configuration', self.name, known)} A path to a .yaml works as well.")
        return known[self.name]

    def resolve_processes(self) -> int:
        """Number of processes: as given, or one for each visible GPU of each machine, or the user's own file's.

        Raises:
            LlmclsError: when there is nothing to go by.
        """
        if self.num_processes is not None:
            return self.num_processes
        if self.name == "single":
            return 1
        if self.config_file.parent != shipped("launch"):
            return int(read_config(self.config_file).get("num_processes", 1))
        gpus = visible_gpus()
        if not gpus:
            raise LlmclsError("No GPU is visible, so say with --num-processes how many processes to start.")
        return gpus * self.num_machines


def launch_configs() -> dict[str, Path]:
    """The shipped configurations by name, simplest first."""
    order = ("single", "ddp", "zero2", "zero3", "fsdp", "multi_node")
    return {name: shipped("launch") / f"{name}.yaml" for name in order}


def read_config(path: Path) -> dict[str, Any]:
    """An accelerate configuration as a mapping.

    Raises:
        LlmclsError: when it is none.
    """
    try:
        loaded = yaml.safe_load(read_text(path, "Launch configuration"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, brackets thousands deep
        raise LlmclsError(f"Launch configuration '{path}' cannot be read: {error}.") from error
    if not isinstance(loaded, dict) or "distributed_type" not in loaded:
        raise LlmclsError(f"'{path}' is no accelerate configuration: it has no distributed_type.")
    count = loaded.get("num_processes", 1)
    if not (isinstance(count, int) and count > 0):
        raise LlmclsError(f"'{path}' says num_processes {count!r:.60}, but must say a number from 1.")
    return loaded


def backend_of(request: LaunchRequest) -> str:
    """What the processes of a request will work by, as `llmcls.processes.world.requested_backend` calls it.

    Raises:
        LlmclsError: when the configuration cannot be read.
    """
    config = read_config(request.config_file)
    kind = str(config["distributed_type"]).upper()
    if kind == "DEEPSPEED":
        return f"zero{(config.get('deepspeed_config') or {}).get('zero_stage', 2)}"
    return "fsdp" if kind == "FSDP" else "ddp"


def describe_config(path: Path) -> str:
    """When to choose a configuration: the comment that it begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:count])


def visible_gpus() -> int:
    """GPUs that this process may use."""
    import torch

    # `torch.cuda` counts without starting CUDA, after which no process could be forked.
    return torch.cuda.device_count() or torch.accelerator.device_count()


def accelerate_arguments(request: LaunchRequest, command: Sequence[str]) -> list[str]:
    """What follows `accelerate launch` to run `llmcls COMMAND`."""
    arguments = ["--config_file", str(request.config_file), "--num_processes", str(request.resolve_processes())]
    if request.num_machines > 1 or request.name == "multi_node":
        arguments += [
            *("--num_machines", str(request.num_machines)),
            *("--machine_rank", str(request.machine_rank)),
            *("--main_process_ip", request.main_process_ip or "127.0.0.1"),
            *("--main_process_port", str(request.main_process_port or PORT)),
            "--same_network",
        ]
    elif request.main_process_port is not None:
        arguments += ["--main_process_port", str(request.main_process_port)]
    elif request.name != "single":
        arguments += ["--main_process_port", "0"]  # any free one: two runs on one machine do not meet
    return [*arguments, "-m", "llmcls", *command]


def launch(request: LaunchRequest, command: Sequence[str], before_retry: Callable[[dict[str, int]], None]) -> int:
    """Run `llmcls COMMAND` on the processes asked for, and wait for them.

    When a device's memory is full, all are started again with smaller micro-batches, from the last checkpoint.

    Args:
        request: how to start them.
        command: what follows `llmcls`.
        before_retry: called with the changed settings of `training` before all are started again.

    Returns:
        Their exit code: of the first that failed; 75 when a signal stopped them and they can go on.

    Raises:
        LlmclsError: when the configuration is for one process or accelerate refuses it, or a process was killed, which
            then cannot say so.
    """
    refuse_launch(request)
    command = list(command)
    while True:
        code, settings = _launch_once(request, command)
        if code != START_AGAIN:
            return code
        before_retry(settings)
        # Of several --set of one name the last counts. What has been written since counts too: the run is ours.
        command = _going_on(_with_settings(command, settings))


def refuse_launch(request: LaunchRequest) -> None:
    """Refuse a configuration that cannot be launched, before anything starts.

    Raises:
        LlmclsError: for one of a single process, which needs no launcher; for DeepSpeed where it is not installed; and
            for a configuration that there is not.
    """
    kind = read_config(request.config_file)["distributed_type"]
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise LlmclsError(
            f"'{request.name}' needs DeepSpeed, which is not installed: pip install 'llmcls[deepspeed]', or use "
            "--launch ddp."
        )
    if kind in ("NO", False):  # YAML reads a bare NO as False
        raise LlmclsError(
            f"'{request.name}' has distributed_type NO, which is one process: leave --launch out, or choose one of "
            "`llmcls launch list`."
        )


def _with_settings(command: Sequence[str], settings: dict[str, int]) -> list[str]:
    """The same command with other settings of `training`, in place of the option that stands for one of them."""
    pairs = zip(["", *command], command, strict=False)
    kept = [word for before, word in pairs if "--batch-size" not in (before, word.partition("=")[0])]
    end = kept.index("--") if "--" in kept else len(kept)  # what follows is not an option
    given = [word for name, value in settings.items() for word in ("--set", f"training.{name}={value}")]
    return [*kept[:end], *given, *kept[end:]]


def _going_on(command: Sequence[str]) -> list[str]:
    """The same command, but one that begins anew goes on."""
    pairs = zip(["", *command], command, strict=False)
    words = ["auto" if (before, word) == ("--resume", "never") else word for before, word in pairs]
    return ["--resume=auto" if word == "--resume=never" else word for word in words]


def _launch_once(request: LaunchRequest, command: Sequence[str]) -> tuple[int, dict[str, int]]:
    import torch.distributed.run  # noqa: F401 - sets its loggers' levels, so it comes before we do
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # What failed has said so itself; torchrun would add a page of its own.
    for name in ("agent.server.api", "agent.server.local_elastic_agent", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    arguments = accelerate_arguments(request, command)
    with tempfile.TemporaryDirectory(prefix="llmcls-launch-") as folder:
        status = Path(folder) / "status.json"
        environment = {ASKED: f"{request.name}:{request.resolve_processes()}", STATUS: str(status)}
        environment[SHUTDOWN] = os.environ.get(SHUTDOWN, str(GRACE_SECONDS))
        if not visible_gpus():
            environment["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", "cpu")
        code, rank = 0, 0
        with patch_environment(**environment):  # the processes inherit it; the launcher takes no environment of theirs
            try:
                launch_command(launch_command_parser().parse_args(arguments))
            except ChildFailedError as error:
                rank, failure = error.get_first_failure()
                code = failure.exitcode
            except subprocess.CalledProcessError as error:
                code = error.returncode
            except SignalException as error:
                code = 128 + error.sigval
            except ValueError as error:
                raise LlmclsError(f"accelerate refuses '{request.config_file}': {error}") from error
        if code and status.is_file():
            told = json.loads(status.read_text(encoding="utf-8"))
            return told["code"], told["settings"]
        if code < 0:
            name = signal.Signals(-code).name
            often = " (often by the system, when its memory is full)" if name == "SIGKILL" else ""
            raise LlmclsError(
                f"Process {rank} was killed by {name}{often}, so the others were ended; the same command with the same "
                "--output-dir goes on from the last checkpoint."
            )
        return code, {}


def slurm_script(request: LaunchRequest, command: Sequence[str], gpus_per_node: int) -> str:
    """An sbatch file that runs `llmcls COMMAND` on `request.num_machines` nodes, and again when it was preempted."""
    words = [
        *("llmcls", command[0], "--launch", request.name),
        *("--num-processes", str(request.num_machines * gpus_per_node)),
        *("--num-machines", str(request.num_machines)),
    ]
    machines = "--main-process-port $PORT"
    if request.num_machines > 1:
        machines = f"--machine-rank $SLURM_NODEID --main-process-ip $MAIN {machines}"
    line = f"{shlex.join(words)} {machines} {shlex.join(command[1:])}"
    return f"""#!/bin/bash
#SBATCH --job-name=llmcls
#SBATCH --nodes={request.num_machines}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus_per_node}
#SBATCH --cpus-per-task={4 * gpus_per_node}
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

# Add what your cluster wants: --partition, --account, and the modules or the environment that llmcls is in.

# Two minutes before its time is over, and when it is preempted, the run writes a checkpoint and ends with code 75;
# started again with the same --output-dir, it goes on. The folder must be on a file system that all nodes see.
export MAIN=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export PORT=$((20000 + SLURM_JOB_ID % 20000))   # jobs that share a node do not meet
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # since Slurm 22.05, srun does not take it from the job
# --wait: a node whose launcher has ended ends the others after two minutes, so that none waits for it.
srun --wait=120 bash -c {shlex.quote(line)}
code=$?
if [ $code -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
"""
