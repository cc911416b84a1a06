"""What PEFT and bitsandbytes cost a start, paid only by those who need them.

    import_quickly()                      # before the first `import peft` or quantised model
    if is_wrapped(model): ...             # is it a PeftModel? without importing PEFT

PEFT imports bitsandbytes even where nothing is quantised. That prepares four functions for compilation when it is
imported, and with them all of torch's compiler, which takes as long as the rest of PEFT.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from typing import Any
from unittest import mock


def is_wrapped(model: Any) -> bool:
    """Whether the model is a `PeftModel`; while nobody has imported PEFT there is none."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def bare(model: Any) -> Any:
    """The Hugging Face causal LM inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if is_wrapped(model) else model


def is_adapted(module: Any) -> bool:
    """Whether the module is a layer with LoRA or other weights of PEFT beside its own."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    return tuners is not None and isinstance(module, tuners.BaseTunerLayer)


def is_replaced(module: Any) -> bool:
    """Whether the module is one that PEFT trains instead of LoRA weights, with the untrained one beside it."""
    other = sys.modules.get("peft.utils.other")
    return other is not None and isinstance(module, other.AuxiliaryTrainingWrapper)


def import_quickly() -> None:
    """Import bitsandbytes, if it is installed, so that its functions are compiled when they are called first."""
    if "bitsandbytes" in sys.modules or find_spec("bitsandbytes") is None:
        return
    with compiling_late():
        import bitsandbytes  # noqa: F401


@contextmanager
def compiling_late() -> Iterator[None]:
    """Within the block, `torch.compile` returns a function that is compiled, in the same way, at its first call."""
    import torch

    compile_now = torch.compile

    def compile_late(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return lambda decorated: compile_late(decorated, **options)
        compiled: list[Callable[..., Any]] = []

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if not compiled:
                compiled.append(compile_now(function, **options))
            return compiled[0](*arguments, **named)

        return call

    with mock.patch.object(torch, "compile", compile_late):
        yield
