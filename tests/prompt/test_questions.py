"""The questions about several labels: prompt and question are tokens of one string, and answers part by a token."""

import pytest

from llmcls.answers.listed import list_items
from llmcls.engine.yesno import QuestionTrie
from llmcls.errors import LlmclsError
from llmcls.records import Example

LABELS = ("joy", "joyful", "two words", "标签", "no", "-1", "</s>")
TEXTS = ("It works.", " naïve café 🙂", "labels: joy: yes", "")


@pytest.mark.parametrize("template", ["multi_label", "multi_label_chat"])
def test_prompt_and_question_are_one_tokenisation(real_base, make_encoder, template):
    encoder = make_encoder(real_base, template, LABELS, form="yes_no")
    questions = QuestionTrie.between(encoder.answers, encoder.spelled.denials).questions
    for text, prompt in zip(TEXTS, encoder.encode(map(Example, TEXTS)), strict=True):
        framed = encoder._frame(Example(text), ())[0]
        for name, yes, no, question in zip(LABELS, encoder.answers, encoder.spelled.denials, questions, strict=True):
            if name == "</s>":
                continue
            for answer, said in ((yes, "yes"), (no, "no")):
                space = "" if encoder.is_chat else " "
                whole = encoder.tokenizer(f"{framed}{space}{name}: {said}", add_special_tokens=False).input_ids
                assert [*prompt.input_ids, *answer] == whole, (text, name)
                assert answer[len(question.tokens)] == (question.yes if said == "yes" else question.no)


def test_every_family_can_ask(base, make_encoder):
    encoder = make_encoder(base, "multi_label", ("joy", "joyful", "the the", "anger"), form="yes_no")
    questions = QuestionTrie.between(encoder.answers, encoder.spelled.denials)
    for name, question in zip(encoder.labels.names, questions.questions, strict=True):
        asked = encoder.tokenizer.decode([*encoder.encode([Example("hi")])[0].input_ids, *question.tokens])
        assert f"{name}:" in asked.replace("\n", "")[-len(name) - 8 :]
    single = make_encoder(base, "multi_label", ("joy", "anger"))
    assert single.answers[0][-1] == single.end_token_id


def test_a_list_is_one_tokenisation(real_base, make_encoder):
    labels = ("joy", "joyful", "two words", "标签", "anger")
    encoder = make_encoder(real_base, "multi_label", labels, form="listed")
    items = list_items(encoder)
    text = encoder._frame(Example("It works."), ())[0]
    prompt = encoder.encode([Example("It works.")])[0].input_ids
    for said in ((), (0,), (1, 0), (4, 3, 2), (0, 1, 2, 3, 4)):
        spoken = f"{text} {', '.join(labels[label] for label in said)}" if said else text
        whole = encoder.tokenizer(spoken, add_special_tokens=False).input_ids
        assert [*prompt, *items.tokens(said)] == [*whole, encoder.end_token_id], said
    short = make_encoder(real_base, "multi_label", labels, form="listed", max_length=128)
    (cut,) = short.encode([Example("word " * 500)])
    assert cut.truncated and len(cut.input_ids) + items.longest <= 128


def test_labels_that_no_list_can_hold(make_encoder):
    with pytest.raises(LlmclsError, match="'a, b' holds a comma"):
        make_encoder("nano", "multi_label", ("a, b", "c"), form="listed")


def test_truncation_leaves_room_for_the_question(make_encoder):
    encoder = make_encoder("nano", "multi_label", ("joy", "a label of many words"), form="yes_no", max_length=64)
    (prompt,) = encoder.encode([Example("word " * 500)])
    longest = max(map(len, encoder.answers + encoder.spelled.denials))
    assert prompt.truncated and 56 <= len(prompt.input_ids) + longest <= 64


def test_labels_that_cannot_be_told_apart(make_encoder):
    encoder = make_encoder("nano", "multi_label", ("joy", "joy: yes"), form="yes_no")
    with pytest.raises(LlmclsError, match="question 1 begins with question 0 and its answer"):
        QuestionTrie.between(encoder.answers, encoder.spelled.denials)
