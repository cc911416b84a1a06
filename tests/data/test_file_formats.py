"""Delimiters, encodings, names with colons, shards, JSON files, and headers that are rows."""

from __future__ import annotations

import json
import warnings

import pandas as pd
import pytest

from llmcls.cli.predictions import Input
from llmcls.data.inputs import load_examples
from llmcls.data.reader import DatasetReader, FileFormat, Row, Table
from llmcls.data.sources import open_tables
from llmcls.data.splits import load_data, load_training_data
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.settings import make_settings

ROWS = [{"text": "one, two", "label": "a"}, {"text": "café", "label": "b"}]


def read(path, readers, **options):
    table = open_tables(str(path), readers, FileFormat(**options))["train"]
    return [dict(row.values) for row in table.rows], [row.source for row in table.rows]


@pytest.mark.parametrize(
    ("name", "content", "options", "first"),
    [
        ("t.csv", "text;label\none, two;a\ncafé;b\n", {}, 2),
        ("t.csv", "text|label\none, two|a\ncafé|b\n", {}, 2),
        ("t.csv", "text\tlabel\none, two\ta\ncafé\tb\n", {}, 2),
        ("t.tsv", 'text,label\n"one, two",a\ncafé,b\n', {}, 2),
        ("t.tsv", "text;label\none, two;a\ncafé;b\n", {}, 2),
        ("t.csv", "sep=;\ntext;label\none, two;a\ncafé;b\n", {}, 3),
        ("t.csv", 'sep=,\r\ntext,label\r\n"one, two",a\r\ncafé,b\r\n', {}, 3),
        ("t.csv", '"sep=;"\ntext;label\none, two;a\ncafé;b\n', {}, 3),
        ("t.csv", "sep=~\ntext~label\none, two~a\ncafé~b\n", {}, 3),
        ("t.csv", "text~label\none, two~a\ncafé~b\n", {"delimiter": "~"}, 2),
        ("t.csv", "sep=,\ntext;label\none, two;a\ncafé;b\n", {"delimiter": ";"}, 3),
    ],
)
def test_delimiters(tmp_path, readers, name, content, options, first):
    (tmp_path / name).write_bytes(content.encode())
    assert read(tmp_path / name, readers, **options) == (ROWS, [f"{name}:{first}", f"{name}:{first + 1}"])


def test_delimiters_that_cannot_be_told(tmp_path, readers):
    path = tmp_path / "t.csv"
    path.write_text("text;label|x\na;b|c\n")
    with pytest.raises(LlmclsError, match=r"may be separated by ';' or '\|'; set data\.delimiter to one of them"):
        read(path, readers)
    for content in ("a text; or two\none\ntwo\nthree\n", "Is it (yes|no)\none\ntwo; three\n", "text\none;\n"):
        path.write_text(content)
        found, _ = read(path, readers)
        assert all(len(row) == 1 for row in found), "a file of one column stays one"


@pytest.mark.parametrize(
    "encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-8", "UTF8", "mac-roman", "utf-32"]
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_encodings(tmp_path, readers, encoding, suffix):
    path = tmp_path / f"t.{suffix}"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    content = {
        "csv": 'text,label\n"one, two",a\ncafé,b\n',
        "tsv": "text\tlabel\none, two\ta\ncafé\tb\n",
        "jsonl": "\n".join(lines),
        "json": f"[{','.join(lines)}]",
    }[suffix]
    path.write_bytes(content.encode(encoding))
    settings = make_settings({"data": {"encoding": encoding}}).data
    assert read(path, readers, encoding=settings.encoding)[0] == ROWS
    if encoding.lower().startswith("utf-16") or encoding == "utf-32":
        with pytest.raises(LlmclsError, match=f"is encoded as {encoding.upper()}; .* set data.encoding to {encoding}"):
            read(path, readers)
        with pytest.raises(LlmclsError, match="is encoded as UTF"):
            read(path, readers, encoding="cp1252")


