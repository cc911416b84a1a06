"""What a label set costs before anything is predicted: tokens, choices, and token-passes per row by method.

    inspection = inspect_answers(answers, PromptShape(prefix=611, own=24.5, rows=1000))
    inspection.statistics.fed, inspection.answers[3].fed, inspection.costs["exact"].most
    suggest(inspection, names)                       # what could be done about it, in plain words

With P tokens of shared prefix, N rows of T + S own tokens (text and what follows it) and M trie tokens to feed,
prediction passes about P + N(T + S + M) tokens through the model, `generate()` N(P + T + S + L), answers feeding L.
A token-pass is one token through all layers; forwards that wait for the one before (`rounds`) come on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmcls.engine.trie import Ints, LabelTrie, TrieStatistics
from llmcls.errors import LlmclsError

WORTH_SAYING = 0.05
"""Share of a row's token-passes below which a saving is not suggested."""


SHORT_ROOM = 64
"""Tokens for the text below which a warning is given: a few sentences."""


@dataclass(frozen=True, slots=True)
class PromptShape:
    """How long the prompts are.

    Attributes:
        prefix: tokens that all prompts share at their beginning (P).
        own: tokens of the average prompt after these: the text, and what follows it (T + S).
        rows: prompts that one call predicts (N); the prefix is computed once for all of them.

    Raises:
        LlmclsError: for negative lengths, or no rows.
    """

    prefix: int
    own: float
    rows: int = 1000

    def __post_init__(self) -> None:
        if self.prefix < 0 or self.own < 0 or self.rows < 1:
            raise LlmclsError(
                f"A prompt shape of {self.prefix} shared and {self.own} own tokens for {self.rows} rows is impossible; "
                "lengths are 0 or more, rows 1 or more."
            )


@dataclass(frozen=True, slots=True)
class AnswerCost:
    """One label.

    Attributes:
        tokens: tokens of the answer, end token included.
        fed: tokens that must be fed until no other label is possible; the greedy walk to this label feeds them.
        rounds: the forwards it feeds them in.
        forced: its tokens that leave no choice; those behind the last choice are never fed.
    """

    tokens: int
    fed: int
    rounds: int
    forced: int


