"""Search instead of scoring everything: the greedy trie walk, and best-first search for the certified best label.

    SearchScorer(model, answers, method="greedy").score(prompts).predicted       # what constrained generate() says
    SearchScorer(model, answers, method="best-first").score(prompts).margin      # >= 0: certified

An answer's `local` log-probability is a sum of terms <= 0, one per branch point, so the sum down to any node bounds
every answer below it from above. Best-first search (A* with a zero heuristic) expands the node with the highest bound
until one label's known probability beats all that any other label can still reach; see `RowSearch` for labels with
several spellings. Greedy follows the best child only. Both feed the tokens of expanded nodes alone, all rows of a pack
together, one round per expansion.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llmcls.engine.attention import supports_packing
from llmcls.engine.decoder import Decoder, evaluating
from llmcls.engine.packed import check_vocabulary
from llmcls.engine.packing import consecutive, scoring_pack_tokens
from llmcls.engine.scores import LabelScores, Progress, Prompts
from llmcls.engine.state import FixedPrefix, Prefix, Prefixes, PrefixStore, TreeState
from llmcls.engine.tree import Branch, RowForest, TreeChunk, check_prompts
from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError

Floats = NDArray[np.float64]

EXACT = 1e-6
"""Nats by which a bound may exceed what is known and count as known: what float32 scores cannot tell apart."""

GROUP_TOKENS = 4096
"""Own tokens of the rows that are searched together; their keys and values are held until all have a label."""


@dataclass(frozen=True, slots=True)
class Way:
    """What the model says of the choices on the way to each row's right label, summed over them.

    Attributes:
        nll: (rows,) float32, minus the log-probability of that label's own answer.
        uniform: (rows,) float32, minus the mean log-probability of all that could be chosen.
    """

    nll: torch.Tensor
    uniform: torch.Tensor


class SearchScorer:
    """Finds each row's label without visiting all of them.

    Args:
        model: a causal LM that `supports_packing`.
        answers: tokenised answers, end token included; or a ready `LabelTrie`.
        method: `best-first` (the certified argmax of `local`) or `greedy` (equal to constrained `generate()`).
        pack_tokens: tokens per forward; None chooses for the device.
        resolution: margins below it are searched on until they are exact: how ties are told from near ones.

    Raises:
        LlmclsError: for answers that are no label set, or a model that cannot take the mask.
    """

    def __init__(
        self,
        model: Any,
        answers: Sequence[Sequence[int]] | LabelTrie,
        *,
        method: Literal["best-first", "greedy"] = "best-first",
        pack_tokens: int | None = None,
        resolution: float = 0.0,
    ) -> None:
        if reason := supports_packing(model):
            raise LlmclsError(f"This model cannot be searched in packs because {reason}; use method 'generate'.")
        self.trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
        self.model = model
        self.method = method
        self.resolution = resolution
        self.decoder = Decoder(model)
        check_vocabulary(self.trie, self.decoder.vocabulary)
        self.pack_tokens = scoring_pack_tokens(pack_tokens, self.decoder.device.type)
        self.prefixes: Prefixes = PrefixStore(model, self.decoder)

    def sharing(self, prefixes: Prefixes) -> SearchScorer:
        """The same search, with the prefixes of another scorer of the same model."""
        other = copy(self)
        other.prefixes = prefixes
        return other

    def warm_up(self, prompts: Prompts) -> None:
        """See `Scorer`."""
        self.prefixes = FixedPrefix(self.model, self.decoder, prompts)

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> LabelScores:
        """Search the best label of each tokenised prompt; see `LabelScores` for what stays NaN.

        Raises:
            LlmclsError: for a prompt without tokens, or when `global` scores are wanted, which need all labels.
        """
        if want_global:
            raise LlmclsError(f"Method '{self.method}' does not visit all labels; use 'exact' for global scores.")
        rows = check_prompts(prompts)
        if not rows:
            return LabelScores.from_exact(torch.empty(0, len(self.trie.answers)), None, 0, self.trie)
        return LabelScores.concatenate([scores for scores, _ in self._groups(rows, None, progress)])

    def guided(
        self, rows: list[list[int]], labels: Sequence[int], progress: Progress | None = None
    ) -> tuple[LabelScores, Way]:
        """As `score`, and besides what the model says of the way to each row's right label.

        The right label's tokens are read with the row, so where the model finds that label nothing more is to be read.

        Args:
            rows: the prompts, at least one.
            labels: (rows,) the label whose own answer is looked at.
            progress: called with the numbers of rows done.
        """
        found = list(self._groups(rows, labels, progress))
        ways = [way for _, way in found]
        return LabelScores.concatenate([scores for scores, _ in found]), Way(
            torch.cat([way.nll for way in ways]), torch.cat([way.uniform for way in ways])
        )

    def _groups(
        self, rows: list[list[int]], labels: Sequence[int] | None, progress: Progress | None
    ) -> Iterator[tuple[LabelScores, Way]]:
        with torch.no_grad(), evaluating(self.model):
            prefix = self.prefixes.prepare(rows)
            own = [row[len(prefix.ids) :] for row in rows]
            for group in consecutive([len(row) for row in own], max(GROUP_TOKENS, self.pack_tokens)):
                right = None if labels is None else [labels[row] for row in group]
                yield self._search([own[row] for row in group], prefix, right)
                if progress is not None:
                    progress(len(group))

    def _search(self, own: list[list[int]], prefix: Prefix, labels: Sequence[int] | None) -> tuple[LabelScores, Way]:
        trie, shared = self.trie, len(prefix.ids)
        # Every row reserves a place for each trie node, so that any of them can be fed later, in any order.
        nodes = Branch(trie.token[1:], trie.depth[1:], trie.exit[1:] - 1)
        forest = RowForest(own, [nodes] * len(own), shared)
        greedy = self.method == "greedy"
        searches = [RowSearch(trie, greedy=greedy, resolution=self.resolution) for _ in own]
        # Each row's first pieces: its own tokens; where the way to its label is wanted, those to every choice on it.
        guides = [self._choices_before(labels[row]) if labels is not None else [0] for row in range(len(own))]
        first = [
            [forest.slice(int(start), int(start) + len(tokens)), *self._pieces(forest, row, guides[row])]
            for row, (start, tokens) in enumerate(zip(forest.row_start, own, strict=False))
        ]
        for search, pieces in zip(searches, first, strict=True):
            search.fed += sum(len(piece.tokens) for piece in pieces[1:])
        # Rows are read in small packs, which keeps the masks small, but searched all together, because a forward of
        # a few tokens costs nearly as much as one of many.
        states, found = [], []
        sizes = [sum(len(piece.tokens) for piece in pieces) for pieces in first]
        for pack in consecutive(sizes, self.pack_tokens):
            states.append(TreeState(self.decoder, prefix))
            found.append(self._feed(states[-1], [piece for row in pack for piece in first[row]]))
        state, hidden = TreeState.merge(states), torch.cat(found)
        # A root that all labels leave by the same token offers no choice: the first one lies further down.
        expanding = [
            (row, node)
            for row, pieces in enumerate(first)
            for node in [0, *(guide for guide in guides[row] if guide)][: len(pieces)]
        ]
        if trie.degree[0] == 1:
            kept = [at for at, (_, node) in enumerate(expanding) if node]
            hidden, expanding = hidden[kept], [expanding[at] for at in kept]
        nll, uniform = torch.zeros(len(own)), torch.zeros(len(own))
        if labels is not None:
            for (row, node), choices in zip(expanding, self._choices(hidden, [n for _, n in expanding]), strict=True):
                taken = self._child_towards(labels[row], node)
                nll[row] -= float(choices[taken])
                uniform[row] -= float(choices.mean())
                searches[row].follow(node, choices, int(trie.landing[trie.children(node)[taken]]))
            expanding, hidden = [], hidden[:0]
            if not torch.isfinite(nll).all():
                # Whoever asked will refuse this loss; among such numbers no label is the best one.
                return _nothing(labels, len(trie)), Way(nll, uniform)
        while True:
            for (row, node), choices in zip(expanding, self._choices(hidden, [n for _, n in expanding]), strict=True):
                searches[row].expand(node, choices)
            following = [search.next_node() for search in searches]
            expanding = [(row, node) for row, node in enumerate(following) if node is not None]
            if not expanding:
                break
            hidden = self._feed(state, [self._path(forest, searches[row], row, node) for row, node in expanding])
        scores = LabelScores(
            local=torch.from_numpy(np.stack([search.local for search in searches])),
            predicted=torch.tensor([search.found for search in searches]),
            margin=torch.tensor([search.margin for search in searches], dtype=torch.float32),
            fed=torch.tensor([search.fed for search in searches]),
            failed=torch.tensor([search.failed for search in searches]),
        )
        return scores, Way(nll, uniform)

    def _choices_before(self, label: int) -> list[int]:
        """The branching nodes on the way to a label's own answer, from the root down."""
        path = [0, *self.trie.path(int(self.trie.leaf[label])).tolist()]
        return [node for node in path if self.trie.degree[node] > 1]

    def _child_towards(self, label: int, node: int) -> int:
        """Which of a node's children leads to a label's own answer."""
        child = int(self.trie.path(int(self.trie.leaf[label]), above=node)[0])
        return int(np.searchsorted(self.trie.children(node), child))

    def _pieces(self, forest: RowForest, row: int, guide: Sequence[int]) -> list[TreeChunk]:
        """The tokens that lead from each branching node to the next, below the root."""
        nodes = [0, *(node for node in guide if node)]
        return [self._piece(forest, row, node, above) for above, node in pairwise(nodes)]

    def _feed(self, state: TreeState, pieces: list[TreeChunk]) -> torch.Tensor:
        """Feed the pieces packed, at most `pack_tokens` at once; the hidden state of each piece's last token."""
        whole = TreeChunk(
            *(
                np.concatenate([getattr(piece, name) for piece in pieces])
                for name in ("tokens", "positions", "enter", "exit")
            )
        )
        last = np.cumsum([len(piece.tokens) for piece in pieces]) - 1
        found = []
        for start in range(0, len(whole.tokens), self.pack_tokens):
            part = slice(start, start + self.pack_tokens)
            hidden = state.feed(
                TreeChunk(whole.tokens[part], whole.positions[part], whole.enter[part], whole.exit[part])
            )
            wanted = last[(last >= start) & (last < start + self.pack_tokens)] - start
            found.append(hidden[torch.from_numpy(wanted).to(hidden.device)])
        return torch.cat(found)

    def _path(self, forest: RowForest, search: RowSearch, row: int, node: int) -> TreeChunk:
        """The tokens between the node whose expansion led to `node` and `node` itself."""
        piece = self._piece(forest, row, node, search.expanded_from[node])
        search.fed += len(piece.tokens)
        return piece

    def _piece(self, forest: RowForest, row: int, node: int, above: int) -> TreeChunk:
        path = self.trie.path(node, above=above)
        own = int(forest.own_length[row])
        base = int(forest.row_start[row]) + own - 1 + forest.first_position
        return TreeChunk(
            tokens=self.trie.token[path],
            positions=self.trie.depth[path] + forest.first_position + own - 1,
            enter=path + base,
            exit=self.trie.exit[path] + base,
        )

    def _choices(self, hidden: torch.Tensor, nodes: list[int]) -> list[NDArray[np.float32]]:
        """Log-probabilities of each node's children, from the hidden states of the nodes."""
        if not nodes:
            return []
        children = [self.trie.token[self.trie.children(node)] for node in nodes]
        tokens, columns = np.unique(np.concatenate(children), return_inverse=True)
        logits = self.decoder.head_rows(tokens)(hidden).cpu()
        at = np.split(columns.reshape(-1), np.cumsum([len(child) for child in children])[:-1])
        return [row[torch.from_numpy(column)].log_softmax(0).numpy() for row, column in zip(logits, at, strict=True)]


