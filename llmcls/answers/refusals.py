"""What a form of answer, a head or a damaged model cannot give, refused in one sentence.

refuse_missing(form, {"label_mass": "--label-mass"})
refuse_free(form, has_head=False)
list(refuse_failures(predictions, examples))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    import torch

    from llmcls.answers.form import Figure, Form
    from llmcls.records import Example, Prediction


def refuse_failed(failed: torch.Tensor) -> None:
    """Refuse rows (rows,) bool whose scores are NaN or infinite: figures and thresholds would be made of nothing.

    Raises:
        LlmclsError: when there is one.
    """
    if count := int(failed.sum()):
        raise LlmclsError(
            f"The model's scores are NaN or infinite for {count:,} of {len(failed):,} validation rows; lower "
            "training.learning_rate, or set training.mixed_precision to 'no' and model.dtype to 'float32'."
        )


NOT_FINITE = "model's scores are NaN or infinite"

REMEDY = (
    "the weights are damaged, or too large for the number format: set model.dtype to 'bfloat16' or 'float32', or train "
    "again"
)
"""What can be done about scores that are not finite."""


def refuse_failures(
    predictions: Iterable[Prediction], examples: Sequence[Example], begun: int = 0
) -> Iterator[Prediction]:
    """The predictions, up to the first failure.

    Args:
        predictions: one for each example.
        examples: what was predicted.
        begun: how many examples came before these.

    Raises:
        LlmclsError: for failures, naming the rows by their source, or by their number, from 1 on.
    """
    walked = enumerate(predictions)
    for at, prediction in walked:
        if not prediction.failed:
            yield prediction
            continue
        failed = [at, *(later for later, other in walked if other.failed)]
        shown = ", ".join(examples[at].source or f"row {begun + at + 1}" for at in failed[:5])
        rest = f" and {len(failed) - 5:,} more" if len(failed) > 5 else ""
        which = f"{len(failed):,} rows ({shown}{rest}), so they have" if len(failed) > 1 else f"{shown}, so it has"
        raise LlmclsError(f"The {NOT_FINITE} for {which} no label; {REMEDY}.")


def refuse_missing(form: Form, options: Mapping[Figure, str]) -> None:
    """Refuse figures that the form's predictions do not have.

    Args:
        form: the form.
        options: the figures asked for, each as the user calls it: `{"margin": "--margin"}`.

    Raises:
        LlmclsError: naming all of them, with the reason.
    """
    if wrong := [figure for figure in options if figure in form.lacks]:
        names = " and no ".join(options[figure] for figure in wrong)
        reasons = ", and ".join(dict.fromkeys(form.lacks[figure] for figure in wrong))
        raise LlmclsError(f"With task {form.rules.task} there is no {names}: {reasons}; leave it out.")


def refuse_free(form: Form, has_head: bool) -> None:
    """Refuse free answers where there are none.

    Raises:
        LlmclsError: for a classification head, and for a form whose answers do not name the labels.
    """
    if has_head:
        raise LlmclsError(
            "A classification head can say nothing but its labels, so it has no free answers; leave --free "
            "(answer_freely) out."
        )
    refuse_missing(form, {"free": "--free (answer_freely)"})


def refuse_label_mass(form: Form, has_head: bool) -> None:
    """Refuse label mass where there is none.

    Raises:
        LlmclsError: for a classification head, and for a form whose answers have no mass.
    """
    if has_head:
        raise LlmclsError(
            "A classification head can say nothing but its labels, so their mass is always 1; leave --label-mass "
            "(label_mass) and prediction.min_label_mass out."
        )
    if "label_mass" in form.lacks:
        raise LlmclsError("Label mass is for single labels: a text with several may as well have none.")


def refuse_without_probabilities(form: Form) -> None:
    """Refuse a form that finds labels without probabilities.

    Raises:
        LlmclsError: with the reason and the method that has them.
    """
    if reason := form.lacks.get("probabilities"):
        raise LlmclsError(f"{reason[:1].upper()}{reason[1:]}; call predict, or train with prediction.method 'exact'.")
