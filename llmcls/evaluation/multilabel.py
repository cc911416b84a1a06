"""Every figure of a multi-label evaluation, computed once into a `MultiLabelReport`.

    report = compute_multilabel_report(true, predicted, labels, probabilities, thresholds)
    report.micro_f1, report.subset_accuracy, report.per_class[0].average_precision

`true` and `predicted` hold the label names of each row, any number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmcls.errors import LlmclsError, unknown
from llmcls.evaluation.thresholds import Thresholds
from llmcls.labels import LabelSet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """How one label was recognised. None: not defined for these rows.

    Attributes:
        label: its name.
        precision: of the rows predicted to have it, the share that does; None when it was never predicted.
        recall: of the rows that have it, the share predicted so; None when it never occurs.
        f1: 2 TP / (2 TP + FP + FN); None when it neither occurs nor was predicted.
        support: rows that have it.
        predicted: rows predicted to have it.
        threshold: probability from which on it was predicted; None without probabilities.
        average_precision: area under precision over recall as the threshold falls; None when it never occurs.
        log_loss: mean of -ln P(right answer about this label), in nats; None without probabilities.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int
    threshold: float | None
    average_precision: float | None
    log_loss: float | None


@dataclass(frozen=True, slots=True)
class MultiLabelReport:
    """All figures of one multi-label evaluation. None: not defined for these rows, or without probabilities.

    Attributes:
        labels: the label names, in the order of the label set.
        rows: number of rows evaluated.
        truncated: how many of them had their text cut.
        micro_precision: of all predicted labels, the share that is right; None when none was predicted.
        micro_recall: of all true labels, the share predicted; None when no row has one.
        micro_f1: F1 of all decisions pooled.
        macro_f1: mean F1 over the labels that occur or were predicted.
        weighted_f1: mean F1 over the labels that occur, weighted by support.
        subset_accuracy: share of rows whose labels were predicted exactly.
        hamming_loss: share of all decisions (rows x labels) that are wrong.
        mean_average_precision: mean over the labels that occur; does not depend on thresholds.
        macro_roc_auc: mean area under the ROC curve over the labels that some rows have and some do not.
        log_loss: mean over all decisions of -ln P(right answer), in nats; probabilities are clipped as sklearn does.
        labels_per_row: mean number of true labels.
        predicted_per_row: mean number of predicted labels.
        per_class: one `LabelMetrics` per label, in order.
        macro_precision, macro_recall: means over the labels that occur or were predicted, an undefined one counting 0;
            None in a file of an older version.
        weighted_precision, weighted_recall: means over the labels that occur, weighted by support; the recall equals
            `micro_recall`.
    """

    FIGURES: ClassVar[tuple[tuple[str, str, int], ...]] = (
        ("micro_f1", "micro F1", 1),
        ("macro_f1", "macro F1", 1),
        ("weighted_f1", "weighted F1", 1),
        ("micro_precision", "micro precision", 1),
        ("micro_recall", "micro recall", 1),
        ("macro_precision", "macro precision", 1),
        ("macro_recall", "macro recall", 1),
        ("weighted_precision", "weighted precision", 1),
        ("subset_accuracy", "subset accuracy (all labels right)", 1),
        ("hamming_loss", "Hamming loss", -1),
        ("mean_average_precision", "mean average precision", 1),
        ("macro_roc_auc", "macro ROC-AUC", 1),
        ("log_loss", "log loss per label (nats)", -1),
        ("labels_per_row", "labels per row", 0),
        ("predicted_per_row", "predicted per row", 0),
    )
    """See `EvaluationReport`."""

    AVERAGES: ClassVar[tuple[str, ...]] = ("micro", "macro", "weighted")
    HEADLINES: ClassVar[tuple[str, ...]] = ("subset_accuracy", "micro_f1", "macro_f1")
    ENTRY: ClassVar[type] = LabelMetrics
    ENTRY_COLUMNS: ClassVar[tuple[tuple[str, str], ...]] = (("average_precision", "AP"), ("threshold", "threshold"))

    confusion: ClassVar[None] = None
    """Rows with several labels have no confusion matrix."""

    labels: tuple[str, ...]
    rows: int
    truncated: int
    micro_precision: float | None
    micro_recall: float | None
    micro_f1: float
    macro_f1: float
    weighted_f1: float
    subset_accuracy: float
    hamming_loss: float
    mean_average_precision: float | None
    macro_roc_auc: float | None
    log_loss: float | None
    labels_per_row: float
    predicted_per_row: float
    per_class: tuple[LabelMetrics, ...]
    macro_precision: float | None = None
    macro_recall: float | None = None
    weighted_precision: float | None = None
    weighted_recall: float | None = None

    def _repr_html_(self) -> str:
        """The figures as tables, for notebooks."""
        from llmcls.evaluation.notebook import as_html

        return as_html(self)

    @property
    def never_occurred(self) -> tuple[str, ...]:
        """The labels that no evaluated row has; nothing is known of their recall."""
        return tuple(entry.label for entry in self.per_class if entry.support == 0)


