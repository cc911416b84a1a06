"""Training that goes on from a run, or from a published classifier with a head."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from llmcls import Classifier, LlmclsError, train
from llmcls.console import Reporter
from llmcls.runs.run import Run

from .cli.conftest import call

LABELS = ("billing", "delivery", "praise")
TEXTS = ["where is my parcel", "you took the money twice", "thanks 🙂"]
ROWS = [{"text": f"{text} {n}", "label": label} for n in range(4) for text, label in zip(TEXTS, LABELS, strict=True)]
TAUGHT = {"max_steps": 3, "learning_rate": 0.02, "eval_strategy": "no"}
STILL = {"max_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "eval_strategy": "no"}
FULL = {"tuning": "full"}
HEAD = {"objective": "head"}
TEXT = {"template": "text"}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"r": 4, "bias": "lora_only"}},
    "lora-head": {"training": HEAD, "prompt": TEXT, "lora": {"r": 4}},
    "full": {"training": FULL},
    "full-head": {"training": {**FULL, **HEAD}, "prompt": TEXT},
}


class Heard(Reporter):
    """A reporter that remembers."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    warn = say


@pytest.fixture(scope="module")
def first(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A trained run of a kind; each is trained once."""
    made: dict[str, Run] = {}
    folder = tmp_path_factory.mktemp("first")

    def trained(kind: str) -> Run:
        if kind not in made:
            given = KINDS[kind]
            training = {**TAUGHT, **given.get("training", {})}
            model = {"base_model": str(tiny_model_dir), "quantization": "none"}
            settings = {**given, "model": model, "training": training}
            made[kind] = train(ROWS, settings=settings, output_dir=folder / kind, reporter=Heard())
        return made[kind]

    return trained


def go_on(run: Run, folder: Path, rows: Any = None, **sections: dict[str, Any]) -> tuple[Run, str]:
    """Train on, with a learning rate of almost nothing; the run, and what was said."""
    trained, heard = run.settings.training, Heard()
    training = {**STILL, "objective": trained.objective, "tuning": trained.tuning, **sections.pop("training", {})}
    prompt = {"template": run.template.name, **sections.pop("prompt", {})}
    model = {"base_model": str(run.path), **sections.pop("model", {})}
    if training["tuning"] == "full":
        model["quantization"] = "none"
    settings = {"model": model, "training": training, "prompt": prompt, **sections}
    made = train(ROWS if rows is None else rows, settings=settings, output_dir=folder, reporter=heard)
    return made, "\n".join(heard.lines)


def probabilities(run: Run) -> Any:
    return Classifier.load(run).predict_proba(TEXTS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_with_the_same_labels_it_begins_where_the_run_ended(
    first: Callable[[str], Run], tmp_path: Path, kind: str
) -> None:
    copy = shutil.copytree(first(kind).path, tmp_path / "copy")
    run = Run.open(copy)
    expected = probabilities(run)
    made, said = go_on(run, tmp_path / "on")
    assert f"Going on from run '{copy}' with {'all its' if run.whole else 'its LoRA'} weights" in said
    assert ("its classification head is kept" in said) == run.has_head and "template" not in said.split("Going on")[1]
    assert made.settings.lora == run.settings.lora or run.whole
    assert made.card["started_from"] == {
        "run": str(copy), "fingerprint": run.fingerprint, "weights": "model" if run.whole else "adapter",
    }  # fmt: skip
    shutil.rmtree(copy)  # nobody needs it to predict
    assert probabilities(made) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["lora-head", "full-head"])
def test_a_head_follows_its_labels(first: Callable[[str], Run], tmp_path: Path, kind: str) -> None:
    run = first(kind)
    expected = probabilities(run)
    made, said = go_on(run, tmp_path / "order", ROWS, data={"labels": ["praise", "billing", "delivery"]})
    assert "its classification head is kept, with its outputs in the new order of the labels" in said
    assert made.labels.names == ("praise", "billing", "delivery")
    assert probabilities(made) == pytest.approx(expected[:, [2, 0, 1]], abs=1e-5)


@pytest.mark.parametrize("kind", ["lora-head", "full-head"])
def test_other_labels_get_a_new_head(first: Callable[[str], Run], tmp_path: Path, kind: str) -> None:
    renamed = [{**row, "label": row["label"].upper()} for row in ROWS]  # as many: a head that would fit
    made, said = go_on(first(kind), tmp_path / "renamed", renamed)
    assert "a new classification head is made: the one there was is for 'billing', 'delivery', 'praise'" in said
    assert np.abs(probabilities(made) - probabilities(first(kind))).max() > 1e-3
    fewer, said = go_on(first(kind), tmp_path / "fewer", [row for row in ROWS if row["label"] != "praise"])
    assert "a new classification head is made" in said and probabilities(fewer).shape == (3, 2)


def test_objectives_may_change_where_the_weights_allow_it(first: Callable[[str], Run], tmp_path: Path) -> None:
    made, said = go_on(
        first("lora-head"), tmp_path / "label", training={"objective": "label"}, prompt={"template": "minimal"}
    )
    assert "head" not in said.split("Going on")[1].replace("lora-head", "") and made.settings.lora.r == 4
    _, said = go_on(first("lora"), tmp_path / "head", training=HEAD)
    assert "a new classification head is made: there was none" in said
    _, said = go_on(first("full"), tmp_path / "full-head", training=HEAD)
    assert "head" not in said.split("Going on")[1]
    with pytest.raises(LlmclsError, match="is a classifier: it has a head for 3 labels in place of the output layer"):
        go_on(first("full-head"), tmp_path / "none", training={"objective": "label"}, prompt={"template": "minimal"})


def test_lora_on_a_run_of_all_weights(first: Callable[[str], Run], tmp_path: Path) -> None:
    run = first("full")
    made, said = go_on(run, tmp_path / "lora", training={"tuning": "lora"}, prompt={"template": "minimal"})
    assert f"the new run's LoRA weights need '{run.model_path}' as their base model: keep it" in said
    assert "was trained with template 'instruction', and goes on with 'minimal'" in said
    assert made.settings.model.quantization == "none"  # as the run
    classifier = Classifier.load(made)
    with classifier.untrained() as before:
        assert before.predict_proba(TEXTS) == pytest.approx(classifier.predict_proba(TEXTS), abs=1e-5)
    twice, _ = go_on(made, tmp_path / "twice", training={"tuning": "lora"})
    assert twice.settings.model.base_model == str(run.model_path)
    assert probabilities(twice) == pytest.approx(probabilities(made), abs=1e-5)


def test_four_bits(first: Callable[[str], Run], tmp_path: Path) -> None:
    made, _ = go_on(first("lora"), tmp_path / "four", model={"quantization": "4bit"})
    assert made.settings.model.quantization == "4bit"
    expected = Classifier.load(first("lora"), quantization="4bit").predict_proba(TEXTS)
    assert probabilities(made) == pytest.approx(expected, abs=1e-4)


def test_refused_before_anything_is_read(first: Callable[[str], Run], tmp_path: Path) -> None:
    run = first("lora")
    lora = {"r": 8, "lora_alpha": 32, "use_dora": True}
    with pytest.raises(LlmclsError, match="leave out what differs: 2 problems") as refused:
        go_on(run, tmp_path / "x", lora=lora)
    assert "lora.r is 4 there, not 8" in str(refused.value) and "use_dora is False there" in str(refused.value)
    with pytest.raises(
        LlmclsError, match=r"holds LoRA weights, which are trained on as such, but training\.tuning 'full'"
    ):
        go_on(run, tmp_path / "x", training={"tuning": "full"})
    with pytest.raises(LlmclsError, match="is the run that training goes on from; choose another --output-dir"):
        go_on(run, run.path)
    spoilt = shutil.copytree(run.path, tmp_path / "spoilt")
    (spoilt / "template.j2").write_text("{{ text }}: ", encoding="utf-8")
    with pytest.raises(LlmclsError, match=r"does not match its seal; .*template\.j2 has changed"):
        go_on(Run(spoilt, run.card), tmp_path / "x")


def test_what_it_was_before(first: Callable[[str], Run], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in ROWS), "utf-8")
    lora, _ = go_on(first("lora"), tmp_path / "lora")
    before = ("--data", tmp_path / "rows.csv", "--before", "-q")
    done = call("evaluate", "--run", lora.path, *before)
    assert (
        done.code == 1
        and "so that run, not the base model, is what it was before; leave --before and --samples out" in done.err
    )
    with pytest.raises(LlmclsError, match="leave --before and --samples out"), Classifier.load(lora).untrained():
        pass
    copy = shutil.copytree(first("full-head").path, tmp_path / "copy")
    full, _ = go_on(Run.open(copy), tmp_path / "full")
    with Classifier.load(full).untrained() as untrained:
        assert untrained.predict_proba(TEXTS) == pytest.approx(probabilities(first("full-head")), abs=1e-6)
    shutil.rmtree(copy)
    assert call("evaluate", "--run", full.path, *before).err.count("needs its base model; if that has moved") == 1


def test_an_unfinished_training_notices_another_start(first: Callable[[str], Run], tmp_path: Path) -> None:
    """The same place, with another run in it."""
    copy = shutil.copytree(first("lora").path, tmp_path / "start")
    settings = {
        "model": {"base_model": str(copy)},
        "training": {**STILL, "max_steps": 2, "save_strategy": "steps", "save_steps": 1},
        "prompt": {"template": "instruction"},
    }

    with patch("llmcls.training.train._keep", side_effect=RuntimeError("power cut")), pytest.raises(RuntimeError):
        train(ROWS, settings=settings, output_dir=tmp_path / "run", reporter=Heard())
    other, _ = go_on(first("lora"), tmp_path / "other", training={"learning_rate": 0.01})
    shutil.rmtree(copy)
    shutil.copytree(other.path, copy)
    with pytest.raises(LlmclsError, match=r"run it goes on from: was '.*', is '.*'"):
        train(ROWS, settings=settings, output_dir=tmp_path / "run", reporter=Heard())


def test_the_command(first: Callable[[str], Run], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in ROWS), "utf-8")
    run = first("lora-head").path
    given = ("train", "--data", tmp_path / "rows.csv", "--base-model", run, "--output-dir", tmp_path / "on")
    still = ("--set", "training.objective=head", "--set", "training.max_steps=1", "--set", "lora.r=4")
    done = call(*given, *still, "--template", "text")
    assert done.code == 0, done.err
    assert f"Going on from run '{run}' with its LoRA weights\n  its classification head is kept" in done.err
    assert "lora.r is 4 there, not 16" in call(*given, *still[:-1], "lora.r=16").err
    wrong = call("predict", "--base-model", run, "--labels", "a,b", "x")
    assert wrong.code == 1 and "is a run, not a base model; predict with --run" in wrong.err
