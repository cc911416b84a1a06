"""Labels as columns of zeros and ones: one column a label, in every format, for both tasks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from llmcls import Classifier, train
from llmcls.console import Reporter
from llmcls.data.inputs import load_examples, load_labelled
from llmcls.data.one_hot import find_flags, read_flags
from llmcls.data.splits import load_data
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.settings import load_settings

NAMES = ["fear", "anger", "joy"]
ROWS: list[dict[str, Any]] = [
    {"text": "a", "fear": 1, "anger": 0, "joy": 1},
    {"text": "b", "fear": 0, "anger": 0, "joy": 0},
    {"text": "c", "fear": 0, "anger": 1, "joy": 0},
]
SEVERAL = [("fear", "joy"), (), ("anger",)]


def written(folder: Path, ending: str) -> Any:
    frame, path = pd.DataFrame(ROWS), folder / f"rows.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "tsv":
        frame.astype({"fear": float, "anger": bool}).to_csv(path, sep="\t", index=False)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row | {"joy": bool(row["joy"])}) for row in ROWS), encoding="utf-8")
    elif ending == "parquet":
        frame.astype({"joy": bool, "anger": float}).to_parquet(path)
    return {"frame": frame.astype({"joy": bool}), "dataset": Dataset.from_list(ROWS)}.get(ending, path)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "frame", "dataset"])
def test_every_format_has_the_same_labels_in_the_order_of_the_names(ending: str, tmp_path: Path) -> None:
    data = load_data(written(tmp_path, ending), label_column=NAMES, label_separator=",", validation_size=0)
    assert data.labels.names == tuple(NAMES) and data.columns.label == tuple(NAMES)
    assert [row.labels for row in data.train] == SEVERAL and data.train[0].label == "fear,joy"
    assert not data.train[0].fields


def test_one_label_a_row() -> None:
    rows = [{"text": str(n), "fear": n == 0, "anger": float(n == 1), "joy": str(int(n == 2))} for n in range(3)]
    data = load_data(rows, label_column=NAMES, validation_size=0, aliases={"joy": ["fun"]})
    assert [row.label for row in data.train] == NAMES and data.train[0].labels is None
    with pytest.raises(LlmclsError) as raised:
        load_data(ROWS, label_column=NAMES, validation_size=0)
    message = str(raised.value)
    assert "row 1: 2 label columns hold a 1 (fear, joy); a row has one label" in message
    assert "row 2: no label column holds a 1; a row has one label" in message and "set task to multi_label" in message


@pytest.mark.parametrize("cell", [1, 1.0, True, "1", " 1.0", "True", "TRUE", np.True_, np.int64(1), np.float32(1)])
def test_ones(cell: Any) -> None:
    assert read_flags({"a": cell, "b": 0}, ["a", "b"]) == ["a"]


@pytest.mark.parametrize("cell", [0, 0.0, False, "0", "0.0", "false", np.False_])
def test_zeros(cell: Any) -> None:
    assert read_flags({"a": cell, "b": cell}, ["a", "b"]) == []


@pytest.mark.parametrize("cell", [None, "", " ", float("nan"), pd.NA, -1, "-1", -1.0])
def test_a_row_without_any_flag_has_no_label_yet(cell: Any) -> None:
    assert read_flags({"a": cell, "b": cell}, ["a", "b"]) is None
    with pytest.raises(
        ValueError, match=r"^column 'b' (is empty|holds -1|holds '-1'|holds -1.0); a label column among"
    ):
        read_flags({"a": 1, "b": cell}, ["a", "b"])


def test_other_cells_are_bad_rows_that_name_column_and_value() -> None:
    rows = [*ROWS, {"text": "d", "fear": 2, "anger": "yes", "joy": 1}, {"text": "e", "fear": [1], "anger": 0, "joy": 0}]
    with pytest.raises(LlmclsError) as raised:
        load_data(rows, label_column=NAMES, label_separator=",")
    assert "row 4: column 'fear' holds 2 and column 'anger' holds 'yes'; a label column among several holds 0 or 1" in (
        str(raised.value)
    )
    assert "row 5: column 'fear' holds [1]" in str(raised.value)
    with pytest.warns(match="2 of 5 rows cannot be used"):
        data = load_data(rows, label_column=NAMES, label_separator=",", skip_bad_rows=True, validation_size=0)
    assert len(data.train) == 3


def test_other_splits() -> None:
    train_rows = [*ROWS, {"text": "d", "fear": 1, "anger": 1, "joy": 0}]
    unlabelled = [{"text": "x", "fear": -1, "anger": -1, "joy": -1}]
    with pytest.warns(match="test: no row has a label"):
        data = load_data({"train": train_rows, "test": unlabelled}, label_column=NAMES, label_separator=",")
    assert not data.test
    with pytest.warns(match="test: no row has a label"):
        assert not load_data(
            {"train": train_rows, "test": [{"text": "x"}]}, label_column=NAMES, label_separator=","
        ).test
    with pytest.raises(LlmclsError, match="test: Unknown column 'joy'"):
        load_data({"train": train_rows, "test": [{"text": "x", "fear": 1, "anger": 0}]}, label_column=NAMES)


def test_evaluation_and_prediction_read_them() -> None:
    labels = LabelSet.from_names(NAMES)
    rows = load_labelled(ROWS, labels=labels, label_column=NAMES, label_separator=",")
    assert [row.labels for row in rows] == SEVERAL
    with pytest.raises(LlmclsError, match="label 'joy' is not one of the 2 known labels"):
        load_labelled(ROWS, labels=LabelSet.from_names(NAMES[:2]), label_column=NAMES, label_separator=",")
    assert [row.labels for row in load_examples(ROWS, label_column=NAMES, label_separator=",")] == SEVERAL
    assert [row.labels for row in load_examples([{"text": "a", "joy": 1}], label_column=NAMES)] == [None]


@pytest.mark.parametrize(
    ("names", "separator", "message"),
    [
        (["fear", "fear"], None, "label column 'fear' is named twice"),
        (["fear", "text"], None, "'text' is named both as text and as label column"),
        (["fear", "glee"], None, "Unknown column 'glee'"),
        (["fear", "joy"], "o", "label column 'joy' holds the separator 'o'"),
    ],
)
def test_names_that_cannot_be_used(names: list[str], separator: str | None, message: str) -> None:
    with pytest.raises(LlmclsError, match=message):
        load_data(ROWS, text_columns=["text"], label_column=names, label_separator=separator)


def test_a_file_without_a_label_column_says_how_to_name_them() -> None:
    rows = [row | {"anger or so": 0, "id": n} for n, row in enumerate(ROWS)]
    with pytest.raises(LlmclsError) as raised:
        load_data(rows)
    options = "--label-column fear --label-column anger --label-column joy --label-column 'anger or so'"
    assert "4 hold only zeros and ones" in str(raised.value) and f"{options}; where" in str(raised.value)
    assert find_flags([], ["a"]) == []
    with pytest.raises(LlmclsError, match="none is named so; name it with --label-column"):
        load_data([{"text": "a", "team": "b"}])


def test_the_setting_takes_one_name_or_several() -> None:
    def read(value: str) -> object:
        return load_settings((), [f"data.label_column={value}"]).data.label_column

    assert read("label") == read("[label]") == "label" and read("null") is read("[]") is None
    assert read("[anger, 1, no]") == ("anger", "1", "no")
    for wrong in ({"a": 1}, True, 3.5j):
        with pytest.raises(LlmclsError, match=r"data\.label_column: .*(a list of names|write the name as text)"):
            load_settings((), (), {"data.label_column": wrong})


def test_a_run_evaluates_by_the_same_columns(tmp_path: Path) -> None:
    rows = [row | {"text": f"{row['text']} {n}"} for n in range(4) for row in ROWS]
    settings = {"task": "multi_label", "training": {"max_steps": 1}, "data": {"validation_size": 0}}
    run = train(rows, label_column=NAMES, settings=settings, output_dir=tmp_path / "run", reporter=Reporter(quiet=True))
    assert run.settings.data.label_column == tuple(NAMES) and run.card["data"]["label_column"] == NAMES
    assert Classifier.load(run).evaluate(rows).rows == len(rows)
