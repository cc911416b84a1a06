"""Small training runs on the tiny model, with the trainer at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmcls import train
from llmcls.console import Reporter
from llmcls.runs.run import Run
from llmcls.training.trainer import LabelTrainer

ROWS = [{"text": f"My parcel number {n} is late", "label": "delivery"} for n in range(6)]
ROWS += [{"text": f"You took {n} euros twice" + "!" * n, "label": "billing"} for n in range(5)]
ROWS += [{"text": f"thanks {n}", "label": "praise for the whole team"} for n in range(3)]
SPLITS = {"train": ROWS, "validation": ROWS[::3]}
# What makes two trainings comparable number for number.
PLAIN = {
    "lora.lora_dropout": 0.0,
    "training.logging_steps": 1,
    "training.lr_scheduler_type": "constant",
    "training.warmup_steps": 0,
    "training.eval_strategy": "no",
    "training.learning_rate": 5e-3,
}


@dataclass(frozen=True)
class Trained:
    """A finished run, the trainer that made it, and the logged training losses."""

    run: Run
    trainer: Any

    @property
    def log(self) -> list[dict[str, float]]:
        """`log.jsonl`."""
        return [json.loads(line) for line in (self.run.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]

    @property
    def losses(self) -> list[float]:
        """The training losses as logged."""
        return [entry["loss"] for entry in self.log if "loss" in entry]


def predict_elsewhere(run: Run, texts: Sequence[str], folder: Path) -> list[list[float]]:
    """All labels' probabilities of some texts, as a process of its own prints them."""
    options = ("--run", str(run.path), "--json", "--probabilities")
    done = subprocess.run(
        [sys.executable, "-m", "llmcls", "predict", *options, *texts],
        capture_output=True, text=True, timeout=120, cwd=folder, env=dict(os.environ),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [[entry[f"p({name})"] for name in run.labels.names] for entry in entries]


@pytest.fixture
def rows() -> list[dict[str, str]]:
    """Labelled rows: 6 deliveries, 5 billings, 3 praises."""
    return list(ROWS)


@pytest.fixture
def fit(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """`fit({"training.max_steps": 3})`: train on `ROWS` with `PLAIN` settings and these."""
    trainers: list[LabelTrainer] = []
    original = LabelTrainer.train

    def remember(self: LabelTrainer, *args: Any, **kwargs: Any) -> Any:
        trainers.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LabelTrainer, "train", remember)

    def fitted(changes: dict[str, Any] | None = None, data: Any = None, name: str = "run") -> Trained:
        settings: dict[str, Any] = {"model": {"base_model": str(tiny_model_dir)}}
        for key, value in {**PLAIN, **(changes or {})}.items():
            section, _, field = key.rpartition(".")
            (settings.setdefault(section, {}) if section else settings)[field] = value
        run = train(
            SPLITS if data is None else data,
            settings=settings,
            output_dir=tmp_path / name,
            overwrite=True,
            reporter=Reporter(quiet=True),
        )
        return Trained(run, trainers[-1])

    return fitted
