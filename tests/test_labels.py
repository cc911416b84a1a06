"""The label set: names, aliases, codes, and every clash in one message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcls.data.inputs import load_labelled
from llmcls.data.splits import load_data
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.labels import Label, LabelSet, look_alikes, show

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


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("caf\u00e9", "cafe\u0301", r"'cafe\u0301'"),
        ("joy", "jo\u200by", r"'jo\u200by'"),
        ("joy", "joy\ufeff", r"'joy\ufeff'"),
        ("joy", "jo\u00ady", r"'jo\u00ady'"),
        ("\u2764", "\u2764\ufe0f", r"'\u2764\ufe0f'".replace(r"\u2764", "\u2764")),
        ("joy", "Joy", "'Joy'"),
        ("STRASSE", "stra\u00dfe", "'stra\u00dfe'"),
        ("big  fun", "big fun", "'big fun'"),
        ("big fun", "big\u00a0fun", r"'big\u00a0fun'"),
        ("big fun", "big\u2003fun", r"'big\u2003fun'"),
        ("big fun", "big\tfun", r"'big\tfun'"),
        ("e-mail", "e\u2011mail", r"'e\u2011mail'"),
        ("don't", "don\u2019t", r"'don\u2019t'"),
        ("sport", "sp\u043ert", r"'sp\u043ert'"),
        ("\u00c5", "\u212b", r"'\u212b'"),
        ("ABC", "\uff21\uff22\uff23", r"'\uff21\uff22\uff23'"),
    ],
)
def test_labels_that_look_alike_are_told_of(one, other, shown):
    assert show(other) == shown
    with pytest.warns(LlmclsWarning, match="labels that look alike are learnt as different ones") as caught:
        splits = load_data([{"text": "a", "label": one}, {"text": "b", "label": other}], validation_size=0)
    (note,) = [note for note in splits.notes if "look alike" in note]
    assert shown in note and show(one) in note and shown in str(caught[0].message)
    assert set(splits.labels.names) == {one, other}


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        ["caf\u00e9", "cafe"],
        ["a b", "ab"],
        ["1", "10"],
        ["\u0434\u0430", "\u043d\u0435\u0442"],
        ["x-y", "x_y"],
    ],
)
def test_labels_that_do_not_look_alike(names):
    assert look_alikes(LabelSet.from_names(names).spellings) == []


def test_aliases_may_look_like_their_own_label_only():
    assert not look_alikes(LabelSet.from_names(["joy", "fear"], aliases={"joy": ["Joy", "JOY"]}).spellings)
    assert look_alikes(LabelSet.from_names(["joy", "fear"], aliases={"fear": ["Joy"]}).spellings) == [("joy", "Joy")]


def test_an_unknown_label_that_looks_like_a_known_one_is_shown_with_escapes():
    labels = LabelSet.from_names(["caf\u00e9", "bar"])
    with pytest.raises(
        LlmclsError, match=r"label 'cafe\\u0301' is not one of the 2 known labels; did you mean 'caf\u00e9'"
    ):
        load_labelled([{"text": "a", "label": "cafe\u0301"}], labels=labels)
    with pytest.raises(LlmclsError, match=r"label 'bar' is not one of the 2 known labels; did you mean 'b\\u0430r'"):
        load_labelled([{"text": "a", "label": "bar"}], labels=LabelSet.from_names(["b\u0430r", "x"]))
