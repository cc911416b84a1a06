"""What a model answers when nothing holds it to its labels, beside what it answers when something does.

    answers = classifier.answer_freely(examples)
    report = compare_free(examples, answers, classifier.classify(examples))
    report.exact_match, report.invalid, report.constrained_accuracy      # 0.81, 0.06, 0.86
    report.rows[0].free                                                  # 'Billing.'

Comparing what a model generates with the label, string by string, is how fine-tuned language models are often measured.
An answer that is not a label is then a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError
from llmcls.evaluation.files import write_rows
from llmcls.records import Example, Prediction

if TYPE_CHECKING:
    from llmcls.engine.scores import Progress
    from llmcls.prompt.encoding import Encoder

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


def answer_freely(
    model: Any,
    encoder: Encoder,
    examples: Sequence[Example],
    read: Callable[[Sequence[int]], Collection[str] | None],
    *,
    positions: int | None,
    batch_size: int,
    progress: Progress | None = None,
) -> list[FreeAnswer]:
    """What the model says of each example by itself; the call for users is `Classifier.answer_freely`.

    Args:
        model: any Hugging Face causal LM.
        encoder: turns examples into its prompts.
        examples: the rows.
        read: the labels that an answer's tokens name; None where they name none.
        positions: tokens that the model has places for; None: any number.
        batch_size: rows per call of `generate`.
        progress: called with the number of rows finished since its last call.
    """
    from llmcls.engine.free import generate_free

    prompts = [prompt.input_ids for prompt in encoder.encode(examples)]
    # A prompt leaves room for the longest answer, which may be shorter than a free one.
    room = FREE_TOKENS if positions is None else positions - max(map(len, prompts), default=0)
    said = generate_free(
        model,
        prompts,
        # Chat models end a turn with one token and a text with another; each of them is an end.
        ends={encoder.end_token_id, encoder.tokenizer.eos_token_id} - {None},
        pad_token_id=int(encoder.tokenizer.pad_token_id),
        max_new_tokens=max(encoder.spelled.longest, min(FREE_TOKENS, room)),
        batch_size=batch_size,
        progress=progress,
    )
    named = [read(tokens) for tokens in said]
    return [
        FreeAnswer(encoder.read_answer(tokens), None if labels is None else tuple(labels))
        for tokens, labels in zip(said, named, strict=True)
    ]


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

    def write(self, path: str | Path, separator: str = ",", *, escape_formulas: bool = False) -> None:
        """Write all rows as CSV: source, text, label, free, read_as, valid, correct, constrained.

        Args:
            path: the file.
            separator: joins several labels of a row; `read_as` is empty where an answer is not valid, or names none.
            escape_formulas: see `write_rows`.

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
            escape_formulas=escape_formulas,
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
