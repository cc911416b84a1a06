"""What the machine can do, and the number formats chosen for it.

formats = choose_formats(settings)
formats.dtype, formats.mixed_precision, formats.describe()
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llmcls.errors import LlmclsError
from llmcls.processes.world import local_rank, must_use_cpu
from llmcls.settings import Settings

MixedPrecision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class Formats:
    """Device and number formats of one run.

    Attributes:
        device: where this process computes.
        dtype: type of unquantised weights, and of computation with 4-bit weights.
        mixed_precision: autocast type while training.
        quantization: how base weights are stored.
        sharded: the weights are spread over the processes (ZeRO-3, FSDP), so each process must not load them all onto
            its device, and 4-bit weights are stored in words of `dtype` (shards are cut as floating-point tensors).
    """

    device: torch.device
    dtype: torch.dtype
    mixed_precision: MixedPrecision
    quantization: str
    sharded: bool = False

    def describe(self) -> str:
        """One line for the user."""
        name = device_name(self.device)
        stored = {"none": "unquantised", "4bit": "4-bit", "8bit": "8-bit"}[self.quantization]
        autocast = "no autocast" if self.mixed_precision == "no" else f"{self.mixed_precision} autocast"
        return f"{name}, {stored} base weights, {str(self.dtype).removeprefix('torch.')}, {autocast}"


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that tensors of this process have had on the device; None where torch does not tell."""
    tell = getattr(getattr(torch, device.type, None), "max_memory_allocated", None)
    return None if device.type == "cpu" or tell is None else int(tell(device))


def device_name(device: torch.device) -> str:
    """The device as its maker calls it; 'CPU' for a CPU."""
    if device.type == "cpu":
        return "CPU"
    tell = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return device.type.upper() if tell is None else str(tell(device))


def hardware_name(device: torch.device, processes: int) -> str:
    """What a training ran on, for its card: `2 x NVIDIA H100`, or the CPU with its threads."""
    if device.type != "cpu":
        return f"{processes} x {device_name(device)}"
    threads = torch.get_num_threads()
    each = f"{threads} thread{'s' * (threads > 1)}"
    return f"{_cpu_name()}, {each}" + (f" in each of {processes} processes" if processes > 1 else "")


def _cpu_name() -> str:
    """Linux tells only the architecture by `platform`."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "CPU"


def choose_device() -> torch.device:
    """This process's GPU, or the CPU."""
    if torch.cuda.is_available() and not must_use_cpu():
        return torch.device("cuda", local_rank())
    return torch.device("cpu")


def choose_formats(settings: Settings, sharded: bool = False, training: bool = False) -> Formats:
    """Resolve everything that says `auto`, and refuse what this machine cannot do.

    Args:
        settings: of the run.
        sharded: whether training spreads the weights over processes.
        training: weights that the optimizer will change are kept in float32, where 'auto' leaves the choice: bfloat16
            loses updates below 1/256 of a weight. Autocast computes in less.

    Raises:
        LlmclsError: for bf16 on a GPU without it.
    """
    device = choose_device()
    has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    wanted, autocast = settings.model.loaded_dtype, settings.training.mixed_precision
    if wanted == "auto":
        # Sharded 4-bit weights stored as float32 crash in ZeRO-3, and FSDP needs storage and dtype to be one type.
        learned = training and settings.training.tuning == "full"
        full = learned or (device.type == "cpu" and not (sharded and settings.model.quantization == "4bit"))
        wanted = "float32" if full else "bfloat16" if has_bf16 else "float16"
    if autocast == "auto":
        autocast = "no" if device.type == "cpu" else "bf16" if has_bf16 else "fp16"
    if autocast == "fp16" and device.type == "cpu":
        autocast = "no"  # a run trained on a GPU must predict here; training says it (`describe_missing`)
    if not has_bf16 and "bf16" in (autocast, wanted.replace("bfloat16", "bf16")):
        raise LlmclsError(
            "This GPU has no bfloat16; set training.mixed_precision, model.dtype and model.bnb_4bit_compute_dtype to "
            "'auto'."
        )
    return Formats(device, getattr(torch, wanted), autocast, settings.model.quantization, sharded)
