"""The same run on one process and on two, by every backend that runs on a CPU: same losses, same predictions."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import shlex
import signal
import socket
import subprocess
import sys

import pytest
import yaml

from llmcls import train
from llmcls.errors import LlmclsError
from llmcls.runs.run import Run

pytestmark = pytest.mark.slow

TWO = ["-m", "llmcls", "train", "--launch"]
# Of losses near 5. Two processes add in another order; sharded 4-bit weights compute in bfloat16 (8 bits of mantissa).
EXACT, HALF = 2e-5, 2e-2


def needs_deepspeed(backend):
    mark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
    return pytest.param(*backend, marks=mark)


@pytest.fixture(scope="module")
def one_process(place):
    """Finished runs of one process, by quantisation."""
    runs = {}

    def get(quantization):
        if quantization not in runs:
            settings = place.settings
            settings["model"]["quantization"] = quantization
            runs[quantization] = train(settings=settings, output_dir=place.folder / f"one-{quantization}").path
        return runs[quantization]

    return get


SLOW = """
import os
if "RANK" in os.environ:
    import time
    import llmcls.training.trainer as trainer

    loss = trainer.LabelTrainer.compute_loss
    trainer.LabelTrainer.compute_loss = lambda *args, **kwargs: time.sleep(0.5) or loss(*args, **kwargs)
