"""What the engine needs of a model: its bare decoder and its output head.

    with torch.no_grad(), evaluating(model):
        hidden = Decoder(model).hidden(chunk.tokens, chunk.positions, mask, cache)

`model` is a Hugging Face causal LM, possibly 4-bit, possibly wrapped by PEFT (LoRA layers live inside the decoder, so
the wrapper is not needed to run them); or one with a classification head (`llmcls.model.head`), whose vocabulary is the
labels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch

from llmcls.engine.attention import windows_of
from llmcls.engine.trie import Ints
from llmcls.model.head import SEVERAL, LabelHead
from llmcls.model.mixtures import adapts_experts
from llmcls.model.wrapped import bare


def has_head(model: Any) -> bool:
    """Whether the model has a classification head in place of a language model's output layer."""
    return isinstance(bare(model), LabelHead)


def vocabulary_size(model: Any) -> int:
    """Number of tokens the model can say, or of labels its head knows."""
    config = bare(model).config
    size: int = config.num_labels if has_head(model) else config.get_text_config(decoder=True).vocab_size
    if has_head(model) and config.problem_type == SEVERAL:
        size += 1  # the no of every label
    return size


@dataclass
class _Switched:
    """What `evaluating` has switched in a model, and for how many blocks that run at the same time."""

    training: list[Any]
    repacking: list[Any]
    blocks: int = 0

    @classmethod
    def off(cls, model: Any) -> _Switched:
        modules = list(model.modules())
        switched = cls(
            training=[module for module in modules if module.training],
            repacking=[module for module in modules if getattr(module, _REPACKS, False)],
        )
        model.eval()
        for module in switched.repacking:
            setattr(module, _REPACKS, False)
        return switched

    def back(self) -> None:
        for module in self.training:
            module.training = True
        for module in self.repacking:
            setattr(module, _REPACKS, True)


_REPACKS = "support_avx512bf16_for_cpu"
_SWITCHING = threading.Lock()
_switched: WeakKeyDictionary[Any, _Switched] = WeakKeyDictionary()
_settled: WeakSet[Any] = WeakSet()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for the block; every module's own mode is restored after the last of several blocks at once.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks 4-bit weights in place at the first forward in evaluation mode.
    The repacked layers round to bfloat16, refuse widths that are no multiple of 32, and pass no gradient when training
    goes on afterwards, so the block does without (`Linear4bit.support_avx512bf16_for_cpu`). A model that has been
    settled (`settle`) is in this mode already, and costs nothing here.
    """
    if model in _settled and not model.training:
        yield
        return
    with _SWITCHING:
        switched = _switched.get(model)
        if switched is None:
            switched = _switched[model] = _Switched.off(model)
        switched.blocks += 1
    try:
        yield
    finally:
        with _SWITCHING:
            switched.blocks -= 1
            if not switched.blocks:
                del _switched[model]
                switched.back()


def settle(model: Any) -> None:
    """Evaluation mode (`evaluating`) for good, for a model that only predicts: from several threads at once, too.

    What a first forward would change in the modules is done here: 8-bit layers (bitsandbytes) take their weights over
    from where they were loaded, and two threads doing that at once would lose them. Training mode, switched on for the
    whole model later, is respected.
    """
    _Switched.off(model)
    for module in model.modules():
        if hasattr(module, "init_8bit_state") and module.weight.CB is not None:
            module.init_8bit_state()
    _settled.add(model)


_TURNS = threading.Lock()
_turns: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()


@contextmanager
def turn(model: Any) -> Iterator[None]:
    """One thread at a time: what the model's own forward may write into itself, and what `only_config` does.

    Rope whose angles depend on the length is written into the model at every forward (transformers), which is why such
    models are left to the slow methods (`supports_packing`). LoRA weights of experts that are kept apart are added to
    them within every forward, and taken away behind it (PEFT).
    """
    with _TURNS:
        mine = _turns.setdefault(bare(model), threading.RLock())
    with mine:
        yield


class Decoder:
    """The bare decoder and the output head of a model that `supports_packing`."""

    def __init__(self, model: Any) -> None:
        base = bare(model)
        self._body = base.get_decoder()
        self._has_head = has_head(model)
        self._head = base.score if self._has_head else base.get_output_embeddings()
        self._label_logits: Any = base.label_logits if self._has_head else None
        config = base.config.get_text_config(decoder=True)
        # Granite divides and Cohere multiplies the logits by a constant; no other verified model touches them.
        scale = 1.0 / getattr(config, "logits_scaling", 1.0) * getattr(config, "logit_scale", 1.0)
        self._scale = 1.0 if self._has_head else scale
        self.vocabulary = vocabulary_size(model)
        self.windows = windows_of(model)
        self._turn = base if adapts_experts(model) else None
        self.device: torch.device = base.device

    def hidden(self, tokens: Ints, positions: Ints, mask: Any, cache: Any) -> torch.Tensor:
        """Final hidden states (tokens, hidden); the cache grows by the tokens. No mask means causal.

        Args:
            tokens: (tokens,) ids.
            positions: (tokens,) position ids.
            mask: what `llmcls.engine.attention` makes for this model, or None.
            cache: keys and values of the tokens before.
        """
        with nullcontext() if self._turn is None else turn(self._turn):
            output = self._body(
                input_ids=torch.from_numpy(tokens)[None].to(self.device),
                position_ids=torch.from_numpy(positions)[None].to(self.device),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits over the full vocabulary, (n, hidden) -> (n, vocabulary)."""
        if self._has_head:
            labels: torch.Tensor = self._label_logits(hidden)
            return labels
        logits: torch.Tensor = self._head(hidden).float()
        return logits * self._scale

    def head_rows(self, tokens: Ints) -> HeadRows:
        """The output head cut down to some tokens."""
        return HeadRows(self, torch.from_numpy(tokens))


class HeadRows:
    """Logits of a few tokens only: (n, hidden) -> (n, tokens), float32.

    A plain linear head is cut to the rows that are needed; one that is quantised, adapted or moved about by hooks runs
    whole, a few positions at a time.
    """

    def __init__(self, decoder: Decoder, tokens: torch.Tensor) -> None:
        self._decoder = decoder
        head = decoder._head
        self._tokens = tokens.to(head.weight.device)
        self._weight: torch.Tensor | None = None
        here = len(head.weight) > 0 and head.weight.device.type != "meta"  # ZeRO-3 leaves no rows in place
        here = here and bool((tokens < len(head.weight)).all())  # a no of every label is in no weight
        if type(head) is torch.nn.Linear and not hasattr(head, "_hf_hook") and here:
            self._weight = head.weight.detach()[self._tokens].float().mul_(decoder._scale)
            self._bias = None if head.bias is None else head.bias.detach()[self._tokens].float() * decoder._scale
        self.width = len(tokens) if self._weight is not None else decoder.vocabulary

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the chosen tokens."""
        if self._weight is None:
            return self._decoder.logits(hidden)[:, self._tokens]
        return torch.nn.functional.linear(hidden.float(), self._weight, self._bias)
