"""Which attention kernel a model is loaded with, where the one that is asked for does not run on this machine.

held = with_usable_attention(settings.model, formats.device, training=False)
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.settings import ModelSettings

if TYPE_CHECKING:
    import torch


def with_usable_attention(
    settings: ModelSettings, device: torch.device, *, training: bool, asked: bool = True
) -> ModelSettings:
    """The settings with a kernel that runs here.

    Args:
        settings: how to load the base model.
        device: where it will compute.
        training: whether it will be trained.
        asked: whether the kernel is asked for now. A run that was trained with another one elsewhere predicts with
            PyTorch's own, `sdpa`, after a warning: kernels differ by rounding.

    Raises:
        LlmclsError: where it is asked for and does not run here.
    """
    wanted = settings.attn_implementation
    reason = _why_not(wanted, device, training)
    if reason is None:
        return settings
    if asked:
        raise LlmclsError(
            f"model.attn_implementation '{wanted}' cannot be used: {reason}; leave it out for 'sdpa', which runs "
            "everywhere."
        )
    warnings.warn(
        f"the run was trained with model.attn_implementation '{wanted}', but {reason}; 'sdpa' is used instead, and "
        "figures may differ a little from those of the training.",
        LlmclsWarning,
        stacklevel=3,
    )
    return settings.model_copy(update={"attn_implementation": "sdpa"})


def _why_not(wanted: str, device: torch.device, training: bool) -> str | None:
    if wanted == "flash_attention_2":
        from transformers.utils import is_flash_attn_2_available, is_kernels_available

        if device.type == "cpu":
            return "FlashAttention does not compute on a CPU"
        if not is_flash_attn_2_available() and not is_kernels_available():
            return "the package flash-attn is not installed"
    if wanted == "flex_attention" and device.type == "cpu" and training:
        return "FlexAttention does not train on a CPU"
    return None
