"""Checkpoints of transformers' sequence-classification classes: predicted with as they are, and trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from llmcls import Classifier, LlmclsError, train
from llmcls.errors import LlmclsWarning
from llmcls.settings import make_settings
from llmcls.testing import build_tiny_tokenizer

from .cli.conftest import call
from .test_going_on import ROWS, STILL, TEXT, TEXTS, Heard

LABELS = ("praise", "billing", "delivery")
PLAIN = make_settings({"model": {"quantization": "none"}})


def build(folder: Path, template: str = "<s> $A", **config: Any) -> Path:
    """A random classifier, as `save_pretrained` leaves it; its tokenizer puts `template` around a text."""
    tokenizer = build_tiny_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    names = dict(enumerate(LABELS))
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    given = {"id2label": names, "label2id": {name: at for at, name in names.items()}, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = LlamaForSequenceClassification(
            LlamaConfig(vocab_size=len(tokenizer), **shape, pad_token_id=tokenizer.pad_token_id, **given)
        )
        model.score.weight.data.normal_(std=1.0)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("published"))


def by_transformers(folder: Path, texts: list[str], several: bool = False) -> Any:
    """What transformers' own class says of padded texts."""
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    with torch.no_grad():
        logits = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    return (logits.sigmoid() if several else logits.softmax(-1)).numpy()


@pytest.mark.parametrize("template", ["<s> $A", "$A"])
def test_probabilities_are_those_of_transformers(tmp_path: Path, template: str) -> None:
    folder = build(tmp_path, template)
    classifier = Classifier.zero_shot(str(folder), settings=PLAIN)
    assert classifier.classes_ == LABELS and classifier.encoder.template.name == "text"
    expected = by_transformers(folder, TEXTS)
    assert classifier.predict_proba(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert classifier.with_template("text").predict_proba(TEXTS) == pytest.approx(expected, abs=1e-5)
    other = Classifier.zero_shot(str(folder), ["billing", "delivery", "praise"], settings=PLAIN)
    assert other.predict_proba(TEXTS) == pytest.approx(expected[:, [1, 2, 0]], abs=1e-5)
    with pytest.raises(LlmclsError, match="A classification head has one output"):
        classifier.with_labels(["a", "b"])


def test_several_labels_and_labels_without_names(tmp_path: Path) -> None:
    several = build(tmp_path / "several", problem_type="multi_label_classification")
    classifier = Classifier.zero_shot(str(several), settings=PLAIN)
    assert classifier.predict_proba(TEXTS) == pytest.approx(by_transformers(several, TEXTS, several=True), abs=1e-5)
    assert isinstance(classifier.predict(TEXTS)[0], tuple)
    with pytest.raises(LlmclsError, match="has a head for task multi_label, not single_label; leave --task out"):
        Classifier.zero_shot(str(several), settings=make_settings({"task": "single_label"}))
    unnamed = build(tmp_path / "unnamed", id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert Classifier.zero_shot(str(unnamed)).classes_ == ("LABEL_0", "LABEL_1")
    scores = build(tmp_path / "scores", problem_type="regression")
    with pytest.raises(LlmclsError, match="has a head for 'regression', not for labels; give a classifier"):
        Classifier.zero_shot(str(scores))
    closed = build(tmp_path / "closed", "$A </s>")
    with pytest.warns(LlmclsWarning, match="puts '</s>' behind a text, which is left out here"):
        Classifier.zero_shot(str(closed))


def test_the_command(published: Path) -> None:
    given = ("predict", "--base-model", published, "--quantization", "none")
    done = call(*given, "--template", "text", "--json", "--probabilities", *TEXTS)
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    expected = by_transformers(published, TEXTS)
    assert [[row[f"p({name})"] for name in LABELS] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert call(*given, "--json", "--probabilities", *TEXTS).out == done.out
    turned = call(*given, "--json", "--labels", "delivery,praise,billing", *TEXTS)
    assert [json.loads(line)["predicted"] for line in turned.out.splitlines()] == [row["predicted"] for row in rows]
    for wrong, message in (
        (
            ("--labels", "billing,praise"),
            "knows the labels 'praise', 'billing', 'delivery', so it cannot be given 'bill",
        ),
        (("--labels", ""), "so it cannot be given ''"),
        (("--task", "multi_label"), "has a head for task single_label, not multi_label"),
        (("--label-mass",), "A classification head can say nothing but its labels"),
        (("--method", "generate"), "needs a model that writes, but objective 'head' has none"),
    ):
        refused = call(*given, *wrong, "x")
        assert (refused.code, refused.out) == (1, "") and message in refused.err, refused.err


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_trained_on(published: Path, tmp_path: Path, tuning: str) -> None:
    def on(name: str, rows: list[dict[str, str]]) -> tuple[Classifier, str]:
        heard = Heard()
        model = {"base_model": str(published), "quantization": "none"}
        training = {**STILL, "tuning": tuning, "objective": "head"}
        settings = {"model": model, "training": training, "prompt": TEXT}
        return Classifier.load(train(rows, settings=settings, output_dir=tmp_path / name, reporter=heard)), "\n".join(
            heard.lines
        )

    kept, said = on("kept", ROWS)
    assert "its classification head is kept, with its outputs in the new order of the labels" in said
    assert kept.classes_ == ("billing", "delivery", "praise")
    assert kept.predict_proba(TEXTS) == pytest.approx(by_transformers(published, TEXTS)[:, [1, 2, 0]], abs=1e-5)
    renamed, said = on("renamed", [{**row, "label": row["label"].upper()} for row in ROWS])
    assert "a new classification head is made: the one there was is for 'praise', 'billing', 'delivery'" in said
    assert abs(renamed.predict_proba(TEXTS) - 1 / 3).max() < 0.1  # small weights: it knows nothing yet


def test_refused(published: Path, tmp_path: Path) -> None:
    settings = {"model": {"base_model": str(published)}, "training": STILL}
    with pytest.raises(LlmclsError, match=r"is a classifier: it has a head for 3 labels .*training\.objective=head"):
        train(ROWS, settings=settings, output_dir=tmp_path / "run", reporter=Heard())
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=99, **shape)).save_pretrained(tmp_path / "bert")
    for attempt in (
        lambda: Classifier.zero_shot(str(tmp_path / "bert")),
        lambda: train(ROWS, base_model=str(tmp_path / "bert"), output_dir=tmp_path / "run", reporter=Heard()),
    ):
        with pytest.raises(LlmclsError, match=r"is an encoder-only model \(bert\), which fills gaps and cannot write"):
            attempt()
    with pytest.raises(LlmclsError, match="'nano' is not a classifier with labels of its own; give a list"):
        Classifier.zero_shot("nano")
