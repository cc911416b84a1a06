"""A template of others may multiply and repeat as it likes: it is refused before it costs more than a second."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcls import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt import limits
from llmcls.prompt.limits import is_simple, try_out
from llmcls.prompt.template import PromptTemplate, prompt_templates
from llmcls.records import Example

from .conftest import change_json, reseal

LABELS = LabelSet.from_names([f"label {number}" for number in range(200)])
TEXT = "{{ text }} label:"
HALF = "{% if text | length > 3 %}"
BOMBS = {
    "product": "{{ 'a' * 30000000000 }}",
    "width": "{{ 'a' | center(30000000000) }}",
    "width of the text": "{{ text | center(30000000000) }}",
    "power": "{{ 7 ** 10000000000 }}",
    "format": "{{ '%1000000000d' % 5 }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops over labels": "".join(f"{{% for {n} in labels %}}" for n in "abc") + "x" + "{% endfor %}" * 3,
    "loops for some texts": HALF
    + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}",
    "doubling": "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40,
    "replacing": "{{ text" + f"| replace('x', '{'x' * 20}')" * 13 + " }}",
    "words": "{{ lipsum(n=100000000) }}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}",
    "brackets": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "blocks": "{% for a in labels %}" * 30 + "{% endfor %}" * 30,
    "long": "x" * (1 << 20),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 1)
    monkeypatch.setattr(limits, "MEMORY", 1 << 28)
    monkeypatch.setattr(limits, "LOOPS", 100_000)


def make_prompt(source: str) -> str:
    """What happens to a template of a run."""
    template = PromptTemplate("triage", source)
    template.try_out(LABELS)
    return template.render(Example("x hello"), LABELS).completion


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_template_that_costs_too_much_is_refused(bomb: str) -> None:
    with pytest.raises(LlmclsError) as caught:
        make_prompt(bomb + TEXT)
    assert str(caught.value).startswith("Template 'triage' ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "simple"),
    [
        ("{% for label in labels if label.description %}{{ loop.index }}{{ label.name | upper }}{% endfor %}", True),
        ("{% for label in labels %}{% for alias in label.aliases %}{{ alias }}{% endfor %}{% endfor %}", True),
        ("{{ labels | map(attribute='name') | join(', ') }}{{ fields.title.strip() }}{{ text[:100] }}", True),
        ("{% for a in labels %}{{ labels | length }}{% endfor %}", False),
        ("{% for a in labels %}{% for b in labels %}{% endfor %}{% endfor %}", False),
        ("{% for a in labels %}{% for b in a.aliases %}{% for c in b.x %}{% endfor %}{% endfor %}{% endfor %}", False),
        ("{% for a in range(3) %}{% endfor %}", False),
        ("{% set a = 1 %}", False),
        ("{{ 2 * 3 }}", False),
        ("{{ text | center(5) }}", False),
        ("{{ text.center(5) }}", False),
        ("{{ 10000000000 }}", False),
    ],
)
def test_what_cannot_cost_much_is_known_from_the_syntax(source: str, simple: bool) -> None:
    assert PromptTemplate("known", source + TEXT)._simple is simple


def test_the_built_in_templates_need_no_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a child process for a simple template"))
    for template in prompt_templates().values():
        PromptTemplate(template.name, template.source).try_out(LABELS)


def test_templates_that_need_a_child_process_render_as_they_did() -> None:
    source = (
        "{% set total = namespace(n=0) %}{% for a in labels %}{% set total.n = total.n + 2 * 3 %}{% endfor %}"
        "{{ total.n }} {{ loop_of(2) if false else text | center(9) }} {% for a in [1, 2] %}{{ loop.length }}"
        "{{ loop.last }}{% endfor %} label:"
    ).replace("loop_of(2) if false else ", "")
    template = PromptTemplate("long", source)
    template.try_out(LABELS)
    assert not is_simple(template.syntax, source, ("labels",))
    plain = template.render(Example("abc"), LABELS).completion
    assert (
        "1200" in plain
        and "   abc   " in plain
        and "2False2True label:" in "".join(character for character in plain if character not in "\ufdd0\ufdd1\ufdd2")
    )


def test_the_childs_own_errors_are_left_to_the_parent() -> None:
    def fails() -> None:
        raise ValueError("something else")

    try_out(fails, "Template 'x'")
    with pytest.raises(LlmclsError, match=r"^Template 'x' takes more than 0.25 GiB of memory, which no prompt needs; "):
        try_out(lambda: bytearray(1 << 31), "Template 'x'")


def test_a_run_with_such_a_template_is_refused(
    lora: Path, commands: Callable[[Path], list[tuple[object, ...]]], refuse: Callable[..., str]
) -> None:
    (lora / "template.j2").write_text(BOMBS["width of the text"] + TEXT, encoding="utf-8")
    reseal(lora)
    for command in commands(lora):
        assert "Template 'instruction' takes more than 0.25 GiB of memory" in refuse(*command)


@pytest.mark.parametrize(
    "bomb", ["{{ 'a' | center(30000000000) }}", "{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2]
)
def test_a_run_with_such_a_chat_template_is_refused(bomb: str, lora: Path, refuse: Callable[..., str]) -> None:
    chat = bomb + "{% for message in messages %}{{ message.content }}{% endfor %}"
    config = lora / "tokenizer" / "tokenizer_config.json"
    change_json(config, {"chat_template": chat})
    assert json.loads(config.read_bytes())["chat_template"] == chat
    assert "The model's chat template takes more than" in refuse("predict", "--run", reseal(lora), "a text")
