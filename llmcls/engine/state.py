"""Key-value caches of the token tree: the shared prefix that stays, and the part of a pack that can still be seen.

prefix = PrefixStore(model, decoder).prepare(prompts)       # computed once, kept across batches and calls
state = TreeState(decoder, prefix)
hidden = state.feed(chunk)                                  # (tokens, hidden)
state.prune(next_enter)                                     # drop what no later token can see
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llmcls.engine.attention import attention_mask
from llmcls.engine.decoder import Decoder, evaluating
from llmcls.engine.tree import ALWAYS, TreeChunk, chain, shared_prefix_length
from llmcls.engine.trie import Ints, common_length
from llmcls.engine.watch import WeightWatch

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]

KEPT_PREFIXES = 4
"""Prefixes kept at the same time: a few templates or label sets in turn, without holding memory for many."""

WORTH_SHARING = 32
"""Tokens that sharing a longer prefix must save in one call before it is computed: one more small forward's cost."""

WORTH_REPEATING = 32
"""Tokens that two calls in a row must repeat beyond what is kept before those are kept, too: what a small forward of
their own costs. A short text that is asked about twice, for its label and for all probabilities, repeats fewer."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the shared prefix; tensors of shape (1, heads, tokens, dim), one pair per layer."""

    ids: tuple[int, ...]
    layers: KeyValues

    def first(self, length: int) -> Prefix:
        """The first tokens of this prefix, without a copy: causal attention makes them a prefix of their own."""
        return Prefix(self.ids[:length], [(k[:, :, :length], v[:, :, :length]) for k, v in self.layers])


NO_PREFIX = Prefix((), [])
"""Prompts that share nothing, or too little."""


class TreeState:
    """A prefix and the tree tokens fed after it; the prefix itself is never changed."""

    def __init__(self, decoder: Decoder, prefix: Prefix) -> None:
        self._decoder = decoder
        self._prefix = prefix
        self._start = chain(prefix.ids)
        self._enter: Ints = self._start.enter
        self._exit: Ints = self._start.exit
        self._positions: Ints = self._start.positions
        self._cache: Any = cache_of(prefix.layers)

    @classmethod
    def merge(cls, states: Sequence[TreeState]) -> TreeState:
        """One state that holds what all of them hold; they must stand on the same prefix."""
        first = states[0]
        merged = cls(first._decoder, first._prefix)
        shared = len(first._prefix.ids)
        merged._enter = np.concatenate([merged._enter, *(state._enter[shared:] for state in states)])
        merged._exit = np.concatenate([merged._exit, *(state._exit[shared:] for state in states)])
        merged._positions = np.concatenate([merged._positions, *(state._positions[shared:] for state in states)])
        layers = []
        for parts in zip(*(state._cache.layers for state in states), strict=True):
            keys = [parts[0].keys] + [part.keys[:, :, shared:] for part in parts[1:]]
            values = [parts[0].values] + [part.values[:, :, shared:] for part in parts[1:]]
            layers.append((torch.cat(keys, dim=2), torch.cat(values, dim=2)))
        merged._cache = cache_of(layers)
        return merged

    def feed(self, chunk: TreeChunk) -> torch.Tensor:
        """Final hidden states (tokens, hidden) of the next tokens; their ancestors must be fed and not pruned."""
        self._enter = np.concatenate([self._enter, chunk.enter])
        self._exit = np.concatenate([self._exit, chunk.exit])
        self._positions = np.concatenate([self._positions, chunk.positions])
        mask = _masks(self._decoder, (chunk.enter, chunk.positions), (self._enter, self._exit, self._positions))
        return self._decoder.hidden(chunk.tokens, chunk.positions, mask, self._cache)

    def prune(self, next_enter: int) -> None:
        """Forget the tokens that none from `next_enter` on can see."""
        live = np.flatnonzero(self._exit > next_enter)
        if len(live) == len(self._prefix.ids):
            self._enter, self._exit, self._positions = self._start.enter, self._start.exit, self._start.positions
            self._cache = cache_of(self._prefix.layers)
        elif len(live) < len(self._enter):
            self._enter, self._exit, self._positions = self._enter[live], self._exit[live], self._positions[live]
            for layer in self._cache.layers:
                kept = torch.from_numpy(live).to(layer.keys.device)
                layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]


class Prefixes(Protocol):
    """Where a scorer gets the prefix that its prompts share."""

    def prepare(self, prompts: Sequence[Sequence[int]]) -> Prefix:
        """A prefix that all prompts share; each keeps at least one token of its own. Call it without gradients."""
        ...


