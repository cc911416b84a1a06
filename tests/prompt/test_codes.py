"""Codes are one token each where the answer begins, and templates show them."""

import pytest

from llmcls.errors import LlmclsError
from llmcls.labels import Label, LabelSet
from llmcls.prompt.codes import candidate_codes, choose_codes
from llmcls.prompt.shots import Shots
from llmcls.records import Example

SHOTS = Shots((Example("late again", "delivery"), Example("twice", "B")))
LABELS = LabelSet.from_names(["delivery", "B", "none of these"], {"B": "bills"}, {"delivery": ["parcel"]})


@pytest.mark.parametrize("template", ["instruction", "chat", "few_shot"])
def test_codes_are_one_token_in_context(make_encoder, real_base, template):
    encoder = make_encoder(real_base, template, LABELS, shots=SHOTS, verbalizer="code")
    # A label is called B, so B is nobody's code.
    assert [label.code for label in encoder.labels] == ["A", "C", "D"]
    assert encoder.spellings == ("A", "C", "D") and encoder.answer_labels == (0, 1, 2)
    assert all(len(answer) == 2 for answer in encoder.answers)
    prompt = "".join(view.text for view in encoder.view(Example("where is it")))
    for line in ("A: delivery\n", "C: B (bills)\n", "D: none of these"):
        assert line in prompt
    if template == "few_shot":
        assert "late again\nlabel: A" in prompt and "twice\nlabel: C" in prompt
    ids = encoder.encode([Example("where is it")])[0].input_ids
    decoded = encoder.tokenizer.decode([*ids, *encoder.answers[0][:-1]])
    assert decoded.endswith("A") and not decoded.endswith("AA")


def test_a_thousand_codes_in_a_large_vocabulary(make_encoder):
    names = [f"label number {number}" for number in range(1000)]
    for base in ("llama-3", "tinyllama"):
        encoder = make_encoder(base, "instruction", LabelSet.from_names(names), verbalizer="code")
        assert len(set(encoder.answers)) == 1000 and {len(answer) for answer in encoder.answers} == {2}


def test_more_labels_than_codes_are_refused(make_encoder):
    names = LabelSet.from_names(f"label {number}" for number in range(10_000))
    with pytest.raises(LlmclsError, match=r"There are 10000 labels, but .* has only \d+ codes of one token"):
        make_encoder("nano", "instruction", names, verbalizer="code")


def test_a_template_must_show_the_codes(make_encoder):
    source = "Sort into {{ labels | map(attribute='name') | join(', ') }}.\n{{ text }}\nlabel:"
    with pytest.raises(LlmclsError, match=r"does not show the labels' codes; print label\.code"):
        make_encoder("llama-3", source, LABELS, verbalizer="code")
    make_encoder("llama-3", source, LABELS)


def test_given_codes_are_kept(make_encoder):
    labels = LabelSet([Label("delivery", code="parcel thing"), Label("bills", code="Z")])
    encoder = make_encoder("llama-3", "instruction", labels, verbalizer="code")
    assert encoder.spellings == ("parcel thing", "Z") and encoder.labels == labels
    assert encoder.tokenizer.decode(encoder.answers[0][:-1]) == " parcel thing"


def test_templates_may_show_aliases_and_answers_hold_them(make_encoder):
    source = "{% for l in labels %}{{ l.name }} ({{ l.aliases | join('/') }}) {% endfor %}\n{{ text }}\nlabel:"
    encoder = make_encoder("llama-3", source, LABELS)
    assert "delivery (parcel) B ()" in "".join(view.text for view in encoder.view(Example("x")))
    assert encoder.spellings == ("delivery", "B", "none of these", "parcel")
    assert encoder.answer_labels == (0, 1, 2, 0)
    decoded = [encoder.tokenizer.decode(answer[:-1]) for answer in encoder.answers]
    assert decoded == [f" {said}" for said in encoder.spellings]


def test_candidates_come_short_and_capital_first():
    found = candidate_codes(["\u0120AB", "\u2581B", "a", "A", "Ba", "1", "\u0120", "ABCDE", "C", "\u0120C"], {"C"})
    assert found == ["A", "B", "AB", "a", "Ba"]


def test_codes_with_the_same_token_or_several_are_passed_over():
    tokens = {"A": [1], "B": [2, 3], "a": [1], "C": None, "D": [4]}
    assert choose_codes(3, list(tokens), lambda batch: [tokens[code] for code in batch]) == ["A", "D"]


def test_a_space_of_its_own_is_shared(make_encoder):
    encoder = make_encoder("no-template", "instruction", LABELS, verbalizer="code")
    (stem,) = {answer[:-2] for answer in encoder.answers}
    assert encoder.tokenizer.decode(stem) == " " and encoder.spellings == ("A", "C", "D")
