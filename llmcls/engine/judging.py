"""Validation rows from one reading each: what the model answers, and how large the loss of the right answer is.

    judge = LabelJudge.plan(model, trie, objective, prompts, probabilities=False)
    judged = judge(prompts, labels)                # judged.targets, judged.probabilities, judged.loss

The objective `label` asks for log-probabilities that scoring computes anyway: those of the choices on the way to the
row's answer. Without smoothing a row's loss is `-local[i, label_i]`, of the label's own answer where it has aliases
(see `Objective`). The plain way, `packed_loss` or `padded_loss` and a scorer beside it, gives the same in float32 to
1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from llmcls.engine.choice import AutoScorer
from llmcls.engine.objectives import Objective
from llmcls.engine.packed import PackedScorer
from llmcls.engine.plan import ScoringPlan
from llmcls.engine.scores import LabelScores, Progress, Prompts
from llmcls.engine.search import SearchScorer
from llmcls.engine.tree import check_prompts
from llmcls.engine.trie import LabelTrie
from llmcls.engine.yesno import QuestionTrie


@dataclass(frozen=True)
class Judged:
    """What became of some rows.

    Attributes:
        targets: what is answered: int64, (rows, *target_shape).
        probabilities: of every label, float64 on the CPU, (rows, labels); None where they were not asked for.
        loss: the weighted sum of the rows' losses and what it is to be divided by; None where the loss is of another
            kind.
    """

    targets: torch.Tensor
    probabilities: torch.Tensor | None
    loss: tuple[float, float] | None


@dataclass(frozen=True)
class LabelJudge:
    """One label a row; see the module.

    Attributes:
        scorer: both methods.
        objective: whose loss is wanted.
        exact: by `exact`, which gives every label's probability, or else by `best-first`.
    """

    scorer: AutoScorer
    objective: Objective
    exact: bool

    @classmethod
    def plan(
        cls,
        model: Any,
        trie: LabelTrie,
        objective: Objective,
        prompts: Prompts,
        *,
        probabilities: bool,
        pack_tokens: int | None = None,
    ) -> Self:
        """Choose the method: the cheaper one for all these prompts, of which a process may get a part.

        Args:
            model: a model that `supports_packing`.
            trie: the labels' answers.
            objective: whose loss is wanted; only `label` has it.
            prompts: all rows, at least one.
            probabilities: whether every label's probability is needed, which takes `exact`.
            pack_tokens: tokens per forward; None chooses for the device.
        """
        exact = PackedScorer(model, trie, pack_tokens=pack_tokens)
        scorer = AutoScorer(exact, SearchScorer(model, trie, pack_tokens=pack_tokens))
        return cls(scorer, objective, probabilities or scorer.choose(prompts).method == "exact")

    @property
    def probable(self) -> bool:
        """Whether it gives every label's probability."""
        return self.exact

    @property
    def knows_loss(self) -> bool:
        """Whether it gives the loss: that of `sft` is over the whole vocabulary."""
        return self.objective.name == "label"

    def __call__(self, prompts: Prompts, targets: Sequence[int], progress: Progress | None = None) -> Judged:
        """Read at least one row, whose right label is `targets[i]`."""
        rows, labels = check_prompts(prompts), list(targets)
        if not self.exact:
            scores, way = self.scorer.search.guided(rows, labels, progress)
            return Judged(scores.predicted, None, self._loss(way.nll, way.uniform, labels))
        exact = self.scorer.exact
        plan = exact.plan(full=False)
        choices = exact.choices(rows, plan, progress)
        answers = plan.accumulate(choices)
        scores = LabelScores.from_exact(answers, None, 0, exact.trie)
        nll = -answers[torch.arange(len(rows)), torch.tensor(labels)]
        uniform = _uniform(choices, plan, labels)
        return Judged(scores.predicted, scores.local.double().exp(), self._loss(nll, uniform, labels))

    def _loss(self, nll: torch.Tensor, uniform: torch.Tensor, labels: Sequence[int]) -> tuple[float, float] | None:
        if not self.knows_loss:
            return None
        smoothing = self.objective.label_smoothing
        weights = torch.tensor([self.objective.weight(label) for label in labels], dtype=torch.float64)
        losses = (1 - smoothing) * nll.double() + smoothing * uniform.double()
        return float((losses * weights).sum()), float(weights.sum())


def _uniform(choices: torch.Tensor, plan: ScoringPlan, labels: Sequence[int]) -> torch.Tensor:
    """(rows,) the cross-entropy of uniform targets, summed over the choices on the way to each row's answer."""
    degree = np.diff(plan.edge_start)
    owner = torch.from_numpy(np.repeat(np.arange(len(degree)), degree))
    means = choices.new_zeros(len(choices), len(degree)).index_add_(1, owner, choices) / torch.from_numpy(degree)
    ways = {label: _scored_on_the_way(plan, label, owner.numpy()) for label in set(labels)}
    return torch.stack([-means[row, ways[label]].sum() for row, label in enumerate(labels)])


def _scored_on_the_way(plan: ScoringPlan, answer: int, owner: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    nodes, edge = [], int(plan.answer_edge[answer])
    while edge >= 0:
        nodes.append(int(owner[edge]))
        edge = int(plan.edge_parent[edge])
    return nodes


@dataclass(frozen=True)
class YesNoJudge:
    """Yes or no about every label; see the module and `packed_yes_no_batch`.

    Attributes:
        scorer: scores the questions' answers.
        questions: the labels' questions.
        objective: whose loss is wanted.
    """

    scorer: PackedScorer
    questions: QuestionTrie
    objective: Objective
    probable = True
    knows_loss = True

    @classmethod
    def plan(cls, model: Any, questions: QuestionTrie, objective: Objective, *, pack_tokens: int | None = None) -> Self:
        """For a model that `supports_packing`; all questions are asked."""
        return cls(PackedScorer(model, questions.trie, pack_tokens=pack_tokens), questions, objective)

    def __call__(self, prompts: Prompts, targets: Sequence[Sequence[int]], progress: Progress | None = None) -> Judged:
        """Read at least one row; `targets[i]` has 1 for every label of row i, else 0."""
        plan = self.questions.plan
        choices = self.scorer.choices(check_prompts(prompts), plan, progress)
        yes = choices[:, torch.from_numpy(plan.answer_edge)]
        no = choices[:, torch.from_numpy(plan.answer_edge + 1)]  # edges stand two by two
        true = torch.tensor([list(row) for row in targets], dtype=torch.float64)
        smoothing, size = self.objective.label_smoothing, len(self.questions)
        nll = -torch.where(true == 1, yes.double(), no.double())
        losses = (1 - smoothing) * nll - smoothing * (yes.double() + no.double()) / 2
        weights = torch.where(true == 1, torch.tensor([self.objective.weight(label) for label in range(size)]), 1.0)
        found = yes.exp()
        return Judged((found >= 0.5).long(), found.double(), (float((losses * weights).sum()) / size, float(len(true))))
