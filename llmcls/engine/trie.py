"""The label trie: every answer as a path of tokens, in flat arrays that stay linear for 10,000 labels.

    trie = LabelTrie([[5, 7, 2], [5, 8, 2], [9, 2]])    # tokenised answers, end token included
    trie = LabelTrie(answers, [0, 1, 2, 0])              # the fourth answer is another spelling of the first label
    trie.statistics                                      # nodes, branching, fed, forced
    trie.children(0)                                     # node ids below the root: one starts with 5, one with 9

Nodes are numbered in depth-first preorder, children by ascending token id, so the subtree of node `v` is the
range `v .. exit[v] - 1` and "k is an ancestor of q, or q itself" is `k <= q < exit[k]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from os.path import commonprefix

import numpy as np
from numpy.typing import NDArray

from llmcls.errors import LlmclsError, several

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TrieStatistics:
    """What a label set costs.

    Attributes:
        labels: number of labels.
        nodes: tokens in the trie (the root, which is the last prompt token, is not counted).
        branching: places with a choice: nodes with two or more children, the root included.
        fed: trie tokens that one row feeds through the model for `local` (see `LabelTrie.fed`).
        forced: tokens that are their parent's only child; they cost nothing under `local`.
        depth: tokens of the longest answer.
    """

    labels: int
    nodes: int
    branching: int
    fed: int
    forced: int
    depth: int


class LabelTrie:
    """All answers as one prefix tree; node 0 is the root and stands for the last prompt token.

    Args:
        answers: tokenised answers, end token included; the first ones are the labels' own, in order.
        labels: the label of each answer, where labels have several spellings; one answer per label when None.

    Attributes:
        answers: the tokenised answers as given; `answers[j]` is what label j is taught to say.
        labels: (answers,) the label of each answer; 0, 1, 2 ... at the beginning.
        token: (nodes + 1,) token of each node; -1 for the root.
        parent: (nodes + 1,) parent node; -1 for the root.
        depth: (nodes + 1,) number of tokens from the root.
        exit: (nodes + 1,) first node after the subtree.
        answer: (nodes + 1,) answer index where an answer ends, else -1. Answers end at leaves only.
        label: (nodes + 1,) the label of that answer, else -1.
        leaf: (answers,) the node at which each answer ends.
        spellings: (labels,) number of answers of each label.

    Raises:
        LlmclsError: for no answers, empty answers, negative tokens, duplicates, or an answer that is a prefix of
            another (an end token on every answer makes that impossible); all problems in one message; and for labels
            that do not fit the answers.
    """

    def __init__(self, answers: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> None:
        self.answers: tuple[tuple[int, ...], ...] = tuple(tuple(int(token) for token in answer) for answer in answers)
        self.labels: Ints = np.asarray(range(len(self.answers)) if labels is None else labels, dtype=np.int64)
        order = sorted(range(len(self.answers)), key=self.answers.__getitem__)
        self._check(order)

        token, parent, depth, ends = [-1], [-1], [0], [-1]
        path = [0]
        previous: tuple[int, ...] = ()
        for index in order:
            answer = self.answers[index]
            shared = common_length(previous, answer)
            del path[shared + 1 :]
            for at in range(shared, len(answer)):
                token.append(answer[at])
                parent.append(path[-1])
                depth.append(at + 1)
                ends.append(-1)
                path.append(len(token) - 1)
            ends[-1] = index
            previous = answer

        self.token: Ints = np.asarray(token, dtype=np.int64)
        self.parent: Ints = np.asarray(parent, dtype=np.int64)
        self.depth: Ints = np.asarray(depth, dtype=np.int64)
        self.answer: Ints = np.asarray(ends, dtype=np.int64)
        self.label: Ints = np.where(self.answer < 0, -1, self.labels[self.answer])
        self.exit: Ints = self._exits()
        self.leaf: Ints = np.empty(len(self.answers), dtype=np.int64)
        self.leaf[self.answer[self.answer >= 0]] = np.flatnonzero(self.answer >= 0)
        self.spellings: Ints = np.bincount(self.labels)
        self.degree: Ints = np.bincount(self.parent[1:], minlength=len(token)).astype(np.int64)
        # A stable sort by parent keeps preorder, that is token order, among siblings.
        self._child: Ints = np.argsort(self.parent[1:], kind="stable").astype(np.int64) + 1
        self._first_child: Ints = np.concatenate([[0], np.cumsum(self.degree)]).astype(np.int64)

    def __len__(self) -> int:
        """Number of labels."""
        return len(self.spellings)

    @property
    def has_aliases(self) -> bool:
        """Whether some label has several answers."""
        return len(self) < len(self.answers)

    @property
    def size(self) -> int:
        """Number of nodes, the root included."""
        return len(self.token)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return int(self.depth.max())

    @cached_property
    def fed(self) -> Bools:
        """(nodes + 1,) nodes whose hidden state `local` depends on: branching nodes and their ancestors.

        The root is among them unless there is one label only; it costs nothing, being the last prompt token.
        """
        needed = self.degree > 1
        for node in range(self.size - 1, 0, -1):
            if needed[node]:
                needed[self.parent[node]] = True
        return needed

    @cached_property
    def landing(self) -> Ints:
        """(nodes + 1,) where forced tokens lead: the nearest branching node or leaf at or below each node."""
        landing = np.arange(self.size, dtype=np.int64)
        for node in range(self.size - 2, -1, -1):
            if self.degree[node] == 1:
                landing[node] = landing[node + 1]
        return landing

    @property
    def statistics(self) -> TrieStatistics:
        """What this label set costs."""
        return TrieStatistics(
            labels=len(self),
            nodes=self.size - 1,
            branching=int((self.degree > 1).sum()),
            fed=int(self.fed[1:].sum()),
            forced=int((self.degree[self.parent[1:]] == 1).sum()),
            depth=self.longest,
        )

    def children(self, node: int) -> Ints:
        """Node ids below `node`, ascending by token."""
        return self._child[self._first_child[node] : self._first_child[node + 1]]

    def descend(self, node: int, token: int) -> int:
        """The child of `node` that `token` leads to, or -1."""
        children = self.children(node)
        at = int(np.searchsorted(self.token[children], token))
        return int(children[at]) if at < len(children) and self.token[children[at]] == token else -1

    def read(self, tokens: Sequence[int]) -> int:
        """The answer that tokens begin with, whatever follows it; its index."""
        node = 0
        for token in tokens:
            node = self.descend(node, token)
            if self.answer[node] >= 0:
                break
        return int(self.answer[node])

    def path(self, node: int, above: int = 0) -> Ints:
        """Node ids from just below the ancestor `above` down to `node`."""
        nodes = []
        while node != above:
            nodes.append(node)
            node = int(self.parent[node])
        return np.asarray(nodes[::-1], dtype=np.int64)

    def _exits(self) -> Ints:
        exits = np.arange(1, self.size + 1, dtype=np.int64)
        for node in range(self.size - 1, 0, -1):
            parent = self.parent[node]
            exits[parent] = max(exits[parent], exits[node])
        return exits

    def _check(self, order: Sequence[int]) -> None:
        answers = self.answers
        problems = [f"answer {i} has no tokens" for i, answer in enumerate(answers) if not answer]
        problems += [
            f"answer {i} holds the negative token {min(answer)}"
            for i, answer in enumerate(answers)
            if answer and min(answer) < 0
        ]
        # In sorted order a prefix stands directly before one of the answers that continue it.
        for first, second in pairwise(order):
            if answers[first] == answers[second]:
                problems.append(f"answers {first} and {second} are the same tokens {list(answers[first])}")
            elif answers[first] and answers[second][: len(answers[first])] == answers[first]:
                problems.append(
                    f"answer {first} {list(answers[first])} is a prefix of answer {second}; "
                    "let every answer end with the end token"
                )
        if not answers:
            problems.append("there is no answer; give one per label")
        own = np.unique(self.labels)
        if self.labels.shape != (len(answers),) or not np.array_equal(self.labels[: len(own)], np.arange(len(own))):
            problems.append("every answer needs its label, and the first answers must be those of labels 0, 1, 2 ...")
        if problems:
            raise LlmclsError(several(problems, "The label answers cannot be used"))


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share."""
    return len(commonprefix([tuple(first), tuple(second)]))
