"""`llmcls train --dry-run`: what would be trained, nothing written, no weight loaded; training says the same first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.labels import LabelSet
from llmcls.model.adapter import BaseModelAdapter
from llmcls.runs.writing import IDENTITY
from llmcls.settings import make_settings
from llmcls.training.outlook import are_numbers, find_rate

NAMES = ["Labels", "Lengths", "Cut", "Steps", "Rate", "Trained", "Memory"]


@pytest.fixture
def foresee(
    llmcls: Callable[..., Any], tiny_model_dir: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """A dry run's lines by name; it must write nothing and load no weight."""

    def refuse_to_load(*_: Any, **__: Any) -> None:
        raise AssertionError("a weight is loaded")

    def called(data: Path, *options: object) -> dict[str, str]:
        before = sorted(here.rglob("*"))
        with monkeypatch.context() as patch:
            patch.setattr("llmcls.training.train.load_model", refuse_to_load)
            done = llmcls("train", data, "--base-model", tiny_model_dir, "--dry-run", *options)
        assert done.code == 0, done
        assert sorted(here.rglob("*")) == before
        assert max(map(len, done.out.splitlines())) <= 80
        assert done.err.endswith("A dry run: no weight was loaded, and nothing was written.\n")
        joined = re.sub(r"\n {11}", " ", done.out)
        return dict(re.fullmatch(r"  (\w+) +(.*)", line).groups() for line in joined.splitlines())  # type: ignore[union-attr, misc]

    return called


def write(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *(f'"{text}","{label}"' for text, label in rows)]) + "\n", encoding="utf-8")
    return path


def test_a_dry_run_says_what_training_says(
    foresee: Callable[..., dict[str, str]], llmcls: Callable[..., Any], tickets: Path, tiny_model_dir: Path
) -> None:
    options = ("--epochs", "0.7", "--batch-size", "4", "--set", "training.gradient_accumulation_steps=2")
    said = foresee(tickets, *options)
    assert list(said) == NAMES
    assert said["Labels"] == "billing 11 (50%), delivery 11 (50%)"
    assert said["Steps"] == "3 of 8 rows: 0.7 epochs of 22 rows"
    assert said["Rate"] == "0.0002 at its peak, the default of LoRA (--learning-rate)"
    assert said["Cut"] == "none; prompt.max_length is 1,024"
    done = llmcls("train", tickets, "--base-model", tiny_model_dir, "--output-dir", "run", *options)
    assert done.code == 0, done
    trained = re.search(r"Training ([0-9,]+) LoRA parameters", done.err)
    assert trained and said["Trained"].startswith(f"{trained[1]} of ")
    assert "step 3/3" in done.err
    for name in set(NAMES) - {"Memory"}:
        assert f"  {name:<9}{said[name]}" in re.sub(r"\n {11}", " ", done.err), name
    assert re.search(r"  Memory   about \d\.\d\d of \d+ GB \(program ", done.err)


def test_rows_that_are_cut_or_never_seen(foresee: Callable[..., dict[str, str]], here: Path) -> None:
    rows = [(f"short {n}", "brief") for n in range(18)] + [(f"{'long ' * 400}{n}", "wordy") for n in range(4)]
    said = foresee(write(here / "rows.csv", rows), "--max-steps", "1", "--set", "prompt.max_length=256")
    assert said["Labels"].startswith("brief 16 (") and "Skewed: --set training.class_weights=balanced" in said["Labels"]
    assert re.match(r"4 texts, which keep [\d.]+% of their tokens \(prompt.max_length is 256\); of each", said["Cut"])
    assert said["Cut"].endswith("of each label: wordy 100%")
    assert said["Steps"] == "1 of 8 rows (training.max_steps): 40% of the 20 rows"
    weighted = foresee(here / "rows.csv", "--max-steps", "5", "--set", "training.class_weights=balanced")
    assert "Skewed" not in weighted["Labels"]
    assert weighted["Steps"] == "5 of 8 rows (training.max_steps): 1.8 passes over the 20 rows"


def test_numbered_labels_and_several_labels(foresee: Callable[..., dict[str, str]], here: Path) -> None:
    numbered = write(here / "numbered.csv", [(f"text {n}", str(n % 3)) for n in range(12)])
    hint = "Labels that are numbers tell an LLM nothing; data.label_aliases names them."
    assert hint in foresee(numbered)["Labels"]
    assert hint not in foresee(numbered, "--set", "training.objective=head")["Labels"]
    named = ("--set", "data.label_aliases={good: ['0'], bad: ['1'], odd: ['2']}")
    assert hint not in foresee(numbered, *named)["Labels"]
    several = write(here / "several.csv", [(f"text {n}", ["a,b", "a", ""][n % 3]) for n in range(12)], "text,labels")
    said = foresee(several, "--task", "multi_label", "--set", "data.validation_size=0")
    assert said["Labels"].endswith("a 8 (67%), b 4 (33%); 1.0 a row, 4 rows without any")