def test_an_encoding_that_does_not_fit(tmp_path, readers):
    path = tmp_path / "t.csv"
    path.write_bytes(b"text,label\nx\x81,a\n")
    for options, message in (
        ({}, "the byte 0x81 is not UTF-8; save the file as UTF-8, or set data.encoding"),
        ({"encoding": "cp1252"}, "the byte 0x81 is not cp1252; set data.encoding to the encoding that the file has"),
    ):
        (row,) = open_tables(str(path), readers, FileFormat(**options))["train"].rows
        assert row.problem == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"delimiter": ";;"}, "is not a delimiter; give one character"),
        ({"delimiter": '"'}, "is not a delimiter"),
        ({"encoding": "utf-99"}, "is not an encoding that Python knows"),
        ({"encoding": "hex"}, "is not an encoding that Python knows"),
        ({"quoting": "never"}, "quoting"),
    ],
)
def test_settings_that_cannot_be(data, message):
    with pytest.raises(LlmclsError, match=message):
        make_settings({"data": data})


@pytest.mark.parametrize(
    ("given", "meant"), [("tab", "\t"), ("\\t", "\t"), ("semicolon", ";"), ("pipe", "|"), (None, None)]
)
def test_delimiters_have_names(given, meant):
    assert make_settings({"data": {"delimiter": given}}).data.delimiter == meant


def test_settings_reach_the_reader_or_are_warned_of(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("text~label\ncafé~a\nthé~b\n".encode("cp1252"))
    data = {"source": str(path), "delimiter": "~", "encoding": "cp1252", "validation_size": 0}
    assert [row.text for row in load_training_data(make_settings({"data": data})).train] == ["café", "thé"]
    pd.DataFrame(ROWS).to_parquet(tmp_path / "t.parquet")
    for source in (str(tmp_path / "t.parquet"), ROWS):
        with pytest.warns(
            LlmclsWarning, match=r"is read without data.delimiter and data.encoding, which it has no use"
        ):
            load_data(source, form=FileFormat("~", "cp1252"), validation_size=0)


def test_readers_of_the_old_contract_still_read():
    class Old(DatasetReader):
        name, description = "old", "always the same: old"

        def reads(self, spec):
            return spec == "old"

        def read(self, spec):
            return {"train": Table(["text"], [Row({"text": "a"}, "old:1")])}

    assert next(iter(load_examples("old", catalog={"old": Old()}, form=FileFormat(";")))).text == "a"


@pytest.mark.parametrize("name", ["tickets:new.csv", "a:b:c.csv", "hub:x.csv", "demo:.csv"])
def test_files_with_a_colon_in_their_name(tmp_path, readers, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text('text,label\n"one, two",a\ncafé,b\n', encoding="utf-8")
    assert read(name, readers) == (ROWS, [f"{name}:2", f"{name}:3"])
    (tmp_path / "set:1").mkdir()
    (tmp_path / "set:1" / "train.csv").write_text("text,label\na,b\n")
    assert read("set:1", readers)[0] == [{"text": "a", "label": "b"}]


def shard(folder, name, texts, **more):
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame({"text": texts, "label": ["a"] * len(texts), **more})
    frame.to_parquet(folder / name) if name.endswith("parquet") else frame.to_csv(folder / name, index=False)


@pytest.mark.parametrize("below", ["", "data", "plain_text"])
@pytest.mark.parametrize("ending", [".parquet", "-a09b74b3ef9c3b56.parquet", ".csv"])
def test_shards_are_read_in_order(tmp_path, readers, below, ending):
    folder = tmp_path / below
    shard(folder, f"train-00001-of-00002{ending}", ["c"])
    shard(folder, f"train-00000-of-00002{ending}", ["a", "b"])
    shard(folder, f"dev-00000-of-00001{ending}", ["d"])
    shard(folder, f"unsupervised-00000-of-00001{ending}", ["e"])
    (tmp_path / "README.md").write_text("read me")
    tables = open_tables(str(tmp_path), readers)
    for _ in range(2):
        texts = {split: [row.values["text"] for row in table.rows] for split, table in tables.items()}
        assert texts == {"train": ["a", "b", "c"], "validation": ["d"]}
    assert next(iter(tables["train"].rows)).source.startswith("train-00000-of-00002")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train-00000-of-00003.csv", "train-00002-of-00003.csv"], "train has 2 of 3 shards; copy the others, too: 1"),
        (["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"], "shards of 1 and of 2"),
        (["train.csv", "train-00000-of-00001.csv"], "has two train files, '.*' and '.*'; rename or remove one"),
        (["train-00000-of-00001.csv", "train-00000-of-00001.parquet"], "has two train files"),
        (["x/train.csv", "y/train.csv"], r"Several folders in '.*' have split files; give one of them: '.*x', '.*y'"),
    ],
)
def test_shards_that_do_not_fit(tmp_path, readers, files, message):
    for name in files:
        shard((tmp_path / name).parent, name.rpartition("/")[2], ["a"])
    with pytest.raises(LlmclsError, match=message):
        open_tables(str(tmp_path), readers)


