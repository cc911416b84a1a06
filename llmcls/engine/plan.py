"""What one row must feed and score to know every label: the trie boiled down to index arrays.

    plan = ScoringPlan.for_trie(trie, full=False)
    plan.branch.tokens           # the trie tokens to lay out after each row's own tokens
    plan.accumulate(edges)       # (rows, edges) choice log-probabilities -> (rows, answers)

A *scored* node is one whose next-token distribution is needed; an *edge* is one of its children. For `local`
only branching nodes are scored, for `global` every node that is not a leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmcls.engine.tree import Branch

if TYPE_CHECKING:
    from llmcls.engine.trie import Ints, LabelTrie


@dataclass(frozen=True)
class ScoringPlan:
    """Index arrays for one trie and one kind of score.

    Attributes:
        branch: the fed trie tokens, as they follow each row's own tokens.
        scored_at: (scored,) place of each scored node, counted from the end of the row's own tokens: -1 is the
            last own token (the root), i is fed token i; ascending.
        edge_start: (scored + 1,) edges of scored node s are `edge_start[s] .. edge_start[s + 1] - 1`.
        edge_column: (edges,) where each edge's token stands in `tokens`.
        tokens: (distinct,) the distinct edge tokens, ascending: the rows of the output head that are needed.
        edge_parent: (edges,) the edge through which the edge's scored node was reached, or -1.
        edge_levels: the edges by the number of choices before them, first level first.
        answer_edge: (answers,) the last edge on each answer's path, or -1 (a single answer has nothing to choose).
    """

    branch: Branch
    scored_at: Ints
    edge_start: Ints
    edge_column: Ints
    tokens: Ints
    edge_parent: Ints
    edge_levels: tuple[Ints, ...]
    answer_edge: Ints

    @classmethod
    def for_trie(cls, trie: LabelTrie, *, full: bool) -> ScoringPlan:
        """Plan `local` scores, or with `full` also the scores under the full softmax."""
        scored_mask = trie.degree > 0 if full else trie.degree > 1
        fed = np.flatnonzero(scored_mask if full else trie.fed)
        fed = fed[fed > 0]
        scored = np.flatnonzero(scored_mask)

        per_node = [trie.children(int(node)) for node in scored]
        edge_node = np.concatenate(per_node) if per_node else np.empty(0, dtype=np.int64)
        edge_start = np.concatenate([[0], np.cumsum([len(children) for children in per_node])]).astype(np.int64)
        tokens, edge_column = np.unique(trie.token[edge_node], return_inverse=True)

        # The last edge at or above each node; parents come before their children in preorder.
        last_edge = np.full(trie.size, -1, dtype=np.int64)
        last_edge[edge_node] = np.arange(len(edge_node))
        for node in range(1, trie.size):
            if last_edge[node] < 0:
                last_edge[node] = last_edge[trie.parent[node]]
        edge_parent = last_edge[trie.parent[edge_node]]
        level = np.zeros(len(edge_node), dtype=np.int64)
        for edge in np.argsort(edge_node, kind="stable"):
            if edge_parent[edge] >= 0:
                level[edge] = level[edge_parent[edge]] + 1
        by_level = np.argsort(level, kind="stable").astype(np.int64)
        edge_levels = np.split(by_level, np.flatnonzero(np.diff(level[by_level])) + 1) if len(by_level) else []
        return cls(
            branch=_branch(trie, fed),
            scored_at=np.searchsorted(fed, scored).astype(np.int64) - (scored == 0),
            edge_start=edge_start,
            edge_column=edge_column.astype(np.int64).reshape(-1),
            tokens=tokens,
            edge_parent=edge_parent,
            edge_levels=tuple(edge_levels),
            answer_edge=last_edge[trie.leaf],
        )

    @classmethod
    def for_questions(cls, trie: LabelTrie, yes: Ints, no: Ints) -> ScoringPlan:
        """Plan independent decisions: `yes[j]` and `no[j]` are the trie's answers to question j.

        Only the questions' ends are scored, each between its own two answers whatever else may follow there, and
        nothing is accumulated: `accumulate` gives (rows, questions), log P(yes). An end is scored once for every
        question that ends there.
        """
        question = np.argsort(trie.parent[trie.leaf[yes]], kind="stable")  # in the order of their ends
        place = np.argsort(question)
        ends = trie.parent[trie.leaf[yes[question]]]
        fed = np.flatnonzero(trie.fed)
        fed = fed[fed > 0]
        edge_node = np.stack([trie.leaf[yes[question]], trie.leaf[no[question]]], axis=1).reshape(-1)
        tokens, edge_column = np.unique(trie.token[edge_node], return_inverse=True)
        return cls(
            branch=_branch(trie, fed),
            scored_at=np.searchsorted(fed, ends).astype(np.int64) - (ends == 0),
            edge_start=2 * np.arange(len(ends) + 1, dtype=np.int64),
            edge_column=edge_column.astype(np.int64).reshape(-1),
            tokens=tokens,
            edge_parent=np.full(len(edge_node), -1, dtype=np.int64),
            edge_levels=(np.arange(len(edge_node), dtype=np.int64),),
            answer_edge=2 * place.astype(np.int64),
        )

    @property
    def edges(self) -> int:
        """Number of edges."""
        return len(self.edge_column)

    def accumulate(self, choices: torch.Tensor) -> torch.Tensor:
        """Sum the log-probabilities of the choices that lead to each answer.

        Args:
            choices: (rows, edges) float32, `choices[i, e]` = log P(edge e | its scored node, row i).

        Returns:
            (rows, answers) float32, the sum over the edges on each answer's path.
        """
        # The extra last column is what index -1 reads: nothing chosen yet.
        total = torch.cat([choices, choices.new_zeros(len(choices), 1)], dim=1)
        for level in self.edge_levels[1:]:
            edges = torch.from_numpy(level).to(choices.device)
            parents = torch.from_numpy(self.edge_parent[level]).to(choices.device)
            total[:, edges] += total[:, parents]
        last = np.where(self.answer_edge < 0, self.edges, self.answer_edge)
        return total[:, torch.from_numpy(last).to(choices.device)]


def _branch(trie: LabelTrie, fed: Ints) -> Branch:
    """The fed nodes, ascending and without the root, as they follow a row's own tokens."""
    return Branch(trie.token[fed], trie.depth[fed], np.searchsorted(fed, trie.exit[fed]).astype(np.int64))
