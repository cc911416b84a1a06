"""What a form of answer means for the settings: defaults that go with it, and what does not go together.

    register(FormRules("yes_no", task="multi_label", methods=("auto", "exact"), several=True, ...))
    rules_for("multi_label", "exact").name          # 'yes_no'
    fill_by_form({"task": "multi_label"}, "single_label")   # with the template and the objective that suit the form

A form is what the model answers: one label, yes or no about every label, a list. Each file in `llmcls.answers`
registers the plain table of its form here; the settings know no form by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from llmcls.errors import LlmclsError


@dataclass(frozen=True)
class Limit:
    """What one setting may be with a form.

    Attributes:
        why: the problem, in one sentence; `{value}` stands for what was given, `{method}` for `prediction.method`.
        values: the allowed values; None: the setting's default only.
        refused: the only values that are not allowed, in place of `values`.
    """

    why: str
    values: tuple[Any, ...] | None = None
    refused: tuple[Any, ...] = ()


@dataclass(frozen=True)
class FormRules:
    """The table of one form of answer.

    Attributes:
        name: the form's name.
        task: the value of the setting `task` that it serves.
        methods: the values of `prediction.method` that choose it within its task.
        several: whether a row may have any number of labels, and its label column is split.
        defaults: other defaults than usual, by dotted name: `{"training.objective": "sft"}`.
        limits: what other settings may be, by dotted name.
        unknown_method: the sentence for a method that no form of this task has.
    """

    name: str
    task: str
    methods: tuple[str, ...]
    several: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    unknown_method: str = ""

    def problems(self, sections: Mapping[str, Any]) -> list[str]:
        """What of these sections of the settings does not go with the form, one sentence each.

        Args:
            sections: section objects by name, `{"prediction": settings.prediction}`; limits of others are left out.
        """
        found = []
        for name, limit in self.limits.items():
            section, _, key = name.partition(".")
            if section not in sections:
                continue
            value = getattr(sections[section], key)
            default = type(sections[section]).model_fields[key].get_default(call_default_factory=True)
            allowed = (default,) if limit.values is None else limit.values
            if value in limit.refused if limit.refused else value not in allowed:
                method = getattr(sections.get("prediction"), "method", "")
                found.append(limit.why.format(value=repr(value), method=repr(method)))
        return found


FORMS = "llmcls.answers"
"""The package whose import registers llmcls's own forms. It is imported by its name, as built-in plugins are, and only
when a form is asked for: `import llmcls` is quick, and no module here knows a form."""

_RULES: dict[str, FormRules] = {}


def _rules() -> dict[str, FormRules]:
    importlib.import_module(FORMS)  # which comes back here while it registers its own
    return _RULES


def register(rules: FormRules) -> None:
    """Make a form known to the settings.

    Raises:
        LlmclsError: when another form has its name, or one of its methods within the task.
    """
    for other in _rules().values():
        if rules.name == other.name:
            raise LlmclsError(f"There are two forms of answer '{rules.name}'; rename one.")
        if rules.task == other.task and (same := set(rules.methods) & set(other.methods)):
            raise LlmclsError(
                f"The forms of answer '{other.name}' and '{rules.name}' both have the method '{min(same)}' in the task "
                f"'{rules.task}'; choose another name."
            )
    _RULES[rules.name] = rules


def unregister(name: str) -> None:
    """Forget a form; for tests."""
    del _RULES[name]


def tasks() -> tuple[str, ...]:
    """The values of the setting `task`, in order of registration."""
    return tuple(dict.fromkeys(rules.task for rules in _rules().values()))


def methods() -> tuple[str, ...]:
    """The values of `prediction.method`, in order of registration."""
    return tuple(dict.fromkeys(method for rules in _rules().values() for method in rules.methods))


def dependent() -> frozenset[str]:
    """The settings, by dotted name, whose default depends on the form."""
    return frozenset(name for rules in _rules().values() for name in rules.defaults)


def rules_for(task: str, method: str) -> FormRules:
    """The form of a task and a method of prediction; for a method that the task does not have, the task's first form.

    Raises:
        LlmclsError: for an unknown task.
    """
    of_task = [rules for rules in _rules().values() if rules.task == task]
    if not of_task:
        raise LlmclsError(f"There is no task '{task}'; choose one of {', '.join(tasks())}.")
    return next((rules for rules in of_task if method in rules.methods), of_task[0])


def fill_by_form(values: Any, usual_task: str) -> Any:
    """Settings as given, with the defaults of their form where such a setting is left out or null."""
    if not isinstance(values, Mapping):
        return values
    prediction = values.get("prediction")
    method = prediction.get("method") if isinstance(prediction, Mapping) else getattr(prediction, "method", None)
    task = values.get("task", usual_task)
    if task not in tasks():
        return values  # refused where the field itself is checked
    rules = rules_for(task, "auto" if method is None else str(method))
    filled = dict(values)
    for section in {name.partition(".")[0] for name in dependent()}:
        keys = {name.partition(".")[2] for name in dependent() if name.startswith(f"{section}.")}
        own = {key: rules.defaults[f"{section}.{key}"] for key in keys if f"{section}.{key}" in rules.defaults}
        if isinstance(given := filled.get(section, {}), Mapping) and (section in filled or own):
            chosen = {key: value for key, value in given.items() if key not in keys or value is not None}
            filled[section] = {**own, **chosen}
    return filled


def check_form(task: str, sections: Mapping[str, Any]) -> list[str]:
    """What of the settings does not go with their form of answer, one sentence each."""
    method = sections["prediction"].method
    rules = rules_for(task, method)
    problems = rules.problems(sections)
    if method in rules.methods:
        return problems
    owner = next((other.task for other in _rules().values() if method in other.methods), None)
    wrong = rules.unknown_method.format(value=repr(method)) or f"prediction.method {method!r} is for task {owner}"
    return [wrong, *problems]


@dataclass(frozen=True)
class OneOf:
    """Marks a text setting whose values the registered forms decide: `tasks` or `methods`."""

    kind: str

    def values(self) -> Sequence[str]:
        """The values allowed now."""
        return tasks() if self.kind == "tasks" else methods()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Check against the values when a value is given, not when the class is made."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """List the values, as editors want them."""
        return {**handler(schema), "enum": list(self.values())}

    def _check(self, value: str) -> str:
        if value not in self.values():
            *first, last = map(repr, self.values())
            raise PydanticCustomError("one_of", f"Input should be {', '.join(first)} or {last}")
        return value
