"""Labels that come as a list in text, as a vector of zeros and ones, or as an array."""

from __future__ import annotations

import csv
import io
import json
from collections import deque

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcls.data.examples import as_text, name_label, name_labels
from llmcls.data.inputs import load_labelled
from llmcls.data.splits import load_data
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet

NAMES = ("joy", "fear", "fun")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("['joy', 'fun']", ("fun", "joy")),
        ('["joy"]', ("joy",)),
        ('["joy", "fun"]', ("fun", "joy")),
        ("['joy' 'fun']", ("fun", "joy")),
        ("['joy'\n 'fun']", ("fun", "joy")),
        ("{joy,fun}", ("fun", "joy")),
        ('{joy,"big fun"}', ("big fun", "joy")),
        ("{'joy', 'fun'}", ("fun", "joy")),
        ("('joy',)", ("joy",)),
        ("[]", ()),
        (" [ ] ", ()),
        ("{}", ()),
        ("()", ()),
        ("set()", ()),
        ("array(['joy', 'fun'], dtype=object)", ("fun", "joy")),
        ("frozenset({'joy'})", ("joy",)),
        ("[np.str_('joy'), np.str_('fun')]", ("fun", "joy")),
        ("[\"it's\", 'b']", ("b", "it's")),
        (r'["caf\u00e9", "\ud83d\ude00"]', ("café", "😀")),
        ("[3, 7]", ("3", "7")),
        ("[3 7]", ("3", "7")),
        ("joy,fun", ("fun", "joy")),
        ("[URGENT],[LOW]", ("[LOW]", "[URGENT]")),
        ("[URGENT]", ("[URGENT]",)),
        ("(a),(b)", ("(a)", "(b)")),
        ("{x},{y}", ("{x}", "{y}")),
        ("list(a)", ("list(a)",)),
    ],
)
def test_lists_in_text_are_read(text, labels):
    assert name_labels(text, ",") == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("['joy', 'fun'", "whose end is missing"),
        ("['joy' 'fun', 'fear']", "look like a list that cannot be read"),
        ("['joy' ... 'fun']", "look like a list that cannot be read"),
        ("['joy', ['fun']]", "look like a list that cannot be read"),
        ("{'joy': 1, 'fun': 0}", "look like a list that cannot be read"),
        ("[joy, fun]", "look like a list that cannot be read"),
        ("(joy, fun)", "look like a list that cannot be read"),
        ("['joy', None]", "holds an empty one"),
        ("['joy', '']", "holds an empty one"),
        ("['a,b']", "holds the separator"),
    ],
)
def test_lists_that_need_a_guess_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        name_labels(text, ",")


@pytest.mark.parametrize(
    ("text", "separator", "labels"),
    [
        ("['joy', 'fun']", "|", ("fun", "joy")),
        ("[0, 18]", "|", ("[0, 18]",)),
        ("[0, 18]|[18, 30]", "|", ("[0, 18]", "[18, 30]")),
        ("(a, b)", ";", ("(a, b)",)),
    ],
)
def test_lists_and_other_separators(text, separator, labels):
    assert name_labels(text, separator) == labels


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0|")).filter(str.strip)))
def test_what_python_and_json_write_is_read(labels):
    labels = [label.strip() for label in labels]
    expected = tuple(sorted(set(labels)))
    if not any(bit in expected for bit in "01"):
        assert name_labels(str(labels), "|") == expected
        assert name_labels(json.dumps(labels), "|") == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("['joy', 'fun']", "is a list in text"),
        ('["joy"]', "is a list in text"),
        ("{joy,fun}", "is a list in text"),
        ("[]", "is a list in text"),
        ("['joy", "is a list in text"),
        (np.array(["joy"]), "the label is an array"),
        (pd.Series(["joy"]), "the label is a Series"),
        (frozenset(["joy"]), "the label is a frozenset"),
        (deque(["joy"]), "the label is a deque"),
        ("0,1,0", "3 zeros and ones, but the names of the labels are not known; give data.labels"),
        ("[0. 1. 0.]", "3 zeros and ones"),
    ],
)
def test_a_list_is_not_one_label(value, message):
    with pytest.raises(ValueError, match=message):
        name_label(value)


