"""Every figure of an evaluation, computed once into an `EvaluationReport`.

    report = compute_report(true, predicted, labels, probabilities=probabilities)
    report.accuracy, report.macro_f1, report.per_class[0].recall

scikit-learn computes all but the calibration error, which it does not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmcls.errors import LlmclsError, several, unknown
from llmcls.labels import LabelSet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Codes = npt.NDArray[np.int64]

ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """How one label was recognised.

    Attributes:
        label: its name.
        precision: of the rows predicted as this label, the share that has it; None when it was never predicted.
        recall: of the rows that have this label, the share predicted so; None when it never occurs.
        f1: harmonic mean of both, 0 where just one of them is None; None when both are.
        support: rows that have this label.
        predicted: rows predicted as this label.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All figures of one evaluation. None means: not defined for these rows, or no probabilities were given.

    Attributes:
        labels: the label names, in the order of the label set.
        rows: number of rows evaluated.
        truncated: how many of them had their text cut.
        accuracy: share of rows predicted right.
        balanced_accuracy: mean recall over the labels that occur.
        micro_f1: F1 of the pooled decisions; equals accuracy, because every row has exactly one label.
        macro_f1: mean F1 over the labels that occur or were predicted (as `sklearn.metrics.f1_score` does it).
        weighted_f1: the same mean weighted by support.
        per_class: one `ClassMetrics` per label, in order.
        confusion: `confusion[i][j]` = rows with true label i predicted as label j.
        nll: mean of -ln P(true label), in nats; probabilities below 2.2e-16 count as that.
        brier: mean over rows of sum_j (P(j) - [j is true])^2, between 0 and 2 (Brier 1950), for two labels as well.
        ece: expected calibration error of the predicted label, 15 equal-width bins; see `calibration_error`.
        macro_roc_auc: mean one-vs-rest area under the ROC curve; None unless every label occurs.
        mean_confidence: mean probability of the predicted label; above `accuracy` = overconfident.
        coverage: where a threshold lets the classifier abstain, the share of rows that it answers; None without one.
            All other figures are about every row, with the label that it would have given.
        answered_accuracy: share of the answered rows predicted right; None without a threshold, or no answer.
        macro_precision, macro_recall: means over the labels that occur or were predicted, an undefined one counting 0
            (as `sklearn.metrics.classification_report` does it); None in a file of an older version.
        weighted_precision, weighted_recall: the same means weighted by support; the recall equals accuracy.

    Raises:
        LlmclsError: when labels, per-class rows, confusion matrix and row count do not fit each other.
    """

    FIGURES: ClassVar[tuple[tuple[str, str, int], ...]] = (
        ("accuracy", "accuracy", 1),
        ("balanced_accuracy", "balanced accuracy", 1),
        ("macro_f1", "macro F1", 1),
        ("weighted_f1", "weighted F1", 1),
        ("macro_precision", "macro precision", 1),
        ("macro_recall", "macro recall", 1),
        ("weighted_precision", "weighted precision", 1),
        ("macro_roc_auc", "macro ROC-AUC", 1),
        ("nll", "log loss (nats)", -1),
        ("brier", "Brier score", -1),
        ("ece", "calibration error (ECE)", -1),
        ("mean_confidence", "mean confidence", 0),
        ("coverage", "rows answered (coverage)", 0),
        ("answered_accuracy", "accuracy on answered rows", 1),
    )
    """What tables show: field, name, and whether more is better (1), worse (-1) or neither (0).

    `micro_f1` and `weighted_recall` would repeat the accuracy.
    """

    AVERAGES: ClassVar[tuple[str, ...]] = ("macro", "weighted")
    """Of which averages there are precision, recall and F1, `macro_precision` and so on."""

    HEADLINES: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    """The figures that say it in one line; the first counts most."""

    ENTRY: ClassVar[type] = ClassMetrics
    ENTRY_COLUMNS: ClassVar[tuple[tuple[str, str], ...]] = ()
    """What a row of `per_class` has besides precision, recall and F1: field and column heading."""

    labels: tuple[str, ...]
    rows: int
    truncated: int
    accuracy: float
    balanced_accuracy: float
    micro_f1: float
    macro_f1: float
    weighted_f1: float
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    macro_roc_auc: float | None = None
    mean_confidence: float | None = None
    coverage: float | None = None
    answered_accuracy: float | None = None
    macro_precision: float | None = None
    macro_recall: float | None = None
    weighted_precision: float | None = None
    weighted_recall: float | None = None

    def __post_init__(self) -> None:
        size = len(self.labels)
        problems = []
        if tuple(entry.label for entry in self.per_class) != self.labels:
            problems.append("the per-class figures are not one for each label, in order")
        if len(self.confusion) != size or any(len(row) != size for row in self.confusion):
            problems.append(f"the confusion matrix is not {size} x {size}, one row and column for each label")
        elif (total := sum(map(sum, self.confusion))) != self.rows:
            problems.append(f"the confusion matrix holds {total} rows, but rows is {self.rows}")
        if not 0 <= self.truncated <= self.rows:
            problems.append(f"truncated is {self.truncated}, but must lie between 0 and the {self.rows} rows")
        if problems:
            raise LlmclsError(several(problems, "The evaluation report contradicts itself"))

    def _repr_html_(self) -> str:
        """The figures as tables, for notebooks."""
        from llmcls.evaluation.notebook import as_html

        return as_html(self)

    @property
    def never_occurred(self) -> tuple[str, ...]:
        """The labels that no evaluated row has; nothing is known of their recall."""
        return tuple(entry.label for entry in self.per_class if entry.support == 0)


def compute_report(
    true: Sequence[str],
    predicted: Sequence[str],
    labels: LabelSet,
    *,
    probabilities: Any = None,
    truncated: int = 0,
    answered: Sequence[bool] | None = None,
) -> EvaluationReport:
    """Compare predicted with true labels.

    Args:
        true: true label name of each row.
        predicted: predicted label name of each row.
        labels: all labels that could have been predicted.
        probabilities: array-like (rows, labels), in the order of `labels`, each row summing to 1; None leaves the
            figures out that need it. Confidence is the probability of the predicted label, which a greedy
            search may have chosen although it is not the largest.
        truncated: how many rows had their text cut.
        answered: which rows are answered, where a threshold lets the classifier abstain; None where there is none.

    Raises:
        LlmclsError: no rows, differing lengths, label names outside `labels`, or probabilities that are none.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    if not len(true) == len(predicted) > 0:
        raise LlmclsError(
            f"There are {len(true)} true and {len(predicted)} predicted labels; give one of each for every row, "
            "and at least one row."
        )
    true_codes, predicted_codes = _encode(true, predicted, labels)
    positions = list(range(len(labels)))

    def score(average: str | None) -> Any:
        # An undefined figure becomes NaN, which sklearn leaves out of its macro mean; the default 0 would pull
        # down the mean of every split that lacks a label.
        return precision_recall_fscore_support(
            true_codes, predicted_codes, labels=positions, average=average, zero_division=math.nan
        )

    precision, recall, f1, support = score(None)
    _, macro_recall, macro_f1, _ = score("macro")
    known = sorted({*true_codes.tolist(), *predicted_codes.tolist()})
    averages = {
        average: precision_recall_fscore_support(
            true_codes, predicted_codes, labels=known, average=average, zero_division=0
        )
        for average in EvaluationReport.AVERAGES
    }
    confusion = confusion_matrix(true_codes, predicted_codes, labels=positions)
    per_class = tuple(
        ClassMetrics(name, _defined(precision[i]), _defined(recall[i]), _defined(f1[i]), int(support[i]), int(column))
        for i, (name, column) in enumerate(zip(labels.names, confusion.sum(axis=0), strict=True))
    )
    return EvaluationReport(
        labels=labels.names,
        rows=len(true),
        truncated=truncated,
        accuracy=float((true_codes == predicted_codes).mean()),
        balanced_accuracy=float(macro_recall),
        micro_f1=float(score("micro")[2]),
        macro_f1=float(macro_f1),
        weighted_f1=float(score("weighted")[2]),
        **{f"{average}_precision": float(found[0]) for average, found in averages.items()},
        **{f"{average}_recall": float(found[1]) for average, found in averages.items()},
        per_class=per_class,
        confusion=tuple(map(tuple, confusion.tolist())),
        **({} if answered is None else _score_answered(true_codes == predicted_codes, answered)),
        **({} if probabilities is None else _score_probabilities(true_codes, predicted_codes, probabilities, labels)),
    )