def indicator_matrix(rows: Sequence[Sequence[str]], labels: LabelSet) -> Ints:
    """(rows, labels): 1 where the row has the label, else 0.

    Raises:
        LlmclsError: for the first name that is no label.
    """
    import numpy as np

    matrix = np.zeros((len(rows), len(labels)), dtype=np.int64)
    known = {name: position for position, name in enumerate(labels.names)}
    for at, names in enumerate(rows):
        for name in names:
            if name not in known:
                raise LlmclsError(unknown("label", name, labels.names))
            matrix[at, known[name]] = 1
    return matrix


def compute_multilabel_report(
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    labels: LabelSet,
    probabilities: Any,
    thresholds: Thresholds | None,
    *,
    truncated: int = 0,
) -> MultiLabelReport:
    """Compare predicted with true labels.

    Args:
        true: true label names of each row; may be empty.
        predicted: predicted label names of each row; may be empty.
        labels: all labels that could have been predicted.
        probabilities: array-like (rows, labels) in [0, 1], in the order of `labels`; None leaves the figures out that
            need it.
        thresholds: what the labels were predicted by; None without probabilities.
        truncated: how many rows had their text cut.

    Raises:
        LlmclsError: for no rows, another number of predictions or probabilities, or unknown labels.
    """
    if not len(predicted) == len(true) > 0:
        raise LlmclsError(
            f"There are {len(true)} rows and {len(predicted)} predictions; give one for each row, and at least one row."
        )
    t, y = indicator_matrix(true, labels), indicator_matrix(predicted, labels)
    hits, support, chosen = (t & y).sum(axis=0), t.sum(axis=0), y.sum(axis=0)
    figures = [_Ranking()] * len(labels)
    if probabilities is not None:
        p = _check_probabilities(probabilities, t.shape)
        figures = [_Ranking.of(t[:, j], p[:, j]) for j in range(len(labels))]
    per_class = tuple(
        LabelMetrics(
            name,
            _ratio(hits[j], chosen[j]),
            _ratio(hits[j], support[j]),
            _ratio(2 * hits[j], chosen[j] + support[j]),
            int(support[j]),
            int(chosen[j]),
            None if thresholds is None else thresholds.values[j],
            figures[j].average_precision,
            figures[j].log_loss,
        )
        for j, name in enumerate(labels.names)
    )
    known = [entry for entry in per_class if entry.support or entry.predicted]
    return MultiLabelReport(
        labels=labels.names,
        rows=len(t),
        truncated=truncated,
        micro_precision=_ratio(hits.sum(), chosen.sum()),
        micro_recall=_ratio(hits.sum(), support.sum()),
        micro_f1=_ratio(2 * hits.sum(), chosen.sum() + support.sum()) or 0.0,
        macro_f1=_mean([entry.f1 for entry in per_class]) or 0.0,
        weighted_f1=_ratio(sum(entry.support * (entry.f1 or 0.0) for entry in per_class), support.sum()) or 0.0,
        subset_accuracy=float((t == y).all(axis=1).mean()),
        hamming_loss=float((t != y).mean()),
        mean_average_precision=_mean([entry.average_precision for entry in per_class]),
        macro_roc_auc=_mean([figure.roc_auc for figure in figures]),
        log_loss=_mean([entry.log_loss for entry in per_class]),
        labels_per_row=float(t.sum(axis=1).mean()),
        predicted_per_row=float(y.sum(axis=1).mean()),
        per_class=per_class,
        macro_precision=_mean([entry.precision or 0.0 for entry in known]) or 0.0,
        macro_recall=_mean([entry.recall or 0.0 for entry in known]) or 0.0,
        weighted_precision=_ratio(sum(entry.support * (entry.precision or 0.0) for entry in known), support.sum())
        or 0.0,
        weighted_recall=_ratio(hits.sum(), support.sum()) or 0.0,
    )