@pytest.mark.parametrize("name", ["[URGENT]", "(other)", "{x}", "[3]", "[0, 18]", "()", "'joy'", "1,2,3", "a[0]"])
def test_names_in_brackets_stay_names(name):
    assert name_label(name) == name


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ([1.0, 0.0, 1.0], ("fun", "joy")),
        ([1, 0, 1], ("fun", "joy")),
        ([True, False, False], ("joy",)),
        (np.array([0, 1, 0]), ("fear",)),
        (np.array([True, False, True]), ("fun", "joy")),
        ("1,0,1", ("fun", "joy")),
        ("1 0 1", ("fun", "joy")),
        ("[1, 0, 1]", ("fun", "joy")),
        ("[1. 0. 1.]", ("fun", "joy")),
        ("[True, False, True]", ("fun", "joy")),
        ("0,0,0", ()),
    ],
)
def test_zeros_and_ones_are_named(value, labels):
    assert name_labels(value, ",", names=NAMES) == labels
    with pytest.raises(ValueError, match=r"zeros and ones, but the names of the labels are not known"):
        name_labels(value, ",")
    with pytest.raises(ValueError, match="3 zeros and ones, but there are 2 labels"):
        name_labels(value, ",", names=NAMES[:2])


@pytest.mark.parametrize(
    ("value", "class_names", "names", "labels"),
    [
        ([1, 0], ("joy", "fear"), ("joy", "fear"), ("fear", "joy")),  # indices
        ([1.0, 0.0], ("joy", "fear"), ("joy", "fear"), ("joy",)),
        ([0, 1, 1], NAMES, NAMES, ("fear", "fun")),
        (["0", "1"], (), ("0", "1"), ("0", "1")),
        ("1,0", (), ("0", "1", "2"), ("0", "1")),
        ([1, 0], (), ("joy", "fear"), ("joy",)),
        ([1, 0], (), (), ("0", "1")),
        ([2, 0, 1], (), (), ("0", "1", "2")),
        ([1], (), NAMES, ("1",)),
    ],
)
def test_zeros_and_ones_that_are_indices_or_names(value, class_names, names, labels):
    assert name_labels(value, ",", class_names, names=names) == labels


@pytest.mark.parametrize("value", ["0,1,0", [0, 1, 0], [0.0, 1.0, 0.0], np.array([False, True, False]), "[0 1 0]"])
def test_one_hot_rows_of_one_label(value):
    assert name_label(value, names=NAMES) == "fear"
    with pytest.raises(ValueError, match="3 zeros and ones with 2 ones; a row has one label"):
        name_label("1,1,0", names=NAMES)


@pytest.mark.parametrize("cell", [np.array(["a", "b"]), ["a"], {"a": 1}, frozenset("a"), pd.Series(["a"])])
def test_cells_that_are_no_text(cell):
    with pytest.raises(ValueError, match=r"column 'text' holds .*, not text"):
        as_text(cell, "text")


def test_files_and_frames_with_lists(tmp_path):
    rows = [("a", ["joy", "it's"]), ("b", []), ("c", ["fun"])]
    frame = pd.DataFrame({"text": [text for text, _ in rows], "labels": [np.array(labels) for _, labels in rows]})
    written = io.StringIO()
    csv.writer(written).writerows([("text", "labels"), *rows])
    (tmp_path / "t.csv").write_text(written.getvalue())
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t, "labels": str(ls)}) + "\n" for t, ls in rows))
    labels = LabelSet.from_names(["fun", "it's", "joy"])
    for source in (frame, str(tmp_path / "t.csv"), str(tmp_path / "t.jsonl")):
        data = load_data(source, label_separator=",", validation_size=0)
        assert data.labels.names == labels.names
        assert [row.labels for row in data.train] == [("it's", "joy"), (), ("fun",)]
        found = load_labelled(source, labels=labels, label_separator=",")
        assert [row.labels for row in found] == [row.labels for row in data.train]


def test_only_a_given_order_names_zeros_and_ones():
    rows = [{"text": "a", "labels": "1,0,1"}, {"text": "b", "labels": "0,1,0"}]
    data = load_data(rows, label_separator=",", validation_size=0, labels=NAMES)
    assert [row.labels for row in data.train] == [("joy", "fun"), ("fear",)]
    with pytest.raises(LlmclsError, match=r"train:row 1: the labels 1, 0, 1 are 3 zeros and ones"):
        load_data(rows, label_separator=",", validation_size=0)
    with pytest.raises(LlmclsError, match="zeros and ones"):
        load_labelled(rows, labels=data.labels, label_separator=",")
    assert load_labelled(rows, labels=data.labels, label_separator=",", order=NAMES)[0].labels == ("joy", "fun")
