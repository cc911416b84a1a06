"""Labels with several spellings: every method against sums, by hand, over the slow reference's single answers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcls.engine import LabelTrie, PackedScorer, SearchScorer, reference_scores
from llmcls.engine.scorer import make_scorer
from llmcls.engine.scores import TIE_TOLERANCE, sum_spellings
from llmcls.errors import LlmclsError

from .conftest import build, generate_labels

END = 2
MODEL = build()
TOLERANCE = 1e-4


@st.composite
def tries(draw):
    """Answers with prefix labels and shared starts, the later ones spellings of drawn labels."""
    names = draw(st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=2, max_size=12, unique_by=tuple))
    labels = draw(st.integers(1, len(names)))
    owners = [*range(labels), *(draw(st.integers(0, labels - 1)) for _ in names[labels:])]
    return [[*name, END] for name in names], owners


prompt_sets = st.tuples(
    st.lists(st.integers(3, 96), max_size=6),
    st.lists(st.lists(st.integers(3, 96), min_size=1, max_size=7), min_size=1, max_size=4),
).map(lambda pair: [pair[0] + own for own in pair[1]])


def summed(answer_scores, owners):
    """(rows, labels), one label at a time, in probabilities of float64."""
    columns = [
        sum(answer_scores[:, answer].double().exp() for answer, owner in enumerate(owners) if owner == label).log()
        for label in range(max(owners) + 1)
    ]
    return torch.stack(columns, dim=1).float()


@settings(max_examples=60, deadline=None)
@given(answer_set=tries(), prompts=prompt_sets, pack=st.integers(1, 40), want_global=st.booleans())
def test_exact_sums_over_spellings(answer_set, prompts, pack, want_global):
    answers, owners = answer_set
    alone = reference_scores(MODEL, prompts, answers)
    trie = LabelTrie(answers, owners)
    for found in (
        PackedScorer(MODEL, trie, pack_tokens=pack).score(prompts, want_global),
        reference_scores(MODEL, prompts, trie, want_global=want_global),
    ):
        expected = summed(alone.local, owners)
        torch.testing.assert_close(found.local, expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(found.local.exp().sum(1), torch.ones(len(prompts)), atol=1e-5, rtol=0)
        assert torch.equal(found.predicted, found.local.argmax(1))
        if want_global:
            torch.testing.assert_close(found.global_, summed(alone.global_, owners), atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(found.label_mass, alone.label_mass, atol=TOLERANCE, rtol=0)


@settings(max_examples=100, deadline=None)
@given(answer_set=tries(), prompts=prompt_sets, resolution=st.sampled_from([0.0, 0.3]))
def test_best_first_is_certified_over_sums(answer_set, prompts, resolution):
    answers, owners = answer_set
    trie = LabelTrie(answers, owners)
    expected = reference_scores(MODEL, prompts, trie)
    found = SearchScorer(MODEL, trie, resolution=resolution).score(prompts)
    rows = torch.arange(len(prompts))
    best = expected.local.max(1).values
    torch.testing.assert_close(expected.local[rows, found.predicted], best, atol=TOLERANCE, rtol=0)
    # The probability of the label found is whole, not that of the spellings the search happened to meet.
    torch.testing.assert_close(found.local[rows, found.predicted], best, atol=TOLERANCE, rtol=0)
    known = ~found.local.isnan()
    torch.testing.assert_close(found.local[known], expected.local[known], atol=TOLERANCE, rtol=0)
    assert (found.margin >= -1e-6).all() and (found.margin <= expected.margin + TOLERANCE).all()
    if resolution:  # a margin below it is the true one, not a bound
        low = found.margin < resolution
        torch.testing.assert_close(found.margin[low], expected.margin[low], atol=TOLERANCE, rtol=0)


@settings(max_examples=60, deadline=None)
@given(answer_set=tries(), prompts=prompt_sets)
def test_greedy_and_generate_name_the_label_of_the_spelling(answer_set, prompts):
    answers, owners = answer_set
    trie = LabelTrie(answers, owners)
    single = generate_labels(MODEL, prompts, answers, pad_token_id=0)
    expected = torch.tensor(owners)[single]
    greedy = SearchScorer(MODEL, trie, method="greedy").score(prompts)
    generated = make_scorer(MODEL, trie, method="generate", pad_token_id=0).score(prompts)
    assert torch.equal(greedy.predicted, expected) and torch.equal(generated.predicted, expected)
    assert generated.fed.tolist() == [len(answers[answer]) - 1 for answer in single.tolist()]
    scores = reference_scores(MODEL, prompts, trie)
    rows = torch.arange(len(prompts))
    others = scores.local.clone()
    others[rows, greedy.predicted] = float("-inf")
    true_margin = scores.local[rows, greedy.predicted] - others.max(1).values
    assert (greedy.margin <= true_margin + TOLERANCE).all()
    known = ~greedy.local.isnan()
    torch.testing.assert_close(greedy.local[known], scores.local[known], atol=TOLERANCE, rtol=0)


def test_two_spellings_can_beat_the_likeliest_answer():
    """Without the sum the label with one strong spelling would win: the search must not stop at it."""
    prompts = [[1, 3, token] for token in range(3, 60)]
    answers = [[5, END], [6, END], [7, 9, END], [7, 8, END], [7, 10, END]]
    owners = [0, 1, 2, 2, 2]
    single = reference_scores(MODEL, prompts, answers).predicted
    trie = LabelTrie(answers, owners)
    best = SearchScorer(MODEL, trie).score(prompts).predicted
    assert torch.equal(best, reference_scores(MODEL, prompts, trie).predicted)
    assert (best != torch.tensor(owners)[single]).any()


def test_sums_stay_exact_where_probabilities_underflow():
    trie = LabelTrie([[5, END], [6, END], [7, END], [8, END]], [0, 1, 0, 1])
    found = sum_spellings(torch.tensor([[-400.0, -1e-3, -401.0, -500.0]]), trie)
    assert found[0].tolist() == pytest.approx([-400 + 0.31326169, -1e-3], abs=1e-4)
    assert torch.isneginf(sum_spellings(torch.full((1, 4), float("-inf")), trie)).all()


def test_labels_must_fit_the_answers():
    for owners in ([0, 1], [1, 0, 0], [0, 2, 1], [0, 0, 1], [0, 1, -1]):
        with pytest.raises(LlmclsError, match="the first answers must be those of labels 0, 1, 2"):
            LabelTrie([[5, END], [6, END], [7, END]], owners)


def test_tie_tolerances_grow_with_coarser_formats():
    assert TIE_TOLERANCE[torch.float32] < TIE_TOLERANCE[torch.float16] < TIE_TOLERANCE[torch.bfloat16]
