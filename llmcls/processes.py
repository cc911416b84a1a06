"""Several processes that predict together: each takes its share of the rows, and all get all the results.

    classifier = replace(classifier, processes=join_processes())      # None without a launcher
    predictions = classifier.classify(examples)  # every process must call it, with the same rows

`accelerate launch -m llmcls predict ...` starts them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llmcls.errors import LlmclsError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Processes:
    """This process among those that a launcher started.

    Attributes:
        rank: its number; 0 writes and speaks.
        size: how many there are.
    """

    rank: int
    size: int

    def map(self, function: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
        """`function(items)`, its work shared: process r takes items r, r + size, ...; the order is that of `items`.

        Raises:
            LlmclsError: in all processes, when `function` raises one in any: none waits for another.
        """
        from torch import distributed

        share = items[self.rank :: self.size]
        own: list[R] | LlmclsError
        try:
            own = list(function(share)) if share else []
        except LlmclsError as error:
            own = error
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, own)
        for part in gathered:
            if isinstance(part, LlmclsError):
                raise part
        merged: list[Any] = [None] * len(items)
        for rank, part in enumerate(gathered):
            merged[rank :: self.size] = part
        return merged

    def from_first(self, value: T) -> T:
        """The value that process 0 gives; all must call it."""
        from torch import distributed

        held = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]


def join_processes() -> Processes | None:
    """Meet the other processes of the launcher; None when there are none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    from llmcls.model.hardware import choose_device

    state = PartialState(cpu=choose_device().type == "cpu")
    return Processes(state.process_index, state.num_processes)
