"""A training does as the base model's adapter suggests, says so, and its run keeps what was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcls import Classifier, train
from llmcls.default_plugins import base_models
from llmcls.errors import LlmclsError
from llmcls.model.adapter import BaseModelAdapter
from llmcls.plugin.manager import load_plugins
from llmcls.runs.run import Run
from llmcls.runs.writing import IDENTITY, unfinished_folder

from ..test_going_on import Heard

ROWS = [{"text": f"{word} {n}", "label": word} for n in range(4) for word in ("late", "paid")]
SHORT = {"training": {"max_steps": 2, "save_steps": 1, "save_strategy": "steps"}, "data": {"validation_size": 0}}
WHOLE = "Chosen for tiny: training.tuning full, model.quantization none, training.learning_rate 0.01 (it is tiny)"


class Tiny(BaseModelAdapter):
    """Suggests what no other adapter does; its checkpoint has a short name."""

    name = "tiny"
    description = "the model of the tests"
    tuning = "full"
    quantization = "none"
    full_learning_rate = 0.01
    learning_rate = 0.02
    why_suggested = "it is tiny"


@pytest.fixture(scope="module", autouse=True)
def _tiny(tiny_model_dir: Path) -> Iterator[None]:
    """Its adapter, registered."""

    class Plugin:
        @staticmethod
        @base_models.hookimpl
        def register_base_models() -> list[BaseModelAdapter]:
            return [adapter]

    adapter = Tiny()
    adapter.checkpoints = {"tiny": str(tiny_model_dir)}
    load_plugins().register(Plugin, name="tiny")
    yield
    load_plugins().unregister(name="tiny")


def unfolded(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A run of the tiny model with nothing said of these settings, and what was said of it."""
    reporter = Heard()
    folder = tmp_path_factory.mktemp("suggested") / "run"
    return train(ROWS, base_model="tiny", settings=SHORT, output_dir=folder, reporter=reporter), reporter.lines


def test_the_run_keeps_what_was_chosen(first: tuple[Run, list[str]]) -> None:
    run, said = first
    assert WHOLE in unfolded(said)
    kept = Run.open(run.path).settings
    assert (kept.training.tuning, kept.model.quantization, kept.training.learning_rate) == ("full", "none", 0.01)
    assert run.whole and Classifier.load(run).formats.quantization == "none"


def test_going_on_from_a_run_follows_the_run(tmp_path: Path) -> None:
    lora = {**SHORT, "training": {**SHORT["training"], "tuning": "lora"}}
    run = train(ROWS, base_model="tiny", settings=lora, output_dir=tmp_path / "lora", reporter=Heard())
    assert not run.whole and run.settings.model.quantization == "none"
    reporter = Heard()
    further = train(ROWS, base_model=str(run.path), settings=SHORT, output_dir=tmp_path / "on", reporter=reporter)
    assert not further.whole, "its LoRA weights are trained on"
    assert further.settings.training.learning_rate == 0.02
    assert f"Chosen for {run.path}: training.learning_rate 0.02" in unfolded(reporter.lines)


def test_a_base_model_as_it_is_is_stored_as_suggested() -> None:
    assert Classifier.zero_shot("tiny", ["a", "b"]).formats.quantization == "none"


def test_a_run_that_was_begun_before_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions recorded a learning rate of null where it was suggested."""
    from llmcls.training import train as module

    def keep(*_: Any) -> None:
        raise LlmclsError("killed")

    path = tmp_path / "run"
    given: dict[str, Any] = {"base_model": "tiny", "settings": SHORT, "output_dir": path}
    with monkeypatch.context() as patched:
        patched.setattr(module, "_keep", keep)
        with pytest.raises(LlmclsError, match="killed"):
            train(ROWS, reporter=Heard(), **given)
    identity = unfinished_folder(path) / IDENTITY
    recorded = json.loads(identity.read_text(encoding="utf-8"))
    assert recorded["training.learning_rate"] == 0.01
    identity.write_text(json.dumps({**recorded, "training.learning_rate": None}), encoding="utf-8")
    reporter = Heard()
    assert train(ROWS, reporter=reporter, **given).settings.training.learning_rate == 0.01
    assert any(line.startswith("Going on from") for line in reporter.lines)
