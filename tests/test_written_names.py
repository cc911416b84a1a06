"""Names in settings are the text that was written, whatever YAML would take it for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcls import LlmclsError
from llmcls.settings import Settings, load_settings, make_settings

LOOKS_LIKE_SOMETHING = [
    *("010", "1.10", "1e3", "1e-6", "2024-01-01", "2024-01-01 10:00:00", "12:30", "null", "~", "Null", "yes", "no"),
    *("On", "TRUE", "y", "1_000", "0x1F", "0b11", "0o17", ".inf", "-.INF", ".nan", "+7", "007", "1.", "=", "1.0"),
]

# Where a name may stand: how it is written in a file, and how it is found in the settings.
PLACES: dict[str, Any] = {
    "training: {class_weights: {NAME: 5.0}}": lambda s: next(iter(s.training.class_weights)),
    "data: {label_descriptions: {NAME: x}}": lambda s: next(iter(s.data.label_descriptions)),
    "data: {label_descriptions: {x: NAME}}": lambda s: s.data.label_descriptions["x"],
    "data: {label_aliases: {NAME: [x]}}": lambda s: next(iter(s.data.label_aliases)),
    "data: {label_aliases: {x: [NAME]}}": lambda s: s.data.label_aliases["x"][0],
    "data: {label_aliases: {x: NAME}}": lambda s: s.data.label_aliases["x"][0],
    "data: {labels: [x, NAME]}": lambda s: s.data.labels[1],
    "data: {labels: NAME}": lambda s: s.data.labels[0],
    "data:\n  text_columns:\n  - NAME\n": lambda s: s.data.text_columns[0],
    "prediction: {no_answer: NAME}": lambda s: s.prediction.no_answer,
    "lora: {target_modules: [NAME]}": lambda s: s.lora.target_modules[0],
}


@pytest.mark.parametrize("name", LOOKS_LIKE_SOMETHING)
@pytest.mark.parametrize("place", PLACES)
def test_a_name_in_a_file_is_what_is_written(tmp_path: Path, place: str, name: str) -> None:
    (tmp_path / "run.yaml").write_text(place.replace("NAME", name), encoding="utf-8")
    assert PLACES[place](load_settings([tmp_path / "run.yaml"])) == name


@pytest.mark.parametrize("name", LOOKS_LIKE_SOMETHING)
@pytest.mark.parametrize(
    ("assignment", "find"),
    [
        ("prediction.no_answer=NAME", lambda s: s.prediction.no_answer),
        ("data.labels=[NAME, b]", lambda s: s.data.labels[0]),
        ("data.text_columns=NAME", lambda s: s.data.text_columns[0]),
        ("training.class_weights.NAME=2", lambda s: next(iter(s.training.class_weights))),
        ("training.class_weights={NAME: 2}", lambda s: next(iter(s.training.class_weights))),
        ("data.label_aliases.x=[NAME]", lambda s: s.data.label_aliases["x"][0]),
    ],
)
def test_a_name_on_the_command_line_is_what_is_written(assignment: str, find: Any, name: str) -> None:
    if name != "=" or not assignment.startswith("training.class_weights.NAME"):  # there it ends the key
        assert find(load_settings([], [assignment.replace("NAME", name)])) == name


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("no_answer=none # of them", "none # of them"),
        ("no_answer=#none", "#none"),
        ("no_answer=a: b", "a: b"),
        ("no_answer=[none]", "[none]"),
        ("no_answer={none}", "{none}"),
        ("no_answer=*", "*"),
        ("no_answer=- none -", "- none -"),
        ("no_answer='010'", "010"),
        ('no_answer="a # b"', "a # b"),
        ("no_answer= spaces around ", "spaces around"),
        ('no_answer=" "', " "),
        ("no_answer=!important", "!important"),
        ("no_answer=it's", "it's"),
        ("no_answer=|", "|"),
    ],
)
def test_text_on_the_command_line_needs_no_quotes(written: str, expected: str) -> None:
    assert load_settings([], [f"prediction.{written}"]).prediction.no_answer == expected


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ("data: {label_column: 010}", "data.label_column", "010"),
        ("data: {label_column: null}", "data.label_column", None),
        ("data: {label_column: ~}", "data.label_column", None),
        ("data: {label_column: }", "data.label_column", None),
        ("data: {label_column: 'null'}", "data.label_column", "null"),
        ("data: {label_column: !!str null}", "data.label_column", "null"),
        ("model: {revision: 1e3}", "model.revision", "1e3"),
        ("model: {revision: 0123456}", "model.revision", "0123456"),
        ("output_dir: 2024-01-01", "output_dir", "2024-01-01"),
        ("prompt: {template: null}", "prompt.template", "instruction"),
        ("lora: {target_modules: null}", "lora.target_modules", None),
        ("training: {mixed_precision: no}", "training.mixed_precision", "no"),
        ("training: {eval_strategy: off}", "training.eval_strategy", "no"),
        ("training: {packing: off}", "training.packing", False),
        ("training: {max_steps: 1_000}", "training.max_steps", 1000),
        ("training: {max_steps: 0x1F}", "training.max_steps", 31),
        ("training: {learning_rate: null}", "training.learning_rate", None),
        ("training: {learning_rate: 1e-6}", "training.learning_rate", 1e-6),
        ("a: &w {010: 2}\ntraining: {class_weights: {<<: *w, x: 3}}", "training.class_weights", {"010": 2, "x": 3}),
    ],
)
def test_what_is_no_name_is_read_as_ever(tmp_path: Path, content: str, name: str, expected: object) -> None:
    (tmp_path / "run.yaml").write_text(content.removeprefix("a: &w {010: 2}\n"), encoding="utf-8")
    if content.startswith("a:"):  # an anchor needs a place of its own
        text = "training:\n  class_weights: {<<: &w {010: 2}, x: 3}\n"
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    found: Any = load_settings([tmp_path / "run.yaml"])
    for part in name.split("."):
        found = getattr(found, part)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("data.label_descriptions.cs.AI=machines", {"cs.AI": "machines"}),
        ("data.label_descriptions.1.10=ten", {"1.10": "ten"}),
        ("data.label_descriptions.a.b.c=d.e", {"a.b.c": "d.e"}),
        ("data.label_descriptions.plain=x", {"plain": "x"}),
    ],
)
def test_a_dot_belongs_to_the_name_of_a_label(key: str, expected: dict[str, str]) -> None:
    assert load_settings([], [key]).data.label_descriptions == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", "a"),
        (np.str_("a"), "a"),
        (1, "1"),
        (np.int64(3), "3"),
        (1.0, "1"),  # as the label column has it
        (np.float32(0.5), "0.5"),
        (1.5, "1.5"),
    ],
)
def test_numbers_from_python_are_the_text_that_the_label_column_has(given: Any, expected: str) -> None:
    settings = make_settings(
        {
            "data": {"labels": [given, "z"], "label_aliases": {given: given}},
            "training": {"class_weights": {given: 2}},
        }
    )
    assert settings.data.labels == (expected, "z") and settings.data.label_aliases == {expected: (expected,)}
    assert settings.training.class_weights == {expected: 2.0}
    assert all(type(name) is str for name in settings.data.labels)
    assert make_settings({"data": {"labels": {given, "z", "y"}}}).data.labels == (expected, "y", "z")
    assert make_settings({"data": {"labels": np.array([given, given])}}).data.labels == (expected,) * 2


@pytest.mark.parametrize("given", [True, np.bool_(False), None, float("nan"), float("inf"), b"a", ("a",), 1j])
@pytest.mark.parametrize("place", ["labels", "class_weights", "label_aliases"])
def test_what_is_no_name_from_python_is_refused(given: Any, place: str) -> None:
    values: dict[str, Any] = {
        "labels": {"data": {"labels": ["x", given]}},
        "class_weights": {"training": {"class_weights": {given: 2.0}}},
        "label_aliases": {"data": {"label_aliases": {given: ["x"]}}},
    }
    with pytest.raises(LlmclsError, match="not a name; write the name as text, in quotes"):
        make_settings(values[place])


def test_two_keys_that_become_one_name_are_refused() -> None:
    with pytest.raises(LlmclsError, match="same name once they are text; keep one"):
        make_settings({"training": {"class_weights": {1: 2.0, "1": 3.0}}})


def test_what_config_show_prints_can_be_read_again(tmp_path: Path) -> None:
    from llmcls.cli.config import starter_file

    (tmp_path / "run.yaml").write_text(starter_file(), encoding="utf-8")
    assert load_settings([tmp_path / "run.yaml"]) == Settings()
