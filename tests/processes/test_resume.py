"""Killed at any moment and started again, a run ends as if nothing had happened; what does not fit is refused."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from llmcls import train
from llmcls.console import Reporter
from llmcls.errors import LlmclsError
from llmcls.processes.stopping import StoppedError
from llmcls.runs.claim import claiming
from llmcls.settings import TrainingSettings
from llmcls.training import checkpoints, keeping
from llmcls.training import train as training
from llmcls.training.memory import shrink

# A forked process has everything imported already, so a test can afford to kill many.
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.slow


@pytest.fixture
def settings(place):
    settings = place.settings
    settings["lora"]["lora_dropout"] = 0.1  # so that the random state matters
    settings["training"] |= {"max_steps": 14, "save_strategy": "steps", "save_steps": 2}
    return settings


@pytest.fixture(scope="module")
def uninterrupted(place):
    """The adapter of a run that nobody disturbed, trained in a fork as the others are."""
    settings = place.settings
    settings["lora"]["lora_dropout"] = 0.1
    settings["training"] |= {"max_steps": 14, "save_strategy": "steps", "save_steps": 2}
    out = place.folder / "uninterrupted"
    assert attempt(settings, out) == 0
    return adapter(out)


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def attempt(settings: dict, out: Path, sabotage=None) -> int:
    """Train in a forked process, which `sabotage` prepares; returns its exit code, negative for a signal."""

    def run() -> None:
        if sabotage:
            sabotage()
        train(settings=settings, output_dir=out)

    process = FORK.Process(target=run)
    process.start()
    process.join(100)
    if process.exitcode is None:
        process.kill()
        pytest.fail("not done after 100 s")
    return process.exitcode


def errors(work) -> list[str]:
    """What `work` yields in a forked process, whose own output has no room to be written to."""
    ours, theirs = FORK.Pipe(duplex=False)

    def send() -> None:
        theirs.send(list(work()))

    process = FORK.Process(target=send)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join(100)


def error(settings: dict, out: Path) -> str:
    """The message with which training fails."""
    with pytest.raises(LlmclsError) as caught:
        train(settings=settings, output_dir=out)
    return str(caught.value)


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("when", "kills"), [({}, 6), ({"save_strategy": "no", "save_minutes": 1e-6}, 4)], ids=["steps", "minutes"]
)
def test_killed_at_random_many_times_it_ends_the_same(settings, uninterrupted, tmp_path, when, kills):
    chance, out = random.Random(7), tmp_path / "run"
    settings["training"] |= when

    def sabotage() -> None:
        from llmcls.training.trainer import LabelTrainer

        owner, name = chance.choice(
            [(LabelTrainer, "compute_loss"), (torch.optim.AdamW, "step"), (checkpoints, "_fingerprint")]
        )
        original, left = getattr(owner, name), [chance.randint(1, 4)]

        def counted(*args, **kwargs):
            left[0] -= 1
            return die() if left[0] == 0 else original(*args, **kwargs)

        setattr(owner, name, counted)

    for _ in range(
        kills
    ):  # of 14 steps each gets at most 2 further: there is a checkpoint every 2, and the 4th is fatal
        chance.random()  # the forked process's own draws are lost with it
        assert attempt(settings, out, sabotage) == -signal.SIGKILL
    assert attempt(settings, out) == 0
    assert adapter(out) == uninterrupted


@pytest.mark.parametrize("moment", ["weights", "optimizer", "random state", "trainer state", "seal", "rename", "old"])
def test_killed_while_a_checkpoint_is_written_the_one_before_is_used(settings, uninterrupted, tmp_path, moment, capfd):
    out = tmp_path / "run"

    def sabotage() -> None:
        from transformers.trainer_callback import TrainerState

        from llmcls.training.trainer import LabelTrainer

        owner, name = {
            "weights": (LabelTrainer, "_save_optimizer_and_scheduler"),
            "optimizer": (LabelTrainer, "_save_scaler"),
            "random state": (LabelTrainer, "_save_rng_state"),
            "trainer state": (TrainerState, "save_to_json"),
            "seal": (checkpoints, "_fingerprint"),
            "rename": (Path, "replace"),
            "old": (shutil, "rmtree"),
        }[moment]
        original, calls = getattr(owner, name), []

        def counted(*args, **kwargs):
            whole = len(list((tmp_path / "run.unfinished" / "trainer").glob("*/complete.json")))
            if whole >= 2:
                die()
            calls.append(1)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    assert attempt(settings, out, sabotage) == -signal.SIGKILL
    torn = sorted(path.name for path in (tmp_path / "run.unfinished" / "trainer").glob("checkpoint-*"))
    assert len(torn) == 3, "the kill came while the third was written, or the first deleted"
    capfd.readouterr()
    assert attempt(settings, out) == 0
    shown = " ".join(capfd.readouterr().err.split())
    newest = "checkpoint-6" if moment == "old" else "checkpoint-4"
    assert f"{newest}; --resume never begins anew" in shown
    assert ("is skipped: its writing was not finished" in shown) == (moment != "old")
    assert adapter(out) == uninterrupted


def at_checkpoint(step: int, act):
    """Have `act` called just before the checkpoint of a step is written."""
    from llmcls.training.trainer import LabelTrainer

    original = LabelTrainer._save_checkpoint

    def acting(self, *args):
        if self.state.global_step == step:
            act()
        return original(self, *args)

    LabelTrainer._save_checkpoint = acting


@pytest.mark.parametrize("size", [0, 2_000, 50_000])  # Python's own writes fail, torch's, safetensors'
def test_a_checkpoint_that_cannot_be_written_is_one_sentence_and_the_one_before_is_used(
    settings, uninterrupted, tmp_path, size, capfd
):
    out = tmp_path / "run"

    def work():
        at_checkpoint(6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
        yield error(settings, out)

    (message,) = errors(work)
    assert "checkpoint-6' cannot be written: " in message and "\n" not in message
    assert "MB free there; make room" in message and "goes on from 'checkpoint-4'" in message
    left = {path.name for path in (tmp_path / "run.unfinished" / "trainer").glob("checkpoint-*")}
    assert left == {"checkpoint-2", "checkpoint-4"}, "what was begun takes no room"
    capfd.readouterr()
    assert attempt(settings, out) == 0
    assert "checkpoint-4; --resume never begins anew" in " ".join(capfd.readouterr().err.split())
    assert adapter(out) == uninterrupted


@pytest.mark.parametrize("moment", ["save_weights", "write_run", "write_card"])  # safetensors, tokenizers, Python
def test_when_the_finished_run_cannot_be_written_nothing_is_lost(settings, uninterrupted, tmp_path, moment, capfd):
    out, owner = tmp_path / "run", keeping if moment == "write_card" else training
    settings["training"] |= {"save_strategy": "no"}

    def work():
        original = getattr(owner, moment)

        def limited(*args, **kwargs):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            return original(*args, **kwargs)

        setattr(owner, moment, limited)
        yield error(settings, out)

    (message,) = errors(work)
    assert message.startswith("Writing the run failed: ") and "\n" not in message and not out.exists()
    assert "make room, and the same command with the same --output-dir goes on from there" in message
    capfd.readouterr()
    assert attempt(settings, out) == 0
    shown = " ".join(capfd.readouterr().err.split())
    assert "checkpoint-14; --resume" in shown and "step 14/14" not in shown, "nothing is trained again"
    assert adapter(out) == uninterrupted
    assert not {"trainer", "resume.json"} & {path.name for path in out.iterdir()}


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def enter_own_namespaces() -> None:
    """Become root of namespaces of users and mounts (<sched.h>: NEWUSER, NEWNS), where one may mount."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x00020000):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def test_a_full_disk_and_one_that_becomes_read_only(settings, tmp_path):
    settings["training"]["save_total_limit"] = 10
    place = str(tmp_path)

    def work():
        try:
            enter_own_namespaces()
            mount("-t", "tmpfs", "-o", "size=400k", "none", place)  # room for one checkpoint
        except (OSError, subprocess.SubprocessError) as problem:
            yield f"no mount: {problem}"
            return
        yield error(settings, tmp_path / "run")
        mount("-o", "remount,size=20m", place)
        state = tmp_path / "run.unfinished" / "trainer"
        at_checkpoint(6, lambda: mount("-t", "tmpfs", "-o", "ro", "none", str(state)))
        yield error(settings, tmp_path / "run")
        subprocess.run(["umount", str(state)], check=True)
        mount("-o", "remount,ro", place)
        yield error(settings, tmp_path / "run")
        yield " ".join(sorted(path.name for path in state.glob("checkpoint-*")))

    first, *rest = errors(work)
    if first.startswith("no mount"):
        pytest.skip(f"this system lets nobody mount a small file system: {first}")
    full, readonly, impossible, left = first, *rest
    assert "checkpoint-4' cannot be written: " in full and "with 0 MB free there" in full
    assert "goes on from 'checkpoint-2'" in full
    assert "checkpoint-6' cannot be written: Read-only file system" in readonly
    assert impossible.endswith("run' cannot be created: Read-only file system. Choose --output-dir.")
    assert left == "checkpoint-2 checkpoint-4"


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    out, ready = tmp_path / "runs" / "run", FORK.Event()

    def hold() -> None:
        with claiming(out):
            ready.set()
            signal.pause()

    holder = FORK.Process(target=hold)
    holder.start()
    assert ready.wait(30)
    refused = pytest.raises(LlmclsError, match=rf"run' is being trained by process {holder.pid} on .*; wait for it")
    with refused, claiming(out, timeout=0):
        pytest.fail("two processes hold it")
    holder.kill()
    refused = pytest.raises(LlmclsError, match="is being trained by")
    with claiming(out), refused, claiming(out, timeout=0):  # the killed one lets go, although its file is there
        pytest.fail("one process holds it twice")
    assert not list(out.parent.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(LlmclsError, match="cannot be created"), claiming(tmp_path / "file" / "run"):
        pytest.fail("a file holds no folder")


def test_training_claims_the_run(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "claiming", functools.partial(claiming, timeout=0))
    with claiming(tmp_path / "run"), pytest.raises(LlmclsError, match="is being trained by"):
        train(settings=settings, output_dir=tmp_path / "run")


def stopped(settings: dict, out: Path) -> None:
    """Leave an unfinished run behind, in the way of a user: by a signal, here right after the first checkpoint."""
    from llmcls.training import trainer

    def seal_and_signal(checkpoint: Path) -> None:
        checkpoints.seal_checkpoint(checkpoint)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "seal_checkpoint", seal_and_signal)
        with pytest.raises(StoppedError, match=r"with a checkpoint in .* goes on"):
            train(settings=settings, output_dir=out)