def label_metrics(true: Sequence[int], predicted: Sequence[int], probabilities: Any = None) -> dict[str, float]:
    """A few figures during training, defined as in an `EvaluationReport`.

    Args:
        true: label index of each row.
        predicted: the predicted one.
        probabilities: array-like (rows, labels), in the order of the label set; None leaves `roc_auc` out.

    Returns:
        `accuracy`; `precision`, `recall` and `macro_f1`, the means over the labels that occur or were predicted, where
        an undefined one counts 0; `balanced_accuracy`, the mean recall over the labels that occur; `roc_auc`, with two
        labels the area under the ROC curve of the second one, with more the mean over the labels that occur, each
        against the rest. Where only one label occurs there is no `roc_auc`.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support, recall_score

    precision, recall, macro_f1, _ = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
    figures = {
        "accuracy": float(accuracy_score(true, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "macro_f1": float(macro_f1),
        "balanced_accuracy": float(
            recall_score(true, predicted, labels=sorted(set(true)), average="macro", zero_division=0)
        ),
    }
    auc = None if probabilities is None else _one_vs_rest_auc(true, probabilities)
    return figures if auc is None else figures | {"roc_auc": auc}


def _one_vs_rest_auc(true: Sequence[int], probabilities: Any) -> float | None:
    """See `label_metrics`; None where only one label occurs."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    p, occurring = np.asarray(probabilities, dtype=np.float64), np.unique(true)
    if len(occurring) < 2:
        return None
    if p.shape[1] == 2:
        return float(roc_auc_score(true, p[:, 1]))
    # As columns of yes and no: sklearn's own one-vs-rest wants every label to occur.
    return float(roc_auc_score(np.asarray(true)[:, None] == occurring, p[:, occurring], average="macro"))


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """Expected calibration error: how far confidence is from the share of right answers, on average.

    ECE = sum over bins b of |b| / n * |mean correct in b - mean confidence in b|, over equal-width bins
    ((k-1)/bins, k/bins]. Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, eq. 5.

    Args:
        confidence: (rows,) probability of the predicted label, in [0, 1].
        correct: (rows,) whether the predicted label is the true one.
        bins: number of bins.
    """
    import numpy as np

    # side="left" closes each bin on its right; a confidence of 0 lies in none of Guo's bins and joins the first.
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of_row = np.searchsorted(edges, confidence, side="left")
    gap_sums = np.bincount(bin_of_row, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap_sums).sum() / len(confidence))