def _nothing(labels: Sequence[int], size: int) -> LabelScores:
    unknown = torch.full((len(labels), size), float("nan"))
    return LabelScores(unknown, torch.tensor(labels), unknown[:, 0], torch.zeros(len(labels), dtype=torch.int64))


class RowSearch:
    """One row's search: which node to expand next, and what is known when a label has been found.

    Answers that were reached add to their label's known probability; open nodes hold the rest. With r_j answers of
    label j not reached, b the highest bound of an open node and u the sum of all open nodes' bounds,

        known_j  <=  P(label j)  <=  known_j + min(r_j b, u),

    because every such answer lies below an open node, and what lies below different nodes excludes each other. Once
    the best known label has what every other one can reach at most, it is the argmax; then its own other answers are
    looked up, so that its probability is exact.

    Args:
        trie: the answers.
        greedy: follow the best child only.
        resolution: go on while the margin is below it and not exact.

    Attributes:
        found: the label, once `next_node` has returned None.
        failed: whether the model's logits were NaN or infinite, which ends the search; `found` is then the first label.
        fed: trie tokens fed for this row.
        expanded_from: for every node handed out, the expanded node above it.
    """

    def __init__(self, trie: LabelTrie, *, greedy: bool, resolution: float = 0.0) -> None:
        self._trie = trie
        self._greedy = greedy
        self._resolution = resolution
        self.found = -1
        self.failed = False
        self.fed = 0
        self.expanded_from: dict[int, int] = {}
        self._known: Floats = np.full(len(trie), -np.inf)
        self._missing = trie.spellings.copy()
        self._ceiling = float("-inf")  # what any other label than the one found can reach
        self._bound: dict[int, float] = {0: 0.0}
        self._open = 0.0
        # (minus bound, expansion, rank among its children): of each expansion only the best child not yet taken.
        self._heap: list[tuple[float, int, int]] = []
        self._expansions: list[tuple[int, NDArray[np.int64], Floats]] = []
        self._step: tuple[int, int, float] | None = None  # where greedy goes next
        if trie.degree[0] == 1:
            self._take_in(0, trie.landing[:1], np.zeros(1))

    @property
    def margin(self) -> float:
        """Log-probability of the label found minus an upper bound of every other label's."""
        return float(self._known[self.found]) - self._ceiling

    @property
    def local(self) -> NDArray[np.float32]:
        """(labels,) log-probabilities, NaN where not all answers of a label were reached."""
        return np.where(self._missing > 0, np.nan, self._known).astype(np.float32)

    def expand(self, node: int, choices: NDArray[np.float32]) -> None:
        """Take in the log-probabilities of a node's children, given the node."""
        if not choices.max() > -np.inf:  # NaN, or no child at all: whatever was found now would be one of equals
            self.failed, self.found = True, 0
            return
        self._take_in(node, self._trie.landing[self._trie.children(node)], choices + np.float64(self._bound[node]))

    def follow(self, node: int, choices: NDArray[np.float32], target: int) -> None:
        """As `expand`, of nodes on one way down: `target`, where the way goes on, is expanded next, or it is a leaf."""
        if node not in self._bound:  # what all labels begin with leads to it
            self._hand_out(*self._pop())
        bounds = choices + np.float64(self._bound[node])
        targets = self._trie.landing[self._trie.children(node)]
        following = int(np.flatnonzero(targets == target)[0])
        self._take_in(node, targets, bounds, following)
        if self._trie.label[target] < 0:
            self._hand_out(node, target, float(bounds[following]))

    def next_node(self) -> int | None:
        """The node to expand next, or None when the label has been found, or never will be."""
        if self.failed:
            return None
        if self._greedy:
            return None if self._step is None else self._hand_out(*self._step)
        if self.found < 0 and not self._decide():
            return self._hand_out(*self._pop())
        return self._complete()

    def _take_in(self, node: int, targets: NDArray[np.int64], bounds: Floats, without: int = -1) -> None:
        """Children of `node`, each followed down its forced tokens: an answer becomes known, any other node open.

        The child number `without` is open, but not waiting for its turn.
        """
        labels = self._trie.label[targets]
        ends = labels >= 0
        np.logaddexp.at(self._known, labels[ends], bounds[ends])
        np.subtract.at(self._missing, labels[ends], 1)
        best = int(bounds.argmax())
        order = np.flatnonzero(~ends)
        order = order[np.argsort(-bounds[order], kind="stable")]
        self._open += float(np.exp(bounds[order]).sum())
        order = order[order != without]
        if self._greedy:
            self._step = None if ends[best] else (node, int(targets[best]), float(bounds[best]))
            order = order[order != best]
        if len(order):
            heapq.heappush(self._heap, (-float(bounds[order[0]]), len(self._expansions), 0))
            self._expansions.append((node, targets[order], bounds[order]))
        if self._greedy and ends[best]:
            self.found = int(labels[best])
            _, self._ceiling = self._others(self.found)

    def _pop(self) -> tuple[int, int, float]:
        """The open node with the highest bound: the expanded node above it, itself, its bound."""
        bound, expansion, rank = heapq.heappop(self._heap)
        above, targets, bounds = self._expansions[expansion]
        if rank + 1 < len(targets):
            heapq.heappush(self._heap, (-float(bounds[rank + 1]), expansion, rank + 1))
        return above, int(targets[rank]), -bound

    def _hand_out(self, above: int, node: int, bound: float) -> int:
        self.expanded_from[node] = above
        self._bound[node] = bound
        self._open -= math.exp(bound)
        return node

    def _decide(self) -> bool:
        """Whether the best known label is certain; then it has been `found`."""
        best = int(self._known.argmax())
        if self._heap and self._known[best] < -self._heap[0][0]:
            return False  # at once: what follows takes as long as there are labels
        known, ceiling = self._others(best)
        margin = self._known[best] - ceiling
        if self._heap and (margin < 0 or (margin < self._resolution and ceiling - known > EXACT)):
            return False
        self.found, self._ceiling = best, ceiling
        return True

    def _others(self, label: int) -> tuple[float, float]:
        """Of the labels but this one: the highest known log-probability, and the highest that any can reach."""
        known = self._known.copy()
        known[label] = -np.inf
        if not self._heap:
            return float(known.max()), float(known.max())
        highest = math.exp(-self._heap[0][0])
        reach = np.minimum(self._missing * highest, max(self._open, highest))
        reach[label] = 0
        with np.errstate(divide="ignore"):
            return float(known.max()), float(np.logaddexp(known, np.log(reach)).max())

    def _complete(self) -> int | None:
        """The next node on the way to an answer of the found label that was not reached, or None."""
        if not self._missing[self.found]:
            return None
        trie = self._trie
        for leaf in trie.leaf[trie.labels == self.found]:
            node = int(leaf)
            while (above := int(trie.parent[node])) not in self._bound:
                node = above
            target = int(trie.landing[node])
            if trie.label[target] < 0:
                targets, bounds = next(found[1:] for found in self._expansions if found[0] == above)
                return self._hand_out(above, target, float(bounds[targets == target][0]))
        return None
