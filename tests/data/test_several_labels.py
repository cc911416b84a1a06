"""Rows with any number of labels: separators, lists, class names, problems, and cutting a validation split."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcls.data.cut import cut_stratified
from llmcls.data.examples import name_labels
from llmcls.data.inputs import load_labelled
from llmcls.data.splits import load_data
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.labels import LabelSet
from llmcls.records import Example

ROWS = "text,labels\nfirst,joy|anger\nsecond,\nthird, anger | joy |joy\nfourth,fear|\n"


def write(folder: Path, content: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_a_csv_file(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, ROWS), label_separator="|", validation_size=0)
    assert data.labels.names == ("anger", "fear", "joy")
    assert [example.labels for example in data.train] == [("anger", "joy"), (), ("anger", "joy"), ("fear",)]
    assert [example.label for example in data.train] == ["anger|joy", "", "anger|joy", "fear"]


def test_the_order_is_that_of_the_label_set(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    data = load_data(path, label_separator="|", validation_size=0, labels=["joy", "fear", "anger"])
    assert data.train[0].labels == ("joy", "anger") and data.train[0].label == "joy|anger"
    (again, *_) = load_labelled(path, labels=data.labels, label_separator="|")
    assert again == data.train[0]


def test_lists_and_class_names() -> None:
    assert name_labels(["b", "a", "b"], ",") == ("a", "b")
    assert name_labels([], ",") == name_labels(None, ",") == name_labels(float("nan"), ",") == ()
    assert name_labels([2, "0"], ",", ("x", "y", "z")) == ("x", "z")
    assert name_labels("2;0", ";", ("x", "y", "z")) == ("x", "z")
    assert name_labels(7, ",") == ("7",)
    for value, message in (
        (["a", None], "holds an empty one"),
        (["a", " "], "holds an empty one"),
        (["a,b"], "label 'a,b' holds the separator ','"),
        ([["a"]], "the label is a list"),
        ({"a": 1}, "the label is a mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            name_labels(value, ",")


names = st.text("abc ", min_size=1, max_size=3).filter(lambda name: name == name.strip())


@given(labels=st.lists(names, max_size=6))
def test_joined_labels_are_read_back(labels: list[str]) -> None:
    found = name_labels(labels, "|")
    assert set(found) == set(labels) and len(found) == len(set(labels))
    assert name_labels("|".join(labels), "|") == name_labels(" | ".join([*labels, ""]), "|") == found


def test_json_and_parquet_with_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    lines = [{"text": "a", "labels": ["joy", "fear"]}, {"text": "b", "labels": []}, {"text": "c", "labels": ["joy"]}]
    path = write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "rows.jsonl")
    data = load_data(path, label_separator=",", validation_size=0)
    assert [example.labels for example in data.train] == [("fear", "joy"), (), ("joy",)]
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.Sequence(datasets.ClassLabel(names=["joy", "fear"]))}
    )
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [[1, 0], []]}, features=features)
    made.to_parquet(tmp_path / "rows.parquet")
    for source in (made, tmp_path / "rows.parquet"):
        data = load_data(source, label_separator=",", validation_size=0)
        assert data.labels.names == ("joy", "fear")
        assert [example.labels for example in data.train] == [("joy", "fear"), ()]


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "text,labels\nfirst,joy|angr\n,fear\nthird,jo\n")
    with pytest.raises(LlmclsError) as refused:
        load_labelled(path, labels=LabelSet.from_names(["joy", "anger", "fear"]), label_separator="|")
    for part in ("rows.csv:2: label 'angr'", "did you mean 'anger'", "rows.csv:3: the row has no text", "rows.csv:4"):
        assert part in str(refused.value)


def test_a_split_without_any_label_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, ROWS, "train.csv")
    write(tmp_path, "text,labels\nnew,\nother,\n", "test.csv")
    with pytest.warns(LlmclsWarning, match="no row has a label"):
        data = load_data(tmp_path, label_separator="|", validation_size=0)
    assert data.test == ()
    with pytest.raises(LlmclsError, match="there is no label"):
        load_data(tmp_path / "test.csv", label_separator="|")


@pytest.mark.parametrize("seed", range(20))
def test_no_label_leaves_train_altogether(seed: int) -> None:
    """Not even one that is nowhere the rarest of its row."""
    examples = [Example(f"text {n}", "x", labels=("x", f"rare {n % 3}")) for n in range(9)]
    examples += [Example(f"more {n}", "common", labels=("common",)) for n in range(30)]
    stay, cut = cut_stratified(examples, 0.5, seed)
    assert cut and {name for example in stay for name in example.names} == {
        name for example in examples for name in example.names
    }


def test_validation_keeps_the_rarest_labels() -> None:
    examples = [
        Example(f"text {n}", "", labels=tuple(name for name, each in (("a", 2), ("b", 5), ("c", 20)) if n % each == 0))
        for n in range(400)
    ]
    stay, cut = cut_stratified(examples, 0.1, seed=1)
    assert len(cut) == 40 and len(stay) + len(cut) == 400
    found = Counter(name for example in cut for name in example.names)
    assert found["c"] == 2 and abs(found["b"] - 8) <= 1 and abs(found["a"] - 20) <= 4


def test_rows_that_need_no_or_another_task(tmp_path: Path) -> None:
    apart = write(tmp_path, "text,labels\none,a;b\ntwo,a\nthree,b\nfour,a;b\n")
    with pytest.warns(LlmclsWarning, match="no training row has two labels; check data.label_separator, which is ','"):
        load_data(str(apart), label_separator=",", validation_size=0)
    with warnings.catch_warnings(action="error"):
        load_data(str(apart), label_separator=";", validation_size=0)
    none = write(tmp_path, "text,labels\none,a\ntwo,\nthree,b\n")
    with pytest.raises(LlmclsError, match=r"rows\.csv:3: the label is missing\nWhere a text may have no label"):
        load_data(str(none))
