"""How tokens are cut into packs: how large a pack is, and which rows go into which.

cut_rows(own, shared, pack_tokens)       # training: rows, each whole, into packs of nearly equal size
even_cuts(size, pack_tokens)             # scoring: a stream of tokens, cut anywhere
consecutive(sizes, pack_tokens)          # search: rows in order, each whole
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from llmcls.errors import LlmclsError

Batch = dict[str, torch.Tensor]
"""The tensors of one pack, by the names under which a model and a loss take them."""

TRAINING_PACK_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens per forward in training. The dense mask costs pack length squared, small packs waste launches and traffic."""

SCORING_PACK_TOKENS = {"cpu": 256, "cuda": 2048}
"""Tokens per forward in scoring. The dense mask costs pack length squared, tiny packs waste the weights' memory
traffic."""

LENGTH_MULTIPLE = 32
"""Pack lengths are rounded up to multiples of this by tokens that nothing sees. oneDNN compiles and keeps kernels for
every length (bfloat16 on a CPU: 17 MB for each with nano), and CUDA's attention pads masks of odd width itself."""


def training_pack_tokens(asked: int | None, device: str) -> int:
    """The pack size asked for in training, or the default of the torch device type."""
    return asked or TRAINING_PACK_TOKENS.get(device, TRAINING_PACK_TOKENS["cuda"])


def scoring_pack_tokens(asked: int | None, device: str) -> int:
    """The pack size asked for in scoring, or the default of the torch device type.

    Raises:
        LlmclsError: for a pack size below 1.
    """
    if asked is not None and asked < 1:
        raise LlmclsError(f"pack_tokens is {asked}, but a pack holds at least 1 token; leave it out for the default.")
    return asked or SCORING_PACK_TOKENS.get(device, SCORING_PACK_TOKENS["cuda"])


def cut_rows(own: Sequence[int], shared: int, pack_tokens: int) -> list[list[int]]:
    """Cut rows into as few packs as fit, of nearly equal size.

    Each pack repeats the shared prefix and its mask costs its length squared. With P shared tokens and S of the rows'
    own, a pack costs (P + S) + (P + S)^2 / c for S useful tokens, which is least at S = sqrt(P (P + c)) > P: below P
    own tokens a pack is never worth its prefix, whatever `pack_tokens` says.

    Args:
        own: tokens of each row without the shared prefix.
        shared: length of the prefix.
        pack_tokens: most tokens of a pack; only long prefixes and single long rows exceed it.

    Returns:
        Row numbers, each once, ascending within a pack.
    """
    capacity = max(pack_tokens - shared, shared, *own)
    longest_first = sorted(range(len(own)), key=lambda row: -own[row])
    count = -(-sum(own) // capacity)
    while True:
        packs: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for row in longest_first:
            smallest = sizes.index(min(sizes))
            packs[smallest].append(row)
            sizes[smallest] += own[row]
        if max(sizes) <= capacity:
            return [sorted(pack) for pack in packs]
        count += 1


def round_up(pack: Batch) -> Batch:
    """The pack with filler tokens up to a multiple of `LENGTH_MULTIPLE`; no other token sees them."""
    length = pack["input_ids"].shape[1]
    extra = -length % LENGTH_MULTIPLE
    own_end = torch.arange(length + 1, length + extra + 1)[None]  # visible to itself only
    return pack | {
        "input_ids": torch.nn.functional.pad(pack["input_ids"], (0, extra)),
        "position_ids": torch.nn.functional.pad(pack["position_ids"], (0, extra)),
        "tree_exit": torch.cat([pack["tree_exit"], own_end], dim=1),
    }


def even_cuts(size: int, limit: int) -> list[tuple[int, int]]:
    """Cut `0 .. size` into as few ranges as `limit` allows, of nearly equal length."""
    count = -(-size // limit)
    bounds = [size * at // count for at in range(count + 1)]
    return list(pairwise(bounds))


def consecutive(sizes: Sequence[int], limit: int) -> list[range]:
    """Cut a list of sizes into runs whose sums stay within `limit`; a larger item makes a run of its own."""
    runs, start, total = [], 0, 0
    for at, size in enumerate(sizes):
        if at > start and total + size > limit:
            runs.append(range(start, at))
            start, total = at, 0
        total += size
    runs.append(range(start, len(sizes)))
    return runs
