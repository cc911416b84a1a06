"""Which labels are kept, and what becomes of the rows of others."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from llmcls.data.inputs import load_labelled
from llmcls.data.splits import DataSplits, load_training_data
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.settings import load_settings, make_settings

ROWS = [{"text": f"text {n}", "label": label} for n, label in enumerate("aaaaabbbbccccdde")]


def load(data: Any = ROWS, **settings: Any) -> DataSplits:
    tree = {"data": {"validation_size": 0, "label_column": "label", **settings}}
    return load_training_data(make_settings(tree), data)


@pytest.mark.parametrize(
    ("given", "names", "rows"),
    [
        ({"keep_labels": ["c", "a"]}, ("a", "c"), 9),
        ({"keep_labels": {"top": 2}}, ("a", "b"), 9),  # b and c are as frequent
        ({"keep_labels": {"top": 5}}, tuple("abcde"), 16),
        ({"keep_labels": {"min_rows": 1}}, tuple("abcde"), 16),
        ({"keep_labels": {"min_rows": 3, "top": 2}}, ("a", "b"), 9),
        ({"keep_labels": ["c", "a"], "labels": ["c", "b", "a"]}, ("c", "a"), 9),
        ({"labels": ["c", "a"], "other_labels": "drop"}, ("c", "a"), 9),
        ({"keep_labels": ["x", "a"], "label_aliases": {"b": ["x", "e"], "c": ["y"]}}, ("a", "b"), 10),
        ({"keep_labels": {"top": 2}, "label_aliases": {"c": ["d"]}}, ("a", "c"), 11),
        ({"keep_labels": ["a", "b"], "label_descriptions": {"c": "left out", "a": "first"}}, ("a", "b"), 9),
    ],
)
def test_what_is_kept(given: dict[str, Any], names: tuple[str, ...], rows: int) -> None:
    data = load(**given)
    assert data.labels.names == names and len(data.train) == rows
    assert {example.label for example in data.train} == set(names)


def test_the_notes_count_what_was_left_out() -> None:
    parts = {"train": ROWS, "test": [{"text": "new", "label": "a"}, {"text": "other", "label": "unheard"}]}
    data = load(parts, keep_labels=["a", "b"])
    assert "train: 7 of 16 rows have other labels and are left out: c (4), d (2), e (1)" in data.notes
    assert data.left_out["test"] == "test: 1 of 2 rows have other labels and are left out: unheard (1)"
    assert [example.label for example in data.test] == ["a"]
    assert "c" in data.other_labels and load().left_out == {}


def test_keeping_comes_before_cutting() -> None:
    rows = [{"text": f"text {n}", "label": "abc"[n % 3]} for n in range(900)]
    data = load(rows, keep_labels=["a", "b"], validation_size=None)
    assert [len(data[split]) for split in ("train", "validation", "test")] == [480, 60, 60]


def test_several_labels_a_text() -> None:
    rows = [{"text": str(n), "labels": labels} for n, labels in enumerate((["b", "c", "a"], ["c"], [], ["a"]))]
    tree = {"task": "multi_label", "data": {"validation_size": 0, "keep_labels": ["a", "b"]}}
    data = load_training_data(make_settings(tree), rows)
    assert [example.labels for example in data.train] == [("a", "b"), (), (), ("a",)]
    assert data.train[0].label == "a,b" and data.train[1].label == ""
    assert "train: other labels, 1 in all, are taken out of the rows' lists: c (2)" in data.notes


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"keep_labels": ["a", "bb", "zebra"]}, r"(?s)2 problems.*'bb'. Did you mean 'b'\?.*'zebra'. Available: a, b"),
        ({"keep_labels": {"top": 6}}, r"wants 6 labels or more, .* have 5; ask for less"),
        (
            {"keep_labels": ["b", "x"], "label_aliases": {"b": ["x"]}},
            r"keeps only 'b', of which the others are aliases",
        ),
        ({"keep_labels": ["a"]}, r"only 'a' is kept, but a classifier needs at least two"),
        ({"keep_labels": {"top": 1}}, r"data.keep_labels: top is 1, but it is a whole number, 2 or more"),
        ({"keep_labels": {"min_rows": 0}}, r"min_rows is 0, but it is a whole number, 1 or more"),
        ({"keep_labels": {"min_rows": 99}}, r"wants 2 labels or more, .* have 5, of which 0 have 99 rows and more"),
        ({"keep_labels": {}}, r"does not say which labels to keep"),
        ({"keep_labels": {"top": 2.5}}, r"top is 2.5, but"),
        ({"keep_labels": {"top": True}}, r"must be a number"),
        ({"keep_labels": {"best": 3}}, r"\{'best': 3\} does not say which labels to keep; give a list of names"),
        ({"keep_labels": {}}, r"\{\} does not say which labels to keep"),
        ({"other_labels": "drop"}, r"other_labels is drop, but nothing says which labels are wanted"),
        ({"labels": ["x", "y"], "other_labels": "drop"}, r"none of the 16 rows has one of the labels x, y"),
        (
            {"keep_labels": ["a", "b"], "other_labels": "error"},
            r"(?s)7 problems.*row 10: label 'c' is not one of the 2",
        ),
        ({"labels": ["a", "b"]}, r"(?s)7 problems.*row 10: label 'c' is not one of the 2 known labels"),
    ],
)
def test_what_cannot_be_kept(given: dict[str, Any], says: str) -> None:
    with pytest.raises(LlmclsError, match=says):
        load(**given)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("data.keep_labels={top: 5}", {"top": 5}),
        ("data.keep_labels.top=5", {"top": 5}),
        ("data.keep_labels=[cs.CL, no]", ("cs.CL", "no")),
        ("data.keep_labels=[]", ()),
    ],
)
def test_on_the_command_line(written: str, value: Any) -> None:
    assert load_settings((), [written]).data.keep_labels == value
    assert load_settings((), ["data.labels=a: b"]).data.labels == ("a: b",)


def test_evaluation_leaves_other_labels_out_as_well() -> None:
    labels, notes = LabelSet.from_names(["a", "b"]), list[str]()
    assert len(load_labelled(ROWS, labels=labels, drop_others=True, notes=notes)) == 9
    assert notes == ["data: 7 of 16 rows have other labels and are left out: c (4), d (2), e (1)"]
    with pytest.raises(LlmclsError, match=r"None of the 16 rows in the list has one of the 2 labels: x, y\."):
        load_labelled(ROWS, labels=LabelSet.from_names(["x", "y"]), drop_others=True)


def test_one_data_set_with_all_categories_and_with_the_most_frequent(shared: Path, tmp_path: Path) -> None:
    with (shared / "data" / "arxiv_top5" / "train.csv").open(encoding="utf-8", newline="") as source:
        (tmp_path / "train.csv").write_text("".join(islice(source, 400)), encoding="utf-8")
    settings = {
        "source": str(tmp_path),
        "text_columns": ["title", "abstract"],
        "bad_rows": "skip",
        "validation_size": 0,
    }
    everything = load_training_data(make_settings({"data": settings}))
    few = load_training_data(make_settings({"data": settings | {"keep_labels": {"top": 3}}}))
    assert len(everything.labels) == 5 and len(few.labels) == 3
    counts = {name: sum(row.label == name for row in everything.train) for name in everything.labels.names}
    assert set(few.labels.names) == set(sorted(counts, key=lambda name: (-counts[name], name))[:3])
    assert len(few.train) == sum(counts[name] for name in few.labels.names)
