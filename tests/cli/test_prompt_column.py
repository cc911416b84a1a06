"""`--prompt`: the prompt as the model read it, beside the prediction."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls import Classifier
from llmcls.cli.outputs import TableOutput
from llmcls.console import Reporter
from llmcls.records import Example

LONG = "many words " * 300
TEXTS = ["where </s> is it", "two\nlines", LONG]


@pytest.fixture
def expected(run: Path) -> list[str]:
    encoder = Classifier.load(run).encoder
    encoded = encoder.encode([Example(text) for text in TEXTS])
    assert encoded[2].truncated
    return [encoder.tokenizer.decode(prompt.input_ids) for prompt in encoded]


def test_beside_predictions(llmcls: Callable[..., Any], run: Path, here: Path, expected: list[str]) -> None:
    assert expected[0].startswith("<s>") and "</s>" not in expected[0] and "label:" in expected[0]
    assert expected[2].count("many words") < 300
    done = llmcls("predict", "--run", run, *TEXTS, "--prompt", "--json", "-q")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["prompt"] for row in rows] == expected and list(rows[0]) == [
        "text",
        "predicted",
        "probability",
        "prompt",
    ]
    (here / "in.csv").write_text('prompt,text\nmine,"two\nlines"\n', encoding="utf-8")
    for name in ("out.csv", "out.parquet"):
        done = llmcls("predict", "--run", run, "--input", "in.csv", "--prompt", "--output", name)
        assert done.code == 0 and "columns that are replaced in the output: prompt." in done.err
    with (here / "out.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["prompt"] for row in csv.DictReader(stream)] == [expected[1]]
    from pyarrow import parquet

    assert parquet.read_table("out.parquet").column_names == ["text", "predicted", "probability", "prompt"]
    done = llmcls("predict", "--run", run, "--input", "in.csv")
    assert done.out.splitlines()[0] == '"prompt","text","predicted","probability"', "its own column, and not replaced"


def test_beside_evaluated_rows(llmcls: Callable[..., Any], run: Path, expected: list[str], here: Path) -> None:
    with Path("rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *((text, "billing") for text in TEXTS)])
    assert llmcls("evaluate", "--run", run, "--data", "rows.csv", "--prompt", "-q", "--output-dir", "o").code == 0
    with (here / "o" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["prompt"] for row in rows] == expected and list(rows[0])[-1] == "prompt"


def test_in_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    with TableOutput(Reporter(quiet=True)) as output:
        tally = output.begin(["text", "predicted", "probability", "prompt"])
        output.add([{"text": "t", "predicted": "p", "probability": 0.5, "prompt": "<s>t\nlabel:"}], [], tally)
        output.finish(tally)
    assert "<s>t" in capsys.readouterr().out
