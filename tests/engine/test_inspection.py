import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcls.engine import LabelTrie, PackedScorer, SearchScorer
from llmcls.engine.inspection import PromptShape, inspect_answers, suggest
from llmcls.errors import LlmclsError

from .conftest import VOCABULARY, build

END = 2
MODEL = build()
answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=1, max_size=12, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)
PROMPTS = [[1, 9, 8, *own] for own in ([5], [6, 7], [11, 40, 41], [90, 3, 3, 17])]


@settings(max_examples=40, deadline=None)
@given(answers=answer_sets)
def test_what_is_predicted_to_be_fed_is_fed(answers):
    """Costs against what the scorers report of themselves."""
    trie = LabelTrie(answers)
    inspection = inspect_answers(trie, PromptShape(prefix=0, own=0))
    exact = PackedScorer(MODEL, trie)
    assert exact.score(PROMPTS).fed.tolist() == [inspection.costs["exact"].most] * len(PROMPTS)
    assert exact.score(PROMPTS, want_global=True).fed.tolist() == [inspection.fed_for_mass] * len(PROMPTS)
    greedy = SearchScorer(MODEL, trie, method="greedy").score(PROMPTS)
    assert greedy.fed.tolist() == [inspection.answers[label].fed for label in greedy.predicted.tolist()]
    best = SearchScorer(MODEL, trie).score(PROMPTS)
    for fed, label in zip(best.fed.tolist(), best.predicted.tolist(), strict=True):
        assert inspection.answers[label].fed <= fed <= inspection.costs["best-first"].most


@given(answers=answer_sets)
def test_answers_beginnings_and_collisions_by_definition(answers):
    inspection = inspect_answers(answers, PromptShape(prefix=5, own=3))
    continued = {
        a: tuple(b for b, other in enumerate(answers) if b != a and other[: len(answer) - 1] == answer[:-1])
        for a, answer in enumerate(answers)
        if len(answer) > 1
    }
    assert inspection.continued == {a: others for a, others in continued.items() if others}
    groups = {token: tuple(b for b, answer in enumerate(answers) if answer[0] == token) for token in range(8)}
    assert set(inspection.collisions) == {group for group in groups.values() if len(group) > 1}
    assert [len(group) for group in inspection.collisions] == sorted(map(len, inspection.collisions), reverse=True)
    for answer, cost in zip(answers, inspection.answers, strict=True):
        choices = [
            length
            for length in range(len(answer))
            if len({tuple(other[: length + 1]) for other in answers if other[:length] == answer[:length]} - {()}) > 1
        ]
        assert cost.tokens == len(answer)
        assert cost.forced == len(answer) - len(choices)
        assert cost.fed == max(choices, default=0)
        assert cost.rounds == len([length for length in choices if length])


def test_costs_follow_the_formula():
    # Tokens 5 7, 5 8, 6: one choice at the root, one behind 5.
    inspection = inspect_answers([[5, 7, END], [5, 8, END], [6, END]], PromptShape(prefix=100, own=20, rows=50))
    costs = inspection.costs
    assert (inspection.statistics.fed, inspection.fed_for_mass) == (1, 4)
    assert costs["exact"].least == costs["exact"].most == 100 / 50 + 20 + 1
    assert costs["exact, label mass"].most == 100 / 50 + 20 + 4
    assert costs["greedy"].least == pytest.approx(100 / 50 + 20 + 2 / 3)
    assert (costs["greedy"].most, costs["greedy"].rounds) == (23, 1)
    assert (costs["best-first"].most, costs["best-first"].rounds) == (23, 1)
    assert costs["generate"].least == pytest.approx(100 + 20 + 5 / 3)
    assert (costs["generate"].most, costs["generate"].rounds) == (122, 2)


@pytest.mark.parametrize(("prefix", "own", "rows"), [(-1, 2, 1), (1, -0.5, 1), (1, 2, 0)])
def test_impossible_shapes_are_refused(prefix, own, rows):
    with pytest.raises(LlmclsError, match="impossible"):
        PromptShape(prefix, own, rows)


def test_ten_thousand_labels_stay_linear():
    rng = random.Random(0)
    names = {tuple(rng.randrange(3, 60) for _ in range(rng.randrange(1, 9))) for _ in range(13_000)}
    answers = [[*name, END] for name in sorted(names)[:10_000]]
    inspection = inspect_answers(answers, PromptShape(prefix=10, own=20))
    assert len(inspection.answers) == 10_000
    assert sum(map(len, inspection.continued.values())) <= 10_000 * inspection.statistics.depth
    assert max(cost.fed for cost in inspection.answers) < inspection.statistics.depth


def suggested(answers, names, shape, room=None):
    return "\n".join(suggest(inspect_answers(answers, shape), names, room))


def test_suggestions_name_what_they_speak_of():
    prefix_labels = [[5, END], [5, 7, END], [6, END]]
    names = ["positive", "positive_mixed", "negative"]
    said = suggested(prefix_labels, names, PromptShape(prefix=0, own=4))
    assert "'positive' (of 'positive_mixed')" in said
    assert "begin alike" in said and "positive, positive_mixed" in said
    assert "best-first" not in said
    assert "begin alike" not in suggested(prefix_labels, names, PromptShape(prefix=0, own=400))

    apart = suggested([[5, END], [6, 7, END]], ["a", "b"], PromptShape(prefix=0, own=4))
    assert apart == "Every label has a first token of its own: all probabilities cost no more than reading the text."
    assert "leaves only 12 tokens" in suggested(prefix_labels, names, PromptShape(prefix=0, own=4), room=12)
    assert "one call" in suggested(prefix_labels, names, PromptShape(prefix=500, own=4, rows=3))


def test_many_labels_suggest_searching():
    rng = random.Random(1)
    names = {tuple(rng.randrange(3, VOCABULARY) for _ in range(4)) for _ in range(2000)}
    answers = [[*name, END] for name in sorted(names)]
    said = suggested(answers, [str(name) for name in sorted(names)], PromptShape(prefix=0, own=30))
    assert "best-first finds the same label" in said
    assert "and " in said and "more" in said
