"""What a model answers when nothing holds it to its labels, beside what it answers when something does.

    answers = classifier.answer_freely(examples)
    report = compare_free(examples, answers, classifier.classify(examples))
    report.exact_match, report.invalid, report.constrained_accuracy      # 0.81, 0.06, 0.86
    report.rows[0].free                                                  # 'Billing.'

Comparing what a model generates with the label, string by string, is how fine-tuned language models are often measured.
An answer that is no label is then a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcls.errors import LlmclsError
from llmcls.evaluation.files import write_rows
from llmcls.records import Example, Prediction

FREE_TOKENS = 8
"""Tokens of a free answer at least, as others generate; where an answer is longer, as many as the longest."""

COLUMNS = ("source", "text", "label", "free", "read_as", "valid", "correct", "constrained")


@dataclass(frozen=True, slots=True)
class FreeAnswer:
    """What the model said of one text.

    Attributes:
        text: as it was said, without the end token and stripped; control tokens are text.
        labels: the labels that it names, aliases counting as their label; None where it is not a valid answer.
    """

    text: str
    labels: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class FreeRow:
    """One row of the comparison.

    Attributes:
        example: the row.
        free: what the model said.
        read_as: the labels that this names; None where it is not a valid answer.
        constrained: what it predicted where only labels could come out, whatever the thresholds.
        correct: whether `read_as` are the row's labels.
        constrained_correct: whether `constrained` are.
    """

    example: Example
    free: str
    read_as: tuple[str, ...] | None
    constrained: str
    correct: bool
    constrained_correct: bool


@dataclass(frozen=True, slots=True)
class FreeReport:
    """How free answers compare with the labels, and with constrained answers on the same rows.

    Attributes:
        rows: the rows, in order.
    """

    rows: tuple[FreeRow, ...]

    @property
    def exact_match(self) -> float:
        """Share of rows whose free answer is the label; of several labels, all of them and no other, in any order."""
        return self._share([row.correct for row in self.rows])

    @property
    def invalid(self) -> float:
        """Share of rows whose free answer is not a valid answer at all."""
        return self._share([row.read_as is None for row in self.rows])

    @property
    def constrained_accuracy(self) -> float:
        """Share of rows whose constrained answer is right; of several labels, all of them."""
        return self._share([row.constrained_correct for row in self.rows])

    def figures(self) -> dict[str, Any]:
        """The figures by name."""
        return {
            "rows": len(self.rows),
            "exact_match": self.exact_match,
            "invalid": self.invalid,
            "constrained_accuracy": self.constrained_accuracy,
        }

    def examples(self, count: int) -> list[FreeRow]:
        """A few rows to look at: invalid answers first, then wrong ones, then those that constrained ones correct."""

        def rank(row: FreeRow) -> tuple[bool, bool, bool]:
            return row.read_as is not None, row.correct, row.correct == row.constrained_correct

        return sorted(self.rows, key=rank)[:count]

    def write(self, path: str | Path, separator: str = ",") -> None:
        """Write all rows as CSV: source, text, label, free, read_as, valid, correct, constrained.

        Args:
            path: the file.
            separator: joins several labels of a row; `read_as` is empty where an answer is not valid, or names none.

        Raises:
            LlmclsError: when the file cannot be written.
        """
        write_rows(
            path,
            COLUMNS,
            (
                (
                    row.example.source,
                    row.example.text,
                    row.example.label or "",
                    row.free,
                    separator.join(row.read_as or ()),
                    str(row.read_as is not None).lower(),
                    str(row.correct).lower(),
                    row.constrained,
                )
                for row in self.rows
            ),
        )

    def _share(self, flags: Sequence[bool]) -> float:
        return sum(flags) / len(flags)


def compare_free(
    examples: Sequence[Example], answers: Sequence[FreeAnswer], predictions: Sequence[Prediction]
) -> FreeReport:
    """Compare free answers with the examples' labels, and with constrained predictions of the same rows.

    Args:
        examples: the rows, each with its label or labels.
        answers: of `Classifier.answer_freely`.
        predictions: of `Classifier.classify`.

    Raises:
        LlmclsError: for no rows, or differing numbers of them.
    """
    if not len(examples) == len(answers) == len(predictions) > 0:
        raise LlmclsError(
            f"There are {len(examples)} examples, {len(answers)} free answers and {len(predictions)} predictions; give "
            "one of each for every row, and at least one row."
        )
    rows = []
    for example, answer, prediction in zip(examples, answers, predictions, strict=True):
        true = set(example.names)
        given = set(prediction.labels) if prediction.labels is not None else {prediction.best}
        correct = answer.labels is not None and set(answer.labels) == true
        rows.append(FreeRow(example, answer.text, answer.labels, prediction.best, correct, given == true))
    return FreeReport(tuple(rows))
