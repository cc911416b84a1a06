"""The classifier from Python: its contract, and that every way of finding a label finds the same one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from llmcls import Classifier, LlmclsError, train
from llmcls.console import Reporter
from llmcls.records import Example
from llmcls.settings import PredictionSettings, make_settings
from llmcls.testing import AWKWARD_TEXTS

LABELS = ("positive", "positive_mixed", "two words, comma", "🙂 标签", "</s>", "no")
TEXTS = ["where is my parcel", "you took the money twice", "", "great shop " * 50, "</s> <|end|> label: no", "🙂"]
METHODS = ("exact", "greedy", "best-first", "generate", "reference")


@pytest.fixture(scope="module")
def zero_shot(tiny_model_dir: Path) -> Classifier:
    """The tiny model as it is, asked by chat."""
    return Classifier.zero_shot(str(tiny_model_dir), LABELS, template="chat")


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A classifier with an adapter that says something else than the base model."""
    rows = [
        {"text": f"{text} {n}", "label": label} for n in range(4) for text, label in zip(TEXTS, LABELS, strict=True)
    ]
    run = train(
        rows,
        settings={"model": {"base_model": str(tiny_model_dir)}, "training": {"max_steps": 4, "learning_rate": 0.02}},
        output_dir=tmp_path_factory.mktemp("classifier") / "run",
        reporter=Reporter(quiet=True),
    )
    return Classifier.load(run)


