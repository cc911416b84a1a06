"""Training rows that cannot be used: all reported, or left out, counted and listed."""

from __future__ import annotations

import csv

import pytest

from llmcls.data.inputs import BadRow
from llmcls.data.splits import load_data, load_training_data
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.settings import make_settings
from llmcls.training.keeping import write_bad_rows

GOOD = "text,label\none,a\ntwo,b\n"


@pytest.mark.parametrize(
    ("row", "source", "problem", "raw"),
    [
        (b"three,\n", "t.csv:4", "the label is missing", '{"text": "three", "label": ""}'),
        (b",a\n", "t.csv:4", "the row has no text", '{"text": "", "label": "a"}'),
        (b"caf\xe9,a\n", "t.csv:4", "the byte 0xE9 is not UTF-8", "caf\\xe9,a"),
        (b"x,y,z\n", "t.csv:4", "the row has 3 cells where the header has 2", "x,y,z"),
        (b'"never closed,a\n', "t.csv:4", "the quote opened here is never closed", '"never closed,a'),
        (b"\nx,['a']\n", "t.csv:5", "is a list in text", '{"text": "x", "label": "[\'a\']"}'),
    ],
)
def test_a_bad_row_is_left_out_and_listed(tmp_path, row, source, problem, raw):
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD.encode() + row + b"four,a\n")
    data = {"source": str(path), "validation_size": 0}
    with pytest.raises(LlmclsError, match=r"set data\.bad_rows to skip") as refused:
        load_training_data(make_settings({"data": data}))
    assert f"{source}: " in str(refused.value) and problem in str(refused.value)
    with pytest.warns(LlmclsWarning, match=r"1 of 4 rows cannot be used and are left out; the first is t\.csv:"):
        splits = load_training_data(make_settings({"data": {**data, "bad_rows": "skip"}}))
    assert [example.text for example in splits.train] == ["one", "two", "four"]
    (bad,) = splits.bad_rows
    assert (bad.source, bad.raw) == (source, raw) and problem in bad.problem
    assert any("1 of 4 rows cannot be used" in note and source in note for note in splits.notes)
    write_bad_rows(tmp_path, splits.bad_rows)
    with (tmp_path / "bad_rows.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [list(BadRow._fields), list(bad)]


def test_rows_of_all_splits_are_counted_apart():
    good = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    test = [{"text": "three", "label": "a"}, {"text": "four", "label": "c"}, {"text": "five", "label": None}]
    with pytest.warns(LlmclsWarning, match="test: 2 of 3 rows"):
        splits = load_data({"train": good, "test": test}, skip_bad_rows=True, validation_size=0)
    assert [row.source for row in splits.bad_rows] == ["test:row 2", "test:row 3"]
    assert [example.text for example in splits.test] == ["three"]


@pytest.mark.parametrize("label", [None, "", float("nan"), ["a"]])
def test_data_without_a_usable_row_is_an_error_all_the_same(label):
    with pytest.raises(LlmclsError, match="train:row 1: the label is"):
        load_data([{"text": "one", "label": label}] * 3, skip_bad_rows=True)


def test_good_rows_are_not_listed(tmp_path):
    splits = load_data([{"text": "one", "label": "a"}, {"text": "two", "label": "b"}], skip_bad_rows=True)
    assert splits.bad_rows == () and not any("cannot be used" in note for note in splits.notes)
    write_bad_rows(tmp_path, splits.bad_rows)
    assert not list(tmp_path.iterdir())


def test_half_characters_can_be_listed(tmp_path):
    write_bad_rows(tmp_path, [BadRow("t:1", "half a character", "\ud800 é")])
    assert "\\ud800 é" in (tmp_path / "bad_rows.csv").read_text(encoding="utf-8")