def newest(out: Path) -> Path:
    found = out.parent.glob(f"{out.name}.unfinished/trainer/checkpoint-*")
    return max(found, key=lambda path: int(path.name.partition("-")[2]))


def test_damaged_checkpoints_are_skipped(settings, uninterrupted, tmp_path, capsys):
    out = tmp_path / "run"
    stopped(settings, out)
    with (newest(out) / "optimizer.pt").open("r+b") as stream:
        stream.truncate(1000)
    train(settings=settings, output_dir=out)
    assert "optimizer.pt has changed" in " ".join(capsys.readouterr().err.split())
    assert adapter(out) == uninterrupted


def test_other_settings_or_data_are_refused_with_what_differs(settings, place, tmp_path, capsys):
    out = tmp_path / "run"
    stopped(settings, out)
    rows = tmp_path / "rows.csv"
    rows.write_text((place.folder / "rows.csv").read_text() + "one more,red\n")
    changed = {**settings, "lora": {"lora_dropout": 0.1, "r": 4}, "data": {"source": str(rows)}}
    with pytest.raises(LlmclsError) as caught:
        train(settings=changed, output_dir=out)
    message = str(caught.value)
    for piece in ("lora.r: was 16, is 4", "rows of data: was", "--resume never", "--force"):
        assert piece in message
    with pytest.raises(LlmclsError, match="effective batch: was 8, is 16"):
        train(
            settings={**settings, "training": settings["training"] | {"gradient_accumulation_steps": 2}}, output_dir=out
        )
    # What does not change the outcome may change, such as how a step is cut up.
    same = settings["training"] | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "save_steps": 5}
    assert "Going on from" not in capsys.readouterr().err
    train(settings={**settings, "training": same}, output_dir=out)
    assert "Going on from" in capsys.readouterr().err


