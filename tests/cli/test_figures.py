"""NaN and infinity leave the program as null in JSON and as an empty cell in a table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcls.cli.formats import RowWriter
from llmcls.cli.shared import show_json
from llmcls.data.inputs import show_values
from llmcls.figures import finite, to_json


def strictly(text: str) -> Any:
    """What a reader that refuses NaN and Infinity makes of a JSON text."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


VALUES = [
    (math.nan, None),
    (math.inf, None),
    (-math.inf, None),
    (0.1 + 0.2, 0.30000000000000004),
    (1e-300, 1e-300),
    (10**400, 10**400),
    (True, True),
    ("NaN", "NaN"),
    (None, None),
    ({"a": [1.0, math.nan, {"b": math.inf}]}, {"a": [1.0, None, {"b": None}]}),
    ((math.nan, (math.inf,)), [None, [None]]),
    ({math.nan: 1}, {"nan": 1}),
    (np.float64("nan"), None),
    (np.float32("inf"), None),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3),
    (np.array([1.0, np.nan]), [1.0, None]),
    (Decimal("NaN"), None),
    (Path("a/b"), "a/b"),
]


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_json_is_strict_whatever_the_value(value: Any, expected: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert strictly(to_json(value)) == expected
    assert strictly(show_values({"x": value})) == {"x": expected}
    show_json({"x": value})
    assert strictly(capsys.readouterr().out) == {"x": expected}
    stream = io.StringIO()
    RowWriter(stream, ["x"], as_json=True, warn=pytest.fail).write([{"x": value}])
    assert strictly(stream.getvalue()) == {"x": expected}


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (math.nan, ""), (math.inf, ""), (-math.inf, ""), (np.float32("nan"), ""), (Decimal("Infinity"), ""), (None, ""),
        (0.25, "0.25"), (3, "3"), ("nan", "nan"), (1e-12, "1e-12"),
    ],
)  # fmt: skip
def test_a_csv_cell_is_empty(value: Any, cell: str) -> None:
    stream = io.StringIO()
    RowWriter(stream, ["x", "y"], as_json=False, warn=pytest.fail).write([{"x": value, "y": "z"}])
    assert list(csv.reader([stream.getvalue()])) == [[cell, "z"]]


def test_numbers_keep_their_kind() -> None:
    assert type(finite(np.int64(1))) is np.int64 and finite(7) == 7


@pytest.mark.parametrize(
    "options",
    [("--method", "generate"), ("--method", "greedy"), ("--method", "best-first", "--margin"), ("--label-mass",)],
)
def test_predictions_are_strict_json(
    llmcls: Callable[..., Any], run: Path, here: Path, options: tuple[str, ...]
) -> None:
    (here / "new.jsonl").write_text('{"text": "a", "n": NaN}\n{"text": "b", "n": -Infinity}\n', encoding="utf-8")
    done = llmcls("predict", "--run", run, "--input", "new.jsonl", "--json", *options)
    assert done.code == 0
    rows = [strictly(line) for line in done.out.splitlines()]
    assert [row["n"] for row in rows] == [None, None]
    if "generate" in options:
        assert [row["probability"] for row in rows] == [None, None]


@pytest.mark.parametrize("options", [(), ("--method", "generate"), ("--before", "--baseline")])
def test_evaluations_and_runs_are_strict_json(llmcls: Callable[..., Any], run: Path, options: tuple[str, ...]) -> None:
    printed = llmcls("evaluate", "--run", run, "--split", "train", "--json", *options)
    assert printed.code == 0 and strictly(printed.out)["rows"] == 22
    for file in (run / "evaluation" / "train").glob("*.json"):
        strictly(file.read_text(encoding="utf-8"))
    strictly((run / "run.json").read_text(encoding="utf-8"))
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        strictly(line)
    strictly(llmcls("runs", "show", run, "--json").out)