def multilabel_metrics(
    true: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]], probabilities: Any = None
) -> dict[str, float]:
    """A few figures during training, defined as in a `MultiLabelReport`, from rows of 0 or 1 for every label.

    Args:
        true, predicted: (rows, labels).
        probabilities: array-like (rows, labels); None leaves `roc_auc` out.

    Returns:
        `subset_accuracy`, the share of rows with all labels right; `precision`, `recall` and `macro_f1`, the means
        over the labels that occur or were predicted; `micro_precision`, `micro_recall` and `micro_f1`, of all decisions
        pooled; an undefined one counts 0. `roc_auc`, the mean area under the ROC curve over the labels that some rows
        have and some do not; without such a label it is left out.
    """
    import numpy as np
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    t, y = np.asarray(true), np.asarray(predicted)
    known = np.flatnonzero((t | y).any(axis=0))

    def score(average: str, **labels: Any) -> list[float]:
        figures = precision_recall_fscore_support(t, y, average=average, zero_division=0, **labels)
        return [float(figure) for figure in figures[:3]]

    macro = score("macro", labels=known) if len(known) else [0.0] * 3
    figures = {
        "subset_accuracy": float((t == y).all(axis=1).mean()),
        **dict(zip(("precision", "recall", "macro_f1"), macro, strict=True)),
        **dict(zip(("micro_precision", "micro_recall", "micro_f1"), score("micro"), strict=True)),
    }
    mixed = t.any(axis=0) & ~t.all(axis=0)
    if probabilities is None or not mixed.any():
        return figures
    p = np.asarray(probabilities, dtype=np.float64)
    return figures | {"roc_auc": float(roc_auc_score(t[:, mixed], p[:, mixed], average="macro"))}


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What needs probabilities, for one label."""

    average_precision: float | None = None
    roc_auc: float | None = None
    log_loss: float | None = None

    @classmethod
    def of(cls, true: Ints, p: Floats) -> _Ranking:
        from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

        some, all_ = bool(true.any()), bool(true.all())
        return cls(
            float(average_precision_score(true, p)) if some else None,
            float(roc_auc_score(true, p)) if some and not all_ else None,
            float(log_loss(true, p, labels=[0, 1])),
        )


def _check_probabilities(probabilities: Any, shape: tuple[int, ...]) -> Floats:
    import numpy as np

    p: Floats = np.asarray(probabilities, dtype=np.float64)
    if p.shape != shape:
        raise LlmclsError(f"The probabilities have shape {p.shape}, but {shape} (rows, labels) is needed.")
    if bad := int((~((p >= 0) & (p <= 1))).any(axis=1).sum()):
        raise LlmclsError(
            f"{bad} of {len(p)} rows of probabilities hold a value outside [0, 1] or NaN; NaN means that the model's "
            "weights or numeric precision are broken."
        )
    return p


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
