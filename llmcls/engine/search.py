"""Search instead of scoring everything: the greedy trie walk, and best-first search for the certified best label.

    SearchScorer(model, answers, method="greedy").score(prompts).predicted       # what constrained generate() says
    SearchScorer(model, answers, method="best-first").score(prompts).margin      # >= 0: certified

A label's `local` log-probability is a sum of terms <= 0, one per branch point, so the sum down to any node bounds
every label below it from above. Best-first search (A* with a zero heuristic) expands the node with the highest bound;
when a complete label comes out on top, no other can beat it. Greedy follows the best child only. Both feed the tokens
of expanded nodes alone, all rows of a pack together, one round per expansion.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llmcls.engine.decoder import Decoder, evaluating, supports_packing
from llmcls.engine.packed import check_vocabulary, choose_pack_tokens
from llmcls.engine.scores import LabelScores
from llmcls.engine.state import Prefix, PrefixStore, TreeState
from llmcls.engine.tree import Branch, RowForest, TreeChunk, check_prompts
from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError

Floats = NDArray[np.float32]

GROUP_TOKENS = 4096
"""Own tokens of the rows that are searched together; their keys and values are held until all have a label."""


class SearchScorer:
    """Finds each row's label without visiting all of them.

    Args:
        model: a causal LM that `supports_packing`.
        answers: tokenised answers, end token included; or a ready `LabelTrie`.
        method: `best-first` (the certified argmax of `local`) or `greedy` (equal to constrained `generate()`).
        pack_tokens: tokens per forward; None chooses for the device.

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
    ) -> None:
        if reason := supports_packing(model):
            raise LlmclsError(f"This model cannot be searched in packs because {reason}; use method 'generate'.")
        self.trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
        self.model = model
        self.method = method
        self.decoder = Decoder(model)
        check_vocabulary(self.trie, self.decoder.vocabulary)
        self.pack_tokens = choose_pack_tokens(pack_tokens, self.decoder.device)
        self.prefixes = PrefixStore(model, self.decoder)

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        want_global: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> LabelScores:
        """Search the best label of each tokenised prompt; see `LabelScores` for what stays NaN.

        Raises:
            LlmclsError: for a prompt without tokens, or when `global` scores are wanted, which need all labels.
        """
        if want_global:
            raise LlmclsError(f"Method '{self.method}' does not visit all labels; use 'exact' for global scores.")
        rows = check_prompts(prompts)
        if not rows:
            return LabelScores.from_exact(torch.empty(0, len(self.trie)), None, 0)
        parts = []
        with torch.no_grad(), evaluating(self.model):
            prefix = self.prefixes.prepare(rows)
            own = [row[len(prefix.ids) :] for row in rows]
            for group in consecutive([len(row) for row in own], max(GROUP_TOKENS, self.pack_tokens)):
                parts.append(self._search([own[row] for row in group], prefix))
                if progress is not None:
                    progress(len(group))
        return LabelScores.concatenate(parts)

    def _search(self, own: list[list[int]], prefix: Prefix) -> LabelScores:
        trie, shared = self.trie, len(prefix.ids)
        # Every row reserves a place for each trie node, so that any of them can be fed later, in any order.
        nodes = Branch(trie.token[1:], trie.depth[1:], trie.exit[1:] - 1)
        forest = RowForest(own, [nodes] * len(own), shared)
        searches = [RowSearch(trie, greedy=self.method == "greedy") for _ in own]
        roots = [forest.slice(int(start), int(start) + len(o)) for start, o in zip(forest.row_start, own, strict=False)]
        # Rows are read in small packs, which keeps the masks small, but searched all together, because a forward of
        # a few tokens costs nearly as much as one of many.
        states, found = [], []
        for pack in consecutive([len(row) for row in own], self.pack_tokens):
            states.append(TreeState(self.decoder, prefix))
            found.append(self._feed(states[-1], [roots[row] for row in pack]))
        state, hidden = TreeState.merge(states), torch.cat(found)
        # A root that all labels leave by the same token offers no choice: the first one lies further down.
        expanding = [(row, 0) for row in range(len(own)) if trie.degree[0] > 1]
        while True:
            for (row, node), choices in zip(expanding, self._choices(hidden, [n for _, n in expanding]), strict=True):
                searches[row].expand(node, choices)
            following = [search.next_node() for search in searches]
            expanding = [(row, node) for row, node in enumerate(following) if node is not None]
            if not expanding:
                break
            hidden = self._feed(state, [self._path(forest, searches[row], row, node) for row, node in expanding])
        local = torch.full((len(own), len(trie)), float("nan"))
        for row, search in enumerate(searches):
            local[row, torch.from_numpy(np.concatenate(search.known))] = torch.from_numpy(np.concatenate(search.values))
        return LabelScores(
            local=local,
            predicted=torch.tensor([search.found for search in searches]),
            margin=torch.tensor([search.margin for search in searches], dtype=torch.float32),
            fed=torch.tensor([search.fed for search in searches]),
        )

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
        path = self.trie.path(node, above=search.expanded_from[node])
        search.fed += len(path)
        own = int(forest.own_length[row])
        base = int(forest.row_start[row]) + own - 1 + forest.first_position
        return TreeChunk(
            tokens=self.trie.token[path],
            positions=self.trie.depth[path] + forest.first_position + own - 1,
            enter=path + base,
            exit=self.trie.exit[path] + base,
        )

    def _choices(self, hidden: torch.Tensor, nodes: list[int]) -> list[Floats]:
        """Log-probabilities of each node's children, from the hidden states of the nodes."""
        if not nodes:
            return []
        children = [self.trie.token[self.trie.children(node)] for node in nodes]
        tokens, columns = np.unique(np.concatenate(children), return_inverse=True)
        logits = self.decoder.head_rows(tokens)(hidden).cpu()
        at = np.split(columns.reshape(-1), np.cumsum([len(child) for child in children])[:-1])
        return [row[torch.from_numpy(column)].log_softmax(0).numpy() for row, column in zip(logits, at, strict=True)]


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


