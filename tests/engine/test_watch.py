"""What makes a kept prefix invalid is noticed, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llmcls.engine.watch import WeightWatch

from .conftest import build


@pytest.fixture
def model() -> Any:
    """Two layers with LoRA weights that say something."""
    return get_peft_model(build(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))


def step(model: Any) -> None:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    torch.optim.AdamW(trained, lr=0.1).step()


def replace_weight(model: Any) -> None:
    layer = model.get_base_model().model.layers[1].mlp.up_proj.lora_B["default"]
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


def replace_module(model: Any) -> None:
    layer = model.get_base_model().model.layers[0].mlp
    layer.down_proj = layer.down_proj.get_base_layer()


def write_new_data(model: Any) -> None:
    norm = model.get_base_model().model.norm
    norm.weight.data = norm.weight.data * 2


def one_layer_off(model: Any) -> None:
    model.get_base_model().model.layers[1].mlp.up_proj.enable_adapters(False)


def other_weights(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear"))
    model.set_adapter("other")


CHANGES: list[Callable[[Any], Any]] = [
    step,
    replace_weight,
    replace_module,
    write_new_data,
    one_layer_off,
    lambda model: model.load_state_dict(model.state_dict()),
    lambda model: model.base_model.disable_adapter_layers(),
    lambda model: model.merge_adapter(),
    lambda model: model.merge_and_unload(),
    other_weights,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_once(model: Any, change: Callable[[Any], Any]) -> None:
    watch = WeightWatch(model)
    assert watch.changed() and not watch.changed(), "nothing is known at first"
    change(model)
    assert watch.changed() and not watch.changed()


def test_weights_that_came_later_are_watched(model: Any) -> None:
    watch = WeightWatch(model)
    watch.changed()
    other_weights(model)
    assert watch.changed() and not watch.changed()
    step(model)
    assert watch.changed()


def test_what_is_no_change(model: Any) -> None:
    watch = WeightWatch(model)
    watch.changed()
    with torch.no_grad():
        model(torch.tensor([[3, 4]]))
    model.train()
    model.eval()
    model(torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).loss.backward()
    assert not watch.changed()


def test_weights_without_counters() -> None:
    """`inference_mode` leaves tensors that have none."""
    with torch.inference_mode():
        model = torch.nn.Linear(2, 2)
    watch = WeightWatch(model)
    assert watch.changed() and not watch.changed()
    model.weight = torch.nn.Parameter(torch.ones(2, 2))
    assert watch.changed() and not watch.changed()
