"""Mixtures of experts: how one is told, and the loss of its router, which no objective of llmcls has a part for.

    with keeping_router_settings(model):
        trainer = SFTTrainer(model, ...)     # TRL writes its own settings of the router into the model's configuration

The auxiliary loss balances the load of the experts while a model is made from nothing. Here the router is not trained
(LoRA) or trained for a few steps (`tuning: full`), an objective is the same for packed and padded rows, and the packed
layout has no two-dimensional mask to count tokens by. So it is not computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATTERNS_IGNORED = "The following (rank|alpha)_pattern keys did not match any targeted module"
"""What PEFT says, wrongly, where a pattern is for stacked weights: it looks at modules only."""


def has_experts(model: Any) -> bool:
    """Whether the model is a mixture whose experts' weights are stacked, (experts, rows, columns)."""
    return any(
        "expert" in f"{name}.{type(module).__name__}".lower()
        # ZeRO-3 leaves a share of each weight here, and says what shape the whole has.
        and any(len(getattr(weight, "ds_shape", weight.shape)) == 3 for weight in module.parameters(recurse=False))
        for name, module in model.named_modules()
    )


def adapts_experts(model: Any) -> bool:
    """Whether LoRA weights of the model change stacked weights, to which PEFT adds them within every forward."""
    return any(type(module).__name__ == "ParamWrapper" for module in model.modules())


def silence_router(config: Any) -> None:
    """Let a model return no logits of its router, which make it compute the auxiliary loss, whatever its file says.

    Args:
        config: a model's configuration, changed in place.
    """
    text = config.get_text_config(decoder=True)
    if getattr(text, "output_router_logits", False):
        text.output_router_logits = False


@contextmanager
def keeping_router_settings(model: Any) -> Iterator[None]:
    """Within the block TRL may write into the model's configuration; its coefficient is as before behind it.

    A whole model that is saved keeps the coefficient of the checkpoint, for whoever trains it with that loss.
    """
    config = model.config.get_text_config(decoder=True)
    before = getattr(config, "router_aux_loss_coef", None)
    yield
    if before is not None:
        config.router_aux_loss_coef = before
