"""YAML of others is read within limits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from llmcls import LlmclsError
from llmcls.settings.yaml_text import load_plain

from .conftest import reseal

NINE = "abcdefghi"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise(NINE)
)
TOO_MANY = "stands for more than 1,000,000 values once its aliases are written out; take out the aliases"
FILES = {
    "aliases": (LAUGHS, TOO_MANY),
    "merged aliases": (LAUGHS + "merged: {<<: [{x: *i}, {y: *i}]}\n", TOO_MANY),
    "within itself": ("seed: &a [*a]", "is nested too deeply, or within itself"),
    "deep": ("[" * 100_000, "is nested too deeply, or within itself"),
    "no date": ("training: {max_steps: 2024-99-99}", "cannot read: month must be in 1..12; correct it"),
    "digits": (f"lora: {{r: {'1' * 5000}}}", "cannot read: Exceeds the limit (4300 digits)"),
    "a tag": ("seed: !!python/object/apply:os.system [true]", "is no valid YAML"),
}


@pytest.mark.parametrize(("text", "wrong"), FILES.values(), ids=FILES)
def test_settings_files_cost_little(text: str, wrong: str, tmp_path: Path, refuse: Callable[..., str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    assert wrong in refuse("train", "--data", "demo:", "--config", file)


def test_settings_of_a_run_cost_little(lora: Path, refuse: Callable[..., str]) -> None:
    (lora / "settings.yaml").write_text(LAUGHS, encoding="utf-8")
    reseal(lora)
    assert TOO_MANY in refuse("predict", "--run", lora, "a text")


def test_a_file_that_never_ends_is_refused(refuse: Callable[..., str]) -> None:
    assert "it is larger than 16 MiB" in refuse("train", "--data", "demo:", "--config", "/dev/zero")


def test_a_wrong_value_is_shown_up_to_a_length(refuse: Callable[..., str]) -> None:
    message = refuse("train", "--data", "demo:", "--set", f"lora.r='{'x' * 100_000}'")
    assert message.startswith("Settings: lora.r = 'xxx") and len(message) < 500


def test_plain_yaml_is_read_as_ever() -> None:
    assert load_plain("a: &x [1, 2.5, null]\nb: *x", "x") == {"a": [1, 2.5, None], "b": [1, 2.5, None]}
    assert load_plain("", "x") is None
    with pytest.raises(LlmclsError, match=r"^Settings of run 'x' is not usable YAML: "):
        load_plain("a: [", "Settings of run 'x'")
