from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmcls.default_plugins.dataset_readers import delimited
from llmcls.default_plugins.dataset_readers.delimited import CsvReader, DelimitedRows, TsvReader
from llmcls.errors import LlmclsError


@pytest.fixture
def rows(tmp_path):
    """Write bytes as t.csv and read its rows."""

    def read(content: bytes, reader=CsvReader, suffix=".csv"):
        path = tmp_path / f"t{suffix}"
        path.write_bytes(content)
        return list(reader().read(str(path))["train"].rows)

    return read


def problems(rows):
    return [(row.source, row.problem) for row in rows if row.problem]


def test_plain_rows_have_values_and_true_lines(rows):
    found = rows(b'text,label\r\nhello,a\r\n\r\n"two\r\nlines, quoted ""word""",b\r\nlast,c')
    assert [dict(row.values) for row in found] == [
        {"text": "hello", "label": "a"},
        {"text": 'two\r\nlines, quoted "word"', "label": "b"},
        {"text": "last", "label": "c"},
    ]
    assert [row.source for row in found] == ["t.csv:2", "t.csv:4", "t.csv:6"]


def test_byte_order_mark_is_no_part_of_the_header(rows):
    assert rows("\ufefftext,label\nä,b\n".encode())[0].values == {"text": "ä", "label": "b"}


def test_tabs_and_gzip(rows):
    assert rows(b"text\tlabel\na, b\tc\n", TsvReader, ".tsv")[0].values == {"text": "a, b", "label": "c"}
    assert rows(gzip.compress(b"text,label\na,c\n", mtime=0), CsvReader, ".csv.gz")[0].values == {
        "text": "a",
        "label": "c",
    }


def test_rows_can_be_walked_twice(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text\na\nb\n")
    table = CsvReader().read(str(path))["train"]
    assert list(table.rows) == list(table.rows)
    assert len(list(table.rows)) == 2


def test_bytes_that_are_not_utf8_are_a_problem_of_their_row_only(rows):
    found = rows(b'text,label\ngood,a\ncaf\xe9,b\n"two\nlin\xff",c\ngood,a\n')
    assert problems(found) == [
        ("t.csv:3", "the byte 0xE9 is not UTF-8; save the file as UTF-8, or set data.encoding, probably to cp1252"),
        (
            "t.csv:4",
            "the byte 0xFF is not UTF-8 (line 5); save the file as UTF-8, or set data.encoding, probably to cp1252",
        ),
    ]
    assert [row.source for row in found] == ["t.csv:2", "t.csv:3", "t.csv:4", "t.csv:6"]


def test_nul_is_a_problem(rows):
    found = rows(b"text,label\na\0b,x\n\0\0\nok,y\n")
    assert [source for source, _ in problems(found)] == ["t.csv:2", "t.csv:3"]
    assert all("NUL" in problem for _, problem in problems(found))
    assert found[-1].values == {"text": "ok", "label": "y"}


def test_wrong_number_of_cells(rows):
    found = problems(rows(b'text,label\na\na,b,c\n"x\ny",z,"\n",w\n'))
    assert [source for source, _ in found] == ["t.csv:2", "t.csv:3", "t.csv:4"]
    assert "1 cell where the header has 2" in found[0][1]
    assert "3 cells where the header has 2; quote a cell" in found[1][1]
    assert "it runs to line 6" in found[2][1]


def test_unclosed_quote_is_reported_where_it_opens_and_the_rest_is_read(rows):
    found = rows(b'text,label\nfine,a\n"never closed,b\nfine,c\nfine,d\n')
    assert problems(found) == [
        ("t.csv:3", "the quote opened here is never closed; close it, or double each quote inside a quoted cell")
    ]
    assert [row.values["text"] for row in found if not row.problem] == ["fine"] * 3
    assert [row.source for row in found] == ["t.csv:2", "t.csv:3", "t.csv:4", "t.csv:5"]


def test_unclosed_quote_that_opens_in_a_later_line_of_its_row(rows):
    found = rows(b'text,label\n"one\ntwo","open\nx,y\n')
    assert problems(found)[0][0] == "t.csv:3"
    assert found[-1].source == "t.csv:4" and found[-1].values == {"text": "x", "label": "y"}


def test_unclosed_quote_that_meets_the_next_quoted_row(rows):
    found = rows(b'text,label\n"open,a\n"fine",b\n"fine, too",c\n')
    assert [source for source, _ in problems(found)] == ["t.csv:2"]
    assert "ends in the middle of line 3" in problems(found)[0][1]
    assert [row.values.get("label") for row in found] == [None, "b", "c"]


def test_quote_inside_a_quoted_cell(rows):
    found = rows(b'text,label\n"say "hi" now",a\nfive 5" pipes,b\n')
    assert [source for source, _ in problems(found)] == ["t.csv:2"]
    assert "double each quote" in problems(found)[0][1]
    assert found[1].values == {"text": 'five 5" pipes', "label": "b"}


def test_many_unclosed_quotes_are_all_reported(rows):
    content = b"text,label\n" + b'"open,a\nfine,b\n' * 50
    assert [source for source, _ in problems(rows(content))] == [f"t.csv:{line}" for line in range(2, 102, 2)]


def test_long_cells_are_read_and_endless_ones_refused(rows, monkeypatch):
    assert len(rows(b"text\n" + b"x" * 2_000_000 + b"\n")[0].values["text"]) == 2_000_000
    limit = csv.field_size_limit()
    monkeypatch.setattr(delimited, "LONGEST_CELL", 1000)
    csv.field_size_limit(1000)
    try:
        found = rows(b'text,label\n"open,a\n' + b"fine,b\n" * 500 + b"y" * 2000 + b",c\nfine,d\n")
    finally:
        csv.field_size_limit(limit)
    assert problems(found) == [
        ("t.csv:2", "the quote opened here is never closed; close it, or double each quote inside a quoted cell"),
        ("t.csv:503", "a cell is longer than 1,000 characters"),
    ]
    assert len(found) == 503


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n\n", "is empty"),
        (b"text,text,label,label\na,b,c,d\n", "'text' occurs 2 times.*\n.*'label' occurs 2 times"),
        (b",text\n0,a\n", "column 1 of 2 has no name"),
        (b'"text,label\na,b\n', "The header of .* the quote opened here is never closed"),
        ("text,label\na,b\n".encode("utf-16"), "UTF-16"),
        (b"te\xffxt,label\n", "The header of .* 0xFF is not UTF-8"),
    ],
)
def test_files_that_cannot_be_used(rows, content, message):
    with pytest.raises(LlmclsError, match=f"(?s){message}"):
        rows(content)


