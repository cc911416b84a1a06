"""Which exact method finds the labels of some prompts at the least cost, and why.

    choice = choose_method(TrieCosts.of(trie), PromptShape(prefix=611, own=24.5, rows=1000), "cpu")
    choice.method, choice.costs["best-first"], choice.reason

Only where labels are all that is wanted: every label's probability takes `exact`. Both methods read the prompts, P
tokens once and T + S a row. `exact` then feeds all M label tokens that some choice depends on, in the same forwards.
`best-first` feeds the E tokens on the way to the label found and little more, but in R further forwards that wait for
each other: a forward of a few tokens still reads all weights and launches all kernels, which costs as much as F more
tokens, shared by the g rows that are searched together; and each expansion takes some Python, as long as X tokens. In
token-passes a row, with D for the detours of a search that does not go straight to its label:

    exact        P/N + T + S + M
    best-first   P/N + T + S + D (E + X (r + 1) + F R / g)

E and r (expansions behind the first) are means over all answers, R is the largest number of expansions. F, X and D are
estimates; they decide where both cost about the same, and nothing but time depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmcls.engine.inspection import PromptShape, answer_costs
from llmcls.engine.search import GROUP_TOKENS
from llmcls.engine.tree import check_prompts, shared_prefix_length

if TYPE_CHECKING:
    from llmcls.engine.packed import PackedScorer
    from llmcls.engine.scores import LabelScores, Progress, Prompts
    from llmcls.engine.search import SearchScorer
    from llmcls.engine.trie import LabelTrie

FORWARD_TOKENS = {"cpu": 32, "cuda": 256}
"""F. Reading a weight from memory takes as long as multiplying it by so many tokens' activations: on an A100 or H200 in
bfloat16 156 and 208 (peak FLOP/s / 2 over bytes/s / 2), on CPUs 10 to 30."""

EXPANSION_TOKENS = {"cpu": 0.5, "cuda": 20.0}
"""X. About 0.1 ms of Python; a token takes a 1B model 40 ms on a CPU core, and 5 microseconds on a large GPU."""

DETOUR = 1.5
"""D. 1 for a model that is sure of its labels; untrained ones expand more than they need."""

WORTH_SEARCHING = 0.95
"""Share of exact's cost that a search must stay below: estimates are not better than that, and exact gives more."""


@dataclass(frozen=True, slots=True)
class TrieCosts:
    """What a label set's trie contributes to the cost.

    Attributes:
        fed: label tokens that `exact` feeds for each row (M).
        way: label tokens on the way to an answer, on average (E).
        expansions: choices behind the first on that way, on average (r).
        rounds: the largest number of these (R).
    """

    fed: int
    way: float
    expansions: float
    rounds: int

    @classmethod
    def of(cls, trie: LabelTrie) -> TrieCosts:
        """Count."""
        costs = answer_costs(trie)
        return cls(
            fed=int(trie.fed[1:].sum()),
            way=sum(cost.fed for cost in costs) / len(costs),
            expansions=sum(cost.rounds for cost in costs) / len(costs),
            rounds=max(cost.rounds for cost in costs),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The cheaper method.

    Attributes:
        method: its name.
        costs: the token-passes a row of both, forwards and bookkeeping counted as tokens.
        reason: why, in one sentence.
    """

    method: Literal["exact", "best-first"]
    costs: Mapping[str, float]
    reason: str


def choose_method(costs: TrieCosts, shape: PromptShape, device: str) -> Choice:
    """Compare the methods; `device` is a torch device type."""
    forward = FORWARD_TOKENS.get(device, FORWARD_TOKENS["cuda"])
    expansion = EXPANSION_TOKENS.get(device, EXPANSION_TOKENS["cuda"])
    read = shape.prefix / shape.rows + shape.own
    together = min(shape.rows, max(1.0, GROUP_TOKENS / max(shape.own, 1.0)))
    search = DETOUR * (costs.way + expansion * (costs.expansions + 1) + forward * costs.rounds / together)
    exact = read + costs.fed
    if not costs.fed:
        return Choice(
            "exact",
            {"exact": exact, "best-first": read + search},
            "no label token has to be fed: exact costs nothing more",
        )
    method: Literal["exact", "best-first"] = "best-first" if read + search < WORTH_SEARCHING * exact else "exact"
    return Choice(
        method,
        {"exact": exact, "best-first": read + search},
        f"beyond reading a row, exact feeds {costs.fed:,} label tokens, and best-first costs as much as {search:,.1f}",
    )


class AutoScorer:
    """The certified label of each prompt, by the cheaper of `exact` and `best-first`; all probabilities by `exact`.

    Args:
        exact: scores all labels.
        search: searches the best one; shares the other's prefixes.
    """

    def __init__(self, exact: PackedScorer, search: SearchScorer) -> None:
        self.exact = exact
        self.search = search.sharing(exact.prefixes)
        self.costs = TrieCosts.of(exact.trie)

    def warm_up(self, prompts: Prompts) -> None:
        """See `Scorer`."""
        self.exact.warm_up(prompts)
        self.search = self.search.sharing(self.exact.prefixes)

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> LabelScores:
        """See `Scorer`; without `all_labels`, `local` may be NaN except for the label found, `margin` a lower bound."""
        rows = check_prompts(prompts)
        if want_global or all_labels or not rows or self.choose(rows).method == "exact":
            return self.exact.score(rows, want_global, progress)
        return self.search.score(rows, progress=progress)

    def choose(self, prompts: Prompts) -> Choice:
        """The method for these prompts."""
        prefix = shared_prefix_length(prompts)
        own = sum(map(len, prompts)) / len(prompts) - prefix
        return choose_method(self.costs, PromptShape(prefix, own, len(prompts)), self.exact.decoder.device.type)
