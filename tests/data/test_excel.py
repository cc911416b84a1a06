"""Excel workbooks: sheets, values as people see them, empty rows, and one sentence for what cannot be read."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from llmcls.data.inputs import load_examples
from llmcls.data.sources import open_tables
from llmcls.data.splits import load_data
from llmcls.errors import LlmclsError

ROWS = [("text", "label", "when"), ("one", 1.0, None), ("two", 2, datetime.datetime(2024, 1, 31)), ("three", 1, "")]


def save(path: Path, **sheets: list[tuple[Any, ...]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_is_read_as_people_see_it(tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", Data=[*ROWS, (), (None, " "), ("four", "b"), (), ()], Empty=[])
    table = open_tables(path)["train"]
    assert list(table.columns) == ["text", "label", "when"]
    for _ in range(2):
        rows = list(table.rows)
        assert [row.source for row in rows] == [f"t.xlsx:row {n}" for n in (2, 3, 4, 7)]
        assert [row.values["label"] for row in rows] == [1, 2, 1, "b"]
    assert rows[1].values["when"] == "2024-01-31" and rows[3].values == {"text": "four", "label": "b", "when": None}
    assert [row.label for row in load_data(path, validation_size=0).train] == ["1", "2", "1", "b"]
    assert [row.text for row in load_examples(str(path))] == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3.0, 3),
        (3.5, 3.5),
        (True, True),
        (datetime.datetime(2024, 1, 31, 12, 5), "2024-01-31 12:05:00"),
        (datetime.date(2024, 1, 31), "2024-01-31"),
        (datetime.time(12, 5), "12:05:00"),
        ("007", "007"),
        ("=1+1", None),  # never computed
    ],
)
def test_values(value: Any, shown: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", Data=[("text", "x", "y"), ("a", value, "b")])
    [row] = open_tables(path)["train"].rows
    assert row.values["x"] == shown and type(row.values["x"]) is type(shown)


def test_one_of_several_sheets_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", **{"2023": ROWS, "Old ones": ROWS[:2], "Notes": []})
    with pytest.raises(LlmclsError, match=r"has 2 sheets with rows; name one of them: '.*xlsx:2023', '.*:Old ones'"):
        open_tables(path)
    assert len(list(open_tables(f"{path}:Old ones")["train"].rows)) == 1
    with pytest.raises(LlmclsError, match=r"Unknown sheet 'Old one'\. Did you mean 'Old ones'"):
        open_tables(f"{path}:Old one")
    with pytest.raises(LlmclsError, match=r"Sheet 'Notes' of .* is empty; it needs a row with column names"):
        open_tables(f"{path}:Notes")
    tables = open_tables({"train": f"{path}:2023", "test": f"{path}:Old ones"})
    assert list(tables) == ["train", "test"]


def test_a_folder_of_workbooks(tmp_path: Path) -> None:
    save(tmp_path / "train.xlsx", Data=ROWS)
    save(tmp_path / "test.xlsx", Data=ROWS[:2])
    assert {name: len(list(table.rows)) for name, table in open_tables(tmp_path).items()} == {"train": 3, "test": 1}


def test_bad_rows_are_named_by_their_cells(tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", Data=[("text", "label"), ("a", "x"), ("b", "#N/A"), ("c", "y", None, "more")])
    with pytest.raises(LlmclsError) as raised:
        load_data(path)
    assert "t.xlsx:row 3: cell B3 holds the error #N/A" in str(raised.value)
    assert "t.xlsx:row 4: cell D4 is in a column without a name" in str(raised.value)


def test_headers_that_cannot_be_used(tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", Data=[("text", None, "text"), ("a", "b", "c")])
    with pytest.raises(LlmclsError, match=r"(?s)column 2 of 3 has no name.*column 'text' occurs 2 times"):
        open_tables(path)
    with pytest.raises(LlmclsError, match=r"t\.xlsx' is empty; it needs a row with column names"):
        open_tables(save(tmp_path / "t.xlsx", Data=[(), (None,)]))


def test_what_is_not_a_workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.xlsx"
    path.write_text("text,label\n", encoding="utf-8")
    with pytest.raises(LlmclsError, match="is not an Excel workbook, or a damaged one: File is not a zip file"):
        open_tables(path)
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1")
    with pytest.raises(LlmclsError, match="is protected by a password, or in Excel's old format"):
        open_tables(path)
    for name in ("t.xls", "t.ods", "t.XLSB"):
        with pytest.raises(LlmclsError, match=f"'{name}' is a workbook of a kind that is not read; save it as .xlsx"):
            open_tables(name)
    with pytest.raises(LlmclsError, match="No such file or folder"):
        open_tables(str(tmp_path / "u.xlsx"))
    save(path, Data=ROWS)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(LlmclsError, match=r"needs the package openpyxl: pip install 'llmcls\[excel\]', or save"):
        open_tables(path)
