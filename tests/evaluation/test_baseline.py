import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcls.errors import LlmclsError
from llmcls.evaluation.baseline import evaluate_baseline
from llmcls.labels import LabelSet
from llmcls.records import Example

SHARED = Path(os.environ.get("LLMCLS_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
LABELS = LabelSet.from_names(["sport", "never", "food"])
TRAIN = [
    Example("the goal in the last minute", "sport"),
    Example("a late goal won the match", "sport"),
    Example("soup with bread", "food"),
    Example("fresh bread and butter", "food"),
]


def test_learns_words_and_gives_unseen_labels_no_probability():
    test = [Example("what a goal", "sport"), Example("bread please", "food"), Example("bread again", "food")]
    report = evaluate_baseline(TRAIN, test, LABELS)
    assert report.accuracy == report.macro_f1 == 1
    assert report.never_occurred == ("never",)
    assert report.confusion == ((1, 0, 0), (0, 0, 0), (0, 0, 2))  # the label set's order, not sklearn's
    assert 0.5 < report.mean_confidence < 1
    assert evaluate_baseline(TRAIN, test, LABELS) == report


def test_one_character_words_count():
    train = [Example("好 x", "sport"), Example("坏 y", "food")]
    assert evaluate_baseline(train, [Example("好", "sport"), Example("坏", "food")], LABELS).accuracy == 1


def test_a_label_only_in_the_test_part_is_simply_wrong():
    report = evaluate_baseline(TRAIN, [Example("a goal", "never")], LABELS)
    assert report.accuracy == 0 and report.nll > 30


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (TRAIN[:2], TRAIN, "1 label"),
        ([], TRAIN, "0 of 0 training"),
        (TRAIN, [], "0 of 0 test"),
        ([*TRAIN, Example("no label")], TRAIN, "1 of 5 training examples have no label"),
        ([Example("!?", "sport"), Example("🙂", "food")], TRAIN, "no words"),
        (TRAIN, [Example("a", "politics")], "Unknown true label 'politics'"),
        ([*TRAIN, Example("a", "politics")], TRAIN, "Unknown label 'politics'"),
    ],
)
def test_problems_are_named(train, test, said):
    with pytest.raises(LlmclsError, match=said):
        evaluate_baseline(train, test, LABELS)


def test_a_real_data_set():
    folder = SHARED / "data" / "banking77"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")

    def read(split):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            return [Example(row["text"], row["label"]) for row in csv.DictReader(file)]

    train, test = read("train")[::3], read("test")[::4]
    report = evaluate_baseline(train, test, LabelSet.from_names(sorted({example.label for example in train})))
    assert report.rows == 770 and len(report.labels) == 77
    assert 0.75 < report.accuracy < 0.92


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, llmcls.evaluation.metrics, llmcls.evaluation.tables, llmcls.evaluation.files, "
        "llmcls.evaluation.baseline; "
        "print([name for name in ('numpy', 'scipy', 'sklearn', 'pandas', 'torch') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
