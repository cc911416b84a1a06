"""The template contract: a named Jinja source that turns an example into a prompt.

    template = PromptTemplate("triage", "Is this {{ labels[0].name }} or {{ labels[1].name }}? {{ text }}\\nlabel:")
    template.render(example, labels)

A template sees `text`, `fields` (the row's other columns), `labels` (each with `name`, `description`, `aliases` and
`code`, empty unless prompt.verbalizer is code) and `shots` (solved examples, each with `text` and `label`: what the
model is to answer, name or code). A plain template is a text that the label continues; a template that
uses `{% message "system" %}...{% endmessage %}` speaks in the roles system, user and assistant, and the base model's
adapter turns the roles into its own chat format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables

from llmcls.errors import LlmclsError, unknown
from llmcls.files import read_text
from llmcls.labels import LabelSet
from llmcls.plugin.catalog import Catalog
from llmcls.plugin.manager import load_plugins
from llmcls.prompt.frame import ROLES, Message, Prompt
from llmcls.prompt.limits import LimitedEnvironment, is_simple, try_out
from llmcls.prompt.marks import TURN, TURN_END, clean, is_balanced, mark
from llmcls.records import Example

if TYPE_CHECKING:
    from jinja2.parser import Parser

VARIABLES = ("text", "fields", "labels", "shots")
LONGEST_SOURCE = 1 << 20
"""Bytes of a template."""
_TURN = re.compile(f"{TURN}([a-z]+)\n(.*?){TURN_END}", re.DOTALL)
_HEAD_COMMENT = re.compile(r"\s*\{#-?\s*(.*?)\s*-?#\}", re.DOTALL)


# Rows whose text and every column is "x", or "y": what both have in common is what stands around the text.
PROBES = (Example("x"), Example("y"))


class _Text(str):
    """The row's text, told apart from other values until it is printed, also behind `| trim` or `[:100]`."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> _Text:
        return _Text(super().__getitem__(key))

    def strip(self, characters: str | None = None, /) -> _Text:
        return _Text(super().strip(characters))

    def lower(self) -> _Text:
        return _Text(super().lower())

    def upper(self) -> _Text:
        return _Text(super().upper())


class _AnyField(dict[str, _Text]):
    def __init__(self, value: str) -> None:
        super().__init__()
        self._value = _Text(value)

    def __missing__(self, _: str) -> _Text:
        return self._value


