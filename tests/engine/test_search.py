import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcls.engine import PackedScorer, SearchScorer, reference_scores
from llmcls.errors import LlmclsError

from .conftest import VOCABULARY, build, generate_labels

END = 2
MODEL = build()
answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=1, max_size=12, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)
prompt_sets = st.tuples(
    st.lists(st.integers(3, 96), max_size=6),
    st.lists(st.lists(st.integers(3, 96), min_size=1, max_size=7), min_size=1, max_size=5),
).map(lambda pair: [pair[0] + own for own in pair[1]])


def assert_consistent(found, expected):
    """Known values are right, the predicted one is known, and the margin is a lower bound of the true one."""
    known = ~found.local.isnan()
    torch.testing.assert_close(found.local[known], expected.local[known], atol=1e-4, rtol=0)
    rows = torch.arange(len(found.predicted))
    assert known[rows, found.predicted].all()
    others = expected.local.clone()
    others[rows, found.predicted] = float("-inf")
    true_margin = expected.local[rows, found.predicted] - others.max(1).values
    assert (found.margin <= true_margin + 1e-4).all()


@settings(max_examples=60, deadline=None)
@given(answers=answer_sets, prompts=prompt_sets, pack=st.integers(1, 40))
def test_greedy_is_generate(answers, prompts, pack):
    found = SearchScorer(MODEL, answers, method="greedy", pack_tokens=pack).score(prompts)
    assert found.predicted.tolist() == generate_labels(MODEL, prompts, answers, pad_token_id=0).tolist()
    assert_consistent(found, reference_scores(MODEL, prompts, answers))


@settings(max_examples=60, deadline=None)
@given(answers=answer_sets, prompts=prompt_sets, pack=st.integers(1, 40))
def test_best_first_is_the_certified_argmax(answers, prompts, pack):
    found = SearchScorer(MODEL, answers, pack_tokens=pack).score(prompts)
    expected = reference_scores(MODEL, prompts, answers)
    rows = torch.arange(len(prompts))
    best = expected.local.max(1).values
    torch.testing.assert_close(expected.local[rows, found.predicted], best, atol=1e-4, rtol=0)
    assert (found.margin >= 0).all()
    assert_consistent(found, expected)


def many_labels():
    rng = random.Random(3)
    names = {tuple(rng.randrange(3, 12) for _ in range(rng.randrange(1, 6))) for _ in range(1500)}
    answers = [[*name, END] for name in sorted(names)[:1000]]
    rng.shuffle(answers)
    return answers, [[1, 3, 4, *(rng.randrange(3, VOCABULARY) for _ in range(6))] for _ in range(30)]


def test_a_thousand_labels_search_feeds_little_and_greedy_can_be_wrong():
    answers, prompts = many_labels()
    exact = PackedScorer(MODEL, answers).score(prompts)
    best = SearchScorer(MODEL, answers).score(prompts)
    greedy = SearchScorer(MODEL, answers, method="greedy").score(prompts)
    assert torch.equal(best.predicted, exact.predicted)
    assert greedy.predicted.tolist() == generate_labels(MODEL, prompts, answers, pad_token_id=0).tolist()
    # The point of the search: certified answers from a small part of the trie, where greedy misses some.
    assert (greedy.predicted != exact.predicted).any()
    assert (greedy.margin[greedy.predicted != exact.predicted] < 0).all()
    assert (greedy.fed <= best.fed).all() and (best.fed < exact.fed // 3).all()


def test_scores_of_all_labels_are_refused():
    with pytest.raises(LlmclsError, match="use 'exact'"):
        SearchScorer(MODEL, [[5, 2], [6, 2]]).score([[1]], want_global=True)


def test_no_prompts():
    assert SearchScorer(MODEL, [[5, 2], [6, 2]]).score([]).predicted.shape == (0,)
