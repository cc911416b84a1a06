"""Rows, cells and files that are too long are set aside or refused, before they take memory that there is not."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcls import LlmclsError
from llmcls.cli import predictions
from llmcls.cli.arriving import ArrivingRows
from llmcls.data import examples
from llmcls.data.inputs import BadRow, GoodRow, load_examples
from llmcls.data.sources import open_tables
from llmcls.default_plugins.dataset_readers import delimited, excel, files, json_file, parquet
from llmcls.prompt import sizes
from llmcls.prompt.sizes import in_groups
from llmcls.records import Example

LONG = "x" * 5000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    monkeypatch.setattr("llmcls.cli.arriving.LONGEST_LINE", 1000)
    monkeypatch.setattr(delimited, "LONGEST_RECORD", 3000)
    monkeypatch.setattr(json_file, "LARGEST", 1000)
    monkeypatch.setattr(excel, "LARGEST", 20_000)
    monkeypatch.setattr(parquet, "LONGEST_CELL", 1000)
    monkeypatch.setattr(parquet, "LONG", 500)


def read(file: Path) -> list[tuple[str, str]]:
    """Source and text of every row, or what is wrong with it."""
    rows = load_examples(str(file), text_columns=["text"]).rows()
    return [
        (row.source, row.problem) if isinstance(row, BadRow) else (row.example.source, row.example.text) for row in rows
    ]


WRITTEN = {
    ".csv": lambda texts: "text,n\n" + "".join(f"{text},1\n" for text in texts),
    ".tsv": lambda texts: "text\tn\n" + "".join(f"{text}\t1\n" for text in texts),
    ".jsonl": lambda texts: "".join(json.dumps({"text": text}) + "\n" for text in texts),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_long_line_is_a_bad_row_and_those_beside_it_are_read(
    suffix: str, packed: bool, end: str, tmp_path: Path
) -> None:
    content = WRITTEN[suffix](["one", LONG, "two", "y" * 980, LONG, "three"]).encode()
    content = content.replace(b"\n", end.encode()) if end else content.removesuffix(b"\n")
    file = tmp_path / f"rows{suffix}{'.gz' if packed else ''}"
    file.write_bytes(gzip.compress(content) if packed else content)
    first = 1 if suffix == ".jsonl" else 2
    found = read(file)
    assert [text for _, text in found if not text.startswith("the line")] == ["one", "two", "y" * 980, "three"]
    assert [int(source.rpartition(":")[2]) - first for source, text in found if text.startswith("the line")] == [1, 4]
    assert all("longer than 33,554,432 characters; cut its text" in text for _, text in found if text[:8] == "the line")


@pytest.mark.parametrize("length", range(990, 1012))
@pytest.mark.parametrize("encoding", [None, "utf-16"])
def test_lines_about_as_long_as_the_limit_keep_their_neighbours(
    length: int, encoding: str | None, tmp_path: Path
) -> None:
    from llmcls.data.reader import FileFormat

    for suffix in (".csv", ".jsonl"):
        file = tmp_path / f"rows{suffix}"
        file.write_bytes(WRITTEN[suffix](["one", "y" * length, "two"]).encode(encoding or "utf-8"))
        rows = list(open_tables(str(file), form=FileFormat(encoding=encoding))["train"].rows)
        assert [row.values.get("text") for row in rows][::2] == ["one", "two"]
        kept = rows[1].values.get("text")
        assert kept == "y" * length or (rows[1].problem and length > 980)


def test_a_record_of_many_lines_is_limited_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        'text,n\none,1\n"' + "z" * 400 + '\n"' * 0 + ("z" * 400 + "\n") * 20 + '",1\ntwo,2\n', encoding="utf-8"
    )
    found = read(file)
    assert found[0] == ("rows.csv:2", "one") and found[-1][1] == "two"
    assert "longer than" in found[1][1]


def test_a_long_header_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"text,{LONG}\na,b\n", encoding="utf-8")
    with pytest.raises(LlmclsError, match=r"^The header of '.*rows.csv' cannot be read: the line is longer than"):
        read(tmp_path / "rows.csv")


def test_a_json_file_has_a_size(tmp_path: Path) -> None:
    for name, pack in (("rows.json", bytes), ("rows.json.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(json.dumps([{"text": LONG}]).encode()))
        with pytest.raises(LlmclsError, match=r"would be read as a whole; write one object a line, as \.jsonl"):
            read(tmp_path / name)


def test_a_workbook_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["text"])
    book.active.append(["one"])
    book.save(tmp_path / "rows.xlsx")
    assert read(tmp_path / "rows.xlsx") == [("rows.xlsx:row 2", "one")]
    with zipfile.ZipFile(tmp_path / "rows.xlsx", "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("xl/more.xml", " " * 100_000)
    with pytest.raises(LlmclsError, match=r"unpacks to 0 MiB, more than the .* MiB that are read of a workbook"):
        read(tmp_path / "rows.xlsx")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_cell_of_a_parquet_file_has_a_length(compressed: bool, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as writer

    texts = ["one", LONG, None, "two", "y" * 600, LONG]
    table = pyarrow.table({"text": texts, "n": list(range(6)), "more": [LONG] * 6 if compressed else ["a"] * 6})
    writer.write_table(table, tmp_path / "rows.parquet", use_dictionary=compressed)
    found = list(open_tables(str(tmp_path / "rows.parquet"))["train"].rows)
    wrong = [row.problem is not None for row in found]
    assert wrong == ([True] * 6 if compressed else [False, True, False, False, False, True])
    if not compressed:
        assert found[4].values == {"text": "y" * 600, "n": 4, "more": "a"} and found[2].values["text"] is None
    assert "characters; cut its text" in str(found[1].problem)


def test_parquet_is_read_as_pyarrow_reads_it(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as writer

    values = {
        "text": ["a", None, "c"] * 900,
        "n": [1.5, None, 3] * 900,
        "list": [["x"], [], None] * 900,
        "raw": [b"z"] * 2700,
    }
    writer.write_table(pyarrow.table(values), tmp_path / "rows.parquet", row_group_size=700)
    found = [row.values for row in open_tables(str(tmp_path / "rows.parquet"))["train"].rows]
    assert found == pyarrow.table(values).to_pylist()


def test_standard_input_keeps_the_beginning_of_a_long_line() -> None:
    lines = b"one\n" + LONG.encode() * 30 + b"\ntwo\n" + b"z" * 1000 + b"\n" + LONG.encode()
    found = list(ArrivingRows(io.BytesIO(lines)))
    long = "the line is longer than 1,000 bytes; cut its text"
    told = [row.problem if isinstance(row, BadRow) else row.example.text[:4] for row in found]
    assert told == ["one", long, "two", "zzzz", long]
    assert [row.source for row in found if isinstance(row, BadRow)] == ["line 2", "line 5"]
    assert all(len(row.raw) < 1100 for row in found if isinstance(row, BadRow))


def test_a_text_has_a_length(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lora: Path, llmcls: Callable[..., object]
) -> None:
    from llmcls import Classifier

    monkeypatch.setattr(examples, "LONGEST_TEXT", 300)
    (tmp_path / "rows.csv").write_text("text\none\n" + "x" * 400 + "\n", encoding="utf-8")
    problem = "the text has 400 characters, more than the 300 that are read; cut it"
    assert read(tmp_path / "rows.csv") == [("rows.csv:2", "one"), ("rows.csv:3", problem)]
    done = llmcls("predict", "--run", lora, "--input", tmp_path / "rows.csv", "--output", tmp_path / "out.csv")
    assert done.code == 0 and problem in done.err  # type: ignore[attr-defined]
    assert problem in (tmp_path / "out.csv.errors.csv").read_text(encoding="utf-8")
    with pytest.raises(LlmclsError, match=f"Text 0 cannot be used: {problem}"):
        Classifier.load(lora).predict(["x" * 400])


def test_long_rows_are_encoded_and_taken_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, lora: Path) -> None:
    from llmcls.runs.assembly import assemble_run
    from llmcls.runs.run import Run

    rows = [Example("x" * size) for size in (10, 700, 5, 1200, 40, 40, 900)]
    encoder = assemble_run(Run.open(lora)).encoder
    whole = encoder.encode(rows)
    monkeypatch.setattr(sizes, "CHARACTERS", 1000)
    assert [[len(row.text) for row in group] for group in in_groups(rows)] == [[10, 700, 5], [1200], [40, 40, 900]]
    assert in_groups([]) == [[]] and encoder.encode(rows) == whole

    monkeypatch.setattr(predictions, "CHARACTERS_AT_ONCE", 1000)
    walked = iter([GoodRow({}, row) for row in rows])
    assert [len(taken) for taken in iter(lambda: predictions._take(walked, 3), [])] == [3, 1, 3]
