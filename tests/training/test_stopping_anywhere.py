"""A signal at any moment after the first step leaves a checkpoint, and the same command does what was left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.processes.stopping import StoppedError, StopSignals
from llmcls.training import train as train_module
from llmcls.training import trainer as trainer_module
from llmcls.training.trainer import LabelTrainer

CHANGES = {
    "model.quantization": "none",
    "training.max_steps": 3,
    "training.eval_strategy": "steps",
    "training.eval_steps": 2,
}
# The moment: whose function, and at which of its calls.
MOMENTS = {
    "evaluation": (LabelTrainer, "evaluation_loop", 1),
    "last step": (LabelTrainer, "compute_loss", 3),
    "last evaluation": (LabelTrainer, "evaluation_loop", 2),
    "last checkpoint": (trainer_module, "seal_checkpoint", 1),
    "thresholds": (train_module, "_decide", 1),
    "weights": (train_module, "save_weights", 1),
    "card": (train_module, "write_run", 1),
}


def at_call(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, act: Callable[[], None]) -> list[int]:
    """Have `act` called before the call of that number; the list grows with every call."""
    original, calls = getattr(owner, name), []

    def acting(*args: Any, **kwargs: Any) -> Any:
        if name != "compute_loss" or kwargs.get("num_items_in_batch") is not None:
            calls.append(1)
            if len(calls) == number:
                act()
        return original(*args, **kwargs)

    patch.setattr(owner, name, acting)
    return calls


@pytest.mark.slow
def test_a_signal_at_any_moment_keeps_everything(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights(fit(CHANGES, name="whole").run.path)
    for moment, (owner, name, number) in MOMENTS.items():
        when, left = ("at step 2 of 3", 1) if moment == "evaluation" else ("after the last step", 0)
        how = signal.SIGINT if moment == "last step" else signal.SIGTERM
        with monkeypatch.context() as patch:
            at_call(patch, owner, name, number, lambda how=how: os.kill(os.getpid(), how))
            with pytest.raises(StoppedError, match=rf"Stopped {when}, with .* goes on\."):
                fit(CHANGES, name=moment)
        with monkeypatch.context() as patch:
            steps = at_call(patch, LabelTrainer, "compute_loss", 0, lambda: None)
            done = fit(CHANGES, name=moment).run
        assert len(steps) == left, f"{moment}: nothing is trained again"
        assert weights(done.path) == expected
        assert not done.path.with_name(f"{moment}.unfinished").exists()


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_that_goes_on_is_left_at_once_while_it_loads(
    fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        at_call(patch, LabelTrainer, "compute_loss", 1, interrupt)
        with pytest.raises(StoppedError, match="Stopped at step 1 of 3"):
            fit(CHANGES)
    for name in ("read_data", "load_model"):
        with monkeypatch.context() as patch:
            at_call(patch, train_module, name, 1, interrupt)
            with pytest.raises(StoppedError, match="Stopped before training went on, with a checkpoint in"):
                fit(CHANGES)
    assert fit(CHANGES).trainer.state.global_step == 3


def test_a_signal_is_answered_at_once() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(heard.append) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        _until(lambda: bool(heard))
        assert stop.received == signal.SIGTERM
    assert heard == ["SIGTERM: stopping after this step, with a checkpoint"]
    assert signal.getsignal(signal.SIGTERM) is before
    heard.clear()
    with StopSignals(heard.append):
        os.kill(os.getpid(), signal.SIGINT)
        _until(lambda: bool(heard))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert heard == ["Ctrl-C: stopping after this step, with a checkpoint; a second Ctrl-C ends at once, without one"]


def test_where_nothing_is_lost_a_signal_ends_the_block() -> None:
    done: list[int] = []

    def stopped_amid(stop: StopSignals) -> None:
        with stop.leaving_at_once("all is kept"):
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(1)

    with StopSignals() as stop, pytest.raises(StoppedError, match="all is kept"):
        stopped_amid(stop)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError), stop.leaving_at_once("came before"):
            done.append(1)
    with pytest.raises(StoppedError), StopSignals().leaving_at_once("came to another process", come=True):
        done.append(1)
    with pytest.raises(RuntimeError, match="a mistake"), StopSignals().leaving_at_once("not this"):
        raise RuntimeError("a mistake")
    assert not done


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within 3 s")
