"""Several labels a text on two processes: the losses, probabilities and thresholds of one."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from llmcls import train
from llmcls.runs.run import Run

pytestmark = pytest.mark.slow


def test_two_processes_learn_and_tune_what_one_does(place: Any, start: Any, tmp_path: Any) -> None:
    """With ZeRO-3 no process has all weights: they tune the thresholds together."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    settings = place.settings
    settings["task"] = "multi_label"
    settings["training"]["objective"] = "label"
    settings["model"]["quantization"] = "none"
    one = train(settings=settings, output_dir=tmp_path / "one").path
    two = tmp_path / "two"
    done = start(
        *["-m", "llmcls", "train", "--launch", "zero3", "--num-processes", "2", "--output-dir", str(two)],
        *["--config", str(place.folder / "settings.yaml"), "--quantization", "none", "--task", "multi_label"],
        *["--set", "training.per_device_train_batch_size=4", "--set", "training.objective=label"],
    )
    assert done.code == 0, done.output
    assert "zero3, 2 processes" in done.output
    assert place.losses(two) == pytest.approx(place.losses(one), abs=2e-5)
    assert place.losses(one)[-1] < place.losses(one)[0] - 0.01, "a run that learns nothing shows nothing"
    assert place.probabilities(two) == pytest.approx(place.probabilities(one), abs=5e-5)
    first, second = Run.open(one).decision, Run.open(two).decision
    assert first["rows"] > 0 and first["rows"] == second["rows"]
    assert second["values"] == pytest.approx(first["values"], abs=5e-5)
