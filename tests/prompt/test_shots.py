"""Shots: from train only, seeded, balanced, never the row itself."""

from collections import Counter

import pytest

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.shots import choose_shots
from llmcls.records import Example

LABELS = LabelSet.from_names(["a", "b", "c"])
TRAIN = [Example(f"{label} text {number} " + "long " * number, label) for label in "abc" for number in range(10)]


@pytest.mark.parametrize("per_label", [1, 2, 3])
def test_balanced_seeded_and_from_train(per_label):
    shots = choose_shots(TRAIN, LABELS, per_label=per_label, seed=1)
    assert shots == choose_shots(TRAIN, LABELS, per_label=per_label, seed=1)
    assert len({str(choose_shots(TRAIN, LABELS, per_label=per_label, seed=seed)) for seed in range(5)}) > 1
    assert [shot.label for shot in shots.examples] == ["a", "b", "c"] * per_label
    assert (
        {*shots.examples, *shots.spares} <= set(TRAIN)
        if False
        else all(shot in TRAIN for shot in (*shots.examples, *shots.spares))
    )
    assert len({shot.text for shot in (*shots.examples, *shots.spares)}) == 3 * (per_label + 1)


@pytest.mark.parametrize("per_label", [1, 2])
def test_never_the_row_itself_and_still_balanced(per_label):
    shots = choose_shots(TRAIN, LABELS, per_label=per_label, seed=1)
    for row in (*TRAIN, Example(TRAIN[0].text), Example("new")):
        shown = shots.without(row)
        assert row.text not in {shot.text for shot in shown}
        assert Counter(shot.label for shot in shown) == Counter("abc" * per_label)
        assert len({shot.text for shot in shown}) == len(shown)


def test_one_text_under_two_labels_is_shown_to_neither():
    train = [*TRAIN, *(Example("both", label) for label in "ab")]
    for seed in range(20):
        shots = choose_shots(train, LABELS, per_label=2, seed=seed)
        assert "both" not in {shot.text for shot in shots.without(Example("both", "a"))}


def test_repeated_texts_count_once():
    train = [Example("same", "a")] * 5 + [Example("x", "b"), Example("y", "c")]
    with pytest.raises(LlmclsError, match=r"'a' has 1 training texts, but prompt.shots_per_label is 2; lower it"):
        choose_shots(train, LABELS, per_label=2, seed=0)
    shots = choose_shots(train, LABELS, per_label=1, seed=0)
    assert not shots.spares
    assert [shot.text for shot in shots.without(Example("same"))] == ["x", "y"]