class RowSearch:
    """One row's search: which node to expand next, and what is known when a label has been found.

    Attributes:
        found: the label, once `next_node` has returned None.
        margin: its log-probability minus the best bound of all other labels.
        fed: trie tokens fed for this row.
        known, values: arrays of labels whose log-probability is known, and these.
        expanded_from: for every node handed out, the expanded node above it.
    """

    def __init__(self, trie: LabelTrie, *, greedy: bool) -> None:
        self._trie = trie
        self._greedy = greedy
        self.found = -1
        self.margin = float("inf")
        self.fed = 0
        self.known: list[NDArray[np.int64]] = []
        self.values: list[Floats] = []
        self.expanded_from: dict[int, int] = {}
        self._bound: dict[int, float] = {0: 0.0}
        self._rest = float("-inf")
        # (minus bound, expansion, rank among its children): of each expansion only the best child not yet taken.
        self._heap: list[tuple[float, int, int]] = []
        self._expansions: list[tuple[int, NDArray[np.int64], Floats]] = []
        if trie.degree[0] == 1:
            self._push(0, trie.landing[:1], np.zeros(1, dtype=np.float32))

    def expand(self, node: int, choices: Floats) -> None:
        """Take in the log-probabilities of a node's children, given the node."""
        children = self._trie.children(node)
        bounds = choices + np.float32(self._bound[node])
        order = np.argsort(-bounds, kind="stable")
        if self._greedy:
            self._rest = max(self._rest, float(bounds[order[1]]))
            order = order[:1]
        self._push(node, self._trie.landing[children[order]], bounds[order])

    def next_node(self) -> int | None:
        """The node to expand next, or None when the label has been found."""
        if self.found >= 0:
            return None
        bound, expansion, rank = heapq.heappop(self._heap)
        above, targets, bounds = self._expansions[expansion]
        if rank + 1 < len(targets):
            heapq.heappush(self._heap, (-float(bounds[rank + 1]), expansion, rank + 1))
        target = int(targets[rank])
        if self._trie.label[target] >= 0:
            self.found = int(self._trie.label[target])
            self.margin = -bound - max(self._rest, -self._heap[0][0] if self._heap else float("-inf"))
            return None
        self.expanded_from[target] = above
        self._bound[target] = -bound
        return target

    def _push(self, node: int, targets: NDArray[np.int64], bounds: Floats) -> None:
        labels = self._trie.label[targets]
        self.known.append(labels[labels >= 0])
        self.values.append(bounds[labels >= 0])
        heapq.heappush(self._heap, (-float(bounds[0]), len(self._expansions), 0))
        self._expansions.append((node, targets, bounds))