def test_shards_with_other_columns(tmp_path, readers):
    shard(tmp_path, "train-00000-of-00002.csv", ["a"])
    shard(tmp_path, "train-00001-of-00002.csv", ["b"], more=[1])
    with pytest.raises(LlmclsError, match=r"train-00001-of-00002\.csv' has the columns text, label, more, but"):
        open_tables(str(tmp_path), readers)


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.0", "data": ROWS},
        {"tickets": ROWS},
        {"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]},
        {"train": ROWS},
    ],
)
def test_json_files(tmp_path, readers, content):
    path = tmp_path / "t.json"
    path.write_text("\ufeff" + json.dumps(content, indent=1), encoding="utf-8")
    assert read(path, readers) == (ROWS, ["t.json:row 1", "t.json:row 2"])


def test_json_files_with_lines_or_splits(tmp_path, readers):
    path = tmp_path / "train.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read(path, readers) == (ROWS, ["train.json:1", "train.json:2"])
    assert read(tmp_path, readers)[0] == ROWS
    path.write_text(json.dumps({"train": ROWS, "dev": ROWS[:1]}))
    tables = open_tables(str(path), readers)
    assert list(tables) == ["train", "validation"]
    assert [row.source for row in tables["validation"].rows] == ["train.json:validation:row 1"]


def test_a_json_file_of_a_folder_is_of_one_split(tmp_path, readers):
    (tmp_path / "train.json").write_text(json.dumps({"train": ROWS, "dev": ROWS[:1]}))
    with pytest.raises(LlmclsError, match=r"train\.json' holds the splits train, validation; give the file itself"):
        open_tables(str(tmp_path), readers)
    (tmp_path / "train.json").write_text(json.dumps({"data": ROWS}), encoding="utf-16")
    (table,) = open_tables(str(tmp_path), readers, FileFormat(encoding="utf-16")).values()
    assert [dict(row.values) for row in table.rows] == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; it needs a list of objects"),
        ("[1, 2", "is not JSON: .* \\(line 1, column"),
        ("3", "holds a JSON int; it needs a list of objects"),
        ("[]", "without a single dict of columns"),
        ('{"a": {"text": "x"}, "b": {"text": "y"}}', "a dict under each of its keys"),
        ("[" * 100_000, "is not usable JSON"),
    ],
)
def test_json_files_that_cannot_be_used(tmp_path, readers, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(LlmclsError, match=message):
        open_tables(str(tmp_path / "t.json"), readers)


@pytest.mark.parametrize(
    "header",
    [
        "I really liked this film a lot,pos",
        "It was bad!,neg",
        "0,This one is long enough to be a text",
        "x" * 81 + ",pos",
    ],
)
def test_a_first_line_that_is_a_row(tmp_path, readers, header):
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\nfine,neg\n")
    for options in ({}, {"text_columns": ["text"]}, {"label_column": "label"}):
        with pytest.raises(LlmclsError, match=r"The first line looks like data \('.*'\); put a line with column names"):
            load_data(str(path), catalog=readers, **options)


def test_a_single_column_without_a_name_is_warned_of(tmp_path, readers):
    path = tmp_path / "t.csv"
    path.write_text("I really liked this film a lot\nfine\n")
    with pytest.warns(LlmclsWarning, match="The first line looks like data"):
        load_examples(str(path), catalog=readers)
    path.write_text("what the customer wrote\nfine\n")
    with warnings.catch_warnings(action="error"):
        load_examples(str(path), catalog=readers)


def test_a_prediction_goes_on_only_with_the_same_format(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text;label\na;b\n")
    found = [Input.of_data(str(path), (), None, form=form).identity for form in (None, FileFormat(), FileFormat(";"))]
    assert found[0] == found[1] != found[2] and found[2]["format"] == {"delimiter": ";"}
