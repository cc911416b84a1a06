"""The output's ending is its format, and what is written is read again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from llmcls.cli import formats
from llmcls.cli.formats import OutputFormat, RowWriter, format_of
from llmcls.data.sources import open_tables
from llmcls.errors import LlmclsError
from llmcls.runs.run import Run
from llmcls.training.train import train

LABELS = ("billing", "delivery", "praise")


@pytest.mark.parametrize(
    ("name", "kind", "packed"),
    [
        ("out.csv", "csv", False), ("out.CSV", "csv", False), ("out.tsv", "tsv", False),
        ("a.b/out.jsonl", "jsonl", False),
        ("out.JSONL", "jsonl", False), ("out.ndjson", "jsonl", False), ("out.csv.gz", "csv", True),
        ("out.Tsv.GZ", "tsv", True), ("out.jsonl.gz", "jsonl", True), ("out.parquet", "parquet", False),
        ("out.PARQUET", "parquet", False), ("out", "csv", False), ("a.b/out", "csv", False),
        ("my.new.csv", "csv", False),
    ],
)  # fmt: skip
def test_endings(name: str, kind: Any, packed: bool) -> None:
    assert format_of(name) == OutputFormat(kind, packed)


ROWS = ({"text": 'a "b"\t,\n\rc', "n": 1, "labels": ["billing", "praise"]}, {"text": "d", "n": 2.5, "labels": []})
NAMES = ("out.csv", "out.tsv", "out.jsonl", "out.NDJSON", "out.csv.gz", "out.tsv.gz", "out.jsonl.gz", "out.parquet")


@pytest.fixture(scope="module")
def several(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with several labels a text."""
    rows = [{"text": f"text {n}", "labels": list(LABELS[: n % 4])} for n in range(12)]
    settings = {
        "task": "multi_label",
        "model": {"base_model": str(tiny_model_dir)},
        "training": {"max_steps": 1},
        "data": {"label_separator": "|"},
    }
    return train(rows, settings=settings, output_dir=tmp_path_factory.mktemp("several") / "run")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(llmcls: Callable[..., Any], several: Run, here: Path, name: str) -> None:
    lines = [*ROWS, {"text": "e", "n": 3, "labels": ["delivery"], "tags": {"x": [1]}}]
    (here / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    done = llmcls("predict", "--run", several.path, "--input", "in.jsonl", "--output", name, "--probabilities", "-q")
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in here.iterdir()) == ["in.jsonl", name]
    table = open_tables(name)["train"]
    added = ["predicted", "probability", *(f"p({label})" for label in LABELS)]
    assert sorted(table.columns) == sorted(["text", "n", "labels", "tags", *added])
    back = [row.values for row in table.rows]
    assert [row["text"] for row in back] == [line["text"] for line in lines]
    assert [float(row["n"]) for row in back] == [1, 2.5, 3]
    assert [json.loads(row["tags"]) if isinstance(row["tags"], str) else row["tags"] for row in back[2:]] == [
        {"x": [1]}
    ]
    for column, accuracy in (("labels", None), ("predicted", 1.0)):
        shown = llmcls("evaluate", "--run", several.path, "--data", name, "--label-column", column,
                       "--output-dir", here / "found", "--json")  # fmt: skip
        assert shown.code == 0, shown
        found = json.loads(shown.out)
        assert found["rows"] == 3
        if accuracy is None:
            assert found["labels_per_row"] == 1
        else:
            assert found["subset_accuracy"] == accuracy