def test_header_only_has_no_rows(rows):
    assert rows(b"text,label\n") == []


@pytest.mark.parametrize(
    "content", [b"text,label\n", gzip.compress(b"text,label\n" + b"hello,a\n" * 500, mtime=0)[:40]]
)
def test_damaged_gzip(rows, content):
    with pytest.raises(LlmclsError, match="Cannot unpack"):
        rows(content, CsvReader, ".csv.gz")


def test_memory_stays_constant(tmp_path):
    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write("text,label\n")
        for _ in range(30):
            file.write(("x" * 990 + ",a\n") * 1000)
    # A process of its own, so that what other tests hold is not measured; 30 MB of rows must not show.
    code = (
        "import tracemalloc; from llmcls.default_plugins.dataset_readers.delimited import CsvReader; "
        f"rows = CsvReader().read({str(path)!r})['train'].rows; tracemalloc.start(); "
        "n = sum(1 for _ in rows); print(n, tracemalloc.get_traced_memory()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    count, peak = map(int, done.stdout.split())
    assert count == 30_000 and peak < 2_000_000


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(max_examples=200, deadline=None)
@example(cells=[("\r", "\n"), ('"', '""'), ("\ufeff", "")], delimiter=",", quoting=csv.QUOTE_MINIMAL)
@given(
    cells=st.lists(st.tuples(texts, texts), max_size=8),
    delimiter=st.sampled_from([",", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_any_text_survives_the_round_trip(tmp_path_factory, cells, delimiter, quoting):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting)
    writer.writerow(["text", "label"])
    writer.writerows(cells)
    path = tmp_path_factory.mktemp("round") / "t.csv"
    path.write_bytes(buffer.getvalue().encode())
    rows = DelimitedRows(path, delimiter)
    try:
        assert rows.quote_cells(), "what was written with quotes is never taken for text"
    except LlmclsError:  # of cells that hold whole rows nobody can tell
        assert delimiter == "\t" and any(set(cell) & set("\r\n") for row in cells for cell in row)
    found = list(rows)
    assert [(row.values["text"], row.values["label"]) for row in found] == cells
    assert not problems(found)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"\r", b"a", b"\xff", b"\0", "ä".encode()]), max_size=40))
def test_any_bytes_give_rows_with_rising_lines(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("bytes") / "t.csv"
    path.write_bytes(b"text,label\n" + b"".join(pieces))
    found = list(DelimitedRows(path, ","))
    numbers = [int(row.source.partition(":")[2]) for row in found]
    assert numbers == sorted(set(numbers))
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = sum(1 for _ in file)
    assert all(2 <= number <= lines for number in numbers)
    assert all(row.problem or set(row.values) == {"text", "label"} for row in found)
