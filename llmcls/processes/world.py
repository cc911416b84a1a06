"""The processes that work together on one job: what the launcher was asked for, and whether it came about.

    backend = requested_backend()             # before anything is loaded, from the environment alone
    world = join_training(config, backend)    # refuses anything but what was asked for
    world = join_prediction()                 # one process without a launcher
    world.share(value), world.wait(), world.map(function, items)

accelerate starts ONE process for a `MULTI_CPU` configuration and turns FSDP on a CPU into DDP, both without a word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from trl import SFTConfig

T = TypeVar("T")
R = TypeVar("R")

ASKED = "LLMCLS_LAUNCH"
"""Set by `llmcls train --launch` for the processes that it starts: NAME:NUMBER OF PROCESSES."""


@dataclass(frozen=True)
class World:
    """The processes of one job, seen from one of them.

    Attributes:
        backend: single, ddp, zero0 to zero3, or fsdp.
        size: number of processes.
        rank: this process's number; 0 writes and speaks.
    """

    backend: str = "single"
    size: int = 1
    rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank; all must call it."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        shared: list[T] = broadcast_object_list([value])
        return shared[0]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            from accelerate.utils import wait_for_everyone

            wait_for_everyone()

    def map(self, function: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
        """`function(items)` with the work shared: rank r takes items r, r + size, ...; all ranks get all results.

        Returns:
            The results in the order of `items`. Every process must call it, with the same items.

        Raises:
            LlmclsError: on all ranks when `function` raises one on any: no rank waits for another.
        """
        if self.size == 1:
            return list(function(items))
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


ALONE = World()
"""The world of a process that works by itself."""


def launched_rank() -> int:
    """This process's number among those that a launcher started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def launched_size() -> int:
    """How many processes the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def must_use_cpu() -> bool:
    """Whether the launcher's configuration says `use_cpu`."""
    return _flag("ACCELERATE_USE_CPU")


def configured_precision() -> str:
    """`mixed_precision` of the launcher's configuration: no, fp16, bf16, ..."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def configured_fsdp_version() -> str:
    """`fsdp_version` of the launcher's configuration; accelerate's own default is 1."""
    return os.environ.get("FSDP_VERSION", "1")


def tell_deepspeed_cpu() -> None:
    """Let DeepSpeed use the CPU, unless the user says otherwise: it guesses, and may look for CUDA."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


def is_launched() -> bool:
    """Whether a launcher (accelerate, torchrun, `llmcls train --launch`) started this process."""
    return any(name in os.environ for name in (ASKED, "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"))


def requested_backend() -> str:
    """What the launcher's environment asks for: single, ddp, zero0 to zero3, or fsdp.

    Raises:
        LlmclsError: when several processes were asked for and one was started.
    """
    if "MASTER_ADDR" in os.environ and "LOCAL_RANK" not in os.environ and "ACCELERATE_USE_CPU" in os.environ:
        raise LlmclsError(
            "The accelerate configuration asks for several processes, but accelerate starts only one for "
            "distributed_type MULTI_CPU or NO; use distributed_type MULTI_GPU, which works on CPUs too, or "
            "`llmcls train --launch ddp --num-processes N`."
        )
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        return f"zero{_zero_stage()}"
    if _flag("ACCELERATE_USE_FSDP"):
        return "fsdp"
    return "ddp" if launched_size() > 1 else "single"


def join_training(config: SFTConfig, backend: str) -> World:
    """The processes that train together, as they came about; making `config` has started them.

    Raises:
        LlmclsError: when their number or the way they work together is not what was asked for.
    """
    state: Any = config.distributed_state
    name, _, number = os.environ.get(ASKED, "").partition(":")
    size = int(number or launched_size())
    resolved = _resolved_backend(config)
    asked = f"'{backend}' with {size} process{'es' * (size > 1)}"
    if state.num_processes != size or resolved != backend:
        raise LlmclsError(
            f"Asked for {asked}, but {state.num_processes} came about as '{resolved}'; "
            f"check the launcher's configuration{f' {name!r}' if name else ''}."
        )
    return World(resolved, state.num_processes, state.process_index)


def join_prediction() -> World:
    """Meet the other processes of the launcher, for prediction; one process where there is no launcher."""
    if launched_size() == 1:
        return ALONE
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=must_use_cpu() or not torch.accelerator.is_available())
    return World("ddp", state.num_processes, state.process_index)


def _resolved_backend(config: SFTConfig) -> str:
    plugin: Any = config.deepspeed_plugin
    if plugin is not None:
        return f"zero{plugin.zero_stage}"
    state: Any = config.distributed_state
    if state.num_processes == 1 and not _flag("ACCELERATE_USE_FSDP"):
        return "single"
    kind = str(state.distributed_type).rpartition(".")[2]
    return "fsdp" if _flag("ACCELERATE_USE_FSDP") and kind != "MULTI_CPU" else "ddp"


def _zero_stage() -> int:
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        try:
            loaded = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise LlmclsError(f"DeepSpeed configuration '{file}' cannot be read: {error}.") from error
        return int(loaded.get("zero_optimization", {}).get("stage", 0))
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true")
