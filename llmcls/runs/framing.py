"""The frame of prompts where it is not simply the base model's own: a run's, and that of a published classifier.

frame = frame_of_run(Run.open("runs/tickets"), base, tokenizer)
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcls.errors import LlmclsError, LlmclsWarning, unknown
from llmcls.model.adapter import base_models, find_frame
from llmcls.model.loading import BaseModel
from llmcls.plugin.blame import ask
from llmcls.plugin.packages import missing_plugins
from llmcls.prompt.frame import Frame
from llmcls.prompt.marks import clean
from llmcls.runs.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def frame_of_run(run: Run, base: BaseModel, tokenizer: PreTrainedTokenizerFast) -> Frame:
    """The frame that a run was trained with: what its model writes before an answer is kept in its card.

    A run from before that was kept was trained with answers right behind the generation prompt, and predicts so.
    """
    opening = run.card["base_model"].get("opening")
    if opening is None:
        former: Frame = ask(base.adapter, "former_frame", tokenizer, gives=Frame)
        return former
    return replace(find_frame(base.adapter, tokenizer), opening=clean(opening))


def require_adapter(run: Run) -> None:
    """Refuse a run whose base-model adapter is not there: another one would ask its model in another format.

    Raises:
        LlmclsError: with the package to install.
    """
    name = run.card["base_model"]["adapter"]
    if name in (adapters := base_models()):
        return
    recorded = run.card.get("plugins")
    known = {str(key): str(value) for key, value in recorded.items()} if isinstance(recorded, dict) else {}
    brought = missing_plugins(known)
    hint = f"it was trained with {brought}" if brought else unknown("base-model adapter", name, adapters)
    raise LlmclsError(f"Run '{run.path}' needs the base-model adapter '{name}', which no plugin here has: {hint}")


def frame_as_published(base: BaseModel, tokenizer: PreTrainedTokenizerFast) -> Frame:
    """The base model's frame, with a plain prompt begun as the tokenizer itself begins a text."""
    plain, whole = (tokenizer("x", add_special_tokens=added)["input_ids"] for added in (False, True))
    at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    before, behind = ("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (whole[:at], whole[at + len(plain) :]))
    if behind:
        warnings.warn(
            f"the tokenizer of '{base.name}' puts {behind!r} behind a text, which is left out here: its probabilities "
            "may be other ones than those of transformers' pipeline.",
            LlmclsWarning,
            stacklevel=4,
        )
    return replace(find_frame(base.adapter, tokenizer), bos_token=before)
