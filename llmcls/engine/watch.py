"""Whether a model's weights have changed since they were last looked at.

watch = WeightWatch(model)
watch.changed()            # True the first time, then only after an optimizer's step, other weights, LoRA switched off

It is asked at every call, so it does not walk through the model: it remembers where each weight stands, and compares
PyTorch's own counters of changes.
"""

from __future__ import annotations

from operator import attrgetter, is_
from typing import Any

import torch

from llmcls.model.wrapped import is_adapted

_COUNTER, _MERGED = attrgetter("_version"), attrgetter("merged_adapters")
_SWITCHES = attrgetter("disable_adapters", "active_adapters")


class WeightWatch:
    """Notices weights that are updated in place or replaced, modules that are replaced, and other LoRA weights in use.

    Writing through `parameter.data` leaves no trace that PyTorch could tell, unless the tensor is replaced by another.

    Args:
        model: any module, possibly with LoRA weights.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._seen: tuple[Any, ...] | None = None
        self._look_around()

    def changed(self) -> bool:
        """Whether anything has changed since the last call; True at the first."""
        if self._stands() and self._state() == self._seen:
            return False
        self._look_around()  # what has been switched on may be new
        self._seen = self._state()
        return True

    def _state(self) -> tuple[Any, ...]:
        """The counters and places of all weights, and which LoRA weights are in use."""
        return (
            # Weights loaded under `inference_mode` cannot be changed in place, and have no counter.
            list(map(_COUNTER, self._counted)),
            list(map(torch.Tensor.data_ptr, self._weights)),
            list(map(_SWITCHES, self._lora)),
            list(map(tuple, map(_MERGED, self._lora))),
        )

    def _stands(self) -> bool:
        """Whether every module and every weight is still in its place."""
        return all(map(is_, map(dict.get, self._owners, self._names), self._things))

    def _look_around(self) -> None:
        modules = list(self._model.modules())
        owners = [owner for module in modules for owner in (module._modules, module._parameters)]
        self._owners = [owner for owner in owners for _ in owner]
        self._names = [name for owner in owners for name in owner]
        self._things = [thing for owner in owners for thing in owner.values()]
        self._weights = [weight for module in modules for weight in module._parameters.values() if weight is not None]
        self._counted = [weight for weight in self._weights if not weight.is_inference()]
        self._lora = [module for module in modules if is_adapted(module)]
