"""The weights of training rows: how they are read, what is refused, and where they do not count."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmcls.data.splits import load_data
from llmcls.data.weights import read_weight, relative_weights
from llmcls.errors import LlmclsError

ROWS = [{"text": f"text {n}", "label": "ab"[n % 2], "w": n / 2} for n in range(6)]


@pytest.mark.parametrize("value", [2, 2.0, "2", " 2.0 ", "2e0", Decimal("2"), np.float32(2), np.int64(2)])
def test_numbers(value: Any) -> None:
    assert read_weight(value, "w") == 2.0


@pytest.mark.parametrize("value", ["heavy", "1,5", "1_000", -1, "-0.1", "nan", "inf", float("inf"), True, [1], 10**400])
def test_what_is_not_a_weight(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^column 'w' holds .*; a weight is a number, 0 or more$"):
        read_weight(value, "w")


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), pd.NA])
def test_an_empty_cell_is_not_a_weight(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^column 'w' is empty; a weight is a number, 0 or more$"):
        read_weight(value, "w")


def test_a_csv_file_and_a_frame_have_the_same_weights(tmp_path: Path) -> None:
    frame, path = pd.DataFrame(ROWS), tmp_path / "rows.csv"
    frame.to_csv(path, index=False)
    for data in (path, frame):
        splits = load_data(data, weight_column="w", validation_size=0)
        assert [row.weight for row in splits.train] == [0.5, 1.0, 1.5, 2.0, 2.5]
        assert "train: 1 of 6 rows have weight 0 and are left out" in splits.notes
    plain = load_data(path, validation_size=0)
    assert {row.weight for row in plain.train} == {1.0} and plain.fingerprint != splits.fingerprint
    ones = load_data([row | {"w": "1.0"} for row in ROWS], weight_column="w", validation_size=0)
    assert ones.fingerprint == plain.fingerprint


def test_bad_weights_are_bad_rows_of_train_only() -> None:
    bad = [*ROWS, {"text": "x", "label": "a", "w": "-1"}, {"text": "y", "label": "a"}]
    with pytest.raises(LlmclsError, match=r"(?s)row 7: column 'w' holds '-1'.*row 8: column 'w' is empty"):
        load_data(bad, weight_column="w")
    with pytest.warns(match="2 of 8 rows cannot be used"):
        assert len(load_data(bad, weight_column="w", skip_bad_rows=True, validation_size=0).train) == 5
    test = [{"text": "z", "label": "a"}, {"text": "z2", "label": "b", "w": -1}]
    splits = load_data({"train": ROWS, "test": test}, weight_column="w", validation_size=0)
    assert [row.weight for row in splits.test] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("v", "Unknown column 'v'"),
        ("text", "'text' is named as weight column, and as text or label column, too"),
        ("label", "'label' is named as weight column, and as text or label column, too"),
        ("zero", "Column 'zero' holds 0 in every training row"),
    ],
)
def test_columns_that_cannot_be_used(column: str, message: str) -> None:
    with pytest.raises(LlmclsError, match=message):
        load_data(
            [row | {"zero": 0} for row in ROWS], text_columns=["text"], label_column="label", weight_column=column
        )


def test_a_weight_column_is_never_taken_for_the_text() -> None:
    rows = [{"sentiment": "ab"[n], "x": n, "w": 1} for n in range(2)]
    assert load_data(rows, weight_column="w", validation_size=0).columns.text == ("x",)


def test_weights_are_shares_of_the_largest() -> None:
    rows = load_data(ROWS, weight_column="w", validation_size=0).train
    assert relative_weights(rows) == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert relative_weights(rows[:1]) is relative_weights([]) is None
