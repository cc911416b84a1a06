"""The baseline a fine-tuned model has to beat: TF-IDF and logistic regression, trained in seconds.

llmcls evaluate --run runs/mine --baseline
report = evaluate_baseline(splits.train, splits.test, splits.labels)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcls.errors import LlmclsError
from llmcls.evaluation.metrics import EvaluationReport, compute_report
from llmcls.evaluation.multilabel import MultiLabelReport, compute_multilabel_report, indicator_matrix
from llmcls.evaluation.thresholds import tune_thresholds
from llmcls.labels import LabelSet
from llmcls.records import Example


def evaluate_baseline(train: Sequence[Example], test: Sequence[Example], labels: LabelSet) -> EvaluationReport:
    """Train on `train`, evaluate on `test`: words and word pairs, sublinear term frequency, multinomial model.

    Labels that do not occur in `train` get probability 0. The result does not depend on a seed.

    Raises:
        LlmclsError: when examples lack a label, `train` holds fewer than two labels, its texts hold no word,
            or `compute_report` refuses the labels.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    true = _get_labels(test, "test")
    train_labels = _get_labels(train, "training")
    if (found := len(set(train_labels))) < 2:
        raise LlmclsError(f"The training examples hold {found} label(s), but the baseline needs at least two to learn.")
    vectorizer, features = fit_words(train)
    # sklearn's default C=1 is 1 to 3 points of validation accuracy worse on news, abstracts, reviews and intents: a
    # baseline must not be beaten because it was held back.
    model = LogisticRegression(C=10, max_iter=1000).fit(features, train_labels)
    probabilities = np.zeros((len(test), len(labels)))
    probabilities[:, [labels.position(name) for name in model.classes_]] = model.predict_proba(
        vectorizer.transform([example.text for example in test])
    )
    predicted = [labels.names[best] for best in probabilities.argmax(axis=1)]
    return compute_report(true, predicted, labels, probabilities=probabilities)


def evaluate_multilabel_baseline(
    train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example], labels: LabelSet
) -> MultiLabelReport:
    """As `evaluate_baseline` for rows with any number of labels: one binary model per label, one against the rest.

    Its thresholds are tuned on `validation` by the same function as a run's; without such rows they are 0.5, too. A
    label that no training row has gets probability 0.

    Raises:
        LlmclsError: when `train` is empty, its texts hold no word, or `compute_multilabel_report` refuses the labels.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    vectorizer, features = fit_words(train)
    known = indicator_matrix([example.names for example in train], labels)
    held_out = vectorizer.transform([example.text for example in [*validation, *test]])
    p = np.zeros((held_out.shape[0], len(labels)))
    for label in range(len(labels)):
        column = known[:, label]
        if column.min() == column.max():
            p[:, label] = column[0]
        else:
            # liblinear is several times faster than lbfgs on so few classes and so many features.
            model = LogisticRegression(C=10, max_iter=1000, solver="liblinear", random_state=0).fit(features, column)
            p[:, label] = model.predict_proba(held_out)[:, 1]
    rows = len(validation)
    tuned = tune_thresholds(p[:rows], indicator_matrix([example.names for example in validation], labels))
    predicted = [tuned.choose(labels.names, row) for row in p[rows:].tolist()]
    return compute_multilabel_report([example.names for example in test], predicted, labels, p[rows:], tuned)


def fit_words(train: Sequence[Example]) -> tuple[Any, Any]:
    """The fitted vectorizer, and its features of the training texts.

    Raises:
        LlmclsError: when the texts hold no word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    # One-character words count, unlike in sklearn's default: they are whole words in many languages.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b")
    try:
        return vectorizer, vectorizer.fit_transform([example.text for example in train])
    except ValueError as error:  # "empty vocabulary"
        raise LlmclsError(
            f"The training texts hold no words, so the baseline cannot learn from them ({error})."
        ) from error


def _get_labels(examples: Sequence[Example], kind: str) -> list[str]:
    known = [example.label for example in examples if example.label is not None]
    if len(known) < max(len(examples), 1):
        raise LlmclsError(
            f"{len(examples) - len(known)} of {len(examples)} {kind} examples have no label; all need one."
        )
    return known
