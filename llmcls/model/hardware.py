"""What the machine can do, and the number formats chosen for it.

formats = choose_formats(settings)
formats.dtype, formats.mixed_precision, formats.describe()
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.processes.world import local_rank, must_use_cpu
from llmcls.settings import Settings

if TYPE_CHECKING:
    from llmcls.settings.sections import DType

ACCELERATORS = ("cuda", "xpu", "mps", "npu", "mlu", "musa", "sdaa", "hpu")
"""The torch device types that accelerate knows."""

SUPPORTED = ("cpu", "cuda")
"""The device types that llmcls is written for; what is said of others is that they are untested."""

MixedPrecision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class Formats:
    """Device and number formats of one run.

    Attributes:
        device: where this process computes.
        dtype: type of unquantised weights, and of computation with 4-bit weights.
        mixed_precision: autocast type while training; `no` for predictions.
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
        if self.device.type not in SUPPORTED:
            name += f" ({self.device.type}, untested: llmcls has not been run on such a device)"
        names = {"none": "unquantised", "4bit": "4-bit", "8bit": "8-bit"}
        stored = names.get(self.quantization, f"quantised ({self.quantization})")
        return f"{name}, {stored} base weights, {self.arithmetic}"

    @property
    def arithmetic(self) -> str:
        """The types of weights and autocast: `float32, bf16 autocast`."""
        autocast = "no autocast" if self.mixed_precision == "no" else f"{self.mixed_precision} autocast"
        return f"{self.dtype_name}, {autocast}"

    @property
    def dtype_name(self) -> str:
        """The type of weights, as settings name it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def computes_in(self) -> str:
        """The type of matrix products."""
        return computing_type(self.dtype_name, self.mixed_precision)


def computing_type(dtype: str, mixed_precision: str) -> str:
    """The type of matrix products: autocast's, where there is autocast, else that of the weights."""
    return {"bf16": "bfloat16", "fp16": "float16"}.get(mixed_precision, dtype)


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
    """This process's accelerator, whatever torch finds that accelerate can use, or else the CPU."""
    found = None if must_use_cpu() else torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type not in ACCELERATORS:
        return torch.device("cpu")
    return torch.device(found.type) if found.type == "mps" else torch.device(found.type, local_rank())


def exact_dtype(device: torch.device) -> torch.dtype:
    """The type of sums over many rows on the device: float64 where it has that, which Apple's GPUs do not."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextmanager
def forked_random() -> Iterator[None]:
    """Whatever is drawn or seeded within leaves torch's random numbers, of CPU and devices, as they were."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type != "mps":
        with torch.random.fork_rng(devices=range(0 if found is None else torch.accelerator.device_count())):
            yield
        return
    state = torch.mps.get_rng_state()  # takes no number of a device, which `fork_rng` would give it
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.mps.set_rng_state(state)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX512-BF16 or AMX), twice as fast as float32's there.

    Others only emulate them. PyTorch's own switch `ATEN_CPU_CAPABILITY=avx2` says no for any CPU.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_formats(
    settings: Settings,
    sharded: bool = False,
    training: bool = False,
    deepspeed: bool = False,
    asked: bool = True,
) -> Formats:
    """Resolve everything that says `auto`, and refuse what this machine cannot do.

    Args:
        settings: of the run.
        sharded: whether training spreads the weights over processes.
        training: weights that the optimizer will change are kept in float32, where 'auto' leaves the choice: bfloat16
            loses updates below 1/256 of a weight. Autocast computes in less. It is for training only: predictions are
            computed in the type of the weights.
        deepspeed: DeepSpeed trains, whose bfloat16 keeps the weights themselves in it: on a CPU only when asked for.
        asked: whether the type of the weights is asked for now. That of a run which was trained on another machine is
            not: where this one lacks it, or only emulates it, the run predicts in another one, after a warning.

    Raises:
        LlmclsError: for bf16 on a GPU without it, or weights quantised by bitsandbytes on a
            device that it does not support.
    """
    device = choose_device()
    has_bf16 = _has_bfloat16(device)
    # Apple's GPUs compute in float32, too, unless something else is asked for: older ones only emulate bfloat16.
    plain = device.type in ("cpu", "mps")
    wanted = settings.model.loaded_dtype
    # How it was trained does not concern predictions, which are computed in the type of the weights.
    autocast: str = settings.training.mixed_precision if training else "no"
    if not asked:
        wanted = _instead(wanted, device, has_bf16)
    if wanted == "auto":
        # Sharded 4-bit weights stored as float32 crash in ZeRO-3, and FSDP needs storage and dtype to be one type.
        learned = training and settings.training.tuning == "full"
        full = learned or (plain and not (sharded and settings.model.quantization == "4bit"))
        wanted = "float32" if full else "bfloat16" if has_bf16 else "float16"
    if autocast == "auto":
        half = "bf16" if has_bf16 else "fp16"
        fast = device.type == "cpu" and training and not deepspeed and multiplies_bfloat16()
        autocast = "bf16" if fast else "no" if plain else half
    if autocast == "fp16" and device.type == "cpu":
        autocast = "no"  # which training says (`describe_missing`)
    if not has_bf16 and "bf16" in (autocast, wanted.replace("bfloat16", "bf16")):
        raise LlmclsError(
            "This GPU has no bfloat16; set training.mixed_precision, model.dtype and model.bnb_4bit_compute_dtype to "
            "'auto'."
            if training
            else "This GPU has no bfloat16, which model.dtype, model.bnb_4bit_compute_dtype or --dtype asks for; use "
            "float16 or float32."
        )
    _check_quantization(device, settings.model.quantization)
    precision = cast("MixedPrecision", autocast)
    return Formats(device, getattr(torch, wanted), precision, settings.model.quantization, sharded)


def _instead(wanted: DType, device: torch.device, has_bf16: bool) -> DType:
    """The type that a run predicts in, where the one it was trained in is not this machine's."""
    if wanted == "bfloat16" and not has_bf16:
        instead, reason = "float16", "this GPU has none"
    elif wanted == "float16" and device.type == "cpu":
        instead, reason = "float32", "CPUs compute in it several times more slowly than in float32"
    else:
        return wanted
    warnings.warn(
        f"the run's weights were held in {wanted} while it was trained, but {reason}, so predictions are computed in "
        f"{instead}; --dtype (in Python: Classifier.load(run, dtype=...)) chooses another type.",
        LlmclsWarning,
        stacklevel=4,
    )
    return cast("DType", instead)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tell = getattr(getattr(torch, device.type, None), "is_bf16_supported", None)
    return tell is None or bool(tell())


def _check_quantization(device: torch.device, quantization: str) -> None:
    if quantization == "none" or device.type in SUPPORTED:
        return
    from bitsandbytes import supported_torch_devices

    if device.type not in supported_torch_devices:
        raise LlmclsError(
            f"model.quantization '{quantization}' needs bitsandbytes, which does not support the device "
            f"'{device.type}', only {', '.join(sorted(supported_torch_devices))}; use --quantization none."
        )
