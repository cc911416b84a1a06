"""Every other reader, and what is common to all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from llmcls.data.reader import SPLITS, DatasetReader, Row, Table
from llmcls.data.sources import open_tables
from llmcls.default_plugins.dataset_readers import register_dataset_readers
from llmcls.default_plugins.dataset_readers.hub import HubName
from llmcls.errors import LlmclsError

RECORDS = [
    {"text": "eins, zwei", "label": "a"},
    {"text": 'drei\n"vier"', "label": "b"},
    {"text": "fünf 🎈", "label": "a"},
]


def write(path: Path, records=RECORDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(records)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        datasets.Dataset.from_list(records).save_to_disk(path)
    return path


def values(table: Table):
    return [dict(row.values) for row in table.rows]


FORMATS = [".csv", ".tsv", ".jsonl", ".parquet", ""]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_delivers_the_same_rows(tmp_path, readers, suffix):
    path = write(tmp_path / f"data{suffix}")
    tables = open_tables(str(path), readers)
    assert list(tables) == ["train"]
    table = tables["train"]
    assert values(table) == RECORDS
    assert values(table) == RECORDS, "rows can be walked twice"
    assert list(table.columns) == ["text", "label"]
    sources = [row.source for row in table.rows]
    assert len(set(sources)) == 3 and all(":" in source for source in sources)
    assert all(isinstance(row, Row) and row.problem is None for row in table.rows)


@pytest.mark.parametrize(
    "spec", ["data.csv", "d.tsv.gz", "x.jsonl", "x.parquet", "folder", "hub:x", "", "\0", "a" * 5000, "🎈"]
)
def test_asking_whether_a_spec_is_read_never_fails(readers, spec):
    claims = [reader.name for reader in readers.values() if reader.reads(spec)]
    assert len(claims) <= 1


@pytest.mark.parametrize("reader", register_dataset_readers(), ids=lambda reader: reader.name)
def test_readers_describe_themselves(reader):
    assert isinstance(reader, DatasetReader)
    assert reader.name == reader.name.lower() and " " not in reader.name
    assert reader.description and "\n" not in reader.description and ": " in reader.description


def test_readers_import_nothing_heavy():
    code = (
        "import sys, llmcls.default_plugins.dataset_readers as r; r.register_dataset_readers(); "
        "import llmcls.data.splits, llmcls.data.inputs; "
        "print(sorted({'torch', 'pandas', 'pyarrow', 'datasets', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_jsonl_lines_that_cannot_be_used(tmp_path, readers):
    path = tmp_path / "t.ndjson"
    lines = [b'\xef\xbb\xbf{"text": "a", "extra": 1}', b"", b'["text"]', b'{"text": ', b'{"text": "\xff"}', b"3",
             b"null", b'"x"', b"[" * 100_000, b"1" * 5000, b'{"text": "z", "label": "b"}']  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    table = open_tables(str(path), readers)["train"]
    found = {row.source: row.problem for row in table.rows}
    assert list(table.columns) == ["text", "extra", "label"]
    assert list(found) == [f"t.ndjson:{line}" for line in (1, *range(3, 12))]
    assert found["t.ndjson:1"] is None and found["t.ndjson:11"] is None
    assert "holds a JSON list" in found["t.ndjson:3"]
    assert "no JSON" in found["t.ndjson:4"]
    assert "0xFF is not UTF-8" in found["t.ndjson:5"]
    assert all(found[f"t.ndjson:{line}"] for line in range(3, 11))


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n", "is empty"), (b"[1]\n[2]", "None of the first 2 lines .*t.jsonl:1")]
)
def test_jsonl_without_rows(tmp_path, readers, content, message):
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(LlmclsError, match=message):
        open_tables(str(tmp_path / "t.jsonl"), readers)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really PAR1", b"text,label\n"])
def test_damaged_parquet(tmp_path, readers, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(LlmclsError, match=r"t\.parquet' is no Parquet file"):
        open_tables(str(tmp_path / "t.parquet"), readers)


def test_parquet_damaged_in_the_middle(tmp_path, readers):
    path = write(tmp_path / "t.parquet", [{"text": f"row {i} {'x' * (i % 50)}", "label": "a"} for i in range(5000)])
    content = bytearray(path.read_bytes())
    content[10:2000] = bytes(1990)
    path.write_bytes(content)
    with pytest.raises(LlmclsError, match=r"damaged|Cannot read"):
        values(open_tables(str(path), readers)["train"])


def classed():
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])})
    return datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)


def test_parquet_and_saved_sets_keep_class_names(tmp_path, readers):
    classed().to_parquet(tmp_path / "t.parquet")
    classed().save_to_disk(tmp_path / "saved")
    for name in ("t.parquet", "saved"):
        table = open_tables(tmp_path / name, readers)["train"]
        assert table.class_names == {"label": ("pos", "neg")}
        assert values(table) == [{"text": "x", "label": 1}, {"text": "y", "label": 0}]


def test_saved_dict_with_other_split_names(tmp_path, readers):
    parts = {"train": classed(), "dev": classed(), "unsupervised": classed()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert list(open_tables(str(tmp_path / "saved"), readers)) == ["train", "validation", "unsupervised"]


def test_damaged_saved_set(tmp_path, readers):
    classed().save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "saved").glob("*.arrow"):
        path.write_bytes(b"nonsense")
    with pytest.raises(LlmclsError, match="damaged or incomplete"):
        open_tables(str(tmp_path / "saved"), readers)
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(LlmclsError, match="damaged or incomplete"):
        open_tables(str(tmp_path / "saved"), readers)


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev", "Dev"])
def test_folder_of_mixed_formats(tmp_path, readers, name):
    write(tmp_path / "train.csv")
    write(tmp_path / f"{name}.jsonl", RECORDS[:2])
    write(tmp_path / "test.parquet", RECORDS[:1])
    (tmp_path / "README.md").write_text("train")
    tables = open_tables(tmp_path, readers)
    assert {split: len(values(table)) for split, table in tables.items()} == {"train": 3, "validation": 2, "test": 1}
    assert next(iter(tables["validation"].rows)).source == f"{name}.jsonl:1"


@pytest.mark.parametrize("other", ["train.jsonl", "dev.csv"])
def test_two_files_for_one_split(tmp_path, readers, other):
    for name in ("train.csv", "val.csv", other):
        write(tmp_path / name)
    with pytest.raises(
        LlmclsError, match=r"has two (train|validation) (files|splits), '.*' and '.*'; rename or remove one"
    ):
        open_tables(str(tmp_path), readers)


def test_folder_without_split_files(tmp_path, readers):
    write(tmp_path / "tickets.csv")
    with pytest.raises(LlmclsError, match=r"has no split files: it needs train.*\.csv.*it holds tickets\.csv"):
        open_tables(str(tmp_path), readers)
    (tmp_path / "tickets.csv").unlink()
    with pytest.raises(LlmclsError, match="it holds no files"):
        open_tables(str(tmp_path), readers)


def test_missing_paths_get_a_suggestion(tmp_path, readers):
    write(tmp_path / "data" / "tickets.csv")
    with pytest.raises(
        LlmclsError, match=r"No such file or folder: '.*tickts\.csv'\. Did you mean '.*data/tickets\.csv'\?"
    ):
        open_tables(str(tmp_path / "data" / "tickts.csv"), readers)
    with pytest.raises(LlmclsError, match=r"No such file or folder.*Did you mean '.*/data'\?"):
        open_tables(str(tmp_path / "dta" / "tickets.csv"), readers)
    with pytest.raises(LlmclsError, match=r"No such file or folder: '.*/nowhere/'"):
        open_tables(str(tmp_path / "nowhere") + "/", readers)


def test_specs_that_no_reader_is_meant_for(tmp_path, readers):
    (tmp_path / "t.docx").write_bytes(b"")
    with pytest.raises(
        LlmclsError, match=r"(?s)No dataset reader is meant for '.*t\.docx'\. What can be read:.*- csv: .*- hub: "
    ):
        open_tables(str(tmp_path / "t.docx"), readers)
    with pytest.raises(LlmclsError, match=r"meant for 'hubb:ag_news'\. There is no file or folder"):
        open_tables("hubb:ag_news", readers)


def test_files_that_may_not_be_read(tmp_path, readers, monkeypatch):
    path = write(tmp_path / "t.csv")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything, so that chmod proves nothing
    with pytest.raises(LlmclsError, match=r"Cannot read '.*t\.csv': permission denied"):
        open_tables(str(path), readers)


def test_home_folder(tmp_path, readers, monkeypatch):
    write(tmp_path / "t.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert values(open_tables("~/t.csv", readers)["train"]) == RECORDS


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hub:ag_news", ("ag_news", None, None)),
        ("hub:a/b", ("a/b", None, None)),
        ("hub:a/b/c@refs/pr/1", ("a/b", "c", "refs/pr/1")),
        ("hub:a/b@v1", ("a/b", None, "v1")),
    ],
)
def test_hub_names(spec, parts):
    name = HubName.parse(spec)
    assert (name.name, name.config, name.revision) == parts


@pytest.mark.parametrize("spec", ["hub:", "hub:a//b", "hub:a/b/c/d", "hub:a@", "hub:/a"])
def test_hub_names_that_are_none(readers, spec):
    with pytest.raises(LlmclsError, match="is no Hub data set; write hub:OWNER/NAME"):
        open_tables(spec, readers)


def test_hub_sets_are_read(readers, monkeypatch):
    asked = []

    def load(name, config, *, revision):
        asked.append((name, config, revision))
        return datasets.DatasetDict({"train": classed(), "test": classed()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    tables = open_tables("hub:a/b/c@main", readers)
    assert asked == [("a/b", "c", "main")]
    assert list(tables) == ["train", "test"]
    assert tables["test"].class_names == {"label": ("pos", "neg")}


MISSING_CONFIG = "Config name is missing.\nPlease pick one among the available configs: ['x', 'y']\nExample"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (ReadTimeout)"), "cannot be reached .*check the network"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "gated; .*HF_TOKEN"),
        (datasets.exceptions.DatasetNotFoundError("doesn't exist"), "there is no data set 'a/b', or it is private"),
        (ValueError(MISSING_CONFIG), r"Config name is missing; name one as hub:a/b/CONFIG\. Available: \['x', 'y'\]"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "scripts are no longer supported"),
        (datasets.exceptions.DataFilesNotFoundError("No data files"), "No data files"),
    ],
)
def test_hub_failures_become_one_sentence(readers, monkeypatch, error, message):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(LlmclsError, match=f"Cannot load 'hub:a/b' from the Hugging Face Hub: .*{message}") as caught:
        open_tables("hub:a/b", readers)
    assert "\n" not in str(caught.value)


COUNTS = {
    "arxiv_top5": (9436, 1179, 1179),
    "tweet_sentiment": (11284, 1000, 2000),
    "imdb": (8000, 1000, 2000),
    "ag_news": (12423, 1000, 7600),
    "banking77": (9003, 1000, 3080),
    "goemotions": (43410, 5426, 5427),
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_data_sets(readers, shared_data, name):
    tables = open_tables(shared_data / name, readers)
    assert tuple(tables) == SPLITS
    for split, expected in zip(SPLITS, COUNTS[name], strict=True):
        rows = list(tables[split].rows)
        assert len(rows) == expected
        assert not [row for row in rows if row.problem]
        frame = pd.read_csv(shared_data / name / f"{split}.csv", dtype=str, keep_default_na=False)
        assert [tuple(row.values.values()) for row in rows] == list(frame.itertuples(index=False, name=None))


def test_json_keys_may_be_missing(tmp_path, readers):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [{"text": "a"}, {"text": "b", "label": None}]))
    assert values(open_tables(path, readers)["train"]) == [{"text": "a"}, {"text": "b", "label": None}]


def test_a_dataset_with_a_format_is_read_whole(readers):
    formatted = classed().with_format("numpy", columns=["text"])
    found = values(open_tables(formatted, readers)["train"])
    assert found == [{"text": "x", "label": 1}, {"text": "y", "label": 0}]
    assert type(found[0]["label"]) is int
    assert formatted.format["columns"] == ["text"], "the caller's object stays as it was"
