"""How much is cut for validation and test: shares, rows, the rule without a size, and rows of each label."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcls.data.cut import cut_per_class
from llmcls.data.splits import DataSplits, load_data, load_training_data
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.records import Example
from llmcls.settings import make_settings
from llmcls.settings.rows import SIZE_RULE


def rows(count: int, labels: str = "abcd", start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"text {n}", "label": labels[n % len(labels)]} for n in range(start, start + count)]


def sizes(data: DataSplits) -> tuple[int, int, int]:
    return len(data.train), len(data.validation), len(data.test)


def per_label(data: DataSplits, split: str) -> dict[str | None, int]:
    return dict(Counter(example.label for example in data[split]))


@pytest.mark.parametrize(
    ("count", "validation", "test", "expected"),
    [
        (600, None, None, (480, 60, 60)),
        (500, None, None, (400, 50, 50)),
        (499, None, None, (449, 50, 0)),
        (600, 0, None, (540, 0, 60)),
        (600, None, 0, (540, 60, 0)),
        (600, 0.0, 0.0, (600, 0, 0)),
        (600, None, 200, (340, 60, 200)),
        (600, 100, 0.25, (350, 100, 150)),
        (60, None, 12, (42, 6, 12)),
        (60, np.int64(8), np.float64(0.2), (40, 8, 12)),
    ],
)
def test_a_single_table(count: int, validation: Any, test: Any, expected: tuple[int, int, int]) -> None:
    data = load_data(rows(count), validation_size=validation, test_size=test)
    assert sizes(data) == expected
    assert data.cut == {split: n for split, n in zip(("validation", "test"), expected[1:], strict=True) if n}
    held = {example.text for split in ("validation", "test") for example in data[split]}
    assert len(held) == sum(expected[1:]) and not held & {example.text for example in data.train}
    for split in ("validation", "test"):
        if data[split]:
            assert max(per_label(data, split).values()) - min(per_label(data, split).values()) <= 1


def test_the_notes_say_what_was_cut() -> None:
    notes = load_data(rows(600), seed=7).notes
    assert "no test split: 10 % of train (60 rows), stratified, seed 7" in notes
    assert "no validation split: 10 % of train (60 rows), stratified, seed 7" in notes
    assert load_data(rows(600), seed=7) == load_data(rows(600), seed=7)
    notes = load_data(rows(60), test_size=2).notes  # one of each label is the least
    assert "no test split: 6.7 % of train (4 rows, not the 2 rows asked for), stratified, seed 42" in notes


def test_a_text_that_comes_again_stays_on_one_side() -> None:
    data = load_data([*rows(600), *rows(300)], test_size=200)
    assert sizes(data) == (610, 90, 200)
    assert not {example.text for example in (*data.test, *data.validation)} & {example.text for example in data.train}


def test_a_source_with_splits_of_its_own() -> None:
    train, other = rows(600), rows(60, start=1000)
    assert sizes(load_data({"train": train})) == (480, 60, 60)
    assert sizes(load_data({"train": train, "unsupervised": [{"text": "x"}]})) == (480, 60, 60)
    assert sizes(load_data({"train": train, "validation": other})) == (600, 60, 0)
    assert sizes(load_data({"train": train, "test": other})) == (540, 60, 60)
    assert sizes(load_data({"train": train, "validation": other}, test_size=0.1)) == (540, 60, 60)
    limits = {"train": 100, "validation": 10, "test": 10}
    assert sizes(load_data({"train": train, "validation": other}, max_per_class=limits)) == (400, 40, 0)
    assert sizes(load_data({"train": train, "test": other}, max_per_class=limits)) == (400, 40, 40)


def test_a_size_for_a_split_that_the_data_has_is_warned_of() -> None:
    parts = {"train": rows(60), "validation": rows(8, start=100)}
    says = r"data\.validation_size 0\.2 cuts nothing, for the data has a validation split \(8 rows\); leave it out"
    with pytest.warns(LlmclsWarning, match=says):
        assert sizes(load_data(parts, validation_size=0.2, test_size=0.1)) == (54, 8, 6)
    with warnings.catch_warnings(action="error"):
        assert sizes(load_data(parts, validation_size=0)) == (60, 8, 0)


@pytest.mark.parametrize("name", ["validation_size", "test_size"])
@pytest.mark.parametrize("size", [1.0, 1.5, 200.0, -0.1, -3, True, "many", float("inf"), [1]])
def test_what_is_not_a_size(name: str, size: Any) -> None:
    with pytest.raises(LlmclsError) as refused:
        make_settings({"data": {name: size}})
    assert f"data.{name}" in str(refused.value) and "\n" not in str(refused.value)
    assert size is True or SIZE_RULE in str(refused.value)
    with pytest.raises(LlmclsError, match=f"{name} is .*, but a size is a share of the rows"):
        load_data(rows(20), **{name: size})


def test_sizes_that_leave_nothing_to_train_on() -> None:
    for given, says in (
        (
            {"test_size": 60},
            r"^data\.test_size 60 and data\.validation_size 0\.1 \(its default\) leave nothing .* 66 rows",
        ),
        ({"test_size": 0.5, "validation_size": 0.5}, r"together 60 rows, of the 60 that there are; make them smaller"),
        ({"test_size": 100, "validation_size": 0}, r"^data\.test_size 100 leave.* make it smaller"),
    ):
        with pytest.raises(LlmclsError, match=says):
            load_data(rows(60), **given)


def test_rows_of_each_label_from_one_table() -> None:
    limits = {"train": 20, "test": 5, "validation": 3}
    data = load_data([*rows(400), *rows(40)], max_per_class=limits, seed=3)
    for split, limit in limits.items():
        assert per_label(data, split) == dict.fromkeys("abcd", limit)
    assert not {example.text for example in (*data.test, *data.validation)} & {example.text for example in data.train}
    assert "no test split: 5 rows of each label of train (20 rows), seed 3" in data.notes
    assert data.cut == {"test": 20, "validation": 12}
    assert data == load_data([*rows(400), *rows(40)], max_per_class=limits, seed=3)
    assert sizes(load_data(rows(400), max_per_class={"test": 5})) == (340, 40, 20)
    assert sizes(load_data(rows(600), max_per_class={"train": 20, "validation": 5})) == (80, 20, 60)
    given = load_data(rows(400), max_per_class=limits, test_size=0.1, validation_size=100)  # by size, then capped
    assert sizes(given) == (80, 12, 20) and given.cut == {"test": 40, "validation": 100}
    assert sizes(load_data(rows(400), max_per_class=limits, test_size=0)) == (80, 12, 0)


def test_a_label_with_too_few_rows_is_divided() -> None:
    scarce = [*rows(300, "a"), *rows(40, "b", start=300), {"text": "alone", "label": "c"}]
    data = load_data(scarce, max_per_class={"train": 80, "test": 60, "validation": 20})
    assert per_label(data, "test") == {"a": 60, "b": 15}
    assert per_label(data, "validation") == {"a": 20, "b": 5}
    assert per_label(data, "train") == {"a": 80, "b": 20, "c": 1}
    assert "no test split: 60 rows of each label of train (75 rows, of some labels fewer: b (15), c (0)), seed 42" in (
        data.notes
    )
    assert per_label(load_data(scarce, max_per_class={"test": 60}), "test") == {"a": 60, "b": 20}


def test_cutting_of_each_label_leaves_one_and_takes_no_repeated_text() -> None:
    examples = [Example("same", "a"), Example("same", "a"), Example("x", "a"), Example("y", "b"), Example("z", "b")]
    stay, cut = cut_per_class(examples, 5, seed=1)
    assert Counter(example.label for example in cut) == {"a": 1, "b": 1}
    assert sorted(stay + cut, key=lambda e: e.text) == sorted(examples, key=lambda e: e.text)


def test_settings_name_the_sizes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows(40)), encoding="utf-8")
    settings = make_settings({"data": {"source": str(path), "test_size": "8", "validation_size": "0.2"}})
    assert (settings.data.test_size, settings.data.validation_size) == (8, 0.2)
    assert sizes(load_training_data(settings)) == (24, 8, 8)
