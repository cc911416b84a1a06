"""Free answers: what comes out of `generate()` as it is, and what of it counts as a label."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from llmcls import Classifier, LlmclsError
from llmcls.evaluation.free import FreeAnswer, compare_free
from llmcls.evaluation.samples import choose_rows
from llmcls.labels import LabelSet
from llmcls.records import Example, Prediction
from llmcls.settings import make_settings

LABELS = LabelSet.from_names(["billing", "a label of many more than eight tokens"], aliases={"billing": ["invoice"]})


@pytest.fixture(scope="module")
def single(tiny_model_dir: Path) -> Classifier:
    return Classifier.zero_shot(str(tiny_model_dir), LABELS)


@pytest.fixture(scope="module")
def listed(tiny_model_dir: Path) -> Classifier:
    settings = make_settings({"task": "multi_label", "prediction": {"method": "list"}})
    return Classifier.zero_shot(str(tiny_model_dir), LABELS, settings=settings)


def say(classifier: Classifier, monkeypatch: pytest.MonkeyPatch, *said: str | Sequence[int]) -> list[FreeAnswer]:
    """What the classifier makes of a model that says these texts, or these tokens."""
    tokens = [classifier.encoder.tokenizer(text).input_ids if isinstance(text, str) else list(text) for text in said]
    monkeypatch.setattr("llmcls.engine.free.generate_behind", lambda *_, **__: tokens)
    return classifier.answer_freely([Example("x") for _ in said])


def test_it_is_plain_greedy_generation(single: Classifier) -> None:
    texts = ["where is my parcel", "no", "a much longer text " * 9]
    examples = [Example(text) for text in texts]
    tokenizer, longest = single.encoder.tokenizer, single.encoder.spelled.longest
    assert longest > 8
    for answer, prompt in zip(single.answer_freely(examples), single.encoder.encode(examples), strict=True):
        ids = torch.tensor([prompt.input_ids])
        said = single._model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=longest
        )[0, ids.shape[1] :].tolist()
        assert answer.text == tokenizer.decode(said).partition("</s>")[0].strip()
        assert answer.labels is None
    assert single.answer_freely([]) == []


def test_what_counts_as_the_label(single: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    end = single.encoder.end_token_id
    found = say(
        single, monkeypatch, " billing", "\n billing \n</s>billing", "invoice", "Billing", "billing.", "",
        "<pad>billing", [*single.encoder.answers[1], 0, 0], [end],
    )  # fmt: skip
    assert [answer.labels for answer in found] == [
        *[("billing",)] * 3, None, None, None, None, (LABELS.names[1],), None,
    ]  # fmt: skip
    assert [answer.text for answer in found[:7]] == [
        "billing",
        "billing",
        "invoice",
        "Billing",
        "billing.",
        "",
        "<pad>billing",
    ]


def test_an_answer_that_begins_inside_the_prompts_last_token(single: Classifier) -> None:
    encoder = single.encoder
    whole = encoder.tokenizer(": billing").input_ids
    spelled = encoder.spelled
    try:
        encoder.spelled = type(spelled)(spelled.spellings, spelled.answer_labels, spelled.answers, boundary=whole[:1])
        assert encoder.read_answer(whole) == "billing"
    finally:
        encoder.spelled = spelled


def test_a_list_of_labels(listed: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    both = (LABELS.names[0], LABELS.names[1])
    found = say(
        listed, monkeypatch, f" {both[1]}, {both[0]}", "invoice", " ", "billing,billing", "billing, other", "billing, "
    )
    assert [answer.labels for answer in found] == [both, ("billing",), (), None, None, None]


def test_forms_without_free_answers(tiny_model_dir: Path) -> None:
    settings = make_settings({"task": "multi_label"})
    asked = Classifier.zero_shot(str(tiny_model_dir), LABELS, settings=settings)
    with pytest.raises(LlmclsError, match=r"no --free.*yes or no is asked about every label"):
        asked.answer_freely([Example("x")])


def test_the_comparison(tmp_path: Path) -> None:
    examples = [Example("one", "billing", source="a:1"), Example("two", "billing"), Example("three", "delivery")]
    answers = [FreeAnswer("invoice", ("billing",)), FreeAnswer("I think", None), FreeAnswer("billing", ("billing",))]
    predictions = [Prediction("no answer", 1, (), 0, withheld="billing"), *[Prediction("billing", 1, (), 0)] * 2]
    report = compare_free(examples, answers, predictions)
    assert report.figures() == {"rows": 3, "exact_match": 1 / 3, "invalid": 1 / 3, "constrained_accuracy": 2 / 3}
    assert [row.example.text for row in report.examples(2)] == ["two", "three"]
    report.write(tmp_path / "free.csv")
    with (tmp_path / "free.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[1] == ["a:1", "one", "billing", "invoice", "billing", "true", "true", "billing"]
    assert rows[2] == ["", "two", "billing", "I think", "", "false", "false", "billing"]
    with pytest.raises(LlmclsError, match="3 examples, 2 free answers"):
        compare_free(examples, answers[:2], predictions)


def test_rows_are_drawn_by_the_seed() -> None:
    assert choose_rows(4, 9, seed=1) == [0, 1, 2, 3]
    few, more = choose_rows(1000, 5, seed=1), choose_rows(1000, 50, seed=1)
    assert few == choose_rows(1000, 5, seed=1) == sorted(few) != choose_rows(1000, 5, seed=2)
    assert set(few) < set(more)
