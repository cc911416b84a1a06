"""A classification head and full fine-tuning on two processes: the same losses and predictions as on one."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from llmcls import train
from llmcls.runs.run import Run

pytestmark = pytest.mark.slow

HEAD = ("training.objective=head", "prompt.template=text")
FULL = (*HEAD, "training.tuning=full")


@pytest.mark.parametrize(("backend", "quantization", "changes"), [("ddp", "4bit", HEAD), ("zero3", "none", FULL)])
def test_two_processes_learn_what_one_learns(
    place: Any, start: Any, tmp_path: Any, backend: str, quantization: str, changes: tuple[str, ...]
) -> None:
    if backend == "zero3" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    settings = place.settings
    settings["model"]["quantization"] = quantization
    for change in changes:
        key, _, value = change.partition("=")
        section, _, name = key.partition(".")
        settings.setdefault(section, {})[name] = value
    one = train(settings=settings, output_dir=tmp_path / "one").path
    two = tmp_path / "two"
    done = start(
        *["-m", "llmcls", "train", "--launch", backend, "--num-processes", "2", "--output-dir", str(two)],
        *["--config", str(place.folder / "settings.yaml"), "--quantization", quantization],
        *["--set", "training.per_device_train_batch_size=4"],
        *[part for change in changes for part in ("--set", change)],
    )
    assert done.code == 0, done.output
    assert f"{backend}, 2 processes" in done.output
    assert place.losses(two) == pytest.approx(place.losses(one), abs=2e-5)
    assert place.losses(one)[-1] < place.losses(one)[0] - 0.01, "a run that learns nothing shows nothing"
    assert place.probabilities(two) == pytest.approx(place.probabilities(one), abs=5e-5)
    assert (Run.open(two).whole, Run.open(two).has_head) == (changes is FULL, True)