"""


@pytest.mark.parametrize(
    ("backend", "quantization", "tolerance", "kill"),
    [
        ("ddp", "4bit", EXACT, None),  # "none": below, with an interruption
        needs_deepspeed(("zero2", "none", EXACT, "all")),
        needs_deepspeed(("zero2", "4bit", EXACT, None)),
        needs_deepspeed(("zero3", "none", EXACT, "launcher")),
        needs_deepspeed(("zero3", "4bit", HALF, None)),
    ],
)
def test_two_processes_learn_what_one_learns(
    place, start, root, one_process, tmp_path, backend, quantization, tolerance, kill
):
    out = tmp_path / "run"
    # Micro-batches of 2, twice, on 2 processes: 8 rows a step, as one process has them.
    command = [
        *[*TWO, backend, "--num-processes", "2", "--config", str(place.folder / "settings.yaml")],
        *["--set", "training.per_device_train_batch_size=2", "--set", "training.gradient_accumulation_steps=2"],
        *["--set", "training.save_strategy=steps", "--set", "training.save_steps=2"],
        *["--quantization", quantization, "--output-dir", str(out)],
    ]
    if kill:
        # Without their launcher, the processes stop by themselves: the output ends when the last of them does.
        end = {"all": start.end_tree, "launcher": subprocess.Popen.kill}[kill]
        (tmp_path / "slow").mkdir()
        (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW, encoding="utf-8")
        killed = start(*command, on={"step 3/8": end}, PYTHONPATH=f"{tmp_path / 'slow'}:{root}")
        assert killed.code == -signal.SIGKILL and not out.exists()
        assert ("Stopped at step" in killed.output) == (kill == "launcher")
    done = start(*command)
    assert done.code == 0, done.output
    assert done.output.count("Going on from") == bool(kill), done.output
    stored = {"none": "unquantised", "4bit": "4-bit"}[quantization]
    assert done.output.count(f"{backend}, 2 processes: CPU, {stored}") == 1, done.output
    assert done.output.count("8 rows a step (2 x 2 x 2 accumulated)") == 1
    assert done.output.count("step 7/8") == 1, "only rank 0 speaks"
    one = one_process(quantization)
    expected, losses = place.losses(one), place.losses(out)
    assert len(losses) == len(expected) == 8 + 2
    assert losses == pytest.approx(expected, abs=tolerance)
    shares, wanted = (place.logged(run, "accuracy", "eval_accuracy", "eval_roc_auc") for run in (out, one))
    assert len(wanted) == 8 + 2 + 2 and shares == pytest.approx(wanted, abs=0.15 if tolerance > 1e-3 else 1e-6)
    assert not math.isclose(expected[0], expected[7], abs_tol=0.1), "a run that learns nothing shows nothing"
    assert place.probabilities(out) == pytest.approx(place.probabilities(one), abs=2 * tolerance)
    assert Run.open(out).card["training"]["processes"] == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "slow"}, "nothing unfinished is left"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def machine(place, out, rank, address, port):
    """Arguments of one of two machines that train one run."""
    return [
        *[*TWO, "multi_node", "--num-processes", "2", "--num-machines", "2", "--machine-rank", str(rank)],
        *["--main-process-ip", address, "--main-process-port", port, "--output-dir", str(out)],
        *["--config", str(place.folder / "settings.yaml"), "--set", "training.per_device_train_batch_size=4"],
    ]


@pytest.mark.parametrize("backend", ["ddp", needs_deepspeed(("zero3",))])
def test_processes_with_different_numbers_of_packs_wait_for_each_other(place, start, tmp_path, backend):
    """A row of 60 words beside rows of one: one process has many packs where the other has one."""
    rows = [{"text": f"{n}" + " sky" * (60 if n % 5 == 0 else 1), "label": ("red", "blue")[n % 2]} for n in range(29)]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    settings = place.settings
    settings["data"]["source"] = str(tmp_path / "rows.csv")
    settings["model"]["quantization"] = "none"
    settings["training"] |= {"pack_tokens": 100, "max_steps": 4, "train_sampling_strategy": "group_by_length"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    one = train(settings=settings, output_dir=tmp_path / "one").path
    done = start(
        *[*TWO, backend, "--num-processes", "2", "--config", str(tmp_path / "settings.yaml")],
        *["--set", "training.per_device_train_batch_size=4", "--output-dir", str(tmp_path / "two")],
    )
    assert done.code == 0, done.output
    assert place.losses(tmp_path / "two") == pytest.approx(place.losses(one), abs=EXACT)
    assert figures(tmp_path / "two") == figures(one) != []


def figures(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    names = ("eval_accuracy", "eval_macro_f1", "eval_balanced_accuracy")
    return [[entry[name] for name in names] for entry in entries if "eval_loss" in entry]


# Two network namespaces and a cable: each has an address of its own, and no other way to the other.
NETWORK = """
unshare -n sleep 300 &
other=$!
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link set lo up && ip link add name here type veth peer name there && ip link set there netns $other || exit 125
ip addr add 10.77.0.1/24 dev here && ip link set here up || exit 125
nsenter -t $other -n sh -c "ip link set lo up; ip addr add 10.77.0.2/24 dev there && ip link set there up" || exit 125
[ "$1" ] || { kill $other; exit 0; }
GLOO_SOCKET_IFNAME=there nsenter -t $other -n $2 &
second=$!
GLOO_SOCKET_IFNAME=here $1
first=$?
wait $second
code=$?
kill $other
exit $((first + code))
"""


def by_network(*commands):
    return ["unshare", "-rn", "sh", "-c", NETWORK, "sh", *commands]


def test_two_machines_train_one_run(place, start, one_process, tmp_path):
    out = tmp_path / "run"
    try:
        subprocess.run(by_network(), check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):  # this system lets nobody make namespaces: two launchers on loopback
        port = free_port()
        second = start.begin(*machine(place, out, 1, "127.0.0.1", port))
        done = start(*machine(place, out, 0, "127.0.0.1", port))
        assert second.wait(60) == 0
        assert second.stdout.read().strip() == "", "only rank 0 speaks"
    else:
        words = [shlex.join([sys.executable, *machine(place, out, rank, "10.77.0.1", "29500")]) for rank in (0, 1)]
        done = start.run(by_network(*words))
    assert done.code == 0, done.output
    assert done.output.count("ddp, 2 processes") == 1
    assert place.losses(out) == pytest.approx(place.losses(one_process("none")), abs=EXACT)


def test_a_terminated_launch_goes_on_where_it_stopped_with_any_number_of_processes(
    place, start, one_process, tmp_path, capsys
):
    out = tmp_path / "run"
    command = [
        *[*TWO, "ddp", "--num-processes", "2", "--config", str(place.folder / "settings.yaml")],
        *["--set", "training.per_device_train_batch_size=4", "--output-dir", str(out)],
    ]
    stopped = start(*command, on={"step 2/8": lambda process: process.send_signal(signal.SIGTERM)})
    assert stopped.code == 75, stopped.output
    assert stopped.output.count("the same command with --output-dir") == 1
    assert "Traceback" not in stopped.output
    assert not out.exists()
    other = place.settings | {"training": place.settings["training"] | {"gradient_accumulation_steps": 2}}
    with pytest.raises(LlmclsError, match="effective batch: was 8, is 16"):
        train(settings=other, output_dir=out)
    capsys.readouterr()
    train(settings=place.settings, output_dir=out)
    shown = capsys.readouterr().err
    assert "Going on from" in shown and "step 2/8" not in shown
    assert place.losses(out) == pytest.approx(place.losses(one_process("none")), abs=EXACT)
    assert place.probabilities(out) == pytest.approx(place.probabilities(one_process("none")), abs=EXACT)


FAILING = """
import os, sys
import llmcls.training.trainer as trainer
from llmcls.cli import main
from llmcls.errors import LlmclsError

loss = trainer.LabelTrainer.compute_loss
def fail(self, *args, **kwargs):
    if os.environ["RANK"] == "1" and self.state.global_step == 2:
        raise LlmclsError("the third step of rank 1 fails")
    return loss(self, *args, **kwargs)
