"""What the adapter suggests of training: each setting that was given stays, the others go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmcls.cli.config import starter_file
from llmcls.errors import LlmclsError
from llmcls.model.adapter import BaseModelAdapter
from llmcls.model.suggestion import describe_chosen, known_adapter, suggest
from llmcls.settings import (
    LoraSettings,
    ModelSettings,
    Settings,
    TrainingSettings,
    given_settings,
    load_settings,
    make_settings,
    nest,
)


class Small(BaseModelAdapter):
    name = "small"
    tuning = "full"
    quantization = "none"
    learning_rate = 0.2
    full_learning_rate = 0.1
    why_suggested = "it is small"


SMALL, USUAL = Small(), BaseModelAdapter()
ALL = {"training.tuning", "model.quantization", "training.learning_rate"}
# (adapter, what is given) -> tuning, quantisation, learning rate, and which of these were chosen
CASES: list[tuple[BaseModelAdapter, list[str], tuple[str, str, float], set[str]]] = [
    (SMALL, [], ("full", "none", 0.1), ALL),
    (USUAL, [], ("lora", "4bit", 2e-4), ALL),
    (SMALL, ["training.tuning=lora"], ("lora", "none", 0.2), ALL - {"training.tuning"}),
    (SMALL, ["model.quantization=4bit"], ("lora", "4bit", 0.2), ALL - {"model.quantization"}),
    (SMALL, ["model.quantization=8bit"], ("lora", "8bit", 0.2), ALL - {"model.quantization"}),
    (SMALL, ["model.quantization=none"], ("full", "none", 0.1), ALL - {"model.quantization"}),
    (SMALL, ["training.learning_rate=5"], ("full", "none", 5.0), ALL - {"training.learning_rate"}),
    (SMALL, ["training.learning_rate=null"], ("full", "none", 0.1), ALL),
    (SMALL, ["training.tuning=null", "model.quantization=null"], ("full", "none", 0.1), ALL),
    (SMALL, ["lora.r=4"], ("lora", "none", 0.2), ALL),
    (SMALL, ["lora.r=16"], ("lora", "none", 0.2), ALL),  # its default, and yet asked for
    (SMALL, ["model.bnb_4bit_quant_type=fp4"], ("lora", "4bit", 0.2), ALL),
    (SMALL, ["lora.r=4", "training.tuning=full"], ("full", "none", 0.1), {"training.learning_rate"}),
    (USUAL, ["training.tuning=full"], ("full", "none", 2e-5), {"training.learning_rate"}),
    (USUAL, ["model.quantization=none"], ("lora", "none", 2e-4), ALL - {"model.quantization"}),
    (USUAL, ["training.tuning=full", "model.quantization=null"], ("full", "none", 2e-5), {"training.learning_rate"}),
]


def outcome(settings: Settings) -> tuple[str, str, float | None]:
    return settings.training.tuning, settings.model.quantization, settings.training.learning_rate


@pytest.mark.parametrize(
    ("adapter", "given", "expected", "chosen"), CASES, ids=[f"{case[0].name} {' '.join(case[1])}" for case in CASES]
)
def test_what_is_given_stays_and_the_rest_goes_with_it(
    adapter: BaseModelAdapter, given: list[str], expected: tuple[str, str, float], chosen: set[str]
) -> None:
    settings = load_settings(assignments=given)
    settled, of_these = suggest(settings, given_settings(settings), adapter)
    assert outcome(settled) == expected and set(of_these) == chosen
    make_settings(settled.model_dump())  # which a run's settings file will be read by
    assert suggest(settled, given_settings(settled), SMALL)[0] == settled, "what a run has kept stays as it is"


def test_the_same_from_python() -> None:
    for values in (
        {"training": {"tuning": None, "learning_rate": None}, "model": {"quantization": None}},
        {"training": TrainingSettings(), "model": ModelSettings(), "lora": LoraSettings()},
        {"training": TrainingSettings(max_steps=3)},
    ):
        assert outcome(suggest(make_settings(values), given_settings(values), SMALL)[0]) == ("full", "none", 0.1)
    full = Settings(training=TrainingSettings(tuning="full"), model=ModelSettings(base_model="x"))
    assert (full.model.quantization, full.model.base_model) == ("none", "x")
    with pytest.raises(LlmclsError, match=r"4bit freezes; set model\.quantization to none"):
        make_settings({"training": {"tuning": "full"}, "model": ModelSettings(quantization="4bit")})


def test_what_a_run_to_go_on_from_holds_is_fixed() -> None:
    settings = make_settings({"model": {"base_model": "x"}})
    fixed = ("training.tuning", "model.quantization")
    settled, chosen = suggest(settings, {}, SMALL, fixed)
    assert outcome(settled) == ("lora", "4bit", 0.2) and set(chosen) == {"training.learning_rate"}


def test_a_settings_file_with_every_default_leaves_them_to_the_adapter() -> None:
    tree = yaml.safe_load(starter_file())
    settings = make_settings(tree)
    assert outcome(suggest(settings, given_settings(settings), SMALL)[0]) == ("full", "none", 0.1)
    assert outcome(suggest(make_settings(tree), given_settings(tree), SMALL)[0]) == ("full", "none", 0.1)
    for change in (nest("lora.lora_dropout", 0.5), nest("model.bnb_4bit_compute_dtype", "float16")):
        (section, values), *_ = change.items()
        changed = make_settings({**tree, section: {**tree[section], **values}})
        assert suggest(changed, given_settings(changed), SMALL)[0].training.tuning == "lora"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            [],
            "Chosen for m: training.tuning full, model.quantization none, training.learning_rate 0.1 (it is small)",
        ),
        (["model.quantization=none"], "Chosen for m: training.tuning full, training.learning_rate 0.1 (it is small)"),
        (["training.tuning=lora"], "Chosen for m: model.quantization none, training.learning_rate 0.2"),
        (["training.tuning=full", "training.learning_rate=1"], ""),
    ],
)
def test_one_line_says_what_was_chosen_and_why(given: list[str], says: str) -> None:
    settings = load_settings(assignments=given)
    settled, chosen = suggest(settings, given_settings(settings), SMALL)
    assert describe_chosen(settled, chosen, "m", SMALL) == says


def test_the_adapter_is_known_without_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def name_of(**values: Any) -> str | None:
        found = known_adapter(ModelSettings(**values))
        return found and found.name

    (tmp_path / "here").mkdir()
    for content, expected in (("{", None), ("[]", None), ('{"model_type": "llama", "vocab_size": 128256}', "llama-3")):
        (tmp_path / "here" / "config.json").write_text(content, encoding="utf-8")
        assert name_of(base_model="here") == expected
    assert name_of(base_model="nano") == "nano" and name_of(base_model="owner/name") is None
    assert name_of(base_model="owner/name", adapter="tinyllama") == "tinyllama"
    assert name_of(base_model="nano", adapter="nope") is None