@dataclass(frozen=True)
class PromptTemplate:
    """A named Jinja template, checked for syntax, variables and roles when it is made.

    Attributes:
        name: what `--template` takes.
        source: the Jinja source; a leading `{# comment #}` is its description.

    Raises:
        LlmclsError: for a syntax error, an unknown variable, or a template that never uses `text` or `fields`.
    """

    name: str
    source: str

    def __post_init__(self) -> None:
        if len(self.source) > LONGEST_SOURCE:
            raise LlmclsError(f"Template '{self.name}' is longer than {LONGEST_SOURCE:,} characters; shorten it.")
        try:
            if not self._simple:
                # Jinja computes what is constant while it compiles.
                try_out(lambda: self._compiled, f"Template '{self.name}'")
            self._compiled  # noqa: B018 - finds unknown filters, which parsing alone does not
        except TemplateSyntaxError as error:
            raise LlmclsError(f"Template '{self.name}', line {error.lineno}: {error.message}.") from error
        except (RecursionError, MemoryError, SyntaxError, ValueError, ArithmeticError) as error:
            # What Python says of the code that Jinja makes of it.
            raise LlmclsError(
                f"Template '{self.name}' is nested too deeply, or cannot be compiled: {error}."
            ) from error
        for name in sorted(self._used - set(VARIABLES)):
            raise LlmclsError(f"Template '{self.name}': {unknown('variable', name, VARIABLES)}")
        if not self._used & {"text", "fields"}:
            raise LlmclsError(
                f"Template '{self.name}' uses neither 'text' nor 'fields': every row would look the same."
            )

    @classmethod
    def from_file(cls, path: str | Path) -> PromptTemplate:
        """Read a template from a `.j2` file; its name is the file's name without the suffix."""
        return cls(Path(path).stem, read_text(path, "Template file", LONGEST_SOURCE))

    def try_out(self, labels: LabelSet, shots: Sequence[Example] = ()) -> None:
        """Find out whether a prompt costs too much, before one is made here.

        Raises:
            LlmclsError: when it does.
        """
        if not self._simple:
            rows = (*PROBES, Example("word " * 200))
            try_out(lambda: [self.render(row, labels, shots) for row in rows], f"Template '{self.name}'")

    @property
    def description(self) -> str:
        """The template's leading comment, on one line."""
        found = _HEAD_COMMENT.match(self.source)
        return " ".join(found[1].split()) if found else ""

    def uses(self, variable: str) -> bool:
        """Whether the template mentions `text`, `fields`, `labels` or `shots`."""
        return variable in self._used

    def render(self, example: Example, labels: LabelSet, shots: Sequence[Example] = ()) -> Prompt:
        """Fill the template for one row; every value in the result is marked as data (`llmcls.prompt.marks`).

        Raises:
            LlmclsError: when a field is missing, the template fails, or text stands outside the messages.
        """
        self._environment.begin()
        try:
            fields = {clean(key): _Text(clean(value)) for key, value in example.fields.items()}
            rendered = self._compiled.render(
                text=_Text(clean(example.text)),
                fields=_AnyField(example.text) if any(example is probe for probe in PROBES) else fields,
                # Thousands of labels are not copied for every row of a template that does not show them.
                labels=_shown_labels(labels) if self.uses("labels") else [],
                shots=[{"text": clean(shot.text), "label": clean(_answer(shot, labels))} for shot in shots],
            )
        except Exception as error:
            # Jinja's own exceptions, and whatever a filter or method raises of a value that it was not made for.
            where = f" ({example.source})" if example.source else ""
            raise LlmclsError(f"Template '{self.name}' fails on this row{where}: {_reason(error)}.") from error
        if not is_balanced(rendered):
            raise LlmclsError(
                f"Template '{self.name}' filters a whole block and cuts values in it in two; filter the values "
                "themselves, as in {{ text | truncate(200) }}."
            )
        if TURN not in rendered:
            return Prompt(completion=rendered)
        if outside := _TURN.sub("", rendered).strip():
            raise LlmclsError(f"Template '{self.name}' has text outside its messages: {outside[:60]!r}.")
        return Prompt(tuple(Message(role, content.strip()) for role, content in _TURN.findall(rendered)))

    @cached_property
    def syntax(self) -> nodes.Template:
        """The source as Jinja's syntax tree."""
        return _environment().parse(self.source)

    @cached_property
    def _used(self) -> set[str]:
        return find_undeclared_variables(self.syntax)

    @cached_property
    def _simple(self) -> bool:
        """Whether no prompt of it can cost much."""
        return is_simple(self.syntax, self.source, ("labels", "shots"))

    @cached_property
    def _environment(self) -> LimitedEnvironment:
        return _environment(counts=not self._simple)

    @cached_property
    def _compiled(self) -> Any:
        return self._environment.from_string(self.source)


def prompt_templates(manager: pluggy.PluginManager | None = None) -> Catalog[PromptTemplate]:
    """Every registered template by name; those of `manager`, or of all installed plugins."""
    return Catalog(manager or load_plugins(), "register_prompt_templates", "template", PromptTemplate)


class _MessageExtension(Extension):
    """`{% message "user" %}...{% endmessage %}`: one turn of a chat."""

    tags = {"message"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        role = parser.parse_expression()
        if not isinstance(role, nodes.Const) or role.value not in ROLES:
            parser.fail(f"a message needs one of the roles {', '.join(ROLES)} in quotes", line)
        body = parser.parse_statements(("name:endmessage",), drop_needle=True)
        opening = nodes.Output([nodes.TemplateData(f"{TURN}{role.value}\n")]).set_lineno(line)
        closing = nodes.Output([nodes.TemplateData(TURN_END)])
        return [opening, *body, closing]  # type: ignore[return-value]  # jinja2 accepts a list, says its manual


def _shown_labels(labels: LabelSet) -> list[dict[str, Any]]:
    return [
        {
            "name": clean(label.name),
            "description": clean(label.description),
            "aliases": [clean(alias) for alias in label.aliases],
            "code": clean(label.code),
        }
        for label in labels
    ]


def _answer(shot: Example, labels: LabelSet) -> str:
    name = labels.spellings.get(shot.label or "")
    return labels[labels.position(name)].answer if name else shot.label or ""


def _finalize(value: object) -> str:
    if value is None:
        return ""
    origin = "text" if isinstance(value, _Text) else "data"
    return mark(str(value), origin)  # type: ignore[arg-type]


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")[:300]
    if isinstance(error, MemoryError | RecursionError):
        return "it needs more memory or depth than there is"
    return said or type(error).__name__


def _environment(*, counts: bool = False) -> LimitedEnvironment:
    return LimitedEnvironment(
        counts=counts,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=[_MessageExtension],
    )