trainer.LabelTrainer.compute_loss = fail
main()
"""


def test_one_failing_process_ends_all_and_is_heard_once(place, start, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING, encoding="utf-8")
    done = start(
        *["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
        *[str(script), "train", "--config", str(place.folder / "settings.yaml"), "--output-dir", str(tmp_path / "run")],
    )
    assert done.code != 0
    assert done.output.count("Error: the third step of rank 1 fails") == 1, done.output
    assert "[rank0]" not in done.output, "the other process does not add its own traceback"


KILLED = """
import os
if os.environ.get("RANK") == "1":
    import signal
    import llmcls.training.trainer as trainer

    loss = trainer.LabelTrainer.compute_loss
    def die(self, *args, **kwargs):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(self, *args, **kwargs)
    trainer.LabelTrainer.compute_loss = die
"""


def test_a_killed_process_is_named_by_the_launcher(place, start, root, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(KILLED, encoding="utf-8")
    done = start(
        *[*TWO, "ddp", "--num-processes", "2", "--config", str(place.folder / "settings.yaml")],
        *["--output-dir", str(tmp_path / "run")],
        PYTHONPATH=f"{tmp_path}:{root}",
    )
    assert done.code == 1
    assert done.output.count("Error: Process 1 was killed by SIGKILL") == 1, done.output
    assert "Traceback" not in done.output, "what the other process sees of it is not shown"


def test_a_configuration_that_would_start_one_process_of_two_is_refused(place, start, tmp_path):
    config = tmp_path / "cpu.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_machines: 1\nnum_processes: 2\n"
        "use_cpu: true\nmixed_precision: 'no'\n"
    )
    done = start(
        *["-m", "accelerate.commands.launch", "--config_file", str(config), "-m", "llmcls", "train"],
        *["--config", str(place.folder / "settings.yaml"), "--output-dir", str(tmp_path / "run")],
    )
    assert done.code != 0
    assert "starts only one" in done.output and "Loading" not in done.output, done.output


FULL = """
import os
if os.environ.get("RANK") == "1":
    import torch
    import llmcls.training.trainer as trainer

    loss = trainer.LabelTrainer.compute_loss
    def fill(self, model, inputs, *args, **kwargs):
        if len(inputs["targets"]) > 20 and self.state.global_step == 3:  # more than two rows' answer tokens
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return loss(self, model, inputs, *args, **kwargs)
    trainer.LabelTrainer.compute_loss = fill
"""


def test_full_memory_of_one_process_makes_all_go_on_with_smaller_passes(place, start, root, one_process, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FULL, encoding="utf-8")
    out = tmp_path / "run"
    done = start(
        *[*TWO, "ddp", "--num-processes", "2", "--config", str(place.folder / "settings.yaml")],
        *["--set", "training.per_device_train_batch_size=4", "--set", "training.save_strategy=steps"],
        *["--set", "training.save_steps=2", "--output-dir", str(out)],
        PYTHONPATH=f"{tmp_path}:{root}",
    )
    assert done.code == 0, done.output
    assert done.output.count("memory is full: going on with 2 rows") == 1 and "Error" not in done.output, done.output
    assert "8 rows a step (2 x 4)" in done.output and "8 rows a step (2 x 2 x 2 accumulated)" in done.output
    assert done.output.count("Going on from") == 1, "the steps before are not lost"
    assert place.losses(out) == pytest.approx(place.losses(one_process("none")), abs=EXACT)


def test_prediction_shared_by_two_processes_keeps_the_order_and_every_row_once(place, start, one_process, tmp_path):
    run, rows = str(one_process("none")), str(place.folder / "rows.csv")
    two = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    words = ["-m", "llmcls", "predict", "--run", run, "--input", rows, "--probabilities", "--output"]
    for out, command in (("one.csv", words), ("two.csv", [*two, *words])):
        done = start(*command, str(tmp_path / out))
        assert done.code == 0, done.output
        assert done.output.count("Predicting with") == 1
    alone, together = (list(csv.DictReader((tmp_path / out).open())) for out in ("one.csv", "two.csv"))
    assert [row["text"] for row in together] == [row["text"] for row in alone] and len(alone) > 50
    for name in alone[0]:
        if name.startswith("p"):
            convert = float if name.startswith("p(") or name == "probability" else str
            values = [[convert(row[name]) for row in rows] for rows in (alone, together)]
            assert values[1] == (pytest.approx(values[0], abs=1e-5) if convert is float else values[0])
    done = start(
        *[*two, "-m", "llmcls", "evaluate", "--run", run, "--data", rows, "--before"],
        *["--output-dir", str(tmp_path / "evaluation")],
    )
    assert done.code == 0, done.output
    assert done.output.count("Evaluating") == 1
    assert len(list(csv.DictReader((tmp_path / "evaluation" / "predictions.csv").open()))) == len(alone)
    assert (tmp_path / "evaluation" / "metrics-before.json").is_file()
