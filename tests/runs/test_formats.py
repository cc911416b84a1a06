"""Every run format that was ever released stays readable: a small run of each is opened and predicted with.

`formats/N` holds a base model and runs of format N, each beside what its own version predicted with it;
`make_format.py` makes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcls import Classifier, LlmclsError
from llmcls.data.splits import load_training_data
from llmcls.runs.migrations import FORMAT, STEPS, migrate, migrate_settings
from llmcls.runs.run import Run

FORMATS = Path(__file__).parent / "formats"
RUNS = sorted(path.with_suffix("") for path in FORMATS.glob("*/*.json"))


def test_there_is_a_run_of_every_format() -> None:
    assert sorted(int(folder.name) for folder in FORMATS.iterdir()) == sorted([*STEPS, FORMAT])
    assert {path.name for path in FORMATS.iterdir()} == {path.parent.name for path in RUNS}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_old_run_predicts_as_it_did(path: Path) -> None:
    run = Run.open(path)
    base = None if run.whole else str(path.parent / "base")
    classifier = Classifier.load(run, base_model=base)
    known: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    found = classifier.predict(known["texts"])
    assert [list(labels) if isinstance(labels, tuple) else labels for labels in found] == known["labels"]
    if known["probabilities"] is not None:
        assert classifier.predict_proba(known["texts"]) == pytest.approx(np.array(known["probabilities"]), abs=1e-5)


def test_format_1_kept_thresholds_under_a_name_of_their_own() -> None:
    thresholds = {"values": [0.25, 0.5], "pooled": 0.5, "rows": 20}
    assert migrate({"format": 1, "thresholds": thresholds})["decision"] == thresholds
    assert migrate({"format": 1})["decision"] is None


def test_a_run_of_format_1_was_trained_without_cutting_a_test_split() -> None:
    settings = Run.open(FORMATS / "1" / "single_label").settings
    assert (settings.data.test_size, settings.data.validation_size) == (0, None)
    assert Run.open(FORMATS / "2" / "single_label").settings.data.test_size is None
    assert (
        load_training_data(
            settings, [{"text": f"text {n}", "label": ("billing", "praise")[n % 2]} for n in range(600)]
        ).test
        == ()
    )
    kept = {"data": {"validation_size": 0.1, "max_per_class": {"validation": 3}}}
    assert migrate_settings(kept, 1)["data"] == {**kept["data"], "test_size": 0}
    assert migrate_settings(kept, FORMAT) == kept


def test_formats_that_are_not_known(tmp_path: Path) -> None:
    card = json.loads((FORMATS / "1" / "single_label" / "run.json").read_text(encoding="utf-8"))
    for number in (0, FORMAT + 1, "1", None, [1]):
        (tmp_path / "run.json").write_text(json.dumps({**card, "format": number}), encoding="utf-8")
        with pytest.raises(LlmclsError, match=r"has run format .*this llmcls reads up to"):
            Run.open(tmp_path)
