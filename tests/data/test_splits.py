from __future__ import annotations

import warnings
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmcls.data.cut import cap_per_class, cut_stratified
from llmcls.data.inputs import BadRow, load_examples, load_labelled
from llmcls.data.splits import fingerprint, load_data
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.labels import LabelSet
from llmcls.records import Example


def records(n, labels="ab", start=0):
    return [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(start, start + n)]


def split_of(examples):
    return [(example.text, example.label) for example in examples]


def test_three_splits_are_taken_as_they_are(tmp_path, readers):
    for i, name in enumerate(("train", "val", "test")):
        pd.DataFrame(records(20 - i, start=100 * i)).to_csv(tmp_path / f"{name}.csv", index=False)
    data = load_data(tmp_path, catalog=readers)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 19, 18)
    assert data.labels.names == ("a", "b")
    assert data.train[0] == Example("text 0", "a", {}, "train.csv:2")
    assert data["validation"] == data.validation
    assert len(data.notes) == 2 and data.notes[0].startswith("text column: 'text'")


def test_validation_is_cut_from_train_with_the_seed():
    frame = pd.DataFrame(records(200, "aaab"))
    data = load_data(frame, seed=7)
    assert len(data.train) == 180 and len(data.validation) == 20 and data.test == ()
    assert Counter(example.label for example in data.validation) == {"a": 15, "b": 5}
    assert "no validation split: 10 % of train (20 rows), stratified, seed 7" in data.notes
    assert "no test split: evaluation falls on validation" in data.notes
    assert load_data(frame, seed=7) == data
    assert load_data(frame, seed=8).fingerprint != data.fingerprint
    assert sorted(split_of(data.train + data.validation)) == sorted(
        (r["text"], r["label"]) for r in records(200, "aaab")
    )


def test_test_can_be_cut_too_and_shares_are_of_the_whole():
    data = load_data(records(200), validation_size=0.1, test_size=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (140, 20, 40)


def test_nothing_is_cut_where_it_is_not_wanted_or_cannot_be():
    data = load_data(records(20), validation_size=0)
    assert data.validation == () and any("validation_size is 0" in note for note in data.notes)
    assert "no test split: there is nothing to evaluate on" in data.notes
    data = load_data(records(2))
    assert data.validation == () and any("none can be cut from train" in note for note in data.notes)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcd")), max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
@example([(0, "a")] * 5 + [(n, "c" if n in (1, 5) else "a") for n in range(1, 10)], 0.5, 0)
def test_any_cut_keeps_every_example_once_and_every_label_in_train(rows, size, seed):
    examples = [Example(f"t{number}", label, source=str(i)) for i, (number, label) in enumerate(rows)]
    stay, cut = cut_stratified(examples, size, seed)
    assert sorted(stay + cut, key=lambda e: int(e.source)) == examples
    for side in (stay, cut):
        assert [int(e.source) for e in side] == sorted(int(e.source) for e in side)
    assert not {e.text for e in stay} & {e.text for e in cut}
    counts = Counter(e.label for e in examples)
    assert all(counts[e.label] > 1 for e in cut)
    if size <= 0.5:
        assert {e.label for e in stay} == set(counts)


def test_caps_are_seeded_and_per_class():
    data = load_data(
        {"train": records(60, "aab"), "validation": records(30, "aab", 100)}, max_per_class={"train": 5}, seed=3
    )
    assert Counter(example.label for example in data.train) == {"a": 5, "b": 5}
    assert len(data.validation) == 30
    assert "train: at most 5 rows per label, 60 -> 10 rows, seed 3" in data.notes
    examples = [Example(str(i), "ab"[i % 2]) for i in range(100)]
    assert cap_per_class(examples, 10, 1) == cap_per_class(examples, 10, 1) != cap_per_class(examples, 10, 2)
    assert cap_per_class(examples, 1000, 1) == examples


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"validation_size": 1.0}, "validation_size is 1.0"),
        ({"test_size": -0.1}, "test_size is -0.1"),
        ({"validation_size": 0.5, "test_size": 0.5}, "leave nothing to train on"),
        ({"max_per_class": {"trian": 5}}, "'trian'. Did you mean 'train'"),
        ({"max_per_class": {"train": 0}}, "at least 1"),
    ],
)
def test_choices_that_make_no_sense(choices, message):
    with pytest.raises(LlmclsError, match=message):
        load_data(records(20), **choices)


def test_all_problems_of_all_splits_are_reported_with_file_and_line(tmp_path, readers):
    (tmp_path / "train.csv").write_bytes(b'text,label\nfine,a\n,b\nlost,\nfine,b\n"open,a\ncaf\xe9,b\n')
    (tmp_path / "test.csv").write_text("text,label\nfine too,a\nother,c\n")
    with pytest.raises(LlmclsError) as caught:
        load_data(str(tmp_path), catalog=readers)
    message = str(caught.value)
    assert "5 problems" in message
    for expected in (
        "train.csv:3: the row has no text",
        "train.csv:4: the label is missing",
        "train.csv:6: the quote opened here is never closed",
        "train.csv:7: the byte 0xE9 is not UTF-8",
        "test.csv:3: label 'c' is not one of the 2 known labels",
    ):
        assert expected in message


