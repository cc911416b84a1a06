"""Training on rows with any number of labels: how they are laid out, predicted on the way, and thresholds at the end.

collator = make_collator(encoder, goal, packed=True, pad_token_id=0)     # for any form of answer
thresholds = tune_on_rows(model, encoder, validation_rows, reporter)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from llmcls.engine.decoder import supports_packing
from llmcls.engine.lists import generate_lists, list_items
from llmcls.engine.objectives import Batch, Objective, packed_batch, padded_batch
from llmcls.engine.trie import LabelTrie
from llmcls.engine.yesno import (
    QuestionTrie,
    YesNoScorer,
    make_yes_no_scorer,
    packed_yes_no_batch,
    padded_yes_no_batch,
)
from llmcls.prompt.encoding import Encoder
from llmcls.thresholds import UNTUNED, Thresholds, tune_thresholds
from llmcls.training.batches import Collator, round_up
from llmcls.training.validation import multilabel_metrics

if TYPE_CHECKING:
    from llmcls.progress import Reporter


class MultiLabelCollator(Collator):
    """What rows with 0 or 1 for every label in `label` have in common."""

    def __init__(self, encoder: Encoder, goal: Objective, **options: Any) -> None:
        super().__init__(encoder.answers, goal, **options)
        self.shape = (len(encoder.labels),)
        self._some_label = [0] * len(encoder.labels)

    def measure(self, true: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
        """See `Collator`."""
        return multilabel_metrics(true, predicted)


class YesNoCollator(MultiLabelCollator):
    """Lays rows out with every label's question."""

    def __init__(self, encoder: Encoder, goal: Objective, **options: Any) -> None:
        super().__init__(encoder, goal, **options)
        self._questions = QuestionTrie.between(encoder.answers, encoder.denials)

    def predict(self, model: Any, prompts: Sequence[Sequence[int]], batch_size: int) -> torch.Tensor:
        """(rows, labels) int64: 1 where the label's yes is at least as probable as its no."""
        return (_make_scorer(model, self._questions).score(prompts).exp() >= UNTUNED).long()

    def _behind(self, label: Any) -> int:
        return len(self._questions.plan.branch.tokens)

    def _lay_out(self, prompts: Sequence[Sequence[int]], labels: Sequence[Any]) -> Batch:
        positions = [_positions(row) for row in labels]
        if self.packed:
            return round_up(packed_yes_no_batch(prompts, positions, self._questions, self._goal))
        return padded_yes_no_batch(prompts, positions, self._questions, self._goal, pad_token_id=self._pad)


class ListCollator(MultiLabelCollator):
    """Lays rows out with the list of their labels, in the order of the label set."""

    def __init__(self, encoder: Encoder, goal: Objective, **options: Any) -> None:
        super().__init__(encoder, goal, **options)
        self._items = list_items(encoder)

    def predict(self, model: Any, prompts: Sequence[Sequence[int]], batch_size: int) -> torch.Tensor:
        """(rows, labels) int64: 1 for the labels that constrained `generate()` lists."""
        found = generate_lists(model, prompts, self._items, pad_token_id=self._pad, batch_size=batch_size)
        return torch.tensor([[int(label in said) for label in range(*self.shape)] for said in found])

    def _behind(self, label: Any) -> int:
        return len(self._items.tokens(_positions(label)))

    def _lay_out(self, prompts: Sequence[Sequence[int]], labels: Sequence[Any]) -> Batch:
        said = [self._items.tokens(_positions(row)) for row in labels]
        answers = sorted(set(said))  # the objective knows answers by their number
        numbers = [answers.index(tokens) for tokens in said]
        if self.packed:
            return round_up(packed_batch(prompts, numbers, LabelTrie(answers), self._goal))
        return padded_batch(prompts, numbers, LabelTrie(answers), self._goal, pad_token_id=self._pad)


def make_collator(encoder: Encoder, goal: Objective, **options: Any) -> Collator:
    """The collator for the encoder's form of answer; options as of `Collator`."""
    if encoder.form == "label":
        return Collator(LabelTrie(encoder.answers, encoder.answer_labels), goal, **options)
    return (ListCollator if encoder.form == "list" else YesNoCollator)(encoder, goal, **options)


def tune_on_rows(model: Any, encoder: Encoder, rows: Sequence[dict[str, Any]], reporter: Reporter) -> Thresholds:
    """Thresholds with the best F1 of the trained model on encoded rows, in evaluation mode; 0.5 without rows."""
    if not rows:
        return Thresholds.untuned(len(encoder.labels))
    scorer = _make_scorer(model, QuestionTrie.between(encoder.answers, encoder.denials))
    with reporter.track("Tuning thresholds", total=len(rows)) as advance:
        scores = scorer.score([row["input_ids"] for row in rows], progress=advance)
    return tune_thresholds(scores.double().exp().numpy(), [row["label"] for row in rows])


def _make_scorer(model: Any, questions: QuestionTrie) -> YesNoScorer:
    """Training has warned already where the model cannot be packed."""
    return make_yes_no_scorer(model, questions, method="reference" if supports_packing(model) else "exact")


def _positions(flags: Sequence[int]) -> list[int]:
    return [label for label, has in enumerate(flags) if has]
