"""What a training cost: by hand, over interruptions, and with a codecarbon that measures what it is told."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmcls.training import cost as cost_module
from llmcls.training.cost import CostCallback, cost_line, count_weights

STATE = SimpleNamespace(is_world_process_zero=True)


@pytest.mark.slow
@pytest.mark.parametrize(("packing", "quantization"), [(True, "4bit"), (False, "none")])
def test_the_card_tells_the_cost(
    fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, packing: bool, quantization: str
) -> None:
    heard: list[str] = []
    monkeypatch.setattr("llmcls.console.Reporter.say", lambda self, text: heard.append(text))
    changes = {"training.packing": packing, "model.quantization": quantization, "training.num_train_epochs": 1}
    trained = fit({**changes, "training.per_device_train_batch_size": 14})
    found, trainer = trained.run.card["cost"], trained.trainer
    [whole] = [trainer._collator([trainer.train_dataset[row] for row in range(14)])]
    tokens = sum(pack["input_ids"].numel() for pack in whole)
    weights = count_weights(trainer.model)
    assert weights == trainer.model.num_parameters(exclude_embeddings=True) > 10_000
    assert found["flops"] == 6 * weights * tokens == trained.run.card["training"]["total_flos"]
    assert 0 < found["seconds"] < 600 and 1e7 < found["peak_memory_bytes"] < 1e11
    assert found["memory"] == "process" and "thread" in found["hardware"] and "energy" not in found
    assert trained.run.card["training"]["peak_gpu_memory_bytes"] is None
    assert [line for line in heard if line.startswith("Cost: ")] == [cost_line(found)]


def test_zero3_shares_count_whole() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3))
    assert count_weights(model) == 15
    model[1].weight.data, model[1].weight.ds_numel = torch.empty(0), 12
    assert count_weights(model) == 15


def test_seconds_of_all_parts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.0, 500.0, 502.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    first, second = CostCallback(), CostCallback()
    first.on_train_begin(None, STATE, None)
    vars(second).update(json.loads(json.dumps(first.state()))["attributes"])
    second.on_train_begin(None, STATE, None)
    second.on_train_end(None, STATE, None)
    assert second.seconds == 7 + 2
    assert second.energy is None


@pytest.mark.parametrize("country", [None, "DEU"])
def test_energy_is_codecarbons(monkeypatch: pytest.MonkeyPatch, country: str | None) -> None:
    made: list[Any] = []

    class Tracker:
        def __init__(self, **options: Any) -> None:
            self.options, self.events = options, []
            made.append(self)

        def start(self) -> None:
            self.events.append("start")

        def stop(self) -> None:
            self.events.append("stop")
            self.final_emissions_data = SimpleNamespace(energy_consumed=0.25, emissions=0.1, duration=60.04)

    for name, content in {
        "codecarbon": {"OfflineEmissionsTracker": Tracker},
        "codecarbon.core": {},
        "codecarbon.core.config": {"get_hierarchical_config": lambda: {"country_iso_code": country} if country else {}},
    }.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spent = CostCallback()
    spent.on_train_begin(None, STATE, None)
    spent.on_train_end(None, STATE, None)
    [tracker] = made
    assert tracker.events == ["start", "stop"] and not tracker.options["save_to_file"]
    plain = {"kwh": 0.25, "seconds": 60.0}
    assert spent.energy == (plain | {"co2_kg": 0.1, "country": "DEU"} if country else plain)
    cost = {"flops": 3.69e16, "seconds": 6314.0, "hardware": "1 x RTX", "peak_memory_bytes": None, "memory": "device"}
    line = cost_line({**cost, "energy": spent.energy})
    told = ", 0.25 kWh (0.1 kg CO2, DEU)" if country else ", 0.25 kWh"
    assert line == f"Cost: 3.69e+16 FLOPs in 6,314.0 s on 1 x RTX{told}"
    other = CostCallback()
    other.on_train_begin(None, SimpleNamespace(is_world_process_zero=False), None)
    assert len(made) == 1


def test_energy_is_absent_where_codecarbon_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_module, "find_spec", lambda name: True)
    silent = SimpleNamespace(start=lambda: None, stop=lambda: None)
    monkeypatch.setattr(CostCallback, "_start_tracker", lambda self: vars(self).update(_tracker=silent))
    spent = CostCallback()
    spent.on_train_begin(None, STATE, None)
    spent.on_train_end(None, STATE, None)
    assert spent.energy is None
