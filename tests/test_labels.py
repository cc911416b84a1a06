"""The label set: names, aliases, codes, and every clash in one message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcls.data.inputs import load_labelled
from llmcls.data.splits import load_data
from llmcls.errors import LlmclsError
from llmcls.labels import Label, LabelSet

ROWS = [
    {"text": "a", "label": "billing"},
    {"text": "b", "label": "invoice"},
    {"text": "c", "label": " payment "},
    {"text": "d", "label": "delivery"},
]
ALIASES = {"billing": ["invoice", "payment"]}


def test_spellings_lead_to_their_label():
    labels = LabelSet.from_names(["billing", "delivery"], aliases=ALIASES)
    assert labels[0].aliases == ("invoice", "payment") and not labels[1].aliases
    assert labels.spellings == dict.fromkeys(["billing", "invoice", "payment"], "billing") | {"delivery": "delivery"}
    assert labels != LabelSet.from_names(["billing", "delivery"])
    coded = labels.with_codes(["A", "B"])
    assert [label.answer for label in coded] == ["A", "B"] and coded[0].aliases == labels[0].aliases


def test_all_clashes_are_listed():
    with pytest.raises(LlmclsError) as error:
        LabelSet.from_names(["a", "b", "c"], aliases={"a": ["x", "b", "a", "y", "y"], "b": ["x", " z"], "c": [""]})
    said = str(error.value)
    for part in (
        "alias 'b' of label 'a' is a label itself",
        "alias 'a' of label 'a' repeats",
        "alias 'y' of label 'a' repeats",
        "alias 'x' of label 'b' is an alias of 'a', too",
        "alias ' z' is empty or has white space",
        "alias '' is empty",
    ):
        assert part in said
    with pytest.raises(LlmclsError, match="code 'A' stands for 2 labels"):
        LabelSet([Label("a", code="A"), Label("b", code="A")])
    with pytest.raises(LlmclsError, match="Unknown label in the aliases 'd'"):
        LabelSet.from_names(["a", "b"], aliases={"d": ["e"]})


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4), min_size=2, max_size=4))
def test_a_label_set_exists_only_without_clashes(drawn):
    labels = [Label(f"label {at}", aliases=tuple(aliases)) for at, aliases in enumerate(drawn)]
    every = [alias for aliases in drawn for alias in aliases]
    if len(set(every)) == len(every):
        assert len(LabelSet(labels).spellings) == len(every) + len(labels)
    else:
        with pytest.raises(LlmclsError, match="cannot be used"):
            LabelSet(labels)


@pytest.mark.parametrize("labels", [None, ["billing", "delivery"]])
def test_aliases_in_data_count_as_their_label(labels):
    splits = load_data(ROWS, labels=labels, aliases=ALIASES, validation_size=0)
    assert splits.labels == LabelSet.from_names(["billing", "delivery"], aliases=ALIASES)
    assert [example.label for example in splits.train] == ["billing"] * 3 + ["delivery"]
    assert [example.label for example in load_labelled(ROWS, labels=splits.labels)] == ["billing"] * 3 + ["delivery"]
    plain = load_data([{**row, "label": row["label"]} for row in ROWS], validation_size=0)
    assert set(plain.labels.names) == {"billing", "invoice", "payment", "delivery"}
    assert plain.fingerprint != splits.fingerprint


def test_class_names_may_be_aliases_of_others():
    datasets = pytest.importorskip("datasets")
    names = ["billing", "delivery", "invoice"]
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [2, 1, 0]}).cast_column(
        "label", datasets.ClassLabel(names=names)
    )
    splits = load_data(data, aliases={"billing": ["invoice"]}, validation_size=0)
    assert splits.labels.names == ("billing", "delivery")
    assert [example.label for example in splits.train] == ["billing", "delivery", "billing"]


def test_an_alias_of_no_label_is_refused():
    with pytest.raises(LlmclsError, match="Unknown label in the aliases 'shipping'"):
        load_data(ROWS, aliases={"shipping": ["parcel"]}, validation_size=0)
