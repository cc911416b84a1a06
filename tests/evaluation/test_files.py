import csv
import dataclasses
import json
import math
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcls.errors import LlmclsError
from llmcls.evaluation.files import LATER, PREDICTION_COLUMNS, read_metrics, write_metrics, write_predictions
from llmcls.evaluation.metrics import compute_report
from llmcls.labels import LabelSet
from llmcls.records import Example, Prediction

LABELS = LabelSet.from_names(["z\"'\n[red]", "标签", "plain [ 1, 2 ]"])


def make_report(probabilities=True):
    return compute_report(
        [LABELS.names[0], LABELS.names[1]],
        [LABELS.names[0], LABELS.names[0]],
        LABELS,
        probabilities=[[0.6, 0.3, 0.1], [0.5, 0.25, 0.25]] if probabilities else None,
        truncated=1,
    )


def predict(label, probability=0.5):
    return Prediction(label, probability, (probability, 1 - probability), 1.0)


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("probabilities", [True, False])
def test_metrics_come_back_equal(tmp_path, probabilities):
    report = make_report(probabilities)
    write_metrics(report, tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == report


def test_metrics_file_is_strict_sorted_json_with_null_for_undefined(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(make_report(), path)
    text = path.read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(content) == sorted(content)
    assert list(content["per_class"]) == sorted(LABELS.names)
    assert content["per_class"]["标签"] == {"f1": 0.0, "precision": None, "predicted": 0, "recall": 0.0, "support": 1}
    assert content["never_occurred"] == ["plain [ 1, 2 ]"]
    assert content["labels"] == list(LABELS.names)
    assert content["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert '  "confusion": [\n    [1, 0, 0],\n' in text and "标签" in text
    first = path.read_bytes()
    write_metrics(read_metrics(path), path)
    assert path.read_bytes() == first


def test_a_file_of_an_older_version_lacks_averages(tmp_path):
    path = tmp_path / "metrics.json"
    report = make_report()
    write_metrics(report, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: content[key] for key in content.keys() - LATER}), encoding="utf-8")
    older = read_metrics(path)
    assert older == dataclasses.replace(report, **dict.fromkeys(LATER)) and older.macro_precision is None
    del content["macro_f1"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(LlmclsError, match="'macro_f1'"):
        read_metrics(path)


def test_nan_and_infinity_become_null(tmp_path):
    report = make_report()
    broken = dataclasses.replace(
        report, nll=math.inf, per_class=(dataclasses.replace(report.per_class[0], f1=math.nan), *report.per_class[1:])
    )
    write_metrics(broken, tmp_path / "metrics.json")
    back = read_metrics(tmp_path / "metrics.json")
    assert back.nll is None and back.per_class[0].f1 is None


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense", '{"labels": 3}', "null", "\udcff"])
def test_what_is_no_metrics_file_is_named(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(LlmclsError, match=r"metrics\.json is not a metrics file"):
        read_metrics(path)


def test_missing_metrics_file(tmp_path):
    with pytest.raises(LlmclsError, match=r"Cannot read the metrics file .*No such file"):
        read_metrics(tmp_path / "metrics.json")


def test_predictions_file(tmp_path):
    path = tmp_path / "predictions.csv"
    examples = [
        Example('say "hi",\r\nthen\rgo', "a", {}, "test.csv:2"),
        Example("纯文本 🙂", "b", {}, "test.csv:4"),
        Example("", None),
    ]
    write_predictions(path, examples, iter([predict("a", 0.123456789), predict("a", 1.0), predict("b", math.nan)]))
    assert read_rows(path) == [
        list(PREDICTION_COLUMNS),
        ["test.csv:2", 'say "hi",\r\nthen\rgo', "a", "a", "0.123456789", "true"],
        ["test.csv:4", "纯文本 🙂", "b", "a", "1.0", "false"],
        ["", "", "", "b", "", ""],
    ]


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.tuples(text, text, text, st.floats(0, 1)), max_size=8))
@settings(deadline=None)
def test_any_text_comes_back_from_the_predictions_file(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_predictions(
        path,
        [Example(content, label, {}, source) for source, content, label, _ in rows],
        [predict("x", probability) for *_, probability in rows],
    )
    read = read_rows(path)[1:]
    assert [row[:3] for row in read] == [[source, content, label] for source, content, label, _ in rows]
    assert [float(row[4]) for row in read] == [row[3] for row in rows]


def test_a_lone_carriage_return_does_not_end_the_row(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, [Example("one\rtwo", "a")], [predict("a")])
    assert read_rows(path)[1][1] == "one\rtwo"


def test_a_lone_surrogate_does_not_lose_the_file(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, [Example("bad \ud800 text", "a")], [predict("a")])
    assert read_rows(path)[1][1] == "bad \\ud800 text"


def test_missing_prediction_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="shorter"):
        write_predictions(path, [Example("one", "a"), Example("two", "a")], [predict("a")])
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.csv"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_metrics(make_report(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("old")

    def predictions():
        yield predict("a")
        assert path.read_text() == "old"
        yield predict("b")

    write_predictions(path, [Example("one", "a"), Example("two", "a")], predictions())
    assert len(read_rows(path)) == 3


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_metrics(make_report(), tmp_path / "metrics.json")
    mode = stat.S_IMODE((tmp_path / "metrics.json").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_unwritable_places_are_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    for path in (tmp_path / "no" / "m.json", tmp_path / "file" / "m.json", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(LlmclsError, match="Cannot write"):
            write_metrics(make_report(), path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
