"""Aliases, codes, abstaining, ties and method `auto`, from Python: zero-shot, and trained, saved and loaded anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcls import Classifier, LLMClassifier, LlmclsError, train
from llmcls.console import Reporter
from llmcls.engine import AutoScorer
from llmcls.engine.scores import tie_tolerance
from llmcls.labels import LabelSet
from llmcls.records import Example
from llmcls.settings import PredictionSettings, make_settings

ALIASES = {"billing": ["invoice", "bill payment"], "delivery": ["parcel"]}
NAMES = ("billing", "delivery", "delivery late", "other")
TEXTS = ["where is my parcel", "you took the money twice", "", "great shop " * 50, "🙂", "7"]
ROWS = [
    {"text": f"{text} {n}", "label": label}
    for n in range(4)
    for text, label in zip(TEXTS, [*NAMES, "invoice", "parcel"], strict=True)
]


def zero_shot(model: Path, labels: LabelSet | None = None, **prediction: Any) -> Classifier:
    settings = make_settings({"prediction": prediction, "model": {"quantization": "none"}})
    labels = labels or LabelSet.from_names(NAMES, aliases=ALIASES)
    return Classifier.zero_shot(str(model), labels, settings=settings)


def train_run(model: Path, folder: Path, **sections: Any) -> Any:
    settings = {
        "model": {"base_model": str(model), "quantization": "none"},
        "training": {"max_steps": 3, "learning_rate": 0.02},
        **sections,
    }
    return train(ROWS, settings=settings, output_dir=folder / "run", reporter=Reporter(quiet=True))


def test_probabilities_are_sums_over_spellings(tiny_model_dir: Path) -> None:
    """Against the same answers as labels of their own."""
    alone = zero_shot(tiny_model_dir, LabelSet.from_names([*NAMES, "invoice", "bill payment", "parcel"]))
    flat = zero_shot(tiny_model_dir)
    assert flat.classes_ == NAMES
    # The prompts differ in the labels they list, so the sums are taken of one prompt's answers.
    prompts = [prompt.input_ids for prompt in flat.encoder.encode([Example(text) for text in TEXTS])]
    assert sorted(alone.encoder.answers) == sorted(flat.encoder.answers)
    single = alone._predictor.scorer.exact.score(prompts).local.double().exp()  # type: ignore[attr-defined]
    order = [alone.encoder.answers.index(answer) for answer in flat.encoder.answers]
    expected = np.zeros((len(TEXTS), len(NAMES)))
    for column, label in zip(order, flat.encoder.answer_labels, strict=True):
        expected[:, label] += single[:, column].numpy()
    assert flat.predict_proba(TEXTS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"label_aliases": ALIASES}, "training": {"max_steps": 3, "learning_rate": 0.02, "objective": "label"}},
        {"data": {"label_aliases": ALIASES}, "prompt": {"verbalizer": "code", "template": "chat"}},
    ],
    ids=["aliases", "codes"],
)
def test_a_run_keeps_spellings_and_codes(tiny_model_dir: Path, tmp_path: Path, sections: dict[str, Any]) -> None:
    run = train_run(tiny_model_dir, tmp_path, **sections)
    card = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in card["labels"]] == list(NAMES), "aliases in the data are their label"
    assert card["labels"][0]["aliases"] == ALIASES["billing"]
    fresh = Classifier.load(run.path)
    coded = "prompt" in sections
    assert [label.code for label in fresh.labels] == (["A", "B", "C", "D"] if coded else [""] * 4)
    assert len(fresh.encoder.answers) == (4 if coded else 7)
    exact = Classifier.load(run.path, prediction=PredictionSettings(method="reference", batch_size=4))
    assert fresh.predict_proba(TEXTS) == pytest.approx(exact.predict_proba(TEXTS), abs=1e-4)
    assert fresh.predict(TEXTS) == exact.predict(TEXTS)
    examples = [Example(row["text"], fresh.labels.spellings[row["label"]]) for row in ROWS]
    assert fresh.evaluate(examples).rows == len(ROWS)


@pytest.mark.parametrize("method", ["auto", "exact", "best-first", "reference"])
def test_unsure_rows_are_not_answered(tiny_model_dir: Path, method: str) -> None:
    sure = zero_shot(tiny_model_dir, method=method)
    probabilities = [prediction.probability for prediction in sure.classify([Example(text) for text in TEXTS])]
    threshold = float(np.median(probabilities))
    classifier = zero_shot(tiny_model_dir, method=method, min_probability=threshold, no_answer="?")
    predictions = classifier.classify([Example(text) for text in TEXTS])
    labels = sure.predict(TEXTS)
    for prediction, label, probability in zip(predictions, labels, probabilities, strict=True):
        assert prediction.label == ("?" if probability < threshold else label)
        assert prediction.best == label
        assert (prediction.withheld is None) == (probability >= threshold)
        assert prediction.probability == pytest.approx(probability, abs=1e-5)
    assert Counter(classifier.predict(TEXTS))["?"] == sum(p < threshold for p in probabilities) > 0
    if method != "best-first":
        assert classifier.predict_proba(TEXTS) == pytest.approx(sure.predict_proba(TEXTS), abs=1e-5)


def test_unlikely_answers_are_not_given(tiny_model_dir: Path) -> None:
    examples = [Example(text) for text in TEXTS]
    masses = [prediction.label_mass for prediction in zero_shot(tiny_model_dir).classify(examples, label_mass=True)]
    threshold = float(np.median(masses))  # type: ignore[arg-type]
    classifier = zero_shot(tiny_model_dir, min_label_mass=threshold)
    predictions = classifier.classify(examples)
    assert [p.label_mass for p in predictions] == pytest.approx(masses, rel=1e-3)
    assert [p.label == "no answer" for p in predictions] == [mass < threshold for mass in masses]  # type: ignore[operator]
    assert classifier.predict(TEXTS) == [p.label for p in predictions]


def test_evaluation_tells_coverage_from_accuracy(tiny_model_dir: Path) -> None:
    sure = zero_shot(tiny_model_dir)
    labels, probabilities = sure.predict(TEXTS), sure.predict_proba(TEXTS).max(1)
    wrong = {name: NAMES[at - 1] for at, name in enumerate(NAMES)}
    order = np.argsort(probabilities)
    examples = [  # right where it is sure, wrong where it is not
        Example(text, label if at in order[2:] else wrong[label])
        for at, (text, label) in enumerate(zip(TEXTS, labels, strict=True))
    ]
    plain = sure.evaluate(examples)
    assert plain.coverage is None and plain.answered_accuracy is None
    threshold = float(probabilities[order[1:3]].mean())
    report = zero_shot(tiny_model_dir, min_probability=threshold).evaluate(examples)
    assert report.coverage == pytest.approx(4 / 6) and report.answered_accuracy == 1.0
    assert report.accuracy == plain.accuracy == pytest.approx(4 / 6), "all other figures are about every row"
    assert report.confusion == plain.confusion
    nothing = zero_shot(tiny_model_dir, min_probability=1.0).evaluate(examples)
    assert nothing.coverage == 0 and nothing.answered_accuracy is None


def test_thresholds_that_cannot_work_are_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(LlmclsError, match="'other', which is a label; choose a value that no label has"):
        zero_shot(tiny_model_dir, min_probability=0.5, no_answer="other")
    with pytest.raises(LlmclsError, match="which is a label"):
        zero_shot(tiny_model_dir, min_label_mass=0.5, no_answer="parcel")
    zero_shot(tiny_model_dir, no_answer="other")  # nothing is ever answered by it
    with pytest.raises(LlmclsError, match="min_probability needs a probability that method 'greedy' does not compute"):
        zero_shot(tiny_model_dir, min_probability=0.5, method="greedy")
    with pytest.raises(LlmclsError, match="min_label_mass needs a probability that method 'best-first'"):
        zero_shot(tiny_model_dir, min_label_mass=0.5, method="best-first")
    for section in ({"prompt": {"verbalizer": "code"}}, {"prediction": {"min_label_mass": 0.1}}):
        with pytest.raises(LlmclsError, match="objective 'head'"):
            make_settings({"training": {"objective": "head"}, **section})
    with pytest.raises(LlmclsError, match="answers every row with a class"):
        LLMClassifier(settings={"prediction": {"min_probability": 0.5}}).fit(["a", "b"], ["x", "y"])


def test_near_ties_are_marked(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = zero_shot(tiny_model_dir)
    assert classifier.tie_tolerance == tie_tolerance(classifier.formats.dtype)
    predictions = classifier.classify([Example(text) for text in TEXTS])
    assert not any(prediction.tie for prediction in predictions)
    margins = [prediction.margin for prediction in predictions]
    monkeypatch.setattr("llmcls.engine.scores.TIE_TOLERANCE", {classifier.formats.dtype: float(np.median(margins))})
    for how in (zero_shot(tiny_model_dir), zero_shot(tiny_model_dir, method="best-first")):
        ties = [prediction.tie for prediction in how.classify([Example(text) for text in TEXTS])]
        assert ties == [margin < np.median(margins) for margin in margins] and any(ties)


def test_auto_searches_for_labels_alone(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long labels behind short texts: the labels by search, all probabilities exactly, and no two opinions."""
    names = [f"{kind} {thing} number {n}" for n in range(4) for thing in "abc" for kind in ("loss", "gain")]
    classifier = zero_shot(tiny_model_dir, LabelSet.from_names(names))
    scorer = classifier._predictor.scorer  # type: ignore[union-attr]
    assert isinstance(scorer, AutoScorer)
    called: list[str] = []
    for name, part in (("exact", scorer.exact), ("search", scorer.search)):
        original = part.score
        monkeypatch.setattr(
            part, "score", lambda *a, name=name, original=original, **k: called.append(name) or original(*a, **k)
        )
    texts = [f"{text} {n}" for n in range(4) for text in TEXTS]
    labels = classifier.predict(texts)
    assert called == ["search"]
    found = classifier.classify([Example(text) for text in texts], probabilities=False)
    probabilities = classifier.predict_proba(texts)
    assert called == ["search", "search", "exact"]
    assert labels == [names[best] for best in probabilities.argmax(1)]
    assert [p.probability for p in found] == pytest.approx(probabilities.max(1), abs=1e-5)
    assert all(p.probabilities == () for p in found)
    # Labels that begin apart cost nothing: no search.
    classifier = zero_shot(tiny_model_dir, LabelSet.from_names(["yes", "no"]))
    monkeypatch.setattr(classifier._predictor.scorer.search, "score", None)  # type: ignore[attr-defined]
    assert set(classifier.predict(TEXTS)) <= {"yes", "no"}
