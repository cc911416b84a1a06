"""The fast exact scorer: the shared prompt prefix once, every row's own tokens once, all labels as branches.

    scorer = PackedScorer(model, answers)
    scores = scorer.score(prompts)                      # LabelScores; scores.local.exp() sums to 1

The rows of a call are one token tree (`llmcls.engine.tree`), streamed through the decoder in depth-first order, in
packs of `pack_tokens` without a padding token. Hidden states are kept at scored positions only, and the output head
is applied to the labels' own tokens only, unless the full softmax was asked for. Against `reference_scores`, which
runs one plain forward per row and label, float32 results agree to 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmcls.engine.attention import supports_packing
from llmcls.engine.decoder import Decoder, HeadRows, evaluating
from llmcls.engine.packing import even_cuts, scoring_pack_tokens
from llmcls.engine.plan import ScoringPlan
from llmcls.engine.scores import LabelScores, Progress, Prompts
from llmcls.engine.state import FixedPrefix, Prefixes, PrefixStore, TreeState
from llmcls.engine.tree import RowForest, check_prompts
from llmcls.engine.trie import Ints, LabelTrie
from llmcls.errors import LlmclsError

LOGITS_AT_ONCE = 2**24
"""Upper bound on positions x tokens of one block of logits: 64 MiB in float32."""


class PackedScorer:
    """All labels' exact probabilities at the cost of reading each text once.

    Args:
        model: a causal LM that `supports_packing`.
        answers: tokenised answers, one per label, end token included; or a ready `LabelTrie`, which may have aliases.
        pack_tokens: tokens per forward; None chooses for the device.

    Raises:
        LlmclsError: for answers that are no label set, tokens outside the vocabulary, or a model that cannot take
            the mask.
    """

    def __init__(
        self, model: Any, answers: Sequence[Sequence[int]] | LabelTrie, *, pack_tokens: int | None = None
    ) -> None:
        if reason := supports_packing(model):
            raise LlmclsError(f"This model cannot be scored in packs because {reason}; use method 'reference'.")
        self.trie = answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
        self.model = model
        self.decoder = Decoder(model)
        check_vocabulary(self.trie, self.decoder.vocabulary)
        self.pack_tokens = scoring_pack_tokens(pack_tokens, self.decoder.device.type)
        self.prefixes: Prefixes = PrefixStore(model, self.decoder)
        self._plans: dict[bool, ScoringPlan] = {}

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> LabelScores:
        """See `Scorer`; `want_global` needs the full output head and feeds forced tokens."""
        rows = check_prompts(prompts)
        if not rows:
            empty = torch.empty(0, len(self.trie.answers))
            return LabelScores.from_exact(empty, empty if want_global else None, 0, self.trie)
        plan = self.plan(full=want_global)
        local, global_ = self.run(rows, plan, want_global, progress)
        return LabelScores.from_exact(local, global_, len(plan.branch.tokens), self.trie)

    def warm_up(self, prompts: Prompts) -> None:
        """See `Scorer`."""
        self.prefixes = FixedPrefix(self.model, self.decoder, prompts)

    def run(
        self, rows: list[list[int]], plan: ScoringPlan, full: bool = False, progress: Progress | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What `plan` says of at least one row: (rows, labels) of its choices, and under the full softmax if asked."""
        return self._read(rows, plan, full, progress).result()

    def choices(self, rows: list[list[int]], plan: ScoringPlan, progress: Progress | None = None) -> torch.Tensor:
        """What `run` sums up: the log-probability of every edge of `plan`, (rows, edges) float32 on the CPU."""
        return self._read(rows, plan, False, progress).local.cpu()

    def plan(self, *, full: bool) -> ScoringPlan:
        """What a row feeds and scores for all labels; `full` for scores under the full softmax, too."""
        if full not in self._plans:
            self._plans[full] = ScoringPlan.for_trie(self.trie, full=full)
        return self._plans[full]

    def _read(self, rows: list[list[int]], plan: ScoringPlan, full: bool, progress: Progress | None) -> EdgeScorer:
        with torch.no_grad(), evaluating(self.model):
            prefix = self.prefixes.prepare(rows)
            shared = len(prefix.ids)
            forest = RowForest([row[shared:] for row in rows], [plan.branch] * len(rows), shared)
            edges = EdgeScorer(self.decoder, plan, len(rows), full)
            state = TreeState(self.decoder, prefix)
            done = 0
            for start, stop in even_cuts(forest.size, self.pack_tokens):
                keep, row, scored = scored_positions(forest, plan, start, stop)
                hidden = state.feed(forest.slice(start, stop))
                edges.add(hidden[torch.from_numpy(keep).to(hidden.device)], row, scored)
                state.prune(stop + shared)
                finished = int(np.searchsorted(forest.row_start, stop, side="right")) - 1
                if progress is not None and finished > done:
                    progress(finished - done)
                done = finished
            return edges


