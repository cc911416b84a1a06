"""One classifier in many threads: every form of answer and every method says what it says in one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForSequenceClassification

from llmcls import Classifier, train
from llmcls.console import Reporter
from llmcls.engine.decoder import evaluating, settle
from llmcls.estimator import _Trained
from llmcls.records import Example, Prediction
from llmcls.runs.run import Run
from llmcls.settings import make_settings
from llmcls.testing import build_tiny_model

LABELS = ["positive", "positive_mixed", "no", "two words"]
TEXTS = ["where is my parcel", "you took the money twice", "", "great shop " * 9, "</s> label: no", "🙂", "a", "b c"]
THREADS = 8


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the calls give when each runs in a thread of its own and all begin at once."""
    begin = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        begin.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def numbers(predictions: Sequence[Prediction]) -> list[list[float]]:
    """All figures of predictions, NaN where there is none."""
    return [
        [*(p.probabilities or [p.probability]), p.label_mass or np.nan, p.margin if p.margin is not None else np.nan]
        for p in predictions
    ]


def assert_same_in_threads(classifier: Classifier, calls: int, *, label_mass: bool = False) -> None:
    """Every thread asks about the texts one by one, each in another order."""

    def ask(text: str) -> list[Prediction]:
        return classifier.classify([Example(text)], label_mass=label_mass)

    expected = {text: ask(text) for text in TEXTS}

    def some(first: int) -> None:
        for text in (TEXTS * 2)[first : first + calls]:
            found = ask(text)
            assert [p.label for p in found] == [p.label for p in expected[text]]
            assert [p.labels for p in found] == [p.labels for p in expected[text]]
            np.testing.assert_allclose(numbers(found), numbers(expected[text]), atol=2e-5)

    together([lambda first=first: some(first) for first in range(THREADS)])


def zero_shot(folder: Path, **given: Any) -> Classifier:
    """The tiny model as it is."""
    given.setdefault("model", {"quantization": "none"})
    return Classifier.zero_shot(str(folder), LABELS, settings=make_settings(given))


@pytest.fixture(autouse=True)
def _no_repacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 4-bit layer may be repacked, as on CPUs with AVX512-BF16, and none is."""

    def refuse(*_: object) -> None:
        raise AssertionError("a 4-bit layer was repacked")

    made = Linear4bit.__init__

    def make(self: Linear4bit, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        self.support_avx512bf16_for_cpu = True

    monkeypatch.setattr(Linear4bit, "__init__", make)
    monkeypatch.setattr("bitsandbytes.nn.modules._convert_weight_packed_for_cpu", refuse)


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with LoRA weights that say something else than the base model."""
    rows = [{"text": f"{text} {n}", "label": label} for n in range(2) for text, label in zip(TEXTS, LABELS * 2)]  # noqa: B905
    given = {
        "model": {"base_model": str(tiny_model_dir), "quantization": "none"},
        "training": {"max_steps": 2, "learning_rate": 0.05, "eval_strategy": "no"},
    }
    folder = tmp_path_factory.mktemp("threads") / "run"
    train(rows, settings=given, output_dir=folder, reporter=Reporter(quiet=True))
    return folder


@pytest.mark.parametrize("quantization", ["4bit", "8bit", "none"])
def test_a_run_and_its_kin_in_threads(trained: Path, quantization: str) -> None:
    """The run, with other labels, with another template, and before training, on the same weights at the same time."""
    classifier = Classifier.load(trained, quantization=quantization)
    kin = [classifier, classifier.with_labels([*LABELS[1:], "more"]), classifier.with_template("minimal")]
    with classifier.untrained() as untrained:
        kin.append(untrained)
        # Of a fresh model: what a first forward changes in it must not be changed in several threads at once.
        found = together([lambda one=one: one.predict_proba(TEXTS) for one in kin * 2])
        alone = [one.predict_proba(TEXTS) for one in kin * 2]
    tolerance = 0.05 if quantization == "8bit" else 1e-5  # 8-bit layers round by the whole batch
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)
    assert abs(alone[0] - alone[3]).max() > 1e-2, "the LoRA weights say something"


def test_4_bits_one_text_at_a_time(trained: Path) -> None:
    classifier = Classifier.load(trained, quantization="4bit")
    assert_same_in_threads(classifier, 8)
    assert_same_in_threads(classifier, 3, label_mass=True)
    classifier.warm_up()
    expected = {text: classifier.predict_proba([text]) for text in TEXTS}
    for text, found in zip(TEXTS, together([lambda t=t: classifier.predict_proba([t]) for t in TEXTS]), strict=True):
        assert (found == expected[text]).all(), "to the last bit, once what is shared is settled"


@pytest.mark.parametrize("method", ["exact", "greedy", "best-first", "generate", "reference"])
def test_every_method_in_threads(tiny_model_dir: Path, method: str) -> None:
    assert_same_in_threads(zero_shot(tiny_model_dir, prediction={"method": method}), 3)


@pytest.mark.parametrize("method", ["exact", "reference", "list"])
def test_several_labels_in_threads(tiny_model_dir: Path, method: str) -> None:
    given = {"training": {"objective": "sft"}} if method == "list" else {}
    assert_same_in_threads(zero_shot(tiny_model_dir, task="multi_label", prediction={"method": method}, **given), 2)


def test_a_head_in_threads(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "head")
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(LABELS), id2label=names)
    model.save_pretrained(folder)
    assert_same_in_threads(Classifier.zero_shot(str(folder)), 4)


def test_free_answers_and_lists_in_threads(tiny_model_dir: Path) -> None:
    """`generate()` with other configurations at the same time, on one model."""
    classifier = zero_shot(tiny_model_dir, prediction={"method": "generate"})
    examples = [Example(text) for text in TEXTS[:3]]
    calls = [lambda: classifier.answer_freely(examples), lambda: classifier.classify(examples)] * 4
    free, constrained = (call() for call in calls[:2])
    for number, found in enumerate(together(calls)):
        if number % 2:
            assert [p.label for p in found] == [p.label for p in constrained]
        else:
            assert found == free


def test_modes_are_restored_after_the_last_block(tiny_model_dir: Path) -> None:
    """A model that is being trained: two blocks at once, of which the first ends first."""
    model = zero_shot(tiny_model_dir)._model
    other = type(model)(model.config).train()
    other.lm_head.eval()
    modes = [module.training for module in other.modules()]
    first, second = evaluating(other), evaluating(other)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(module.training for module in other.modules())
    second.__exit__(None, None, None)
    assert [module.training for module in other.modules()] == modes
    settle(other)
    assert not any(module.training for module in other.modules())
    other.train()
    with evaluating(other), torch.no_grad():
        assert not any(module.training for module in other.modules())
    assert all(module.training for module in other.modules()), "whoever trains it on finds it in training mode"


def test_loading_in_threads(trained: Path) -> None:
    """A classifier each, and one for all: an estimator's, which is loaded when it is first asked."""
    expected = Classifier.load(trained).predict_proba(TEXTS)
    for found in together([lambda: Classifier.load(trained).predict_proba(TEXTS)] * 4):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    lazy = _Trained(Run.open(trained), None, False)
    first, *others = together([lambda: lazy.classifier] * 4)
    assert all(other is first for other in others)
