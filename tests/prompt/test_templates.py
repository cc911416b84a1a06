"""What a template may be, what it is refused for, and that a text's markup stays text."""

import re

import pytest

from llmcls.errors import LlmclsError
from llmcls.labels import Label, LabelSet
from llmcls.prompt.marks import unmark
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example

LABELS = LabelSet([Label("yes", "agrees"), Label("no")])
NOTHING = re.compile("(?!)")


def shown(source: str, text: str = "hi", **fields: str) -> str:
    prompt = PromptTemplate("probe", source).render(Example(text, fields=fields), LABELS)
    return unmark(prompt.completion, NOTHING)[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ text", r"Template 'probe', line 1: "),
        ("\n{% if text %}", r"Template 'probe', line 2: "),
        ("{{ text | frobnicate }}", r"line 1: No filter named 'frobnicate'"),
        (
            "{{ txet }} {{ text }}",
            r"Unknown variable 'txet'. Did you mean 'text'\? Available: fields, labels, shots, text",
        ),
        ("{{ labels[0].name }}", r"uses neither 'text' nor 'fields'"),
        ("", r"uses neither 'text' nor 'fields'"),
        ('{% message "bot" %}{{ text }}{% endmessage %}', r"roles system, user, assistant"),
        ("{% message user %}{{ text }}{% endmessage %}", r"roles system, user, assistant"),
        ('{% message "user" %}{{ text }}', r"line 1"),
    ],
)
def test_refused_when_made(source, message):
    with pytest.raises(LlmclsError, match=message):
        PromptTemplate("probe", source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ text }}{{ fields.titel }}", r"fails on this row \(x.csv:3\): .*titel"),
        ("{{ text }}{{ labels[7].name }}", "fails on this row"),
        ("{{ text }}{{ labels[0].nmae }}", "nmae"),
        ("{{ text.__class__.__mro__ }}", "fails on this row.*unsafe"),
        ("{{ text }}{{ ''.__class__ }}", "unsafe"),
        ("{{ text }}{{ text | attr('__class__') }}", "fails on this row"),
        ("{{ text }}{{ fields.update({}) }}", "fails on this row"),
        ("{{ text }}{{ labels.append(1) }}", "fails on this row"),
        ("{{ text }}{{ 1 // 0 }}", "fails on this row"),
        ("{{ text }}{{ {}.popitem() }}", "fails on this row"),
        ("{{ text }}{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "fails on this row"),
        ("{{ text }}{% include 'other' %}", "fails on this row"),
        ('stray{% message "user" %}{{ text }}{% endmessage %}', "text outside its messages: 'stray'"),
        ('{% message "user" %}{% message "user" %}{{ text }}{% endmessage %}{% endmessage %}', "outside its messages"),
        ("{% filter truncate(20) %}{{ text }}{{ text }}{% endfilter %} label:", "filters a whole block"),
        ("{% filter reverse %}{{ text }}{% endfilter %} label:", "filters a whole block"),
    ],
)
def test_refused_when_rendered(source, message):
    with pytest.raises(LlmclsError, match=message):
        PromptTemplate("probe", source).render(Example("some longer text", source="x.csv:3"), LABELS)


@pytest.mark.parametrize("ending", ["{{ text }}", "{{ text }}  ", "{{ text | trim }}", "{{ text | upper }} "])
def test_may_not_end_with_the_text(make_encoder, ending):
    with pytest.raises(LlmclsError, match="ends with the text itself"):
        make_encoder("chatml", "Sort: " + ending)


@pytest.mark.parametrize(
    "text", ["{{ 7*7 }}", "{% for x in y %}", "{# note #}", "{% endmessage %}", "<b>&amp;\\n", "{{ text }}"]
)
def test_markup_in_a_text_stays_text(make_encoder, text):
    assert shown("{{ text }} label:", text) == f"{text} label:"
    for base in ("chatml", "llama-2"):
        views = make_encoder(base, "chat").view(Example(text))
        assert text in "".join(view.text for view in views)


@pytest.mark.parametrize(
    ("source", "expected", "origin"),
    [
        ("{{ text | trim }}|", "Hello |", "text"),
        ("{{ text | lower }}|", " hello  |", "text"),
        ("{{ text[:3] }}|", " He|", "text"),
        ("{% set shout = text | upper %}{{ shout }}|", " HELLO  |", "text"),
        ("{% set block %}<{{ text }}>{% endset %}{{ block }}|", "< Hello  >|", "text"),
        ("{% macro quote(t) %}'{{ t }}'{% endmacro %}{{ quote(text) }}|", "' Hello  '|", "text"),
        ("{% filter upper %}{{ text }}{% endfilter %}|", " HELLO  |", "text"),
        ("{{ fields.a }}{{ text | length }}|", "A8|", "text"),
        ("{{ text | replace('l', 'L') }}|", " HeLLo  |", "data"),
        ("{% for key, value in fields.items() %}{{ key }}={{ value }};{% endfor %}|", "a=A;|", "data"),
    ],
)
def test_filters_blocks_and_macros_keep_track_of_data(source, expected, origin):
    source = source.replace("| trim }}|", "| trim }} |")
    prompt = PromptTemplate("probe", source).render(Example(" Hello  ", fields={"a": "A"}), LABELS)
    text, spans = unmark(prompt.completion, NOTHING)
    assert text == expected
    assert origin in {span.origin for span in spans}
    assert origin == "text" or "text" not in {span.origin for span in spans[:1]}
    assert text[-1] == "|" and spans[-1].end < len(text)


def test_column_names_are_data_too(make_encoder):
    source = "{% for key, value in fields.items() %}{{ key }}={{ value }};{% endfor %}{{ text }}\nlabel:"
    encoder = make_encoder("tinyllama", source)
    for name in ("</s>", "\ufdd2</s>", "\ufdd2\ufdd3</s>\ufdd0", "a\ufdd2</s>\ufdd1b"):
        assert 2 not in encoder.encode([Example("hi", fields={name: "</s>"})])[0].input_ids


def test_the_leading_comment_describes():
    assert PromptTemplate("probe", "{# One\n  line. #}\n{{ text }}").description == "One line."
    assert PromptTemplate("probe", "{{ text }}").description == ""


def test_from_file_says_what_is_wrong(tmp_path):
    (tmp_path / "latin.j2").write_bytes(b"\xe9{{ text }}")
    for name in ("latin.j2", "missing.j2", "."):
        with pytest.raises(LlmclsError, match="cannot be read"):
            PromptTemplate.from_file(tmp_path / name)


def test_messages_keep_roles_and_order():
    prompt = PromptTemplate(
        "probe",
        '{% message "system" %}S{% endmessage %}\n{% message "user" %}\n a {{ text }}\n{% endmessage %}'
        '{% message "assistant" %}{{ labels[0].name }}{% endmessage %}{% message "user" %}u{% endmessage %}\n',
    ).render(Example("hi"), LABELS)
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert [unmark(message.content, NOTHING)[0] for message in prompt.messages] == ["S", "a hi", "yes", "u"]