class EdgeScorer:
    """Collects the log-probability of every choice in the label trie, for every row."""

    def __init__(self, decoder: Decoder, plan: ScoringPlan, rows: int, full: bool) -> None:
        self._decoder, self._plan = decoder, plan
        self._head: HeadRows | None = None if full else decoder.head_rows(plan.tokens)
        self._columns = torch.from_numpy(plan.tokens).to(decoder.device)
        shape = (rows, plan.edges)
        self.local = torch.zeros(shape, device=decoder.device)
        self._global = torch.zeros(shape, device=decoder.device) if full else None
        width = decoder.vocabulary if self._head is None else self._head.width
        self._block = max(1, LOGITS_AT_ONCE // max(1, width))

    def add(self, hidden: torch.Tensor, row: Ints, scored: Ints) -> None:
        """Score the children of scored node `scored[n]` of row `row[n]`, whose hidden state is `hidden[n]`."""
        for start in range(0, len(row), self._block):
            part = slice(start, start + self._block)
            self._add_block(hidden[part], row[part], scored[part])

    def result(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(rows, answers) `local` and, if asked for, `global`."""
        accumulate = self._plan.accumulate
        return accumulate(self.local), None if self._global is None else accumulate(self._global)

    def _add_block(self, hidden: torch.Tensor, row: Ints, scored: Ints) -> None:
        plan = self._plan
        if self._head is not None:
            logits, normaliser = self._head(hidden), None
        else:
            logits = self._decoder.logits(hidden)
            normaliser, logits = logits.logsumexp(1), logits[:, self._columns.to(logits.device)]
        device = logits.device
        degree = plan.edge_start[scored + 1] - plan.edge_start[scored]
        begin = np.cumsum(degree) - degree
        edge = np.repeat(plan.edge_start[scored] - begin, degree) + np.arange(int(degree.sum()))
        owner = torch.from_numpy(np.repeat(np.arange(len(row)), degree)).to(device)
        chosen = logits[owner, torch.from_numpy(plan.edge_column[edge]).to(device)]
        place = torch.from_numpy(np.repeat(row, degree) * plan.edges + edge).to(self.local.device)
        self.local.view(-1)[place] = log_softmax_by_group(chosen, owner, len(row)).to(self.local.device)
        if self._global is not None and normaliser is not None:
            self._global.view(-1)[place] = (chosen - normaliser[owner]).to(self._global.device)


def log_softmax_by_group(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    """Float32 log-softmax of `values` (n,) within each group of equal `group` (n,) in 0 .. groups - 1."""
    largest = values.new_full((groups,), float("-inf")).scatter_reduce_(0, group, values, "amax")
    shifted = values - largest[group]
    return shifted - values.new_zeros(groups).index_add_(0, group, shifted.exp()).log()[group]


def scored_positions(forest: RowForest, plan: ScoringPlan, start: int, stop: int) -> tuple[Ints, Ints, Ints]:
    """Which tokens of the cut `start .. stop - 1` are scored: (place in the cut, row, index of the scored node)."""
    keep, rows, nodes = [], [], []
    for row in forest.rows(start, stop):
        origin = int(forest.row_start[row] + forest.own_length[row])
        low, high = np.searchsorted(plan.scored_at, [start - origin, stop - origin])
        keep.append(plan.scored_at[low:high] + (origin - start))
        rows.append(np.full(high - low, row, dtype=np.int64))
        nodes.append(np.arange(low, high, dtype=np.int64))
    return np.concatenate(keep), np.concatenate(rows), np.concatenate(nodes)


def check_vocabulary(trie: LabelTrie, vocabulary: int) -> None:
    """Refuse answers that the model cannot say.

    Raises:
        LlmclsError: naming the largest token.
    """
    largest = int(trie.token.max())
    if largest >= vocabulary:
        raise LlmclsError(
            f"An answer holds token {largest}, but the model's vocabulary has {vocabulary} tokens; "
            "tokenise the labels with this model's own tokenizer."
        )