class PrefixStore:
    """The last few shared prefixes of one model, recomputed when its weights or LoRA weights change.

    What is kept depends on the calls before, and with it where a prefix is cut, and so the last bits of a score.
    Several threads may ask at once: one computes, and the others wait.
    """

    def __init__(self, model: Any, decoder: Decoder) -> None:
        self._weights = WeightWatch(model)
        self._decoder = decoder
        self._kept: list[Prefix] = []
        self._last: tuple[int, ...] = ()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Drop everything kept."""
        self._kept.clear()

    def prepare(self, prompts: Sequence[Sequence[int]]) -> Prefix:
        """The longest worthwhile prefix that all prompts share.

        A kept prefix also serves prompts that share only a part of it. A single prompt shares with no other, so there
        the part counts that it repeats from the call before.
        """
        ids = _shared(prompts)
        with self._lock:
            return self._prepare(ids, prompts)

    def _prepare(self, ids: tuple[int, ...], prompts: Sequence[Sequence[int]]) -> Prefix:
        if self._weights.changed():
            self.forget()
        shared = [common_length(prefix.ids, ids) for prefix in self._kept]
        best = max(range(len(shared)), key=shared.__getitem__) if shared else None
        length = 0 if best is None else shared[best]
        repeated, self._last = common_length(self._last, ids), ids
        wanted = length
        if _is_worth_sharing(len(ids) - length, prompts):
            wanted = len(ids)
        elif repeated - length >= WORTH_REPEATING:
            wanted = repeated
        start = NO_PREFIX
        if best is not None:
            # Most recently used last; one that is extended makes way for its extension.
            kept = self._kept.pop(best)
            start = kept.first(length)
            if wanted == length or length < len(kept.ids):
                self._kept.append(kept)
        if wanted == length:
            return start
        self._kept.append(extend(self._decoder, start, ids[length:wanted]))
        del self._kept[:-KEPT_PREFIXES]
        return self._kept[-1]


class FixedPrefix:
    """One prefix for all calls: where it is cut follows from the prompts of a call alone, not from the calls before.

    Args:
        model: decides when the prefix must be computed again: when its weights or LoRA weights change.
        decoder: the model's.
        prompts: what they share is kept, where it is worth it.
    """

    def __init__(self, model: Any, decoder: Decoder, prompts: Sequence[Sequence[int]]) -> None:
        self._weights = WeightWatch(model)
        self._decoder = decoder
        self._lock = threading.Lock()
        shared = _shared(prompts)
        self._ids = shared if _is_worth_sharing(len(shared), prompts) else ()
        with torch.no_grad(), evaluating(model):
            self._current()

    def prepare(self, prompts: Sequence[Sequence[int]]) -> Prefix:
        """The kept prefix, or as much of it as the prompts share; longer where that is worthwhile in this call."""
        kept = self._current()
        ids = _shared(prompts)
        length = common_length(kept.ids, ids)
        start = kept.first(length)
        if _is_worth_sharing(len(ids) - length, prompts):
            return extend(self._decoder, start, ids[length:])
        return start

    def _current(self) -> Prefix:
        """What is kept, computed with the weights as they are."""
        with self._lock:
            if self._weights.changed():
                self._kept = extend(self._decoder, NO_PREFIX, self._ids) if self._ids else NO_PREFIX
            return self._kept


def extend(decoder: Decoder, start: Prefix, tokens: tuple[int, ...]) -> Prefix:
    """A prefix with more tokens behind it."""
    cache = cache_of(start.layers)
    positions = np.arange(len(start.ids), len(start.ids) + len(tokens), dtype=np.int64)
    mask = None
    if start.ids or decoder.windows.size:
        keys = np.arange(len(start.ids) + len(tokens), dtype=np.int64)
        always: Ints = np.full(len(keys), ALWAYS)
        mask = _masks(decoder, (positions, positions), (keys, always, keys))
    decoder.hidden(np.asarray(tokens, dtype=np.int64), positions, mask, cache)
    return Prefix(start.ids + tokens, [(layer.keys, layer.values) for layer in cache.layers])


def _masks(decoder: Decoder, query: tuple[Ints, Ints], key: tuple[Ints, Ints, Ints]) -> Any:
    """What the layers of a model get.

    Args:
        decoder: the model's.
        query: enter and position of the tokens that are fed.
        key: enter, exit and position of what they may see: what was fed before, and they themselves.
    """
    enter, position = (torch.from_numpy(values).to(decoder.device) for values in query)
    key_enter, key_exit, key_position = (torch.from_numpy(values).to(decoder.device) for values in key)
    return decoder.windows.narrow(attention_mask(enter, key_enter, key_exit), position, key_position)


def _shared(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(prompts[0][: shared_prefix_length(prompts)])


def _is_worth_sharing(tokens: int, prompts: Sequence[Sequence[int]]) -> bool:
    return tokens * (len(prompts) - 1) >= WORTH_SHARING


def cache_of(layers: KeyValues) -> Any:
    """A cache that starts from given keys and values without copying them; feeding it leaves them as they are.

    `DynamicLayer.update` concatenates into a new tensor, so the given ones may be shared by many caches.
    """
    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache
