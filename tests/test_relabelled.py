"""Labels of a trained classifier added, removed and renamed without training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcls import Classifier, LlmclsError, train
from llmcls.console import Reporter
from llmcls.errors import LlmclsWarning
from llmcls.labels import Label, LabelSet
from llmcls.records import Example
from llmcls.settings import PredictionSettings, make_settings

from .cli.conftest import call

LABELS = ("billing", "delivery", "praise")
OTHERS = ("praise", "billing", "complaint, other")
TEXTS = ["where is my parcel", "you took the money twice", "thanks 🙂"]
ROWS = [{"text": f"{text} {n}", "label": label} for n in range(4) for text, label in zip(TEXTS, LABELS, strict=True)]
SAID = {"label_descriptions": {"billing": "money", "delivery": "parcels"}, "label_aliases": {"billing": ["invoice"]}}
KINDS: dict[str, dict[str, Any]] = {
    "names": {"data": SAID},
    "codes": {"data": SAID, "prompt": {"verbalizer": "code"}},
    "shots": {"prompt": {"template": "few_shot"}},
    "minimal": {"prompt": {"template": "minimal"}},
    "several": {"task": "multi_label"},
    "head": {"training": {"objective": "head"}, "prompt": {"template": "text"}},
}


@pytest.fixture(scope="module")
def load(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Classifier]:
    """A trained classifier of a kind; each is trained once."""
    made: dict[str, Classifier] = {}
    folder = tmp_path_factory.mktemp("relabelled")

    def loaded(kind: str) -> Classifier:
        if kind not in made:
            given = KINDS[kind]
            training = {"max_steps": 2, "learning_rate": 0.02, "eval_strategy": "no", **given.get("training", {})}
            model = {"base_model": str(tiny_model_dir), "quantization": "none"}
            settings = {**given, "model": model, "training": training}
            run = train(ROWS, settings=settings, output_dir=folder / kind, reporter=Reporter(quiet=True))
            made[kind] = Classifier.load(run)
        return made[kind]

    return loaded


@pytest.mark.parametrize("kind", ["names", "codes", "shots", "several"])
def test_the_same_labels_are_the_same_bit_for_bit(load: Callable[[str], Classifier], kind: str) -> None:
    classifier = load(kind)
    expected = classifier.predict_proba(TEXTS)
    same = classifier.with_labels(list(LABELS))
    assert (same.predict_proba(TEXTS) == expected).all()
    assert same.labels == classifier.labels and same.thresholds == classifier.thresholds
    assert same.added_labels == same.removed_labels == ()


@pytest.mark.parametrize("kind", ["names", "codes", "several"])
def test_other_labels(load: Callable[[str], Classifier], kind: str) -> None:
    classifier = load(kind)
    before, labels = classifier.predict_proba(TEXTS), classifier.labels
    with warnings.catch_warnings(action="error"):
        other = classifier.with_labels(list(OTHERS))
    assert other.classes_ == OTHERS
    assert (other.added_labels, other.removed_labels) == (("complaint, other",), ("delivery",))
    probabilities = other.predict_proba(TEXTS)
    assert probabilities.shape == (3, 3)
    how = classifier.prediction.model_copy(update={"method": "reference"})
    assert classifier.run is not None
    slow = Classifier.load(classifier.run, prediction=how).with_labels(other.labels)
    assert probabilities == pytest.approx(slow.predict_proba(TEXTS), abs=1e-5)
    if kind != "several":
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    shown = other.encoder.tokenizer.decode(other.encoder.encode([Example("x")])[0].input_ids)
    assert "complaint, other" in shown and "delivery" not in shown
    # The classifier it was made from, and what is on the disk, are as they were.
    assert classifier.labels == labels and (classifier.predict_proba(TEXTS) == before).all()
    assert Classifier.load(classifier.run.path).labels == labels
    assert (other.with_labels(list(LABELS)).predict_proba(TEXTS) == before).all() == (kind == "several")


def test_it_is_what_the_base_model_would_be(load: Callable[[str], Classifier], tiny_model_dir: Path) -> None:
    with load("names").with_labels(OTHERS).untrained() as untrained:
        found = untrained.predict_proba(TEXTS)
    how = {"model": {"quantization": "none"}}
    labels = LabelSet([Label("praise"), Label("billing", "money", ("invoice",)), Label("complaint, other")])
    zero_shot = Classifier.zero_shot(str(tiny_model_dir), labels, settings=make_settings(how))
    assert found == pytest.approx(zero_shot.predict_proba(TEXTS), abs=1e-6)
    assert zero_shot.with_labels(["a", "b"]).classes_ == ("a", "b")
    assert zero_shot.with_labels(["a", "b"]).added_labels == ()


def test_what_is_known_of_a_label_stays(load: Callable[[str], Classifier]) -> None:
    renewed = load("names").with_labels(["billing", "new"])
    assert list(renewed.labels) == [Label("billing", "money", ("invoice",)), Label("new")]
    split = load("names").with_labels(["billing", "invoice"])  # the alias becomes a label
    assert list(split.labels) == [Label("billing", "money"), Label("invoice")]
    given = load("names").with_labels(LabelSet([Label("billing", "costs"), Label("new", "else", ("other",))]))
    assert [label.description for label in given.labels] == ["costs", "else"]
    assert given.encoder.spellings == ("billing", "new", "other")


def test_codes_stay_with_their_labels(load: Callable[[str], Classifier]) -> None:
    classifier = load("codes")
    codes = {label.name: label.code for label in classifier.labels}
    other = {label.name: label.code for label in classifier.with_labels(["new", "praise", "delivery", "newer"]).labels}
    assert (other["praise"], other["delivery"]) == (codes["praise"], codes["delivery"])
    assert len(set(other.values())) == 4 and all(other.values())
    named = classifier.with_labels([codes["praise"], "praise"]).labels  # a label that is called like a code
    assert len({*named.names, *(label.code for label in named)}) == 4
    described = classifier.with_labels(LabelSet([Label("praise", "nice"), Label("new")]))
    assert described.labels[0] == Label("praise", "nice", (), codes["praise"])


def test_thresholds_stay_with_their_labels(load: Callable[[str], Classifier]) -> None:
    classifier = load("several")
    decision = {"values": [0.1, 0.2, 0.3], "pooled": 0.4, "rows": 5}
    other = replace(classifier, _decision=decision).with_labels(["praise", "new", "billing"])
    assert other.thresholds is not None
    assert (other.thresholds.values, other.thresholds.pooled, other.thresholds.rows) == ((0.3, 0.5, 0.1), 0.4, 5)
    assert other.untuned().with_labels(["new", "praise"]).thresholds.values == (0.5, 0.5)  # type: ignore[union-attr]
    assert other.with_template("multi_label").thresholds == other.thresholds


def test_solved_examples(load: Callable[[str], Classifier]) -> None:
    classifier = load("shots")
    with warnings.catch_warnings(action="error"):
        fewer = classifier.with_labels(["praise", "billing"])
    assert {shot.label for shot in fewer.encoder.shots.examples} == {"praise", "billing"}
    assert {shot.label for shot in fewer.encoder.shots.spares} == {"praise", "billing"}
    with pytest.warns(LlmclsWarning, match="'few_shot' shows solved examples, but there is none of 'new'; another"):
        wider = classifier.with_labels(["praise", "new"])
    shown = wider.encoder.tokenizer.decode(wider.encoder.encode([Example("x")])[0].input_ids)
    assert shown.count("label: ") == 1 and "label: praise" in shown and "praise, new" in shown
    with pytest.raises(
        LlmclsError, match=r"there is none of these labels \('new', 'newer'\); keep one of 'billing', 'd"
    ):
        classifier.with_labels(["new", "newer"])
    with pytest.warns(
        LlmclsWarning, match=r"'minimal' does not list the labels, so the prompt says nothing of .*'new'"
    ):
        load("minimal").with_labels(["praise", "new"])


def test_refused(load: Callable[[str], Classifier]) -> None:
    with pytest.raises(LlmclsError, match="A classification head has one output for each label that it was trained"):
        load("head").with_labels(LABELS)
    for wrong, message in (
        ("a,b", r"Give a list of labels, not one string: \['a,b', ...\]"),
        ([1, 2], "Label 1 is a int; labels must be strings"),
        (["a", "a", "b"], "label 'a' occurs 2 times; keep one"),
        (["a"], "there is only one label"),
        ([], "there is no label"),
        (["a", " b"], "label ' b' is empty or has white space around it"),
    ):
        with pytest.raises(LlmclsError, match=message):
            load("names").with_labels(wrong)  # type: ignore[arg-type]
    run = load("names").run
    assert run is not None
    withholding = Classifier.load(run, prediction=PredictionSettings(min_probability=0.5, no_answer="none"))
    with pytest.raises(LlmclsError, match=r"prediction\.no_answer is 'none', which is a label"):
        withholding.with_labels(["none", "billing"])


def test_the_command(load: Callable[[str], Classifier], tmp_path: Path) -> None:
    run = str(load("names").run.path)  # type: ignore[union-attr]
    given = ("predict", "--run", run, "--labels", 'praise,billing,"complaint, other"')
    done = call(*given, "--json", "--probabilities", *TEXTS)
    assert done.code == 0
    assert done.err == (
        "Warning: these are not the labels that the run was trained with: added 'complaint, other'; removed "
        "'delivery'. No training row has taught it the added ones.\n"
    )
    rows = [json.loads(line) for line in done.out.splitlines()]
    expected = load("names").with_labels(OTHERS).predict_proba(TEXTS)
    assert [[row[f"p({name})"] for name in OTHERS] for row in rows] == pytest.approx(expected, abs=1e-6)
    assert all(row["labels_added"] == ["complaint, other"] for row in rows)
    assert all(row["labels_removed"] == ["delivery"] for row in rows)
    (tmp_path / "in.csv").write_text("text\nhello\n", encoding="utf-8")
    files = ("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv", "-q")
    assert call(*given, *files).err.count("Warning: ") == 1
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith('"text","predicted","probability"\n')
    assert "No training row" not in call("predict", "--run", run, "--labels", "praise,billing", "-q", "x").err
    assert "in another order" in call("predict", "--run", run, "--labels", "praise,delivery,billing", "-q", "x").err
    assert call("predict", "--run", run, "--labels", ",".join(LABELS), "-q", "x").err == ""


def test_the_command_refuses(load: Callable[[str], Classifier]) -> None:
    run, head = (str(load(kind).run.path) for kind in ("names", "head"))  # type: ignore[union-attr]
    for arguments, message in (
        (("--run", head, "--labels", "billing,delivery,praise"), "A classification head has one output for each"),
        (("--run", run, "--labels", ""), "there is only one label ('')"),
        (("--run", run, "--labels", "a,b,a"), "label 'a' occurs 2 times"),
        (("--run", run, "--labels", "no answer,b", "--min-probability", "0.5"), "which is a label"),
    ):
        done = call("predict", *arguments, "x")
        assert (done.code, done.out) == (1, "") and message in done.err, done.err
    assert call("predict", "--run", run, "--labels", "a,b", "--task", "multi_label", "x").code == 2
