"""How long is trained where nobody says."""

from __future__ import annotations

import pytest
import yaml

from llmcls import train
from llmcls.console import Reporter
from llmcls.settings import TrainingSettings
from llmcls.training.length import settle_epochs


@pytest.mark.parametrize(
    ("given", "rows", "processes", "epochs"),
    [
        ({}, 1, 1, 20),
        ({}, 24, 1, 20),
        ({}, 80, 1, 10),
        ({}, 81, 1, 10),  # 11 steps an epoch
        ({}, 272, 1, 3),
        ({}, 264, 1, 4),
        ({}, 100_000, 1, 3),
        ({}, 80, 2, 20),  # five steps an epoch
        ({"gradient_accumulation_steps": 2}, 80, 1, 20),
        ({"num_train_epochs": 1}, 24, 1, 1),
        ({"num_train_epochs": 3}, 24, 1, 3),
        ({"max_steps": 5}, 24, 1, 3),
    ],
)
def test_few_rows_are_read_more_often(given, rows, processes, epochs):
    assert settle_epochs(TrainingSettings(**given), rows, processes).num_train_epochs == epochs


def test_the_run_keeps_what_was_chosen(tmp_path, tiny_model_dir):
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(40)]
    said: list[str] = []

    class Listening(Reporter):
        def say(self, line: str) -> None:
            said.append(line)

    training = {"eval_strategy": "no", "per_device_train_batch_size": 40}
    settings = {"model": {"quantization": "none"}, "training": training}
    run = train(
        rows, base_model=str(tiny_model_dir), settings=settings, output_dir=tmp_path / "r", reporter=Listening()
    )
    assert yaml.safe_load((run.path / "settings.yaml").read_text())["training"]["num_train_epochs"] == 20
    assert any("rows are few" in " ".join(line.split()) for line in said)
