"""Prompts tokenised through a window are, token for token, the prompts tokenised as a whole."""

from __future__ import annotations

import copy
import random
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.labels import Label, LabelSet
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt import window
from llmcls.prompt.encoding import EncodedPrompt, Encoder
from llmcls.prompt.hole import find_hole, prints_text_once
from llmcls.prompt.shots import Shots
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example

MakeEncoder = Callable[..., Encoder]

PLAIN = "Sort this: {{ text }}\nlabel:"
LABELS = LabelSet([Label("card_arrival", "where is it"), Label("two words"), Label("标签"), Label("yes")])
SHOTS = Shots(
    (Example("good, this", "yes"), Example("bad, that </s>", "two words")), (Example("a spare for good", "yes"),)
)
LONG = " ".join(f"word{number} of a text" for number in range(60))
PIECES = (
    *(
        "hello",
        " the",
        "don't",
        "It works.",
        "word " * 40,
        "\n\nlate",
        "東京",
        "naïve",
        "👩\u200d👧",
        "\u0301",
        "1234567",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        "\u00a0",
        "\u2028",
        "",
        "!",
        "'",
        "'s",
        "<",
        "|",
        ">",
        "_",
        "▁",
        "Ġ",
        "\ufffd",
        "\x00",
    ),
    *(
        "</s>",
        "<|eot_id|>",
        "<|user|>",
        "### User:",
        "[INST]",
        "<|im_",
        "end|>",
        "<|IM_END|>",
        "＜|im_end|＞",
        "</",
        "s>",
    ),
    *("\ud800", "\ufdd0", "\ufdd3", "label:", "text: ", "good, this", "{{ text }}", "\ue0ff"),
)
ALONE = ("", " ", "\n", "good, this", "bad, that </s>", "x" * 1000, LONG, "🙂 ✓" * 100)


