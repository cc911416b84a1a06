"""No text becomes a formula in a spreadsheet where that is not wanted: predictions, lists of bad rows, evaluations."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.classifier import Classifier
from llmcls.cli.outputs import FileOutput
from llmcls.cli.predictions import Tally
from llmcls.console import Reporter
from llmcls.data.inputs import BadRow
from llmcls.evaluation.files import write_predictions
from llmcls.evaluation.free import FreeReport, FreeRow
from llmcls.evaluation.samples import write_samples
from llmcls.figures import escaped
from llmcls.records import Example, Prediction

LABELS = ("--labels", "billing,delivery")
EVIL = '=HYPERLINK("http://x")'


def cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_escaped() -> None:
    for text in ("=1", "+1", "-1", "@a", "\t=1", "\r=1"):
        assert escaped(text) == f"'{text}"
    for cell in ("1-1", "'=1", "", " =1", -1, -0.5, None, True):
        assert escaped(cell) is cell


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    classifier = Classifier.zero_shot(str(tiny_model_dir), ["billing", "delivery"])
    monkeypatch.setattr("llmcls.cli.predict._load", lambda *_: classifier)


@pytest.mark.usefixtures("loaded")
def test_formulas_are_escaped(llmcls: Callable[..., Any], here: Path) -> None:
    texts = ["=1+2", "+1", "-1", "@SUM(A1)", "\t=1", "plain", "1-1", "'=1"]
    lines = [json.dumps({"text": text, "=column": -5}) for text in texts]
    (here / "in.jsonl").write_text("\n".join([*lines, '{"text": "", "=column": 1}']), encoding="utf-8")
    asked = ("predict", *LABELS, "--input", "in.jsonl", "--text-column", "text", "--margin")
    assert llmcls(*asked, "--output", "plain.csv").code == 0
    assert llmcls(*asked, "--output", "safe.csv", "--escape-formulas").code == 0
    plain, safe = cells(here / "plain.csv"), cells(here / "safe.csv")
    assert [row[0] for row in plain[1:]] == texts
    assert [row[0] for row in safe[1:]] == [f"'{text}" if text[0] in "=+-@\t" else text for text in texts]
    assert safe[0][1] == "'=column" and [row[1] for row in safe[1:]] == ["-5"] * 8, "figures stay figures"
    assert [row[2:] for row in plain] == [row[2:] for row in safe]
    said = llmcls("predict", *LABELS, "--json", "--escape-formulas", "x")
    assert said.code == 2 and "JSON has no formulas" in said.err


@pytest.mark.parametrize("escape", [False, True])
def test_lists_of_bad_rows_and_evaluations(tmp_path: Path, escape: bool) -> None:
    shown = f"'{EVIL}" if escape else EVIL
    with FileOutput(tmp_path / "out.csv", Reporter(quiet=True), escape_formulas=escape) as output:
        output.begin([EVIL], identity={"a": 1})
        output.add([{EVIL: EVIL}], [BadRow("row 1", "it is bad", EVIL)], Tally(2, 1))
        output.finish(Tally(2, 1))
    assert cells(tmp_path / "out.csv") == [[shown], [shown]]
    assert cells(tmp_path / "out.csv.errors.csv")[1] == ["row 1", "it is bad", shown]
    example, said = Example(EVIL, EVIL, source=EVIL), Prediction(EVIL, 0.5, (0.5, 0.5), 0.0)
    path = tmp_path / "rows.csv"
    write_predictions(path, [example], [said], [EVIL], escape_formulas=escape)
    assert cells(path)[1] == [shown, shown, shown, shown, "0.5", "true", shown]
    write_samples(path, [example], [said], [said], escape_formulas=escape)
    assert cells(path)[1] == [shown] * 5
    FreeReport((FreeRow(example, EVIL, (EVIL,), EVIL, True, True),)).write(path, escape_formulas=escape)
    assert cells(path)[1][:5] == [shown] * 5