def test_given_labels_keep_their_order_and_bind_train():
    data = load_data(records(20), labels=["b", "a", "never"])
    assert data.labels.names == ("b", "a", "never")
    assert "labels without a training row: never" in data.notes
    described = LabelSet.from_names(["b", "a"], {"a": "the first"})
    assert load_data(records(20), labels=described).labels is described
    with pytest.raises(LlmclsError, match=r"(?s)10 problems.*train:row 2: label 'b' is not one of the 2 known labels"):
        load_data(records(20), labels=["a", "c"])


def test_class_labels_bring_names_and_order():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "y", "x"])}
    )

    def part(start, labels):
        texts = [f"text {start + i}" for i in range(len(labels))]
        return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)

    parts = datasets.DatasetDict(train=part(0, [0, 1] * 10), test=part(100, [2, 0]))
    data = load_data(parts)
    assert data.labels.names == ("z", "y", "x")
    assert split_of(data.test) == [("text 100", "x"), ("text 101", "z")]
    assert "labels without a training row: x" in data.notes
    parts["test"] = part(100, [-1, -1])
    with pytest.warns(LlmclsWarning, match="test: no row has a label"):
        assert load_data(parts).test == ()
    parts["test"] = part(100, [-1, 0])
    with pytest.raises(LlmclsError, match="test:row 1: the label is missing"):
        load_data(parts)


def test_a_split_without_label_column_is_left_out_and_said():
    data = {"train": records(20), "test": [{"text": "x"}]}
    with pytest.warns(LlmclsWarning, match="test: no row has a label, so this split is left out"):
        loaded = load_data(data)
    assert loaded.test == ()
    assert "no test split: evaluation falls on validation" in loaded.notes


def test_other_splits_and_missing_columns():
    data = {"train": records(20), "unsupervised": [{"text": "x"}]}
    assert "splits that are not used: unsupervised" in load_data(data).notes
    with pytest.raises(LlmclsError, match="test: Unknown column 'text'"):
        load_data({"train": records(20), "test": [{"words": "x", "label": "a"}]})
    with pytest.raises(LlmclsError, match="has no train split; it has: test"):
        load_data({"test": records(20)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "there are no rows, only column names"),
        ("text,label\nx,a\ny,a\n", "column 'label': .*only one label \\('a'\\)"),
        ("text;label\nx;a\n", "only one label"),
        ("text~label\nx~a\n", r"Cannot tell which column .* Columns: text~label"),
        ("text,label\nx,a\ny\n", "t.csv:3: the row has 1 cell"),
    ],
)
def test_files_that_cannot_be_trained_on(tmp_path, readers, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(LlmclsError, match=message):
        load_data(tmp_path / "t.csv", catalog=readers)


def test_texts_in_two_splits_and_texts_with_two_labels_are_warned_of():
    train = [*records(20), {"text": "both", "label": "a"}, {"text": "both", "label": "b"}]
    with pytest.warns(LlmclsWarning) as caught:
        data = load_data({"train": train, "validation": records(5, start=100), "test": records(30, start=15)})
    said = [str(warning.message) for warning in caught]
    assert said[0].startswith("train: texts with more than one label: 1 (2 rows)")
    assert said[1].startswith("test: 5 of 30 texts are in train, too")
    assert set(said) <= set(data.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data([*records(40), *records(10)])  # repeated rows are never cut off, so no leak of our own making


def test_fingerprints_tell_what_changed():
    one = load_data(records(40))
    other = load_data({"train": records(40), "validation": records(4, start=300)})
    assert one.fingerprint != other.fingerprint and set(one.fingerprints) == {"train", "validation", "test"}
    assert one.fingerprints["test"] == other.fingerprints["test"] == fingerprint([])
    assert fingerprint([Example("ab", "c")]) != fingerprint([Example("a", "bc")])
    assert fingerprint([Example("a", "b", {"n": "1"}, "x:1")]) == fingerprint([Example("a", "b")])


FRAME = pd.DataFrame(
    {"title": ["A", None, "C"] * 4, "body": ["x", "y", np.nan] * 4, "target": pd.Categorical([0, 1, 0] * 4)}
)


@pytest.mark.parametrize(
    "data",
    [FRAME, datasets.Dataset.from_pandas(FRAME.astype({"target": int})), FRAME.to_dict("records"), {"train": FRAME}],
    ids=["frame", "dataset", "list", "dict"],
)
def test_python_objects(data):
    loaded = load_data(data, text_columns=["title", "body"], validation_size=0)
    assert split_of(loaded.train[:3]) == [("A. x.", "0"), ("y.", "1"), ("C.", "0")]
    assert loaded.train[2].source == "train:row 3"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "Cannot read data of type builtins.int"),
        ([], "without a single dict"),
        (["a"], "without a single dict"),
        ({}, "no keys at all"),
        ({"text": ["a"], "label": ["b", "c"]}, "equally long, but 'text' has 1, 'label' has 2 values"),
        ({"text": records(2)}, r"has splits as keys, .*; this one has a list under the key 'text'"),
        ({0: records(2), 1: records(2)}, r"has splits as keys, .*; this one has the keys 0, 1"),
        ({0: {"text": "a"}, 1: {"text": "b"}}, r"a dict under each of its keys \(0, 1\).*give the DataFrame itself"),
        (pd.DataFrame(records(2)).to_dict(), r"a dict under each of its keys \('text', 'label'\)"),
        ({"text": "a text", "label": "b"}, r"\('text', 'label'\) looks like a single row: give a list"),
        ({"text": "a", "label": 1}, "looks like a single row"),
        ({"train": records(2), 0: records(2)}, "has split names as keys, not 0"),
        ({"dev": records(2), "val": records(2)}, "two validation splits"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' occurs 2 times"),
    ],
)
def test_python_objects_that_are_no_data(data, message):
    with pytest.raises(LlmclsError, match=message):
        load_data(data)


