"""From a request to the launcher's command line, without starting anything."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from click.testing import CliRunner

from llmcls.cli import build_cli
from llmcls.errors import LlmclsError
from llmcls.processes import launching
from llmcls.processes.launching import LaunchRequest, accelerate_arguments, describe_config, launch_configs
from llmcls.training.memory import DeviceFullError

NAMES = ["single", "ddp", "zero2", "zero3", "fsdp", "multi_node"]


def run(*arguments):
    return CliRunner().invoke(build_cli(), list(arguments), catch_exceptions=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_is_one_that_accelerate_reads(name):
    path = launch_configs()[name]
    loaded = load_config_from_file(str(path))
    assert str(loaded.mixed_precision) == "no", "precision is said in one place, training.mixed_precision"
    assert "hoose it" in describe_config(path) or name == "single"
    assert describe_config(path).count(".") >= 2
    if loaded.deepspeed_config:
        assert loaded.deepspeed_config["gradient_accumulation_steps"] == "auto"
    if name == "fsdp":
        assert loaded.fsdp_config["fsdp_version"] == 2


def test_the_folder_holds_nothing_that_the_list_lacks(root):
    assert sorted(path.stem for path in (root / "launch").iterdir()) == sorted(NAMES)
    listed = run("launch", "list").output
    assert all(name in listed for name in NAMES)
    assert "llmcls[deepspeed]" in " ".join(listed.split())


def test_show_prints_the_file():
    assert run("launch", "show", "zero3").output == launch_configs()["zero3"].read_text()


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_takes_the_printed_line(name):
    machines = ["--num-machines", "2", "--machine-rank", "1", "--main-process-ip", "10.0.0.1"]
    number = "1" if name == "single" else "4"
    words = ["--launch", name, "--num-processes", number, *(machines if name == "multi_node" else [])]
    line = run("launch", "command", *words, "train", "--data", "my tickets.csv", "--set", "seed=1").output
    launch, *arguments = shlex.split(line)[1:]
    parsed = launch_command_parser().parse_args(arguments)
    assert launch == "launch"
    assert (parsed.module, parsed.training_script, parsed.num_processes) == (True, "llmcls", int(number))
    assert parsed.training_script_args == ["train", "--data", "my tickets.csv", "--set", "seed=1"]
    if name == "multi_node":
        assert (parsed.num_machines, parsed.machine_rank, parsed.main_process_ip) == (2, 1, "10.0.0.1")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (("zero4",), "Unknown launch configuration 'zero4'. Did you mean 'zero"),
        (("mine.yaml",), "'mine.yaml' is no file"),
        (("ddp", 3, 2, 0, "10.0.0.1"), "multiple of --num-machines 2"),
        (("ddp", 0), "positive"),
        (("single", 2), "--launch single is one process"),
        (("ddp", 4, 2, 2, "10.0.0.1"), "--machine-rank is 2, but must be from 0 to 1"),
        (("ddp", 4, 2, 1), "needs --main-process-ip"),
        (("ddp",), "--num-processes"),
    ],
)
def test_what_cannot_be_started_is_refused(monkeypatch, request_, message):
    monkeypatch.setattr(launching, "visible_gpus", lambda: 0)
    with pytest.raises(LlmclsError) as caught:
        accelerate_arguments(LaunchRequest(*request_), ["train"])
    assert message in str(caught.value)


def test_one_process_for_each_visible_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(launching, "visible_gpus", lambda: 8)
    assert LaunchRequest("zero2").resolve_processes() == 8
    assert LaunchRequest("ddp", num_machines=2, main_process_ip="10.0.0.1").resolve_processes() == 16
    assert LaunchRequest("single").resolve_processes() == 1
    own = tmp_path / "own.yaml"
    own.write_text(launch_configs()["ddp"].read_text().replace("num_processes: 2", "num_processes: 3"))
    assert LaunchRequest(str(own)).resolve_processes() == 3


def test_several_visible_gpus_mean_ddp_and_it_says_so(monkeypatch, tmp_path):
    started = []
    monkeypatch.chdir(tmp_path)
    Path("tickets.csv").write_text("text,label\n" + "late,delivery\ntwice,billing\n" * 9)
    monkeypatch.setattr(launching, "visible_gpus", lambda: 4)
    monkeypatch.setattr(launching, "launch", lambda *request: started.append(request[:2]) or 3)
    result = run("train", "--data", "tickets.csv", "--output-dir", "runs/tickets")
    assert "4 GPUs are visible: --launch ddp --num-processes 4" in result.stderr
    words = ["train", "--data", "tickets.csv"]
    assert started == [(LaunchRequest("ddp"), [*words, "--output-dir", "runs/tickets"])]
    run(*words)
    request, [name, option, path, *same] = started[1]
    assert (request, [name, *same], option) == (LaunchRequest("ddp"), words, "--output-dir"), (
        "all attempts write one run"
    )
    assert path.startswith("runs/tickets-nano-")
    monkeypatch.setenv("LOCAL_RANK", "0")  # the started process does not start any more
    assert "no such" in str(run("train", "--data", "no-such-file.csv").exception).lower() and len(started) == 2


def test_what_is_wrong_is_found_before_processes_are_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "launch", lambda *_: pytest.fail("a launcher was started"))
    Path("tickets.csv").write_text("text,label\nlate,delivery\ntwice,billing\n")
    for words, message in (
        (["--label-column", "nope"], "Unknown column 'nope'"),
        (["--template", "nope"], "Unknown template 'nope'"),
        (["--launch", "nope"], "Unknown launch configuration 'nope'"),
    ):
        launcher = [] if "--launch" in words else ["--launch", "ddp"]
        result = run("train", "--data", "tickets.csv", "--num-processes", "2", *launcher, *words)
        assert message in str(result.exception) and result.stderr == ""


def test_processes_without_a_launcher_are_wrong_usage():
    result = run("train", "--data", "demo:", "--num-processes", "2")
    assert result.exit_code == 2 and "--launch NAME" in result.output


def test_the_batch_file_is_a_shell_script_that_passes_arguments_on(tmp_path):
    written = tmp_path / "job.sbatch"
    words = ["train", "--data", "my tickets.csv", "--output-dir", "runs/$x"]
    result = run(
        *["launch", "slurm", "--nodes", "2", "--gpus-per-node", "4", "--launch", "zero3"],
        *["--output", str(written), *words],
    )
    assert result.exit_code == 0 and f"sbatch {written}" in result.stderr
    script = written.read_text()
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --gpus-per-node=4\n" in script
    # Run it with stand-ins for SLURM's and our commands.
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in {
        "scontrol": 'if [ "$1" = show ]; then echo node-a; echo node-b; else echo "$@" >> "$LOG"; fi',
        "srun": '[ "$1" = --wait=120 ] && [ "$SRUN_CPUS_PER_TASK" = 16 ] && shift && SLURM_NODEID=1 "$@"',
        "llmcls": 'printf "%s\\n" "$@" > "$LOG"; exit 75',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    log = tmp_path / "log"
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "LOG": str(log), "SLURM_JOB_ID": "40012"}
    environment["SLURM_CPUS_PER_TASK"] = "16"
    done = subprocess.run(["bash", str(written)], env=environment | {"SLURM_JOB_NODELIST": "node-[a-b]"}, timeout=20)
    assert done.returncode == 75
    assert log.read_text().splitlines() == [
        *["train", "--launch", "zero3", "--num-processes", "8", "--num-machines", "2", "--machine-rank", "1"],
        *["--main-process-ip", "node-a", "--main-process-port", "20012"],
        *["--data", "my tickets.csv", "--output-dir", "runs/$x"],
        "requeue 40012",
    ]


def test_a_batch_job_needs_a_name_for_its_run():
    result = run("launch", "slurm", "train", "--data", "tickets.csv")
    assert "--output-dir" in str(result.exception)


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.setattr(launching, "launch", lambda *_: pytest.fail("a launcher was started"))
    monkeypatch.setattr(launching, "visible_gpus", lambda: 4)
    result = run("train", "--launch", "single", "--data", "no-such-file.csv")
    assert "no such" in str(result.exception).lower()


@pytest.mark.parametrize("word", ["NO", '"NO"'])
def test_a_file_for_one_process_is_refused(tmp_path, word):
    own = tmp_path / "own.yaml"
    own.write_text(f"distributed_type: {word}\nnum_processes: 1\n")
    message = str(run("train", "--launch", str(own), "--data", "demo:").exception)
    assert "is one process: leave --launch out" in message


def test_standard_output_is_for_results(monkeypatch):
    def train(**_):
        print("compiled something")
        raise LlmclsError("enough")

    monkeypatch.setattr("llmcls.training.train.train", train)
    result = run("train", "--data", "demo:", "--json")
    assert str(result.exception) == "enough"
    assert result.stdout == "" and "compiled something" in result.stderr


def test_full_memory_under_another_launcher_says_how_to_go_on(monkeypatch):
    def train(**_):
        raise DeviceFullError("The device's memory is full at step 3.")

    monkeypatch.setattr("llmcls.training.train.train", train)
    monkeypatch.setenv("LOCAL_RANK", "0")
    words = ["train", "--data", "demo:", "--set", "training.per_device_train_batch_size=6"]
    message = str(run(*words).exception)
    assert "memory is full at step 3. The same command with --set training.per_device_train_batch_size=3" in message
    assert "--set training.gradient_accumulation_steps=2" in message and "llmcls train --launch" in message
    off = run(*words, "--set", "training.halve_batch_on_oom=false")
    assert str(off.exception) == "The device's memory is full at step 3."
