"""Tab-separated files: quotation marks that are text, that enclose cells, and that may be either."""

from __future__ import annotations

import csv

import pandas as pd
import pytest

from llmcls.data.inputs import load_examples, load_labelled
from llmcls.data.reader import FileFormat
from llmcls.data.splits import load_data, load_training_data
from llmcls.default_plugins.dataset_readers.delimited import CsvReader, TsvReader
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.settings import make_settings

PLAIN = {
    "a quotation mark before a word": ('"Great" is what I say\tpos\nbad\tneg', ['"Great" is what I say', "bad"]),
    "a mark that never closes": ('"I loved it\tpos\nbad\tneg\nso so\tneg', ['"I loved it', "bad", "so so"]),
    "marks at the ends of different texts, one within": (
        '"I loved it\tpos\nbad\tneg\n5" pipes\tneg\nthe end"\tpos',
        ['"I loved it', "bad", '5" pipes', 'the end"'],
    ),
    "marks that open and never close": ('"one\tpos\n"two\tneg\n"three\tpos', ['"one', '"two', '"three']),
    "some texts wholly in marks": ('"Great"\tpos\nbad\tneg', ['"Great"', "bad"]),
    "one mark alone": ('"\tpos\nbad\tneg', ['"', "bad"]),
    "marks escaped by a backslash": ('"say \\"hi\\""\tpos\nbad\tneg', ['"say \\"hi\\""', "bad"]),
    "two marks before a word": ('""Hi"" she said\tpos\nbad\tneg', ['""Hi"" she said', "bad"]),
    "commas in and outside marks": ('"Well, yes"\tpos\nNo, no\tneg', ['"Well, yes"', "No, no"]),
    "a mark in another column": ("a\tpos\nb\tneg\nc\tpos", ["a", "b", "c"]),
    "in the middle only": ('a 5" pipe\tpos\nb\tneg', ['a 5" pipe', "b"]),
}
QUOTED = {
    "doubled marks": ('"say ""hi"""\tpos\nbad\tneg', ['say "hi"', "bad"]),
    "a tab": ('"one\ttwo"\tpos\nbad\tneg', ["one\ttwo", "bad"]),
    "lines": ('"one\ntwo"\tpos\nbad\tneg', ["one\ntwo", "bad"]),
    "lines, tabs and marks": ('"a\tb\nc ""d"""\tpos\n"say ""x"""\tneg', ['a\tb\nc "d"', 'say "x"']),
    "every text": ('"one"\tpos\n"two"\tneg', ["one", "two"]),
    "commas, as Excel does": ('"Well, yes"\tpos\nbad\tneg', ["Well, yes", "bad"]),
    "an empty cell": ('""\tpos\nbad\tneg', ["", "bad"]),
}


def texts(path, **options):
    rows = list(TsvReader().read_as(str(path), FileFormat(**options))["train"].rows)
    assert not [row.problem for row in rows if row.problem]
    return [row.values["text"] for row in rows], [int(row.source.partition(":")[2]) for row in rows]


@pytest.mark.parametrize(("content", "expected"), [*PLAIN.values(), *QUOTED.values()], ids=[*PLAIN, *QUOTED])
def test_what_the_file_says(tmp_path, content, expected):
    path = tmp_path / "t.tsv"
    path.write_bytes(b"text\tlabel\n" + content.encode() + b"\n")
    found, lines = texts(path)
    assert found == expected
    assert lines == [2 + sum(text.count("\n") + 1 for text in expected[:at]) for at in range(len(expected))]


@pytest.mark.parametrize(
    ("content", "plain", "quoted"),
    [
        ('"I loved it\tpos\nbad\tneg\nso\tneg\nthe end"\tpos', 4, 1),
        ('"I loved it\tpos\nthe end"\tpos\nbad\tneg', 3, 2),
        ('"say ""hi"""\tpos\n5" pipe\tneg', 2, 2),
        ('"say ""hi"""\tpos\n"never closed\tneg', 2, None),
    ],
)
def test_what_may_be_either_is_asked_for(tmp_path, content, plain, quoted):
    path = tmp_path / "t.tsv"
    path.write_text(f"text\tlabel\n{content}\n")
    with pytest.raises(
        LlmclsError, match=r"quotation marks in '.*t\.tsv' enclose cells or are text.*set data\.quoting"
    ):
        TsvReader().read(str(path))
    assert len(texts(path, quoting="plain")[0]) == plain
    if quoted:
        assert len(texts(path, quoting="quoted")[0]) == quoted


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE])
@pytest.mark.parametrize("marked", ['"Great"', 'say "hi"', '"Great" is what', "plain, text"])
def test_what_pandas_writes_comes_back(tmp_path, quoting, marked):
    path = tmp_path / "t.tsv"
    frame = pd.DataFrame({"text": [marked, "bad, very", "fine"], "label": ["pos", "neg", "pos"]})
    frame.to_csv(path, sep="\t", index=False, quoting=quoting, quotechar=None if quoting == csv.QUOTE_NONE else '"')
    assert texts(path)[0] == list(frame["text"])


def test_training_prediction_and_evaluation_read_the_same(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text('text\tlabel\n"I loved it\tpos\nbad\tneg\nso\tneg\nthe end"\tpos\n')
    form = FileFormat(quoting="plain")
    settings = make_settings({"data": {"source": str(path), "quoting": "plain", "validation_size": 0}})
    assert FileFormat.of(settings.data) == form and form.given == ["quoting"]
    expected = ['"I loved it', "bad", "so", 'the end"']
    assert [row.text for row in load_training_data(settings).train] == expected
    assert [row.text for row in load_data(tmp_path, form=form, validation_size=0).train] == expected
    assert [row.text for row in load_examples(str(path), form=form)] == expected
    labels = LabelSet.from_names(["pos", "neg"])
    assert [row.text for row in load_labelled(str(path), labels=labels, form=form)] == expected


def test_marks_in_csv_enclose_cells_unless_the_setting_says_not(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text,label\n"Great",pos\n')
    for quoting, text in (("auto", "Great"), ("quoted", "Great"), ("plain", '"Great"')):
        (row,) = CsvReader().read_as(str(path), FileFormat(quoting=quoting))["train"].rows
        assert row.values["text"] == text