@pytest.mark.parametrize(
    "made",
    [list, tuple, np.array, pd.Series, lambda cells: np.array(cells, dtype=object)],
    ids=["list", "tuple", "array", "Series", "array of objects"],
)
def test_dicts_of_columns(made):
    columns = {name: [row[name] for row in records(4)] for name in ("text", "label")}
    data = {name: made(cells) for name, cells in columns.items()}
    expected = load_data(records(4), validation_size=0)
    assert load_data(data, validation_size=0) == expected
    with pytest.warns(LlmclsWarning, match="4 of 4 texts are in train"):
        both = load_data({"train": data, "test": data}, validation_size=0)
    assert both.train == expected.train and both.test[0].source == "test:row 1"


def test_dict_of_files(tmp_path, readers):
    pd.DataFrame(records(20)).to_csv(tmp_path / "x.csv", index=False)
    data = load_data({"train": tmp_path / "x.csv", "test": records(3, start=50)}, catalog=readers)
    assert len(data.test) == 3 and data.train[0].source == "x.csv:2"


def test_rows_that_are_no_dicts_are_problems():
    with pytest.raises(LlmclsError, match="train:row 21: the row is a str"):
        load_data([*records(20), "x"])


def test_prediction_input_is_lazy(tmp_path, readers):
    path = tmp_path / "in.csv"
    path.write_bytes(b"body,id\nhello,1\n,2\ncaf\xe9,3\nlast,4\n")
    stream = load_examples(path, catalog=readers)
    rows = iter(stream)
    assert next(rows) == Example("hello", None, {"id": "1"}, "in.csv:2")
    assert next(rows).text == ""
    with pytest.raises(LlmclsError, match=r"in\.csv:4: the byte 0xE9"):
        next(rows)
    first, second, bad, last = stream.rows()
    assert [(row.values["id"], row.example.text) for row in (first, second, last)] == [
        ("1", "hello"),
        ("2", ""),
        ("4", "last"),
    ]
    advice = "save the file as UTF-8, or set data.encoding, probably to cp1252"
    assert bad == BadRow("in.csv:4", f"the byte 0xE9 is not UTF-8; {advice}", "caf\\xe9,3")
    assert list(stream.rows(start=2)) == [bad, last]
    assert stream.count() == 4


def test_prediction_of_one_split():
    data = {"train": records(20), "dev": records(3, start=50)}
    assert len(list(load_examples(data, split="val"))) == 3
    assert next(iter(load_examples(data, split="dev", label_column="label"))).label == "a"
    with pytest.raises(LlmclsError, match="name one of them: train, validation"):
        load_examples(data)
    with pytest.raises(LlmclsError, match="Unknown split 'test'"):
        load_examples(data, split="test")


def test_evaluation_input_is_checked():
    labels = LabelSet.from_names(["a", "b"])
    assert len(load_labelled(records(4), labels=labels)) == 4
    with pytest.raises(LlmclsError, match=r"(?s)2 problems.*row 5: label 'c'.*row 6: the label is missing"):
        load_labelled([*records(4), {"text": "x", "label": "c"}, {"text": "y", "label": ""}], labels=labels)
    with pytest.raises(LlmclsError, match="Unknown column 'gold'"):
        load_labelled(records(4), labels=labels, label_column="gold")


def test_real_data_set_with_two_text_columns(readers, shared_data):
    data = load_data(shared_data / "arxiv_top5", text_columns=["title", "abstract"], catalog=readers)
    assert (len(data.train), len(data.validation), len(data.test)) == (9436, 1179, 1179)
    assert data.columns.label == "label_name" and len(data.labels) == 5
    assert all(example.text.endswith(".") and "\n" not in example.source for example in data.train)
