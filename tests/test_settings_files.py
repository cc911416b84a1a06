"""What a settings file says is neither lost nor read as something else without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmcls import LlmclsError
from llmcls.settings import load_settings


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("training: {max_steps: 1}\nlora: {r: 4}\ntraining: {packing: false}\n", ("'training'", "lines 1 and 3")),
        ("training:\n  max_steps: 1\n  packing: no\n  max_steps: 2\n", ("'training.max_steps'", "lines 2 and 4")),
        ("training:\n  class_weights:\n    a: 1\n    a: 2\n", ("'training.class_weights.a'", "lines 3 and 4")),
        ("data:\n  label_descriptions:\n    1: x\n    '1': y\n", ("'data.label_descriptions.1'", "lines 3 and 4")),
        ("data: {label_aliases: {null: a, 'null': b}}\n", ("'data.label_aliases.null'", "lines 1 and 1")),
        ("seed: 1\nseed: 2\nseed: 3\n", ("'seed' is written 3 times", "lines 1, 2 and 3")),
        ("training:\n  lr_scheduler_kwargs:\n    a: 1\n    a: 1\n", ("'training.lr_scheduler_kwargs.a'",)),
        ("seed: 1\nseed: 1\nlora: {r: 1, r: 2}\n", ("2 problems", "'seed'", "'lora.r'")),
        ("lora: {r: 1}\nlora:\n", ("'lora'", "lines 1 and 2")),
        ("trainig: {a: 1}\ntrainig: {b: 1}\n", ("'trainig'", "lines 1 and 2")),
        ("training: {max_steps: 010}\n", ("line 1: training.max_steps is 010, which YAML reads as 8; write 8",)),
        ("lora:\n  lora_alpha: 1:30\n", ("line 2: lora.lora_alpha is 1:30, which YAML reads as 90",)),
        ("? [a, b]\n: 3\n", ("has a list or mapping as a key",)),
        ("lora: &a {r: *a}\n", ("is nested too deeply, or within itself",)),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path: Path, content: str, says: tuple[str, ...]) -> None:
    (tmp_path / "run.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(LlmclsError) as caught:
        load_settings([tmp_path / "run.yaml"])
    for part in (f"Settings file '{tmp_path / 'run.yaml'}'", *says):
        assert part in str(caught.value)


def test_a_key_twice_on_the_command_line_is_refused() -> None:
    with pytest.raises(LlmclsError, match=r"--set training\.class_weights=.*'training\.class_weights\.a' is written 2"):
        load_settings([], ["training.class_weights={a: 1, a: 2}"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lora: &a {r: 3}\n", {"lora.r": 3}),
        ("training: {class_weights: {<<: {a: 1, b: 2}, a: 3}}\n", {"training.class_weights": {"a": 3.0, "b": 2.0}}),
        ("training: {class_weights: &w {a: 1}}\ndata: {label_descriptions: *w}\n", {"data.label_descriptions.a": "1"}),
    ],
)
def test_anchors_and_merges_stay(tmp_path: Path, content: str, expected: dict[str, Any]) -> None:
    (tmp_path / "run.yaml").write_text(content, encoding="utf-8")
    settings = load_settings([tmp_path / "run.yaml"])
    for name, value in expected.items():
        found: Any = settings
        for part in name.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        assert found == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-6", 1e-6),
        ("2E-4", 2e-4),
        ("1.5e3", 1500.0),
        ("-1e-3", -1e-3),
        (".5e1", 5.0),
        ("+1e+2", 100.0),
        ("'1e-6'", "1e-6"),
        ("1e-6x", "1e-6x"),
        ("0.1", 0.1),
        ("3", 3),
        ("null", None),
        ("yes", True),
    ],
)
@pytest.mark.parametrize("place", ["{min_lr: VALUE}", "{a: {min_lr: VALUE}}", "{a: [VALUE]}"])
def test_numbers_within_mappings_and_lists(tmp_path: Path, place: str, written: str, value: object) -> None:
    content = place.replace("VALUE", written)
    (tmp_path / "run.yaml").write_text(f"training: {{lr_scheduler_kwargs: {content}}}\n", encoding="utf-8")
    for settings in (
        load_settings([tmp_path / "run.yaml"]),
        load_settings([], [f"training.lr_scheduler_kwargs={content}"]),
    ):
        found: Any = settings.training.lr_scheduler_kwargs
        while isinstance(found, dict | list):
            (found,) = found.values() if isinstance(found, dict) else found
        assert found == value and type(found) is type(value)


def test_class_weights_with_exponents(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("training: {class_weights: {a: 1e-6, 1e-6: 2e3}}\n", encoding="utf-8")
    assert load_settings([tmp_path / "run.yaml"]).training.class_weights == {"a": 1e-6, "1e-6": 2e3}
