"""What a way of starting processes means for training: what cannot work with it, and how it is described.

check_request(settings, formats, backend)     # before anything is loaded; refuses with the alternative
check_agreement(world, formats)               # once the processes have found each other
describe_world(world, formats, settings.training)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcls.errors import LlmclsError
from llmcls.processes.world import World, configured_fsdp_version, configured_precision
from llmcls.settings import Settings, TrainingSettings

if TYPE_CHECKING:
    from llmcls.model.hardware import Formats

SHARDED = ("zero3", "fsdp")
"""Backends that spread the weights themselves over the processes."""


def effective_batch(training: TrainingSettings, processes: int) -> int:
    """Rows of one optimizer step."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes


def describe_world(world: World, formats: Formats, training: TrainingSettings) -> str:
    """One line: backend, world size, precision, quantisation, effective batch."""
    processes = "1 process" if world.size == 1 else f"{world.size} processes"
    each, steps = training.per_device_train_batch_size, training.gradient_accumulation_steps
    parts = [str(world.size)] * (world.size > 1) + [str(each)] + [f"{steps} accumulated"] * (steps > 1)
    product = f" ({' x '.join(parts)})" if len(parts) > 1 else ""
    rows = effective_batch(training, world.size)
    return f"{world.backend}, {processes}: {formats.describe()}; {rows} rows a step{product}"


def check_request(settings: Settings, formats: Formats, backend: str) -> None:
    """Refuse combinations that cannot work, before anything is loaded.

    Raises:
        LlmclsError: with the alternative.
    """
    on_cpu = formats.device.type == "cpu"
    if backend == "fsdp" and on_cpu:
        raise LlmclsError("FSDP needs GPUs: accelerate would run DDP instead. Use --launch ddp, zero2 or zero3.")
    if backend == "fsdp" and configured_fsdp_version() != "2":
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
    if formats.sharded and formats.quantization == "4bit" and settings.model.loaded_dtype == "float32":
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
    wanted = configured_precision()
    if wanted not in ("no", formats.mixed_precision):
        raise LlmclsError(
            f"The accelerate configuration says mixed_precision {wanted!r}, llmcls's settings "
            f"{formats.mixed_precision!r}; set it to 'no' there: training.mixed_precision decides."
        )


def check_agreement(world: World, formats: Formats) -> None:
    """Refuse processes that would compute in other number formats than the first: machines of several kinds.

    Raises:
        LlmclsError: on every process that differs; with what to set.
    """
    first = world.share(formats.arithmetic)
    if first != formats.arithmetic:
        raise LlmclsError(
            f"Process {world.rank} computes in {formats.arithmetic}, but process 0 in {first}: their machines differ. "
            "Set training.mixed_precision and model.dtype to what all of them have, such as no and float32."
        )