def test_force_goes_on_all_the_same(settings, tmp_path, capsys):
    out = tmp_path / "run"
    stopped(settings, out)
    settings["training"]["weight_decay"] = 0.01
    train(settings=settings, output_dir=out, force=True)
    shown = " ".join(capsys.readouterr().err.split())
    assert "going on although this differs: training.weight_decay: was 0.0, is 0.01" in shown
    assert "Going on from" in shown


def test_another_backends_checkpoint_is_refused_even_by_force(tmp_path):
    folder = tmp_path / "run.unfinished"
    (folder / "trainer" / "checkpoint-2").mkdir(parents=True)
    checkpoints.seal_checkpoint(folder / "trainer" / "checkpoint-2")
    checkpoints.record_identity(folder, {"backend": "zero2, 2 processes", "seed": 1})
    for force in (True, False):
        with pytest.raises(LlmclsError, match="written by zero2, 2 processes, which single or ddp cannot read"):
            checkpoints.choose_checkpoint(
                folder, "auto", {"backend": "single or ddp", "seed": 1}, force=force, reporter=Reporter()
            )


def test_never_begins_anew_and_a_named_checkpoint_is_taken(settings, uninterrupted, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    stopped(settings, first)
    checkpoint = newest(first)
    train(settings=settings, output_dir=second, resume=str(checkpoint))
    assert f"Going on from {checkpoint}" in capsys.readouterr().err.replace("\n", "")
    assert adapter(second) == uninterrupted
    assert checkpoint.is_dir(), "another run's checkpoints are left alone"
    train(settings=settings, output_dir=first, resume="never")
    assert "Going on" not in capsys.readouterr().err
    assert adapter(first) == uninterrupted
    with pytest.raises(LlmclsError, match=r"checkpoint-99' cannot be used: there is no such folder"):
        train(settings=settings, output_dir=tmp_path / "third", resume=str(checkpoint.with_name("checkpoint-99")))


def test_a_signal_without_checkpoints_configured_still_saves(settings, uninterrupted, tmp_path):
    out = tmp_path / "run"
    settings["training"] |= {"save_strategy": "no", "save_minutes": 0.0001}
    stopped(settings, out)
    assert attempt(settings, out) == 0
    assert adapter(out) == uninterrupted


def test_full_memory_halves_the_passes_and_keeps_the_step(place, settings, tmp_path, monkeypatch, capsys):
    from llmcls.training.trainer import LabelTrainer

    settings["lora"]["lora_dropout"] = 0.0
    expected = train(settings=settings, output_dir=tmp_path / "expected").path
    settings["training"]["per_device_train_batch_size"] = 8
    original, sizes = LabelTrainer.compute_loss, []

    def full(self, model, inputs, *args, **kwargs):
        sizes.append(self.args.per_device_train_batch_size)
        if sizes[-1] > 2 and self.state.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(LabelTrainer, "compute_loss", full)
    run = train(settings=settings, output_dir=tmp_path / "run")
    shown = " ".join(capsys.readouterr().err.split())
    assert "memory is full: going on with 4 rows" in shown and "accumulated 4 times" in shown
    assert sorted(set(sizes)) == [2, 4, 8]
    assert run.settings.training.per_device_train_batch_size == 2
    assert place.losses(run.path) == pytest.approx(place.losses(expected), abs=2e-5)
    settings["training"]["halve_batch_on_oom"] = False
    with pytest.raises(LlmclsError, match=r"memory is full at step 3 with 8 rows.*per_device_train_batch_size"):
        train(settings=settings, output_dir=tmp_path / "other")


def test_odd_passes_are_cut_without_changing_the_step():
    def values(rows, passes=1):
        return TrainingSettings(per_device_train_batch_size=rows, gradient_accumulation_steps=passes)

    assert shrink(values(1)) is None
    for rows in range(2, 40):
        smaller = shrink(values(rows, 3))
        assert smaller["per_device_train_batch_size"] * smaller["gradient_accumulation_steps"] == rows * 3
        assert smaller["per_device_train_batch_size"] < rows
