"""Weights that are not numbers: found when a model is loaded, before they answer anything.

    if unsound := find_unsound(model):
        raise unsound_error(unsound, "'runs/tickets/adapter'", "train it again")

A NaN or an infinite weight makes every score that it touches NaN. Each tensor is read once, where it lies, and nothing
is copied: the smallest and the largest value of a tensor are NaN if any is, and infinite if any is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from collections.abc import Sequence

VALUES_AT_ONCE = 2**22
"""Values that are converted at once where PyTorch cannot compare those of a number format: 16 MiB in float32."""


def find_unsound(model: Any, only: Callable[[str], bool] = lambda _name: True) -> list[str]:
    """The names of all tensors that hold NaN or infinite values.

    Of a quantised weight the scales are looked at, which a bad weight makes bad. What is not on this process is left
    out: the weights that FSDP loads on another one, and those that ZeRO-3 has shared out. A buffer may hold minus
    infinity, which is how some architectures mask.

    Args:
        model: any module, possibly quantised or wrapped by PEFT.
        only: which names to look at; all of them without.
    """
    return unsound_among(found for found in _floats(model) if only(found[0]))


def unsound_among(tensors: Iterable[tuple[str, torch.Tensor, bool]]) -> list[str]:
    """The names of those that hold NaN or infinite values.

    Args:
        tensors: each tensor's name, itself, and whether it may not hold minus infinity either.
    """
    names: list[str] = []
    extremes: list[torch.Tensor] = []
    for name, values, lowest_counts in tensors:
        if values.is_meta or not values.numel():
            continue
        low, high = _extremes(values.detach())
        if not lowest_counts:
            low = low.nan_to_num(nan=math.nan, neginf=0.0, posinf=math.inf)
        names.append(name)
        extremes.append(torch.stack([low, high]).float())
    # All of them together: a GPU is waited for once.
    sound = [bool(good) for good in _gather(extremes).isfinite().all(1)] if extremes else []
    return list(dict.fromkeys(name for name, good in zip(names, sound, strict=True) if not good))


def unsound_error(unsound: Sequence[str], where: str, remedy: str) -> LlmclsError:
    """The error for tensors that `find_unsound` has found: one sentence with the first of them."""
    others = f" and {len(unsound) - 1:,} more" if len(unsound) > 1 else ""
    return LlmclsError(f"{where} holds NaN or infinite weights, in '{unsound[0]}'{others}; {remedy}.")


def _floats(model: Any) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Every tensor of numbers: its name, itself, and whether its lowest value counts."""
    for name, weight in model.named_parameters():
        state, scale = getattr(weight, "quant_state", None), getattr(weight, "SCB", None)
        if state is not None:  # bitsandbytes' 4-bit weights may be stored as bfloat16, which says nothing of the values
            for part in (state, state.state2) if state.nested else (state,):
                scales = (part.absmax, getattr(part, "offset", None))
                yield from ((name, values, True) for values in scales if _is_float(values))
        elif _is_float(weight):
            yield name, weight, True
        elif _is_float(scale):  # of bitsandbytes' 8-bit weights
            yield name, scale, True
    for name, buffer in model.named_buffers():
        if _is_float(buffer):
            yield name, buffer, False


def _is_float(values: object) -> TypeGuard[torch.Tensor]:
    return isinstance(values, torch.Tensor) and values.is_floating_point()


def _gather(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """On the CPU; from each device at once."""
    if len({value.device for value in values}) == 1:
        return torch.stack(list(values)).cpu()
    return torch.stack([value.cpu() for value in values])


def _extremes(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        low, high = values.aminmax()
    except (NotImplementedError, RuntimeError):  # float8 has no comparison
        parts = [part.float().aminmax() for part in torch.split(values.reshape(-1), VALUES_AT_ONCE)]
        return torch.stack([part.min for part in parts]).amin(), torch.stack([part.max for part in parts]).amax()
    return low, high
