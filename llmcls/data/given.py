"""Texts and rows as a Python caller gives them to a classifier, as examples.

examples_from(["where is my parcel?"])
examples_from(frame, text_columns=["subject", "body"])
labelled_from([{"text": "...", "label": "billing"}], labels)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcls.data.examples import too_long
from llmcls.data.inputs import load_examples, load_labelled
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.records import Example


def examples_from(texts: Any, text_columns: Sequence[str] = ()) -> list[Example]:
    """Examples of texts, or of rows with the text columns, whose other columns a template may use.

    Args:
        texts: strings, dicts, a DataFrame or a `datasets.Dataset`.
        text_columns: the columns of rows that hold the text; empty to guess one.

    Raises:
        LlmclsError: for a single string or dict, and for what is not text.
    """
    if isinstance(texts, Mapping):
        raise LlmclsError("Give a list of rows, not one dict: predict([row]).")
    if isinstance(texts, str):
        raise LlmclsError("Give a list of texts, not one string: predict([text]).")
    rows = texts if _is_table(texts) else list(texts)
    if _has_columns(rows):
        return list(load_examples(rows, text_columns=text_columns))
    for position, text in enumerate(rows):
        if not isinstance(text, str):
            raise LlmclsError(f"Text {position} is {text!r}, of type {type(text).__name__}; texts must be strings.")
        if problem := too_long(text):
            raise LlmclsError(f"Text {position} cannot be used: {problem}.")
    return [Example(text, source=f"text {position}") for position, text in enumerate(rows)]


def labelled_from(examples: Any, labels: LabelSet, **columns: Any) -> list[Example]:
    """Labelled examples of `Example`s, or of rows.

    Args:
        examples: `Example`s, dicts, a DataFrame or a `datasets.Dataset`.
        labels: the labels that may occur.
        columns: how rows are read, as `load_labelled` takes it.

    Raises:
        LlmclsError: for anything else, rows that cannot be used, and an example without label.
    """
    given = examples if _is_table(examples) else list(examples)
    rows = load_labelled(given, labels=labels, **columns) if _has_columns(given) else given
    if strange := [row for row in rows if not isinstance(row, Example)]:
        raise LlmclsError(
            f"evaluate was given {strange[0]!r:.40}, of type {type(strange[0]).__name__}; give Examples, dicts with "
            "text and a label, or a DataFrame."
        )
    if missing := [example.source or example.text[:40] for example in rows if example.label is None]:
        raise LlmclsError(f"{missing[0]} has no label to compare the prediction with; evaluate labelled rows only.")
    return list(rows)


def _has_columns(rows: Any) -> bool:
    return _is_table(rows) or any(isinstance(row, Mapping) for row in rows)


def _is_table(data: Any) -> bool:
    """Whether iterating would not give rows: a DataFrame's items are its column names."""
    return hasattr(data, "columns") or hasattr(data, "column_names")
