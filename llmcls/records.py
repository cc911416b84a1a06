"""The records that travel data's one road: `Example` in, `Prediction` out.

reader.read() -> Example -> template.render() -> Prompt -> encode() -> engine -> Prediction
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    Attributes:
        text: what is to be classified; several text columns are already joined.
        label: the true label's name, or None where it is not known (prediction); of a multi-label row the names of
            all its labels, joined by the separator.
        fields: the row's other columns by name, all as text; a template may use them.
        source: where the row came from, for messages: `train.csv:17`.
        labels: the names of a multi-label row's labels, in the order of the label set; None for a single-label task.
        weight: how much a training row counts beside others; of no meaning to prediction and evaluation.
    """

    text: str
    label: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    labels: tuple[str, ...] | None = None
    weight: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """The true labels' names: one, or of a multi-label row any number; empty where nothing is known."""
        if self.labels is not None:
            return self.labels
        return () if self.label is None else (self.label,)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one text.

    Attributes:
        label: the predicted label's name; the settings' `no_answer` where a threshold was missed; of a multi-label
            task all predicted names, joined by the separator.
        probability: the predicted label's probability; NaN where the method computes none. Multi-label: that
            exactly the predicted labels apply, the product over all labels of P(label) where it is predicted and
            1 - P(label) where it is not, for each is decided on its own.
        probabilities: one per label, in the order of the classifier's `classes_`, summing to 1 unless the task is
            multi-label; NaN for labels that the method did not look at; empty where not asked for.
        margin: log-probability by which the label beats every other one, or a lower bound of it (`best-first`); NaN
            where not computed.
        label_mass: probability that the unconstrained model answers with any valid label at all, or None where not
            asked for; a low value means the text is unlike what the labels expect.
        truncated: whether the text was cut to fit.
        tie: whether the margin is below what rounding can decide in the model's number format: another batch size or
            device may turn the label round (`llmcls.engine.scores.tie_tolerance`).
        withheld: the predicted label where `label` is `no_answer`; None where the row was answered.
        labels: the predicted names of a multi-label task, in the order of `classes_`; else None.
        failed: whether the model's scores were NaN or infinite, so that there is no label; everything else says nothing
            then. `Classifier` raises instead, unless it is asked to mark such rows.
    """

    label: str
    probability: float
    probabilities: tuple[float, ...]
    margin: float
    label_mass: float | None = None
    truncated: bool = False
    tie: bool = False
    withheld: str | None = None
    labels: tuple[str, ...] | None = None
    failed: bool = False

    @classmethod
    def failure(cls, *, truncated: bool = False) -> Prediction:
        """What is said of a row whose scores are NaN or infinite: nothing."""
        nothing = float("nan")
        return cls("", nothing, (), nothing, truncated=truncated, failed=True)

    @property
    def best(self) -> str:
        """The predicted label, whatever the thresholds."""
        return self.label if self.withheld is None else self.withheld