@dataclass(frozen=True, slots=True)
class MethodCost:
    """What one method costs.

    Attributes:
        least, most: token-passes per row; they differ where the cost depends on the label that is found (as an
            average over all labels, each as frequent as any other, and at the worst).
        rounds: forwards one after another, at most, once the prompt has been read.
    """

    least: float
    most: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that `inspect_answers` found; labels are positions in the answers given, where aliases have their own.

    Attributes:
        shape: the prompts it was computed for.
        statistics: the trie's figures.
        fed_for_mass: trie tokens fed when the label mass is wanted, which needs forced tokens, too.
        answers: one per label, in order.
        continued: for each label whose tokens (end token aside) begin other labels: these labels.
        collisions: the groups of labels that begin with the same token, largest first.
        costs: by method: `exact`, `exact, label mass`, `greedy`, `best-first`, `generate`.
    """

    shape: PromptShape
    statistics: TrieStatistics
    fed_for_mass: int
    answers: tuple[AnswerCost, ...]
    continued: Mapping[int, tuple[int, ...]]
    collisions: tuple[tuple[int, ...], ...]
    costs: Mapping[str, MethodCost]


def inspect_answers(answers: Sequence[Sequence[int]] | LabelTrie, shape: PromptShape) -> Inspection:
    """Work out what the tokenised answers cost on prompts of this shape.

    Raises:
        LlmclsError: for answers that are no label set.
    """
    trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
    statistics = trie.statistics
    mass, choices = int((trie.degree[1:] > 0).sum()), int((trie.degree[1:] > 1).sum())
    costs_of = answer_costs(trie)
    fed, rounds = [cost.fed for cost in costs_of], max(cost.rounds for cost in costs_of)
    said = [cost.tokens - 1 for cost in costs_of]  # the last token is an output only
    read = shape.prefix / shape.rows + shape.own
    costs = {
        "exact": MethodCost(read + statistics.fed, read + statistics.fed, 0),
        "exact, label mass": MethodCost(read + mass, read + mass, 0),
        "greedy": MethodCost(read + float(np.mean(fed)), read + max(fed), rounds),
        # Each expansion feeds what no other has fed, so the worst search has fed all that `exact` feeds.
        "best-first": MethodCost(read + float(np.mean(fed)), read + statistics.fed, choices),
        "generate": MethodCost(
            shape.prefix + shape.own + float(np.mean(said)), shape.prefix + shape.own + max(said), max(said)
        ),
    }
    return Inspection(shape, statistics, mass, costs_of, _continued(trie), _collisions(trie), costs)


def suggest(inspection: Inspection, names: Sequence[str], room: int | None = None) -> list[str]:
    """What is worth knowing or changing, one or two sentences each, most valuable first.

    Args:
        inspection: the figures.
        names: the label names, in order.
        room: tokens that `prompt.max_length` leaves to the text; None when not known.
    """
    statistics, shape = inspection.statistics, inspection.shape
    exact, least = inspection.costs["exact"].most, inspection.costs["best-first"].least
    said = []
    if room is not None and room < SHORT_ROOM:
        said.append(
            f"The prompt leaves only {room} tokens to the text, the rest is cut: raise prompt.max_length, or take a "
            "template that shows less."
        )
    if statistics.fed > WORTH_SAYING * exact:
        groups = [[names[label] for label in group] for group in inspection.collisions]
        alike = f" The largest group of {len(groups)}: {_shown(groups[0], 3)}." if groups else ""
        said.append(
            f"{statistics.fed / exact:.0%} of a row's cost are {statistics.fed} label tokens, fed because labels begin "
            f"alike.{alike} Labels that differ in their first token feed none: put the telling word first, or train "
            "with prompt.verbalizer=code, which answers with one token a label."
        )
    if statistics.fed > shape.own and least < (1 - WORTH_SAYING) * exact:
        said.append(
            f"A row feeds more label tokens ({statistics.fed}) than tokens of its own ({shape.own:.0f}): best-first "
            f"finds the same label from {least:.0f} token-passes a row on, but not all probabilities; do without "
            "--probabilities and --label-mass where the label is enough."
        )
    if not statistics.fed:
        said.append("Every label has a first token of its own: all probabilities cost no more than reading the text.")
    if shape.prefix / shape.rows > WORTH_SAYING * exact:
        said.append(
            f"The {shape.prefix} shared tokens are computed once a call, here for {shape.rows} rows: predict many "
            "texts in one call."
        )
    if inspection.continued:
        pairs = [
            f"{names[at]!r} (of {_shown([repr(names[b]) for b in more], 2)})"
            for at, more in inspection.continued.items()
        ]
        said.append(
            f"Labels that are the beginning of others: {_shown(pairs, 3)}. Nothing to do: the end token, "
            "which every answer has, tells them apart."
        )
    return said


def answer_costs(trie: LabelTrie) -> tuple[AnswerCost, ...]:
    """Walk the trie once, parents before children, counting what lies above each node."""
    # Tokens to the last choice at or above a node, and the choices below the root at or above it.
    fed, rounds, forced = (np.zeros(trie.size, dtype=np.int64) for _ in range(3))
    for node in range(1, trie.size):
        parent = trie.parent[node]
        choice = trie.degree[node] > 1
        fed[node] = trie.depth[node] if choice else fed[parent]
        rounds[node] = rounds[parent] + choice
        forced[node] = forced[parent] + (trie.degree[parent] == 1)
    return tuple(
        AnswerCost(len(answer), int(fed[leaf]), int(rounds[leaf]), int(forced[leaf]))
        for answer, leaf in zip(trie.answers, trie.leaf, strict=True)
    )


def _answers_below(trie: LabelTrie, ends: Ints, node: int) -> list[int]:
    """Answers in the subtree of a node, in the order given to the trie; `ends` are all leaves, ascending."""
    low, high = np.searchsorted(ends, [node, trie.exit[node]])
    return sorted(int(answer) for answer in trie.answer[ends[low:high]])


def _continued(trie: LabelTrie) -> dict[int, tuple[int, ...]]:
    ends = np.sort(trie.leaf)
    found = {}
    for label, leaf in enumerate(trie.leaf):
        stem = int(trie.parent[leaf])
        if stem > 0 and trie.degree[stem] > 1:
            # Whoever stops here as well, by another end token, continues nothing.
            others = [b for b in _answers_below(trie, ends, stem) if len(trie.answers[b]) > len(trie.answers[label])]
            if others:
                found[label] = tuple(others)
    return found


def _collisions(trie: LabelTrie) -> tuple[tuple[int, ...], ...]:
    ends = np.sort(trie.leaf)
    groups = [tuple(_answers_below(trie, ends, int(node))) for node in trie.children(0)]
    return tuple(sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group)))


def _shown(items: Sequence[str], count: int) -> str:
    shown = ", ".join(items[:count])
    return f"{shown} and {len(items) - count} more" if len(items) > count else shown
