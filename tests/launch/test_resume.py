"""Killed at any moment and started again, a run ends as if nothing had happened; what does not fit is refused."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from llmcls import train
from llmcls.errors import LlmclsError
from llmcls.settings import TrainingSettings
from llmcls.training import checkpoints
from llmcls.training.memory import shrink
from llmcls.training.stopping import StoppedError

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


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_at_random_many_times_it_ends_the_same(settings, uninterrupted, tmp_path):
    chance, out = random.Random(7), tmp_path / "run"

    def sabotage() -> None:
        from llmcls.training.trainer import LabelTrainer

        owner, name = chance.choice([(LabelTrainer, "compute_loss"), (torch.optim.AdamW, "step")])
        original, left = getattr(owner, name), [chance.randint(1, 4)]

        def counted(*args, **kwargs):
            left[0] -= 1
            return die() if left[0] == 0 else original(*args, **kwargs)

        setattr(owner, name, counted)

    for _ in range(6):  # of 14 steps each gets at most 2 further: there is a checkpoint every 2, and the 4th is fatal
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
    for piece in ("lora.r: was 16, is 4", "data.source: was", "rows of data: was", "--resume never", "--force"):
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
