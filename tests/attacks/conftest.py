"""Runs of strangers: trained here, changed by hand, and sealed again, which anybody can do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmcls.files import sha256_of
from llmcls.runs.run import Run

from ..cli.conftest import Result, _trained, call, here, llmcls, refuse, run, tickets

__all__ = ["Result", "_trained", "call", "here", "llmcls", "refuse", "run", "tickets"]

SHORT = ("--set", "training.max_steps=1", "--set", "data.validation_size=0", "--quantization", "none", "--quiet")


def reseal(run: Path) -> Path:
    """Seal a run as it is now."""
    card = json.loads((run / "run.json").read_bytes())
    files = [file for file in sorted(run.rglob("*")) if file.is_file() and file.name != "run.json"]
    card["seal"] = {file.relative_to(run).as_posix(): sha256_of(file) for file in files}
    card["seal"]["run.json"] = Run(run, card).fingerprint
    (run / "run.json").write_text(json.dumps(card), encoding="utf-8")
    return run


def change_json(file: Path, changes: Mapping[str, Any]) -> None:
    """Give keys of a JSON object other values."""
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes), encoding="utf-8")


@pytest.fixture(scope="session")
def _strangers(tickets: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("strangers")
    for name, more in (("lora", ()), ("whole", ("--set", "training.tuning=full"))):
        done = call(
            "train", "--data", tickets, "--base-model", tiny_model_dir, "--output-dir", folder / name, *SHORT, *more
        )
        assert done.code == 0, done
    return {name: folder / name for name in ("lora", "whole")}


@pytest.fixture
def lora(_strangers: dict[str, Path], tmp_path: Path) -> Path:
    """A run with LoRA weights of this test's own."""
    return Path(shutil.copytree(_strangers["lora"], tmp_path / "lora"))


@pytest.fixture
def whole(_strangers: dict[str, Path], tmp_path: Path) -> Path:
    """A run with all its weights of this test's own."""
    return Path(shutil.copytree(_strangers["whole"], tmp_path / "whole"))


@pytest.fixture
def commands(tickets: Path) -> Callable[[Path], list[tuple[object, ...]]]:
    """All commands that load what is in a run."""

    def of(run: Path) -> list[tuple[object, ...]]:
        return [
            ("predict", "--run", run, "a text"),
            ("evaluate", "--run", run, "--data", tickets, "--output-dir", run.parent / "evaluated"),
            ("labels", "inspect", "--run", run),
            ("templates", "show", "--run", run),
        ]

    return of
