"""What a scorer is, and what it says of a batch of prompts.

scores = scorer.score(prompts, want_global=True)
scores.local.exp().sum(1)          # ones
scores.predicted, scores.margin
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from llmcls.engine.trie import LabelTrie

Prompts = Sequence[Sequence[int]]
"""Token ids, one sequence a prompt, each at least one token."""

Progress = Callable[[int], None]
"""Called with the number of rows finished since its last call."""

Scores = TypeVar("Scores", covariant=True)


class Scorer(Protocol[Scores]):
    """Anything that scores tokenised prompts: `LabelScores` for one label a row; other answers have other scores."""

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> Scores:
        """Score prompts; entry i of the result belongs to `prompts[i]`.

        Args:
            prompts: token ids.
            want_global: also compute the probabilities under the full softmax, and with them the label mass.
            progress: hears of finished rows.
            all_labels: compute every label's probability, also where the label alone would cost less. A method that
                can only search gives the same with and without.

        Raises:
            LlmclsError: for a prompt without tokens, or `want_global` where the scores have no such thing.
        """
        ...

    def warm_up(self, prompts: Prompts) -> None:
        """Keep what these prompts share, and from now on nothing else.

        Afterwards the scores of a call depend on its own prompts only, to the last bit, and not on the calls before.
        """
        ...


TIE_TOLERANCE = {torch.float32: 2e-4, torch.float16: 0.04, torch.bfloat16: 0.3}
"""Margins, in nats, below which two labels are as good as equal, by the number format that the model computes in.