def _encode(true: Sequence[str], predicted: Sequence[str], labels: LabelSet) -> tuple[Codes, Codes]:
    """Label names to positions, or one error that lists every unknown name."""
    import numpy as np

    position = {name: i for i, name in enumerate(labels.names)}
    strangers = [("true label", str(name)) for name in set(true) - position.keys()]
    strangers += [("predicted label", str(name)) for name in set(predicted) - position.keys()]
    if len(strangers) == 1:
        raise LlmclsError(unknown(*strangers[0], labels.names))
    if strangers:
        problems = [f"{kind} {name!r}" for kind, name in sorted(strangers)]
        raise LlmclsError(several(problems, f"Some labels are not in the label set ({', '.join(labels.names)})"))
    return np.array([position[name] for name in true]), np.array([position[name] for name in predicted])


def _score_answered(correct: npt.NDArray[np.bool_], answered: Sequence[bool]) -> dict[str, float | None]:
    """Selective prediction: coverage, and accuracy on what is covered (El-Yaniv and Wiener, JMLR 11, 2010)."""
    import numpy as np

    kept = np.asarray(answered, dtype=bool)
    if kept.shape != correct.shape:
        raise LlmclsError(f"answered has shape {kept.shape}, but there are {len(correct)} rows; give one of each.")
    return {
        "coverage": float(kept.mean()),
        "answered_accuracy": float(correct[kept].mean()) if kept.any() else None,
    }


def _score_probabilities(
    true: Codes, predicted: Codes, probabilities: Any, labels: LabelSet
) -> dict[str, float | None]:
    """The figures that need probabilities, by field name."""
    import numpy as np
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    p = _check_probabilities(probabilities, (len(true), len(labels)))
    positions = list(range(len(labels)))
    confidence = p[np.arange(len(p)), predicted]
    auc = None
    if len(np.unique(true)) == len(labels):
        scores = p[:, 1] if len(labels) == 2 else p  # sklearn takes the second column alone for two classes
        auc = float(roc_auc_score(true, scores, labels=positions, multi_class="ovr", average="macro"))
    return {
        "nll": float(log_loss(true, p, labels=positions)),
        "brier": float(brier_score_loss(true, p, labels=positions, scale_by_half=False)),
        "ece": calibration_error(confidence, true == predicted),
        "macro_roc_auc": auc,
        "mean_confidence": float(confidence.mean()),
    }


def _check_probabilities(probabilities: Any, shape: tuple[int, int]) -> Floats:
    """As float64 rows that sum to 1 exactly enough for sklearn, which warns of float32 rounding."""
    import numpy as np

    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape != shape:
        raise LlmclsError(f"The probabilities have shape {p.shape}, but {shape} (rows, labels) is needed.")
    sums = p.sum(axis=1)
    # 1e-3: bfloat16 probabilities of many labels still pass, logits and log-probabilities do not. NaN fails too.
    bad = np.flatnonzero(~(np.isclose(sums, 1, rtol=0, atol=1e-3) & (p >= 0).all(axis=1)))
    if len(bad):
        raise LlmclsError(
            f"{len(bad)} of {shape[0]} rows of probabilities hold NaN, a negative value or do not sum to 1 (first: row "
            f"{bad[0]}, sum {sums[bad[0]]:.4g}); NaN means that the model's weights or numeric precision are broken."
        )
    normalised: Floats = p / sums[:, None]
    return normalised


def _defined(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