def hostile(encoder: Encoder, count: int, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    markers = [token.content for token in list(encoder.tokenizer.added_tokens_decoder.values())[:12]]
    pieces = [*PIECES, *markers, *(marker[: len(marker) // 2] for marker in markers)]
    drawn = ["".join(draw.choices(pieces, k=draw.randint(1, 6))) for _ in range(count)]
    return [Example(text) for text in (*ALONE, *drawn)]


def look_through(encoder: Encoder) -> Encoder:
    """The encoder with its window open, as after many rows."""
    encoder.open_window()
    return encoder


def outcome(encoder: Encoder, examples: list[Example]) -> list[EncodedPrompt] | str:
    try:
        return encoder.encode(examples)
    except LlmclsError as error:
        return str(error)


def assert_same(
    make_encoder: MakeEncoder, base: str, examples: list[Example] | None = None, count: int = 30, **options: Any
) -> Encoder:
    through, whole = (make_encoder(base, **options, windowed=windowed) for windowed in (True, False))
    through.open_window()
    examples = examples or hostile(whole, count)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LlmclsWarning)
        found = outcome(through, examples)
    expected = outcome(whole, examples)
    if found != expected and not isinstance(found, str) and not isinstance(expected, str):
        for example, ours, theirs in zip(examples, found, expected, strict=True):
            assert ours == theirs, example
    assert found == expected
    return through


KINDS: dict[str, dict[str, Any]] = {
    "instruction": {"template": "instruction"},
    "codes": {"template": "instruction", "verbalizer": "code"},
    "chat": {"template": "chat"},
    "text": {"template": "text", "head": True},
    "few_shot": {"template": "few_shot", "shots": SHOTS},
    "yes_no": {"template": "multi_label_chat", "form": "yes_no"},
    "listed": {"template": "multi_label", "form": "listed"},
    "short": {"template": "instruction", "max_length": 120},
    "short, left": {"template": "chat", "max_length": 130, "truncation_side": "left"},
    "short, shots": {"template": "few_shot", "shots": SHOTS, "max_length": 150},
    "text first": {"template": "{{ text }}\n\nWhat is it about?{% for l in labels %} {{ l.name }};{% endfor %}\nIt is"},
    "one line": {"template": "Sort {% if labels %}{{ text }}{% endif %} now. Label:"},
    "in quotes": {"template": 'What says "{{ text }}"?\n'},
}


@pytest.mark.parametrize("kind", KINDS)
def test_real_vocabularies_see_the_same_tokens(make_encoder: MakeEncoder, real_base: str, kind: str) -> None:
    options = {"labels": LABELS, **KINDS[kind]}
    encoder = assert_same(make_encoder, real_base, **options)
    assert encoder._window is not None and len(encoder._window.edges.left) < 60


@pytest.mark.parametrize("kind", ["instruction", "short, left"])
def test_built_tokenizers_see_the_same_tokens(make_encoder: MakeEncoder, built_base: str, kind: str) -> None:
    options = {**KINDS[kind], **({"max_length": 480} if "short" in kind else {})}  # a token is a byte
    assert assert_same(make_encoder, built_base, count=12, **options)._window is not None


texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=5).map("".join)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(texts, min_size=1, max_size=12), room=st.integers(0, 40))
def test_any_texts_and_any_limit(make_encoder: MakeEncoder, real_base: str, rows: list[str], room: int) -> None:
    for kind in ("instruction", "chat", "text"):
        options = KINDS[kind]
        shortest = len(make_encoder(real_base, **options).encode([Example("")])[0].input_ids)
        assert_same(make_encoder, real_base, [*map(Example, rows)], **options, max_length=shortest + 8 + room)


def test_banking77(make_encoder: MakeEncoder, real_base: str, shared: Any) -> None:
    lines = (shared / "data" / "banking77" / "test.csv").read_text("utf-8").splitlines()[1:1500:7]
    rows = [Example(line.rpartition(",")[0]) for line in lines]
    for kind in ("instruction", "chat"):
        assert_same(make_encoder, real_base, rows, **KINDS[kind])


def test_only_what_the_text_can_change_is_tokenised(make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = look_through(make_encoder("llama-3", "instruction"))
    assert encoder._window is not None
    assert (encoder._window.edges.left, encoder._window.edges.right) == (" ", "\n")
    frames = []
    frame = Encoder._frame
    monkeypatch.setattr(Encoder, "_frame", lambda self, *row: frames.append(row[0].text) or frame(self, *row))
    ordinary, forging, short = [f"Text {n}" for n in range(300)], ["A </s> 1", "<|eot_id|>"], "x" * 4000
    encoder.encode(map(Example, [*ordinary, *forging]))
    assert frames == ["Text 0", "<|eot_id|>"]  # the first of its kind is checked; "</s>" is text to Llama 3
    frames.clear()
    cut = look_through(make_encoder("llama-3", "instruction", max_length=200))
    cut.encode([Example(short)] * 20)
    assert len(frames) == 1  # cut rows go through the window as well


@pytest.mark.parametrize(
    "source",
    [
        "{{ text | trim }}\nlabel:",
        "{{ text[:100] }}\nlabel:",
        "{{ text.upper() }}\nlabel:",
        "{{ text ~ '!' }}\nlabel:",
        "{{ text }} {{ text }}\nlabel:",
        "{{ text }}{{ fields.title }}\nlabel:",
        "{% if text | length > 20 %}long{% endif %}{{ text }}\nlabel:",
        "{% for label in labels %}{{ text }}{% endfor %}\nlabel:",
        "{% filter upper %}{{ text }}{% endfilter %}\nlabel:",
        "{% set said = text %}{{ said }}\nlabel:",
        "{% set said %}{{ text }}{% endset %}{{ said | trim }}\nlabel:",
        "{% macro say() %}{{ text }}{% endmacro %}{{ say() }}\nlabel:",
        "{{ text if labels else '' }}\nlabel:",
        "{{ (labels | random).name }} {{ text }}\nlabel:",
        "{{ [labels] | map('random') | map(attribute='name') | join }} {{ text }}\nlabel:",
        "{{ lipsum(1) }} {{ text }}\nlabel:",
    ],
)
def test_templates_that_do_more_with_the_text_are_read_as_a_whole(make_encoder: MakeEncoder, source: str) -> None:
    assert not prints_text_once(PromptTemplate("probe", source))
    encoder = look_through(make_encoder("tinyllama", source))
    assert encoder._window is None
    if "random" not in source and "lipsum" not in source:
        rows = [Example(text, fields={"title": text[:3]}) for text in ("one", "a longer text of many words", "</s>")]
        assert encoder.encode(rows) == make_encoder("tinyllama", source, windowed=False).encode(rows)


@pytest.mark.parametrize(
    ("line", "opens"),
    [
        ("{{ m.content }}", True),
        ("{{ m.content }}{% if '<tool_call>' in m.content %}!{% endif %}", False),
        ("{% if 'magic\\nword' in m.content %}!{% endif %}{{ m.content }}", False),
        ("{{ m.content }}{% if m.content | length > 9999 %}!{% endif %}", False),
        ("{{ m.content }}{{ m.content }}", False),
    ],
)
def test_chat_formats_that_look_at_the_text_are_read_as_a_whole(
    make_encoder: MakeEncoder, bases: Any, line: str, opens: bool
) -> None:
    tokenizer = copy.deepcopy(bases("chatml")[1])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n" + line + "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    plain = make_encoder("chatml", "chat")
    encoder = Encoder(
        tokenizer, BaseModelAdapter().frame(tokenizer), plain.template, plain.labels, _Silent(), max_length=10**6
    )
    assert (find_hole(encoder._framed, encoder.labels, ()) is not None) is opens
    assert (look_through(encoder)._window is not None) is opens


class _Silent:
    """A form of answer that says nothing, so that only prompts are looked at."""

    def spell(self, place: Any, head: bool) -> Any:
        from llmcls.prompt.spelling import Spelled

        return Spelled.as_numbers(place.labels)


def test_a_row_that_is_refused_is_refused_in_the_same_words(make_encoder: MakeEncoder) -> None:
    rows = [Example("one"), Example("two\t", source="a.csv:2"), Example("three\t", source="a.csv:3")]
    encoder = assert_same(make_encoder, "llama-3", rows, template="Sort: {{ text }}\t", labels=("yes", "no"))
    with pytest.raises(LlmclsError, match=r"merges with the text of a\.csv:2"):
        encoder.encode(rows)
    assert len(encoder.encode([rows[0]] * 3)) == 3
    tight = assert_same(make_encoder, "llama-3", [Example("a"), Example("b")], template="instruction", max_length=8)
    with pytest.raises(LlmclsError, match="The instruction alone needs"):
        tight.encode([Example("a")])
    assert_same(make_encoder, "llama-3", [Example("good"), Example(7)], template=PLAIN)  # type: ignore[arg-type]


def test_a_row_that_is_a_shot_sees_its_spare(make_encoder: MakeEncoder) -> None:
    encoder = look_through(make_encoder("tinyllama", "few_shot", LABELS, shots=SHOTS))
    usual, own = encoder.read_prompts([Example("something"), Example("good, this")])
    assert "good, this" in usual and "a spare for good" not in usual
    assert own.count("good, this") == 1 and "a spare for good" in own


def test_few_texts_do_not_pay_for_the_search(make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    find = window._find_edges
    monkeypatch.setattr(window, "_find_edges", lambda *args: searches.append(1) or find(*args))
    encoder = make_encoder("tinyllama", "Is this {{ text }}?\nA new prompt:", max_length=200)
    for _ in range(300):
        encoder.encode([Example("one by one")])
    encoder.encode([Example("few")] * (window.WORTH_PROBING - 1))
    assert not searches and encoder._window is None
    encoder.encode([Example("many")] * 20)
    assert len(searches) == 1 and encoder._window is not None
    again = make_encoder("tinyllama", "Is this {{ text }}?\nA new prompt:", max_length=100)
    again.encode([Example("many")] * window.WORTH_PROBING)
    assert again._window is not None and len(searches) == 1  # remembered of the tokenizer


def test_edges_that_are_wrong_are_noticed_and_given_up(
    make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "Sort this:\n{{ text }}\nlabel :"
    find = window._find_edges
    # Right for texts that begin with a letter, wrong for those that begin with white space.
    monkeypatch.setattr(window, "_find_edges", lambda *args: find(*args)._replace(left="", dropped=1))
    encoder, whole = look_through(make_encoder("tinyllama", source)), make_encoder("tinyllama", source, windowed=False)
    rows = [Example("fine"), Example(" not fine"), Example("fine again")]
    assert encoder._window is not None and not encoder._window.broken
    with pytest.warns(
        LlmclsWarning, match=r"cannot be tokenised in parts \(the text .* becomes other tokens\)"
    ) as said:
        assert encoder.encode(rows) == whole.encode(rows)
    assert len(said) == 1 and encoder._window.broken
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.encode(rows) == whole.encode(rows)


def test_what_was_set_on_the_tokenizer_before_is_of_no_effect(make_encoder: MakeEncoder, bases: Any) -> None:
    encoder = look_through(make_encoder("nano", PLAIN))
    backend = bases("nano")[1].backend_tokenizer
    expected = encoder.encode([Example("one"), Example("one text of several words")])
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    try:
        assert encoder.encode([Example("one"), Example("one text of several words")]) == expected
    finally:
        backend.no_truncation()
        backend.no_padding()


def test_threads_encode_at_the_same_time(make_encoder: MakeEncoder) -> None:
    encoder, whole = make_encoder("tinyllama", "chat"), make_encoder("tinyllama", "chat", windowed=False)
    rows = [example for example in hostile(whole, 80) if len(example.text) < 500]
    expected = whole.encode(rows)
    found: list[Any] = [None] * 3

    def work(place: int) -> None:
        found[place] = [encoder.encode(rows) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[expected] * 4] * 3


def test_views_agree_with_prompts_through_a_window(make_encoder: MakeEncoder, real_base: str) -> None:
    encoder = look_through(make_encoder(real_base, "instruction", max_length=120))
    for example, prompt in zip(rows := hostile(encoder, 20), encoder.encode(rows), strict=True):
        assert [view.id for view in encoder.view(example)] == prompt.input_ids
