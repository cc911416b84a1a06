from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcls.data.columns import Columns, choose_columns
from llmcls.data.examples import is_missing, join_texts, make_examples, name_label
from llmcls.data.reader import Row, Table
from llmcls.errors import LlmclsError
from llmcls.records import Example


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["  verbatim \n"], "  verbatim \n"),
        ([""], ""),
        (["A title", " An abstract "], "A title. An abstract."),
        (["A title", "Ends."], "A title. Ends."),
        (["A title.", "Ends"], "A title.. Ends."),
        (["", " \t", "only"], "only."),
        (["", " \n"], ""),
        (["why?", "so!"], "why?. so!."),
    ],
)
def test_texts_are_joined(texts, joined):
    assert join_texts(texts) == joined


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_joined_texts_agree_with_the_obvious_way(texts):
    expected = ""
    for text in texts:
        if text.strip():
            expected += ("" if expected == "" else ". ") + text.strip()
    if expected and expected[-1] != ".":
        expected += "."
    assert join_texts(texts) == expected


@pytest.mark.parametrize("value", [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT])
def test_missing_values(value):
    assert is_missing(value)
    assert name_label(value) is None


@pytest.mark.parametrize("value", ["", "nan", 0, 0.0, False, math.inf, [], np.int64(0)])
def test_values_that_are_there(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("value", "class_names", "name"),
    [
        (" spam ", (), "spam"),
        ("  ", (), None),
        (3, (), "3"),
        (3.0, (), "3"),
        (np.int8(3), (), "3"),
        (np.float32(3), (), "3"),
        (-1, (), "-1"),
        (0.5, (), "0.5"),
        (True, (), "True"),
        (np.bool_(True), (), "True"),
        ("NA", (), "NA"),
        (1, ("a", "b"), "b"),
        (1.0, ("a", "b"), "b"),
        ("1", ("a", "b"), "b"),
        (" b", ("a", "b"), "b"),
        (-1, ("a", "b"), None),
        ("-1", ("a", "b"), None),
        ("", ("a", "b"), None),
        ("1", ("1", "0"), "1"),
        (1, ("1", "0"), "0"),
    ],
)
def test_labels_are_named(value, class_names, name):
    assert name_label(value, class_names) == name


@pytest.mark.parametrize("value", [2, -2, "2", "c", 0.5, True, "٣"])
def test_labels_that_class_names_do_not_have(value):
    with pytest.raises(ValueError, match=r"class (index|names)"):
        name_label(value, ("a", "b"))


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a", ("a",), np.array([1])])
def test_values_that_are_no_label(value):
    if isinstance(value, np.ndarray):
        value = value.tolist()
    with pytest.raises(ValueError, match="the label is"):
        name_label(value)


def table(*rows, columns=("text", "label", "n")):
    return Table(columns, [row if isinstance(row, Row) else Row(row, f"t:{i}") for i, row in enumerate(rows, 1)])


def test_examples_carry_other_columns_as_text():
    made, problems = make_examples(
        table({"text": " a ", "label": " x", "n": 3}, {"text": "b", "label": "y", "n": math.nan}),
        Columns(("text",), "label"),
        require_labels=True,
    )
    assert made == [Example(" a ", "x", {"n": "3"}, "t:1"), Example("b", "y", {"n": ""}, "t:2")]
    assert not problems


def test_all_problems_come_back():
    made, problems = make_examples(
        table(
            {"text": "a", "label": "x"},
            {"text": " ", "label": None},
            {"text": "a", "label": "X"},
            {"text": ["a"], "label": "x"},
            {"text": "\ud800", "label": "x"},
            Row({}, "t:6", "the quote opened here is never closed"),
        ),
        Columns(("text",), "label"),
        require_labels=True,
        known_labels=["x", "xx"],
    )
    assert len(made) == 1
    assert [str(problem) for problem in problems] == [
        "t:2: the row has no text and the label is missing",
        "t:3: label 'X' is not one of the 2 known labels",
        "t:4: column 'text' holds a list, not text",
        "t:5: column 'text' holds half a character (U+D800), which is no valid Unicode",
        "t:6: the quote opened here is never closed",
    ]


def test_prediction_needs_neither_text_nor_label():
    made, problems = make_examples(table({"n": 1.5}, {"text": None}), Columns(("text",)), require_labels=False)
    assert [example.text for example in made] == ["", ""]
    assert made[0].fields == {"label": "", "n": "1.5"}
    assert not problems


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (["text", "label"], Columns(("text",), "label")),
        (["id", "Sentence", "Category"], Columns(("Sentence",), "Category")),
        (["abstract", "label_name"], Columns(("abstract",), "label_name")),
    ],
)
def test_columns_are_guessed_where_it_is_clear(columns, chosen):
    assert choose_columns(columns) == chosen


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a", "b", "label"], "which column of the data holds the text: none is named so.*Columns: a, b, label"),
        (["text", "review", "label"], "'text' and 'review' could each be it; name it with --text-column"),
        (["text", "label", "intent"], "'label' and 'intent' could each be it; name it with --label-column"),
        (["text", "score"], "holds the label: none is named so"),
        (["text;label"], "looks separated by semicolons"),
        (["text\tlabel"], "looks separated by tabs"),
    ],
)
def test_unclear_columns_are_asked_for(columns, message):
    with pytest.raises(LlmclsError, match=message):
        choose_columns(columns)


def test_wrong_column_names_are_all_reported():
    with pytest.raises(
        LlmclsError, match=r"(?s)txt'\. Did you mean 'text'\?.*Available: label, text.*'lable'"
    ) as caught:
        choose_columns(["text", "label"], text=["txt"], label="lable")
    assert "2 problems" in str(caught.value)


def test_wrong_name_in_a_file_with_another_separator():
    with pytest.raises(LlmclsError, match=r"(?s)Unknown column 'text'.*looks separated by semicolons"):
        choose_columns(["text;label"], text=["text"], label="label")


def test_columns_that_clash():
    with pytest.raises(LlmclsError, match="both as text and as label"):
        choose_columns(["text", "label"], text=["text", "label"], label="label")
    with pytest.raises(LlmclsError, match="named twice"):
        choose_columns(["text", "label"], text=["text", "text"])


def test_prediction_takes_a_label_column_only_where_it_is():
    assert choose_columns(["text"], label="label", require_label=False) == Columns(("text",), None)
    assert choose_columns(["text", "label"], label="label", require_label=False) == Columns(("text",), "label")
    assert choose_columns(["text", "label"], require_label=False) == Columns(("text",), None)
