"""The packed layout, built in one place for prediction and training: many rows as ONE token tree.

    rows = RowForest([[4, 9], [4, 7, 7]], [branch, branch], first_position=611)   # own tokens, what follows them
    for start in range(0, rows.size, 256):
        chunk = rows.slice(start, start + 256)      # tokens, positions, enter, exit

The tokens stand in depth-first order: shared prefix, then row after row, each with its own tokens followed by its
branches of the label trie. `enter` is a token's place in that order and `exit` the place after its last descendant,
so one comparison says everything about attention (`llmcls.engine.attention`): token q sees token k if and only if

    enter[k] <= enter[q] < exit[k]

(k is an ancestor of q in the tree, or q itself). Rows do not see each other, nor do sibling labels. Because the
order is depth-first, the stream may be cut anywhere: after a cut only tokens with `exit > enter of the next token`
can ever be seen again, and the rest of the key-value cache can go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING

import numpy as np

from llmcls.errors import LlmclsError, several

if TYPE_CHECKING:
    from llmcls.engine.trie import Ints

ALWAYS = np.int64(2**62)
"""The `exit` of tokens that every later token sees: the shared prefix."""


@dataclass(frozen=True)
class Branch:
    """What follows a row's own tokens: a label trie's fed nodes (prediction) or one label's path (training).

    Attributes:
        tokens: (n,) token ids in preorder.
        depth: (n,) distance from the row's last own token, 1 for its children.
        exit: (n,) first index after each token's subtree, counted within this branch.
    """

    tokens: Ints
    depth: Ints
    exit: Ints

    @classmethod
    def path(cls, tokens: Sequence[int]) -> Branch:
        """A single chain of tokens."""
        count = len(tokens)
        return cls(
            tokens=np.asarray(tokens, dtype=np.int64),
            depth=np.arange(1, count + 1, dtype=np.int64),
            exit=np.full(count, count, dtype=np.int64),
        )


@dataclass(frozen=True)
class TreeChunk:
    """Consecutive tokens of the tree; every array has shape (tokens,).

    Attributes:
        tokens: token ids.
        positions: position ids, restarting after the prefix for each row and after the own tokens for each branch.
        enter: place in depth-first order.
        exit: place after the last descendant.
    """

    tokens: Ints
    positions: Ints
    enter: Ints
    exit: Ints


class RowForest:
    """Rows below a shared prefix: each row's own tokens, then its branch.

    Args:
        own: the rows' own tokens (prompt without the shared prefix), each at least one.
        branches: what follows each row; the same object may be repeated.
        first_position: position id of each row's first own token = length of the shared prefix.

    Attributes:
        size: number of tokens of all rows.
        row_start: (rows + 1,) where each row begins in the stream; `row_start[-1] == size`.
        own_length: (rows,) number of own tokens.
    """

    def __init__(self, own: Sequence[Sequence[int]], branches: Sequence[Branch], first_position: int) -> None:
        self._own = [np.asarray(tokens, dtype=np.int64) for tokens in own]
        self._branches = branches
        self.first_position = first_position
        self.own_length: Ints = np.asarray([len(tokens) for tokens in self._own], dtype=np.int64)
        lengths = self.own_length + np.asarray([len(branch.tokens) for branch in branches], dtype=np.int64)
        self.row_start: Ints = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.size = int(self.row_start[-1])

    def slice(self, start: int, stop: int) -> TreeChunk:
        """The tokens `start .. stop - 1` of the stream; a cut may fall inside a row."""
        stop = min(stop, self.size)
        pieces = []
        for row in self.rows(start, stop):
            low, high = int(self.row_start[row]), int(self.row_start[row + 1])
            pieces.append(self._piece(row, max(start, low) - low, min(stop, high) - low))
        tokens, positions, exits = (np.concatenate(part) for part in zip(*pieces, strict=True))
        enter = np.arange(start, stop, dtype=np.int64) + self.first_position
        return TreeChunk(tokens, positions, enter, exits)

    def rows(self, start: int, stop: int) -> range:
        """The rows that have a token in `start .. stop - 1`."""
        first = int(np.searchsorted(self.row_start, start, side="right")) - 1
        return range(first, int(np.searchsorted(self.row_start, stop, side="left")))

    def _piece(self, row: int, low: int, high: int) -> tuple[Ints, Ints, Ints]:
        """Tokens, positions and exits of one row's tokens `low .. high - 1`."""
        own, branch, length = self._own[row], self._branches[row], int(self.own_length[row])
        in_branch = slice(max(low - length, 0), max(high - length, 0))
        base = int(self.row_start[row]) + self.first_position
        own_part = own[low:high]
        return (
            np.concatenate([own_part, branch.tokens[in_branch]]),
            self.first_position
            + np.concatenate([np.arange(low, low + len(own_part)), branch.depth[in_branch] + (length - 1)]),
            base
            + np.concatenate(
                [np.full(len(own_part), length + len(branch.tokens)), branch.exit[in_branch] + length],
            ),
        )


def chain(tokens: Sequence[int]) -> TreeChunk:
    """The shared prefix as a chunk of its own: plain causal, and seen by everything that follows."""
    places = np.arange(len(tokens), dtype=np.int64)
    return TreeChunk(np.asarray(tokens, dtype=np.int64), places, places, np.full(len(tokens), ALWAYS))


def join(first: TreeChunk, second: TreeChunk) -> TreeChunk:
    """Two consecutive chunks as one."""
    return TreeChunk(
        np.concatenate([first.tokens, second.tokens]),
        np.concatenate([first.positions, second.positions]),
        np.concatenate([first.enter, second.enter]),
        np.concatenate([first.exit, second.exit]),
    )


def shared_prefix_length(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the longest token prefix of all prompts that leaves each at least one token of its own."""
    return min(len(commonprefix([list(prompt) for prompt in prompts])), min(map(len, prompts)) - 1)


def check_prompts(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The prompts as lists.

    Raises:
        LlmclsError: naming every row without a token.
    """
    rows = [list(prompt) for prompt in prompts]
    empty = [f"prompt {row} has no tokens; every prompt needs at least one" for row, ids in enumerate(rows) if not ids]
    if empty:
        raise LlmclsError(several(empty, "The prompts cannot be scored"))
    return rows
