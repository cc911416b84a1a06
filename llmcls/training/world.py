"""The processes that train together: what the launcher was asked for, and whether it came about.

    backend = requested_backend()                      # before anything is loaded, from the environment alone
    check_request(settings, formats, backend)          # refuses what cannot work, with the alternative
    config = make_config(...)                          # starts torch.distributed
    world = join_world(config, backend)                # refuses anything but what was asked for
    world.describe(formats, settings.training)

accelerate starts ONE process for a `MULTI_CPU` configuration and turns FSDP on a CPU into DDP, both without a word.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmcls.errors import LlmclsError
from llmcls.settings import Settings, TrainingSettings

if TYPE_CHECKING:
    from trl import SFTConfig

    from llmcls.model.hardware import Formats

T = TypeVar("T")

ASKED = "LLMCLS_LAUNCH"
"""Set by `llmcls train --launch` for the processes that it starts: NAME:NUMBER OF PROCESSES."""


@dataclass(frozen=True)
class World:
    """The processes of one training run.

    Attributes:
        backend: single, ddp, zero1, zero2, zero3 or fsdp.
        size: number of processes.
        rank: this process's number; 0 writes and speaks.
    """

    backend: str
    size: int
    rank: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def describe(self, formats: Formats, training: TrainingSettings) -> str:
        """One line: backend, world size, precision, quantisation, effective batch."""
        processes = "1 process" if self.size == 1 else f"{self.size} processes"
        each, steps = training.per_device_train_batch_size, training.gradient_accumulation_steps
        parts = [str(self.size)] * (self.size > 1) + [str(each)] + [f"{steps} accumulated"] * (steps > 1)
        product = f" ({' x '.join(parts)})" if len(parts) > 1 else ""
        return f"{self.backend}, {processes}: {formats.describe()}; {each * steps * self.size} rows a step{product}"

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank."""
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


def effective_batch(training: TrainingSettings, processes: int) -> int:
    """Rows of one optimizer step."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes


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
    return "ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "single"


def check_request(settings: Settings, formats: Formats, backend: str) -> None:
    """Refuse combinations that cannot work, before anything is loaded.

    Raises:
        LlmclsError: with the alternative.
    """
    on_cpu = formats.device.type == "cpu"
    if backend == "fsdp" and on_cpu:
        raise LlmclsError("FSDP needs GPUs: accelerate would run DDP instead. Use --launch ddp, zero2 or zero3.")
    if backend == "fsdp" and os.environ.get("FSDP_VERSION", "1") != "2":
        raise LlmclsError("llmcls needs FSDP version 2; set fsdp_config.fsdp_version: 2, or use --launch fsdp.")
    if backend.startswith("zero"):
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise LlmclsError(
                f"Backend '{backend}' needs DeepSpeed: pip install 'llmcls[deepspeed]', or use --launch ddp."
            ) from error
    if formats.sharded and formats.quantization == "8bit":
        raise LlmclsError(
            f"8-bit weights cannot be sharded by '{backend}'; use --quantization 4bit, or --launch zero2."
        )
    if formats.sharded and formats.quantization == "4bit" and settings.model.dtype == "float32":
        raise LlmclsError(
            f"4-bit weights sharded by '{backend}' must be stored as bfloat16 or float16; set model.dtype to 'auto'."
        )
    if formats.sharded and settings.training.load_best_model_at_end:
        raise LlmclsError(f"training.load_best_model_at_end does not work with '{backend}'; use --launch ddp or zero2.")
    if backend == "fsdp" and settings.training.metric_for_best_model != "loss":
        raise LlmclsError(
            "With 'fsdp' only the loss is taken during training; set training.metric_for_best_model to loss, or use "
            "--launch ddp or zero2."
        )
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted not in ("no", formats.mixed_precision):
        raise LlmclsError(
            f"The accelerate configuration says mixed_precision {wanted!r}, llmcls's settings "
            f"{formats.mixed_precision!r}; set it to 'no' there: training.mixed_precision decides."
        )


def join_world(config: SFTConfig, backend: str) -> World:
    """The processes as they came about.

    Raises:
        LlmclsError: when their number or the way they work together is not what was asked for.
    """
    state: Any = config.distributed_state
    name, _, number = os.environ.get(ASKED, "").partition(":")
    size = int(number or os.environ.get("WORLD_SIZE", "1"))
    resolved = _resolved_backend(config)
    asked = f"'{backend}' with {size} process{'es' * (size > 1)}"
    if state.num_processes != size or resolved != backend:
        raise LlmclsError(
            f"Asked for {asked}, but {state.num_processes} came about as '{resolved}'; "
            f"check the launcher's configuration{f' {name!r}' if name else ''}."
        )
    return World(resolved, state.num_processes, state.process_index)


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