Another batch, pack or kernel changes log-probabilities a little: scores agree with one plain forward per row and label
to 1e-4 in float32 and to 0.15 in bfloat16 (8 bits of mantissa), which tests hold the engine to; float16 has 3 bits
more, so an eighth of that. A margin is the difference of two scores: twice as much."""


def tie_tolerance(dtype: torch.dtype, quantization: str = "none") -> float:
    """The margin below which two labels count as tied.

    4-bit weights are converted to `dtype` before anything is multiplied: they change what is computed, not how exactly.
    8-bit layers round the activations as well, by columns that depend on the whole batch (LLM.int8()): with nano, packs
    of another size move scores by 0.1, as in bfloat16.
    """
    return max(TIE_TOLERANCE[dtype], TIE_TOLERANCE[torch.bfloat16] if quantization == "8bit" else 0.0)


@dataclass(frozen=True)
class LabelScores:
    """Log-probabilities of labels given prompts, float32, on the CPU.

    Write y = (y_1 ... y_n) for the tokens of an answer, end token included, x_i for prompt i,
    p(t | x, y_<k) for the model's softmax over the full vocabulary, and C(y_<k) for the tokens by which some
    answer continues y_<k (the children in the label trie). A label with aliases has several answers, which exclude
    each other: its probability is the sum of theirs, in `local`, in `global_` and in `label_mass` alike.

    Attributes:
        local: (rows, labels). `local[i, j] = log sum_y prod_k p(y_k | x_i, y_<k) / sum_{t in C(y_<k)} p(t | x_i, y_<k)`
            over the answers y of label j (one, without aliases): what constrained decoding samples from;
            `local.exp()` sums to 1 over labels. NaN where the method did not compute it (`greedy`, `best-first` and
            `generate` look at a part of the labels only).
        predicted: (rows,) int64 label index: the argmax of `local` (the lowest index of equals) for `exact`,
            `reference` and `best-first`; the label that greedy decoding ends in for `greedy` and `generate`.
        margin: (rows,) `local` of the predicted label minus an upper bound of every other label's. Never negative
            where the prediction is certified as the argmax; a negative one says that greedy decoding may have
            missed a better label; zero is a tie (see `TIE_TOLERANCE`); NaN for `generate`; infinite for a single label.
        fed: (rows,) int64, label tokens that went through the model for each row, the prompt not counted.
        global_: (rows, labels) or None. `global_[i, j] = log sum_y prod_k p(y_k | x_i, y_<k)` = log P(an answer of
            label j and its end token | prompt i) under the full softmax, not renormalised.
        label_mass: (rows,) or None. `label_mass[i] = log sum_j exp(global_[i, j])` <= 0: how probable the
            unconstrained model finds any valid answer at all.
        failed: (rows,) bool, where the model's logits were NaN or infinite; the other values of such a row say nothing.
            None: nowhere. A label may have a log-probability of minus infinity, a row may not have it for all labels.
    """

    local: torch.Tensor
    predicted: torch.Tensor
    margin: torch.Tensor
    fed: torch.Tensor
    global_: torch.Tensor | None = None
    label_mass: torch.Tensor | None = None
    failed: torch.Tensor | None = None

    def __post_init__(self) -> None:
        rows = len(self.local)
        for name in ("predicted", "margin", "fed", "global_", "label_mass", "failed"):
            value = getattr(self, name)
            expected = self.local.shape if name == "global_" else (rows,)
            if value is not None and tuple(value.shape) != tuple(expected):
                raise LlmclsError(
                    f"LabelScores.{name} has shape {tuple(value.shape)}, but must be {tuple(expected)}; "
                    "build it from the same rows and labels as `local`."
                )

    @classmethod
    def from_exact(
        cls, local: torch.Tensor, global_: torch.Tensor | None, fed_per_row: int, trie: LabelTrie
    ) -> LabelScores:
        """Complete the scores of a method that knows every answer.

        Args:
            local, global_: (rows, answers), one column per answer of the trie.
            fed_per_row: label tokens that went through the model.
            trie: which answers are spellings of one label.
        """
        local = sum_spellings(local.float(), trie).cpu()
        global_ = None if global_ is None else sum_spellings(global_.float(), trie).cpu()
        rows, labels = local.shape
        margin = torch.full((rows,), float("inf"))
        if labels > 1:
            best = local.topk(2, dim=1).values
            margin = best[:, 0] - best[:, 1]
        label_mass = None if global_ is None else global_.logsumexp(1)
        failed = unusable(local)
        if label_mass is not None:  # minus infinity: some logit outside the labels was infinite
            failed |= ~label_mass.isfinite()
        return cls(
            local=local,
            predicted=local.argmax(1),
            margin=margin,
            fed=torch.full((rows,), fed_per_row),
            global_=global_,
            label_mass=label_mass,
            failed=failed,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[LabelScores]) -> LabelScores:
        """The scores of consecutive batches of rows as one."""
        joined: dict[str, torch.Tensor | None] = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            if field.name == "failed":  # None says that none has
                values = [part.failing for part in parts]
            joined[field.name] = None if values[0] is None else torch.cat(values)
        return cls(**joined)  # type: ignore[arg-type]

    @property
    def failing(self) -> torch.Tensor:
        """(rows,) bool: `failed`, all False where that is None."""
        return torch.zeros(len(self.local), dtype=torch.bool) if self.failed is None else self.failed

    def take(self, rows: Sequence[int]) -> LabelScores:
        """The scores of some rows, in this order."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {n: None if value is None else value[list(rows)] for n, value in values.items()}
        return LabelScores(**chosen)


def unusable(scores: torch.Tensor) -> torch.Tensor:
    """(rows,) bool: which rows of log-probabilities (rows, labels) say nothing: NaN or +inf in it, or all -inf.

    Minus infinity is the log-probability of a label that cannot be, as some architectures forbid tokens.
    """
    bad = scores.isnan().any(1) | (scores == float("inf")).any(1)
    return bad | (scores == float("-inf")).all(1) if scores.shape[1] else bad


def sum_spellings(values: torch.Tensor, trie: LabelTrie) -> torch.Tensor:
    """Log-probabilities of answers (rows, answers) to those of labels (rows, labels): a log-sum-exp over spellings."""
    if not trie.has_aliases:
        return values
    label = torch.from_numpy(trie.labels).to(values.device).expand(values.shape)
    shape = (len(values), len(trie))
    # Shifted by each label's largest term, or labels of probability 1e-40 would be lost among others.
    largest = values.new_full(shape, float("-inf")).scatter_reduce(1, label, values, "amax").clamp(min=-1e30)
    total = values.new_zeros(shape).scatter_add_(1, label, (values - largest.gather(1, label)).exp())
    return total.log() + largest