def test_a_single_label_file_is_read_again(llmcls: Callable[..., Any], run: Path, tickets: Path, here: Path) -> None:
    for name in NAMES:
        assert llmcls("predict", "--run", run, "--input", tickets, "--output", name, "-q").code == 0
        shown = llmcls("evaluate", "--run", run, "--data", name, "--label-column", "predicted",
                       "--output-dir", here / "found", "--json")  # fmt: skip
        assert (json.loads(shown.out)["rows"], json.loads(shown.out)["accuracy"]) == (24, 1.0)
    assert (here / "out.csv.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert gzip.decompress((here / "out.csv.gz").read_bytes()) == (here / "out.csv").read_bytes()
    assert "\t" in (here / "out.tsv").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads((here / "out.NDJSON").read_text(encoding="utf-8").splitlines()[0])["label"] == "delivery"


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("out.json", (), ".csv, .tsv, .jsonl, .ndjson (each also with .gz) or .parquet"),
        ("out.xlsx", (), "'out.xlsx' ends in none of the formats"),
        ("out.txt", (), "'out.txt' ends in none"),
        ("out.parquet.gz", (), "ends in none"),
        ("out.csv.zip", (), "ends in none"),
        ("out.csv.partial", (), "ends in none"),
        ("out.gz", (), "ends in none"),
        ("out.csv", ("--json",), "--json writes JSON lines, but 'out.csv' is named as csv"),
        ("out.parquet", ("--json",), "named as parquet"),
    ],
)
def test_other_endings_are_refused_before_the_model_is_loaded(
    refuse: Callable[..., str], run: Path, here: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, more: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("llmcls.runs.loading.load_model", None)
    assert said in refuse("predict", "--run", run, "--output", name, *more, "a text")
    assert not list(here.iterdir())


def test_an_ending_may_be_left_out(llmcls: Callable[..., Any], run: Path, here: Path) -> None:
    assert llmcls("predict", "--run", run, "--output", "out", "-q", "a").code == 0
    assert (here / "out").read_text(encoding="utf-8").startswith('"text","predicted"')
    assert llmcls("predict", "--run", run, "--output", "lines", "--json", "a").code == 0
    assert json.loads((here / "lines").read_text(encoding="utf-8"))["text"] == "a"


@pytest.mark.parametrize(
    ("value", "separator", "cell"),
    [
        (["a", "b"], "|", "a|b"), ([], "|", ""), (("a",), ", ", "a"), ([1, 2], "|", "1|2"),
        (["a|b", "c"], "|", '["a|b", "c"]'), ([""], "|", '[""]'), (["a"], None, '["a"]'), ([["a"]], "|", '[["a"]]'),
        ({"k": [1]}, "|", '{"k": [1]}'), ([True], "|", "[true]"), ("a|b", "|", "a|b"),
    ],
)  # fmt: skip
def test_cells_of_lists(value: Any, separator: str | None, cell: str, tmp_path: Path) -> None:
    with (tmp_path / "out.tsv").open("w", encoding="utf-8", newline="") as stream:
        writer = RowWriter(stream, ["x", "y"], False, pytest.fail, delimiter="\t", separator=separator)
        writer.write_header()
        writer.write([{"x": value, "y": "z"}])
    (row,) = open_tables(str(tmp_path / "out.tsv"))["train"].rows
    assert row.values == {"x": cell, "y": "z"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]), ([1, 2.5], [1.0, 2.5]), ([1, "a"], ["1", "a"]), ([None, None], [None, None]),
        ([None, "a"], [None, "a"]), ([["a"], []], [["a"], []]), ([[], ["a"]], [[], ["a"]]),
        ([{"k": 1}, None], ['{"k": 1}', None]), ([{}, {}], ["{}", "{}"]), ([True, 1], ["true", "1"]),
        ([2**70, 1], [str(2**70), "1"]), ([["a"], "b"], ['["a"]', "b"]), ([[["a"]], []], ['[["a"]]', "[]"]),
        ([[1], ["a"]], ["[1]", '["a"]']),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at_once", [1, 1000])
def test_parquet_columns(
    values: list[Any], expected: list[Any], at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "ROWS_AT_ONCE", at_once)
    part = tmp_path / "part"
    part.write_text("".join(json.dumps({"x": value}) + "\n" for value in values), encoding="utf-8")
    OutputFormat("parquet").complete(part, tmp_path / "out.parquet", ["x", "probability"])
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found == {"x": expected, "probability": [None] * len(values)}
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_errors_name_the_ending() -> None:
    with pytest.raises(LlmclsError, match=r"'results\.v2' ends in none of the formats"):
        format_of("results.v2")
