"""Framing token for token, and prompt + answer against one tokenisation of the whole string."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcls.errors import LlmclsError
from llmcls.labels import Label, LabelSet
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.marks import unmark
from llmcls.prompt.shots import Shots
from llmcls.records import Example

ORDINARY = (
    "It works.",
    "Two  spaces,\ttab\nand lines\n\n\nof it ",
    "naïve café — 东京 🙂👩‍👩‍👧 العربية",
    "1 22 333 4444 55555, $1.50!? :) https://a.b/c?d=e&f",
    " leading, and trailing:",
    "x < y > z | [a] {b} </div> <br/>",
    "",
)
LABEL_SETS = {
    "prefixes": ("positive", "positive_mixed", "pos", "negative"),
    "spaces": ("two words", "two  words", "Two words here"),
    "scripts": ("标签", "étiquette", "🙂", "👩‍👩‍👧", "\u0301accent", "\u200bzero"),
    "punctuation": (":)", "+1", ",", "-1", "_", '"', "'s", "(", "...", "\n\\n".strip()),
    "numbers": ("1", "10", "100", "1000", "0.5"),
    "hostile": ("</s>", "<|eot_id|>", "<|assistant|>", "### Assistant:", "<|im_end|>", "yes"),
}
TEMPLATES = ("instruction", "chat", "few_shot")
SHOTS = Shots((Example("good, this", "one"), Example("bad, that </s>", "two")))


def whole(encoder: Encoder, example: Example, answer: str) -> list[int]:
    """The obvious way: one string, one tokenisation."""
    prompt = encoder.template.render(example, encoder.labels, encoder.shots.without(example))
    text = encoder.frame.chat(prompt.messages) if prompt.is_chat else encoder.frame.bos_token + prompt.completion
    text = unmark(text, encoder._framed.forgeries)[0].rstrip(" ")
    space = encoder.frame.opening if prompt.is_chat else "" if text[-1].isspace() else " "
    return encoder.tokenizer(text + space + answer, add_special_tokens=False).input_ids


def assert_joint(encoder: Encoder, texts: tuple[str, ...]) -> None:
    examples = [Example(text) for text in texts]
    for example, prompt in zip(examples, encoder.encode(examples), strict=True):
        assert not prompt.truncated
        for name, answer in zip(encoder.labels.names, encoder.answers, strict=True):
            if encoder._framed.forgeries.search(name):
                continue
            assert [*prompt.input_ids, *answer[:-1]] == whole(encoder, example, name), (example.text, name)
            assert answer[-1] == encoder.end_token_id


def decoded(encoder: Encoder, text: str) -> list[str]:
    return encoder.tokenizer.convert_ids_to_tokens(encoder.encode([Example(text)])[0].input_ids)


CHAT = '{% message "system" %}Sort.{% endmessage %}{% message "user" %}{{ text }}{% endmessage %}'
PLAIN = "Sort.\n{{ text }}\nlabel:"


def test_llama_3_frames_token_for_token(make_encoder):
    chat = make_encoder("llama-3", CHAT)
    # 9125 system, 10442 13 Sort., 882 user, 6151 hi, 78191 assistant, 271 two newlines
    assert chat.encode([Example("hi")])[0].input_ids == [
        *(128000, 128006, 9125, 128007, 271, 10442, 13, 128009),
        *(128006, 882, 128007, 271, 6151, 128009),
        *(128006, 78191, 128007, 271),
    ]
    assert decoded(chat, "hi") == [
        *("<|begin_of_text|>", "<|start_header_id|>", "system", "<|end_header_id|>", "ĊĊ", "Sort", ".", "<|eot_id|>"),
        *("<|start_header_id|>", "user", "<|end_header_id|>", "ĊĊ", "hi", "<|eot_id|>"),
        *("<|start_header_id|>", "assistant", "<|end_header_id|>", "ĊĊ"),
    ]
    assert chat.tokenizer.convert_ids_to_tokens(chat.answers[0]) == ["yes", "<|eot_id|>"]
    plain = make_encoder("llama-3", PLAIN)
    assert decoded(plain, "hi") == ["<|begin_of_text|>", "Sort", ".Ċ", "hi", "Ċ", "label", ":"]
    assert plain.tokenizer.convert_ids_to_tokens(plain.answers[0]) == ["Ġyes", "<|end_of_text|>"]


def test_tinyllama_frames_token_for_token(make_encoder):
    chat = make_encoder("tinyllama", CHAT)
    assert decoded(chat, "hi") == [
        *("<s>", "▁<", "|", "system", "|", ">", "<0x0A>", "Sort", ".", "</s>"),
        *("▁", "<0x0A>", "<", "|", "user", "|", ">", "<0x0A>", "hi", "</s>"),
        *("▁", "<0x0A>", "<", "|", "ass", "istant", "|", ">", "<0x0A>"),
    ]
    assert chat.encode([Example("hi")])[0].input_ids[:7] == [1, 529, 29989, 5205, 29989, 29958, 13]
    assert chat.tokenizer.convert_ids_to_tokens(chat.answers[0]) == ["yes", "</s>"]
    plain = make_encoder("tinyllama", PLAIN)
    assert decoded(plain, "hi") == ["<s>", "▁Sort", ".", "<0x0A>", "hi", "<0x0A>", "label", ":"]
    assert plain.tokenizer.convert_ids_to_tokens(plain.answers[0]) == ["▁yes", "</s>"]


def test_nano_frames_token_for_token(make_encoder):
    tokens = decoded(make_encoder("nano", CHAT), "hi")
    assert tokens[:2] == ["<s>", "<|system|>"] and tokens[-2:] == ["<|end|>", "<|assistant|>"]
    assert tokens.count("<|end|>") == 2 and tokens.count("<|user|>") == 1


def test_auto_takes_the_chat_template_without_its_date(make_encoder):
    encoder = make_encoder("dated", CHAT)
    text = encoder.tokenizer.decode(encoder.encode([Example("hi")])[0].input_ids)
    assert text == (
        "<|im_start|>system\nToday is .<|im_end|>\n<|im_start|>system\nSort.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.answers[0][-1]) == "<|im_end|>"


def test_auto_gives_a_refused_system_role_to_the_user(make_encoder):
    encoder = make_encoder("no-system", CHAT)
    text = encoder.tokenizer.decode(encoder.encode([Example("hi")])[0].input_ids)
    assert text == "<|im_start|>user\nSort.\n\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template", TEMPLATES)
def test_begins_once_and_renders_the_same_twice(make_encoder, base, template):
    encoder = make_encoder(base, template, ("one", "two"), shots=SHOTS)
    first, second = encoder.encode([Example("hello <s> </s>")] * 2)
    assert first == second
    bos, tokens = encoder.frame.bos_token, encoder.tokenizer.convert_ids_to_tokens(first.input_ids)
    if bos and (template != "chat" or base in ("llama-3", "tinyllama", "nano", "llama-2", "no-template", "gpt-2")):
        assert tokens[0] == bos and tokens.count(bos) == 1
    pad = encoder.tokenizer.pad_token
    assert pad not in (encoder.frame.end_token, encoder.frame.turn_end_token)


@pytest.mark.parametrize("labels", LABEL_SETS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_are_tokenised_in_their_context(make_encoder, real_base, template, labels):
    assert_joint(make_encoder(real_base, template, LABEL_SETS[labels], shots=SHOTS), ORDINARY)


@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_are_tokenised_in_their_context_by_built_tokenizers(make_encoder, built_base, template):
    assert_joint(make_encoder(built_base, template, ("one", "two words", "标签 🙂", ":)", "10"), shots=SHOTS), ORDINARY)


@pytest.mark.parametrize(
    "ending", ["label:", "label: ", "label:\n", "label:\t", "->", "(", '"', "label", "=\n\n", "\u00a0"]
)
def test_every_ending_of_a_template_meets_every_label(make_encoder, real_base, ending):
    names = tuple(dict.fromkeys(name for names in LABEL_SETS.values() for name in names))
    assert_joint(make_encoder(real_base, "Sort:\n{{ text }}\nThe " + ending, names), ("hi", "text\n"))


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cn", "Co")), max_size=20)


@pytest.mark.parametrize("base", ["llama-3", "tinyllama"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(words, min_size=1, max_size=3),
    names=st.sets(words.map(str.strip).filter(bool), min_size=2, max_size=5),
)
def test_any_label_joins_any_text(make_encoder, base, texts, names):
    for template in ("instruction", "chat"):
        # Neither vocabulary has a normaliser: no two names become the same tokens, unless marks were taken out.
        assert_joint(make_encoder(base, template, tuple(sorted(names))), tuple(texts))


@pytest.mark.parametrize("template", TEMPLATES)
def test_view_agrees_with_encode(make_encoder, base, template):
    for limit in (100_000, 500):
        encoder = make_encoder(base, template, ("yes", "no"), shots=SHOTS, max_length=limit)
        for text in (*ORDINARY, "</s> <|im_end|> ＜|im_end|＞ <|IM_END|> <|eot_id|>", "good, this", "long 🙂 " * 300):
            example = Example(text)
            views = encoder.view(example)
            encoded = encoder.encode([example])[0]
            assert [view.id for view in views] == encoded.input_ids
            framed = encoder._frame(example, encoder.shots.without(example))[0]
            shown = "".join(view.text for view in views)
            if not encoded.truncated and base != "folding":
                assert framed.startswith(shown) and len(framed) - len(shown) <= len(encoder.spelled.boundary) * 8
            if text == "It works.":
                assert "".join(v.text for v in views if v.origin == "text").strip() == "It works."


def test_two_labels_that_become_the_same_tokens_are_refused(make_encoder):
    with pytest.raises(LlmclsError, match="'A' and 'a' become the same tokens"):
        make_encoder("folding", PLAIN, ("A", "a"))
    with pytest.raises(LlmclsError, match="same tokens"):
        make_encoder("tinyllama", PLAIN, ("</s>", "< /s>"))


@pytest.mark.parametrize("count", [1000, 10_000])
def test_many_labels_cost_in_proportion(make_encoder, count, monkeypatch):
    calls = []
    monkeypatch.setattr("llmcls.prompt.template._shown_labels", lambda labels: calls.append(1) or [])
    labels = LabelSet(Label(f"label {number} of many", "described") for number in range(count))
    encoder = make_encoder("llama-3", PLAIN, labels)
    assert len(encoder.answers) == len(set(encoder.answers)) == count
    encoder.encode([Example("hi")] * 50)
    assert not calls  # labels that are not shown are not copied for every row


def test_many_listed_labels(make_encoder):
    labels = LabelSet.from_names([f"label {number}" for number in range(1000)])
    encoder = make_encoder("llama-3", "instruction", labels)
    example = Example("hi")
    prompt = encoder.encode([example])[0].input_ids
    for position in range(0, 1000, 91):
        whole_ids = whole(encoder, example, labels.names[position])
        assert [*prompt, *encoder.answers[position][:-1]] == whole_ids