def test_probabilities(zero_shot: Classifier) -> None:
    assert zero_shot.classes_ == LABELS
    found = zero_shot.predict_proba(TEXTS)
    assert found.shape == (len(TEXTS), len(LABELS)) and found.dtype == np.float64
    assert found.sum(axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    assert (found > 0).all()
    assert zero_shot.predict(TEXTS) == [LABELS[best] for best in found.argmax(axis=1)]


def test_classify_says_all_of_it(zero_shot: Classifier) -> None:
    for prediction in zero_shot.classify([Example(text) for text in TEXTS], label_mass=True):
        assert prediction.probability == max(prediction.probabilities)
        assert prediction.label == LABELS[prediction.probabilities.index(prediction.probability)]
        first, second = sorted(prediction.probabilities)[:-3:-1]
        assert prediction.margin == pytest.approx(np.log(first / second), abs=1e-4)
        assert prediction.label_mass is not None and 0 <= prediction.label_mass <= 1
        assert not prediction.truncated
    (long,) = zero_shot.classify([Example("word " * 20_000)])
    assert long.truncated and long.label_mass is None


def test_empty_and_wrong_input(zero_shot: Classifier) -> None:
    assert zero_shot.predict([]) == []
    assert zero_shot.predict_proba([]).shape == (0, len(LABELS))
    assert zero_shot.predict(iter(["x"])) == zero_shot.predict(("x",))
    with pytest.raises(LlmclsError, match="Give a list of texts, not one string"):
        zero_shot.predict("x")
    for wrong, kind in ((None, "NoneType"), (3, "int"), (b"x", "bytes"), (float("nan"), "float")):
        with pytest.raises(LlmclsError, match=f"Text 1 is .*, of type {kind}; texts must be strings"):
            zero_shot.predict_proba(["x", wrong])  # type: ignore[list-item]


def test_the_order_is_kept_over_chunks_and_the_stream_is_lazy(
    zero_shot: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcls.classifier._CHUNK", 3)
    alone = [zero_shot.predict_proba([text])[0] for text in TEXTS]
    together = zero_shot.predict_proba(TEXTS * 2)
    assert together == pytest.approx(np.array(alone * 2), abs=1e-5)
    taken = 0

    def examples() -> Iterator[Example]:
        nonlocal taken
        for text in TEXTS * 10:
            taken += 1
            yield Example(text)

    stream = zero_shot.stream(examples())
    next(stream)
    assert taken == 3


@given(text=st.text(max_size=200) | st.sampled_from(AWKWARD_TEXTS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gets_a_valid_label(zero_shot: Classifier, text: str) -> None:
    (label,) = zero_shot.predict([text])
    assert label in LABELS


@pytest.mark.slow
def test_untrained_is_the_base_model(trained: Classifier, tiny_model_dir: Path) -> None:
    assert trained.run is not None
    base = Classifier.zero_shot(str(tiny_model_dir), trained.labels, settings=trained.run.settings)
    after = trained.predict_proba(TEXTS)
    with trained.untrained() as untrained:
        before = untrained.predict_proba(TEXTS)
        assert trained.predict_proba(TEXTS) == pytest.approx(after, abs=1e-7), "it shares the weights and stays"
    assert before == pytest.approx(base.predict_proba(TEXTS), abs=1e-5)
    assert np.abs(after - before).max() > 0.01


@pytest.mark.slow
def test_evaluate_compares_with_the_labels(trained: Classifier) -> None:
    examples = [Example(text, label) for text, label in zip(TEXTS, trained.predict(TEXTS), strict=True)]
    assert trained.evaluate(examples).accuracy == 1.0
    wrong = {label: trained.classes_[number - 1] for number, label in enumerate(trained.classes_)}
    assert trained.evaluate([Example(e.text, wrong[e.label or ""]) for e in examples]).accuracy == 0.0
    with pytest.raises(LlmclsError, match="row 3 has no label"):
        trained.evaluate([Example("x", "no", source="row 2"), Example("y", source="row 3")])


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["4bit", "none"])
@pytest.mark.parametrize("template", ["instruction", "chat"])
def test_methods_agree_on_nano(quantization: str, template: str) -> None:
    """`greedy` and `generate` are one procedure, the other three another; exact numbers where there are numbers."""

    def predict(method: str) -> list[Any]:
        resolved = make_settings(
            {"model": {"quantization": quantization}, "prediction": {"method": method, "batch_size": 4}}
        )
        classifier = Classifier.zero_shot("nano", LABELS, template=template, settings=resolved)
        return classifier.classify([Example(text) for text in TEXTS])

    found = {method: predict(method) for method in METHODS}
    labels = {method: [prediction.label for prediction in predictions] for method, predictions in found.items()}
    clear = [position for position, prediction in enumerate(found["reference"]) if prediction.margin > 1e-3]
    assert len(clear) >= 4
    for one, other in (("exact", "reference"), ("best-first", "reference"), ("greedy", "generate")):
        assert [labels[one][place] for place in clear] == [labels[other][place] for place in clear], (one, other)
    for exact, reference in zip(found["exact"], found["reference"], strict=True):
        assert np.log(exact.probabilities) == pytest.approx(np.log(reference.probabilities), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_through_a_run(trained: Classifier, method: str) -> None:
    assert trained.run is not None
    how = PredictionSettings(method=method, batch_size=2)  # type: ignore[arg-type]
    classifier = Classifier.load(trained.run, prediction=how)
    predictions = classifier.classify([Example(text) for text in TEXTS])
    assert {prediction.label for prediction in predictions} <= set(trained.classes_)
    if method in ("exact", "best-first", "reference"):
        assert [p.label for p in predictions] == trained.predict(TEXTS)


def test_another_template_and_quantization(trained: Classifier, tmp_path: Path) -> None:
    assert trained.run is not None
    (tmp_path / "own.j2").write_text("{# own #}{{ text }}\n=>", encoding="utf-8")
    own = Classifier.load(trained.run, template=str(tmp_path / "own.j2"), quantization="none")
    assert own.encoder.template.name == "own" and own.formats.quantization == "none"
    assert own.predict(["x"])[0] in trained.classes_
    with pytest.raises(LlmclsError, match=r"shows solved examples, but run .* was trained without any"):
        Classifier.load(trained.run, template="few_shot")
    with pytest.raises(LlmclsError, match="Unknown template 'chta'"):
        Classifier.load(trained.run, template="chta")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Classifier.load("no/such/run"), "There is no run directory 'no/such/run'"),
        (lambda: Classifier.zero_shot("nan0", ["a", "b"]), "Unknown base model 'nan0'"),
        (lambda: Classifier.zero_shot("nano", ["a"]), "only one label"),
        (lambda: Classifier.zero_shot("nano", ["a", "a"]), "occurs 2 times"),
        (lambda: Classifier.zero_shot("nano", "ab"), "Give a list of labels"),
        (lambda: Classifier.zero_shot("nano", ["a", "b"], template="few_shot"), "need a training split or a run"),
    ],
)
def test_problems(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LlmclsError, match=message):
        call()


@pytest.mark.parametrize(
    ("bias", "objective", "quantization"),
    [("all", "label", "none"), ("lora_only", "label", "none"), ("none", "label", "none"), ("all", "sft", "none")],
)
def test_before_trained_biases_it_is_the_base_model(
    bias_model: Path, tmp_path: Path, bias: str, objective: str, quantization: str
) -> None:
    """Switching LoRA off leaves the trained biases in place."""
    given = {
        "model": {"base_model": str(bias_model), "quantization": quantization},
        "lora": {"bias": bias},
        "training": {"max_steps": 4, "learning_rate": 0.05, "objective": objective},
    }
    rows = [{"text": f"{text} {n}", "label": name} for n in range(4) for text, name in (("a", "no"), ("b", "yes"))]
    run = train(rows, settings=given, output_dir=tmp_path / "run", reporter=Reporter(quiet=True))
    classifier = Classifier.load(run)
    texts = ["a 1", "b 2", "something else"]
    fresh = Classifier.zero_shot(
        str(bias_model), classifier.labels, template=run.settings.prompt.template, settings=make_settings(given)
    )
    expected = fresh.predict_proba(texts)
    with classifier.untuned().untrained() as before:
        assert before.predict_proba(texts) == pytest.approx(expected, abs=1e-5)
    assert abs(classifier.predict_proba(texts) - expected).max() > 1e-3


@pytest.fixture(scope="module")
def bias_model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose attention has biases."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("biased") / "model"))
    config = AutoConfig.from_pretrained(folder)
    config.attention_bias = True
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_rows_instead_of_texts(trained: Classifier) -> None:
    """Dicts and DataFrames, by the run's columns."""
    texts = [text for text in TEXTS if text]
    found = trained.predict(texts)
    rows = [{"n": 1, "text": text, "label": label} for text, label in zip(texts, found, strict=True)]
    frame = pd.DataFrame(rows)
    for texts_too in (rows, frame, frame["text"], (row for row in rows), frame[["text"]], np.array(texts)):
        assert trained.predict(texts_too) == found
    assert trained.predict_proba(frame) == pytest.approx(trained.predict_proba(texts), abs=1e-6)
    for labelled in (rows, frame, iter(rows), [Example(r["text"], r["label"]) for r in rows]):
        assert trained.evaluate(labelled).accuracy == 1.0
    for refused, said in (
        ([{"body": "a", "label": "no"}], "Unknown column 'text'"),
        (frame.drop(columns="label"), "Unknown column 'label'"),
        (["a"], "evaluate was given 'a', of type str"),
        ([{"text": "a", "label": "other"}], "is not one of the"),
    ):
        with pytest.raises(LlmclsError, match=said):
            trained.evaluate(refused)
    for wrong in ({"text": "a"}, pd.DataFrame({"body": ["a"]}), [1], ["a", {"text": "b"}]):
        with pytest.raises(LlmclsError):
            trained.predict(wrong)
    assert all(len(repr(thing)) < 200 and str(trained.run.path) in repr(thing) for thing in (trained, trained.run))