def test_long_names_and_labels_without_rows(foresee: Callable[..., dict[str, str]], here: Path) -> None:
    name = "x" * 40
    data = write(here / "rows.csv", [(f"text {n}", [name, "two  words"][n % 2]) for n in range(12)])
    found = foresee(data, "--labels", f"{name},two  words,never")["Labels"]
    assert re.fullmatch(r"x{27}\.\.\. \d \(\d+%\), two words \d \(\d+%\), never 0 \(0%\)", found)


def test_where_the_learning_rate_comes_from(foresee: Callable[..., dict[str, str]], tickets: Path, here: Path) -> None:
    (here / "run.yaml").write_text("training: {learning_rate: 0.01}\n", encoding="utf-8")
    for options, said in {
        ("--config", "run.yaml"): "0.01 at its peak, as 'run.yaml' says",
        ("--config", "run.yaml", "--set", "training.learning_rate=3e-4"): "0.0003 at its peak, as --set "
        "training.learning_rate says",
        ("--config", "run.yaml", "--learning-rate", "1e-5"): "1e-05 at its peak, as --learning-rate says",
        ("--set", "training.tuning=full", "--quantization", "none"): "2e-05 at its peak, the default of "
        "training.tuning full (--learning-rate)",
    }.items():
        assert foresee(tickets, *options)["Rate"] == said


def test_an_adapter_may_suggest_a_learning_rate() -> None:
    class Small(BaseModelAdapter):
        name = "small"
        learning_rate = 2e-3

    assert find_rate(make_settings({}), Small(), (), {}) == (2e-3, "suggested by adapter small (--learning-rate)")


def test_several_processes_share_the_steps(foresee: Callable[..., dict[str, str]], tickets: Path) -> None:
    said = foresee(tickets, "--launch", "ddp", "--num-processes", "2", "--epochs", "1")
    assert said["Steps"] == "2 of 16 rows: 1 epoch of 22 rows"


def test_facts_for_programs(llmcls: Callable[..., Any], tickets: Path, tiny_model_dir: Path, here: Path) -> None:
    given = ("--base-model", tiny_model_dir, "--dry-run", "--json")
    for options in (
        (),
        ("--set", "training.tuning=full", "--quantization", "none"),
        ("--set", "lora.target_modules=q_proj"),
    ):
        done = llmcls("train", tickets, *given, *options)
        assert done.code == 0 and not done.err, done
        found = json.loads(done.out)
        assert found["labels"] == {"billing": 11, "delivery": 11}
        assert found["steps"] == 60  # 20 epochs of so few rows
        assert 0 < found["trained_parameters"] <= found["parameters"]
        assert found["memory_bytes"] == pytest.approx(sum(found["memory"].values()), abs=9)
    assert not list(here.iterdir())


def test_what_training_refuses_a_dry_run_refuses(
    refuse: Callable[..., str], llmcls: Callable[..., Any], tickets: Path, tiny_model_dir: Path, here: Path
) -> None:
    given = ("train", tickets, "--base-model", tiny_model_dir, "--dry-run")
    assert "has no module 'nope'" in refuse(*given, "--set", "lora.target_modules=nope")
    assert "Unknown column 'nope'" in refuse(*given, "--text-column", "nope")
    assert "The instruction alone needs" in refuse(*given, "--set", "prompt.max_length=20")
    (here / "mine").mkdir()
    (here / "mine" / "file").touch()
    assert "'mine' exists already" in refuse(*given, "--output-dir", "mine")
    done = llmcls(*given, "--output-dir", "run", "--resume", "never")
    assert done.code == 2 and "--dry-run trains nothing" in done.err


def test_numbers_are_names_where_somebody_says_what_they_mean() -> None:
    assert are_numbers(LabelSet.from_names(["0", "1"]))
    assert not are_numbers(LabelSet.from_names(["0", "1"], {"0": "bad", "1": "good"}))
    assert not are_numbers(LabelSet.from_names(["0", "one"]))
    assert not are_numbers(LabelSet.from_names(["0", "1"], aliases={"0": ["zero"]}))


def test_a_training_that_cannot_fit_is_doubted(
    llmcls: Callable[..., Any], tickets: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcls.training.outlook.machine_memory", lambda: 10**8)
    done = llmcls("train", tickets, "--base-model", tiny_model_dir, "--dry-run", "-q")
    assert done.code == 0
    assert "Warning: training will need about " in done.err and "memory, which has 0.1 GB; lower training." in done.err


def test_a_dry_run_tells_of_an_unfinished_training(
    llmcls: Callable[..., Any], tickets: Path, tiny_model_dir: Path, here: Path
) -> None:
    (here / "mine.unfinished").mkdir()
    (here / "mine.unfinished" / IDENTITY).write_text('{"effective batch": 8, "rows of data": 1}')
    done = llmcls("train", tickets, "--base-model", tiny_model_dir, "--dry-run", "--output-dir", "mine")
    assert done.code == 0 and "An unfinished training is in 'mine.unfinished'" in done.err, done
