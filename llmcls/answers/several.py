"""What the forms with any number of labels a text have in common: flags as targets, figures, reports, the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcls.answers.form import Figure
from llmcls.errors import LlmclsError
from llmcls.records import Example, Prediction
from llmcls.settings.task import Limit

if TYPE_CHECKING:
    from llmcls.evaluation.multilabel import MultiLabelReport
    from llmcls.evaluation.thresholds import Thresholds
    from llmcls.labels import LabelSet
    from llmcls.prompt.encoding import EncodedPrompt
    from llmcls.settings import PredictionSettings

TASK = "multi_label"

COUNTED = ("subset_accuracy", "precision", "recall", "macro_f1", "micro_precision", "micro_recall", "micro_f1")
"""The figures of `measure` that need no probabilities."""

LIMITS: Mapping[str, Limit] = {
    "training.metric_for_best_model": Limit(
        "training.metric_for_best_model {value} is for single labels; choose "
        f"{', '.join(map(repr, COUNTED))} or 'roc_auc'",
        ("loss", "accuracy", *COUNTED, "roc_auc"),
    ),
    "training.class_weights": Limit(
        "training.class_weights {value} is for single labels: with task multi_label a weight is of a label's yes "
        "against its no; choose 'balanced' or give a mapping",
        refused=("inverse",),
    ),
    "data.max_per_class": Limit(
        "data.max_per_class needs rows of one class each, but with task multi_label they have many"
    ),
    "prompt.verbalizer": Limit(
        "prompt.verbalizer {value} answers with one label; with task multi_label set it to 'name'"
    ),
    "prediction.min_probability": Limit(
        "prediction.min_probability is for single labels: a text with several may have none"
    ),
    "prediction.min_label_mass": Limit(
        "prediction.min_label_mass is for single labels: a text with several may have none"
    ),
}

UNKNOWN_METHOD = (
    "task multi_label looks at every label, so prediction.method must be 'auto', 'exact', 'reference' or 'list', not "
    "{value}"
)

LACKS: Mapping[Figure, str] = {
    "label_mass": "a text may have several labels",
    "margin": "a text may have several labels",
}


class SeveralLabels:
    """The part of `llmcls.answers.form.Form` that does not depend on how the labels are answered.

    A target is 0 or 1 for every label.
    """

    def target(self, example: Example, labels: LabelSet) -> list[int]:
        """0 or 1 for every label, in order."""
        positions = {labels.position(name) for name in example.names}
        return [int(position in positions) for position in range(len(labels))]

    def balance(self, counts: Sequence[int], rows: int) -> tuple[float, ...]:
        """(n - count) / count: as much of a label's yes as of all its no, which torch recommends for `pos_weight`."""
        # A label that every row has would get 0, and its yes would not be learnt.
        return tuple(max(rows - count, 1) / count for count in counts)

    def measure(
        self, true: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]], probabilities: Any = None
    ) -> dict[str, float]:
        """See `multilabel_metrics`."""
        from llmcls.evaluation.multilabel import multilabel_metrics

        return multilabel_metrics(true, predicted, probabilities)

    def baseline(
        self, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example], labels: LabelSet
    ) -> MultiLabelReport:
        """One binary model a label, with thresholds tuned on `validation`."""
        from llmcls.evaluation.baseline import evaluate_multilabel_baseline

        return evaluate_multilabel_baseline(train, validation, test, labels)


def refuse_abstaining(how: PredictionSettings) -> None:
    """Refuse thresholds below which a row would get no answer.

    Raises:
        LlmclsError: when one is set.
    """
    if how.may_abstain:
        raise LlmclsError(
            "prediction.min_probability and min_label_mass are for single labels: a text with several labels may as "
            "well have none; leave them out."
        )


def positions_of(flags: Sequence[int]) -> list[int]:
    """The labels that a target has."""
    return [label for label, has in enumerate(flags) if has]


def predictions_of(
    prompts: Sequence[EncodedPrompt],
    chosen: Sequence[tuple[str, ...]],
    sure: Sequence[float],
    probabilities: Sequence[Sequence[float]],
    separator: str,
    failed: Sequence[bool] | None = None,
) -> Iterator[Prediction]:
    """Predictions from each row's labels, the probability of exactly these labels, that of each, and what failed."""
    failed = [False] * len(prompts) if failed is None else failed
    for prompt, labels, whole, row, fails in zip(prompts, chosen, sure, probabilities, failed, strict=True):
        if fails:
            yield Prediction.failure(truncated=prompt.truncated)
            continue
        joined = separator.join(labels)
        yield Prediction(joined, whole, tuple(row), float("nan"), truncated=prompt.truncated, labels=labels)


def report_several(
    examples: Sequence[Example], predictions: Sequence[Prediction], labels: LabelSet, thresholds: Thresholds | None
) -> MultiLabelReport:
    """Compare predictions with the examples' labels; without thresholds there are no probabilities either."""
    from llmcls.evaluation.multilabel import compute_multilabel_report

    return compute_multilabel_report(
        [example.names for example in examples],
        [prediction.labels or () for prediction in predictions],
        labels,
        [prediction.probabilities for prediction in predictions] if thresholds else None,
        thresholds,
        truncated=sum(prediction.truncated for prediction in predictions),
    )
