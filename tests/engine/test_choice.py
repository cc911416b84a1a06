"""The cost model behind method `auto`, and the scorer that follows it."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcls.engine import AutoScorer, LabelTrie, PackedScorer, SearchScorer, choice, reference_scores
from llmcls.engine.choice import TrieCosts, choose_method
from llmcls.engine.inspection import PromptShape
from llmcls.engine.scorer import make_scorer

from .conftest import VOCABULARY, build

END = 2
MODEL = build()
answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=2, max_size=12, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)
PROMPTS = [[1, 9, 8, *own] for own in ([5], [6, 7], [11, 40, 41], [90, 3, 3, 17])]
MANY = TrieCosts(fed=27, way=1.7, expansions=1.2, rounds=3)  # 77 intents


def test_costs_follow_the_formula(monkeypatch):
    for name, value in (("FORWARD_TOKENS", {"cuda": 40}), ("EXPANSION_TOKENS", {"cuda": 0.5}), ("DETOUR", 2.0)):
        monkeypatch.setattr(choice, name, value)
    found = choose_method(MANY, PromptShape(prefix=600, own=16, rows=1000), "cuda")
    assert found.costs["exact"] == pytest.approx(0.6 + 16 + 27)
    together = choice.GROUP_TOKENS / 16
    assert found.costs["best-first"] == pytest.approx(0.6 + 16 + 2 * (1.7 + 0.5 * 2.2 + 40 * 3 / together))
    assert found.method == "best-first" and "27 label tokens" in found.reason


def test_what_makes_a_search_worth_while():
    def chosen(costs, own=16.0, rows=1000, device="cpu"):
        return choose_method(costs, PromptShape(600, own, rows), device).method

    assert chosen(MANY) == "best-first"
    assert chosen(MANY, rows=1) == "exact", "a single row pays each further forward alone"
    assert chosen(MANY, own=2000.0) == "exact", "labels hardly matter behind long texts"
    assert chosen(TrieCosts(0, 0.0, 0.0, 0)) == "exact"
    assert chosen(TrieCosts(2, 1.0, 1.0, 1)) == "exact"
    assert chosen(TrieCosts(4000, 3.0, 2.0, 6), device="cuda") == "best-first"


@given(
    answers=answer_sets,
    own=st.floats(1, 3000),
    rows=st.integers(1, 5000),
    device=st.sampled_from(["cpu", "cuda", "mps"]),
)
def test_the_choice_is_the_cheaper_one(answers, own, rows, device):
    found = choose_method(TrieCosts.of(LabelTrie(answers)), PromptShape(50, own, rows), device)
    cheaper = found.costs["best-first"] < choice.WORTH_SEARCHING * found.costs["exact"]
    assert found.method == ("best-first" if cheaper else "exact")


@settings(max_examples=30, deadline=None)
@given(answers=answer_sets)
def test_trie_costs_are_what_the_scorers_feed(answers):
    trie = LabelTrie(answers)
    costs = TrieCosts.of(trie)
    assert PackedScorer(MODEL, trie).score(PROMPTS).fed.tolist() == [costs.fed] * len(PROMPTS)
    ways = [SearchScorer(MODEL, trie, method="greedy").score([prompt]).fed.item() for prompt in PROMPTS]
    assert (
        max(ways) <= costs.fed and costs.way <= costs.fed and costs.expansions <= costs.rounds <= costs.way * len(trie)
    )


@pytest.mark.parametrize("worth", [0.0, float("inf")], ids=["exact", "search"])
def test_auto_gives_the_same_labels_either_way(monkeypatch, worth):
    monkeypatch.setattr(choice, "WORTH_SEARCHING", worth)
    rng = random.Random(1)
    names = {tuple(rng.randrange(3, 12) for _ in range(rng.randrange(1, 5))) for _ in range(60)}
    answers = [[*name, END] for name in sorted(names)]
    prompts = [[1, 3, *(rng.randrange(3, VOCABULARY) for _ in range(5))] for _ in range(20)]
    scorer = make_scorer(MODEL, answers, method="auto", pad_token_id=0)
    assert isinstance(scorer, AutoScorer)
    expected = reference_scores(MODEL, prompts, answers)
    found = scorer.score(prompts)
    assert bool(found.local.isnan().any()) == (worth > 0)
    assert torch.equal(found.predicted, expected.predicted)
    assert scorer.search.prefixes is scorer.exact.prefixes
    mass = scorer.score(prompts, want_global=True)
    torch.testing.assert_close(mass.label_mass, expected.label_mass, atol=1e-4, rtol=0)
    assert scorer.score([]).predicted.shape == (0,)
