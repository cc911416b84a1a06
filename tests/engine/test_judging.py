"""One reading of a validation row against the plain way: a padded forward for the loss, and a scorer for the label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcls.engine.decoder import evaluating
from llmcls.engine.judging import LabelJudge, YesNoJudge
from llmcls.engine.objectives import Objective, padded_batch, padded_logits, padded_loss
from llmcls.engine.reference import reference_scores
from llmcls.engine.trie import LabelTrie
from llmcls.engine.yesno import Question, QuestionTrie, ReferenceYesNoScorer, padded_yes_no_batch

from .conftest import build

END = 2
MODEL = build()
answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=2, max_size=12, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)
prompt_sets = st.tuples(
    st.lists(st.integers(3, 96), max_size=6),
    st.lists(st.lists(st.integers(3, 96), min_size=1, max_size=7), min_size=1, max_size=6),
).map(lambda pair: [pair[0] + own for own in pair[1]])
smoothings = st.sampled_from([0.0, 0.1, 0.7])


def plain_loss(model: Any, batch: Any) -> tuple[float, float]:
    with torch.no_grad(), evaluating(model):
        return float(padded_loss(model, batch, 1.0)), float(batch["normalizer"])


def judge_of(model: Any, trie: LabelTrie, goal: Objective, exact: bool, pack: int | None = None) -> LabelJudge:
    planned = LabelJudge.plan(model, trie, goal, [[1, 3]], probabilities=True, pack_tokens=pack)
    return LabelJudge(planned.scorer, goal, exact)


def assert_as_plain(
    model: Any, prompts: Any, labels: list[int], trie: LabelTrie, goal: Objective, exact: bool, pack: int | None = None
) -> None:
    judged = judge_of(model, trie, goal, exact, pack)(prompts, labels)
    expected = reference_scores(model, prompts, trie)
    rows = torch.arange(len(prompts))
    torch.testing.assert_close(expected.local[rows, judged.targets], expected.local.max(1).values, atol=1e-4, rtol=0)
    if exact:
        torch.testing.assert_close(judged.probabilities, expected.local.double().exp(), atol=1e-5, rtol=0)
    else:
        assert judged.probabilities is None
    assert judged.loss == pytest.approx(
        plain_loss(model, padded_batch(prompts, labels, trie, goal, pad_token_id=0)), rel=1e-5, abs=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(
    answers=answer_sets, prompts=prompt_sets, pack=st.integers(1, 40), smoothing=smoothings, draws=st.data(),
    exact=st.booleans(), weighted=st.booleans(), forced=st.booleans(),
)  # fmt: skip
def test_one_label(answers, prompts, pack, smoothing, draws, exact, weighted, forced):
    if forced:  # a token that all labels begin with: the root offers no choice
        answers = [[7, *answer] for answer in answers]
    trie = LabelTrie(answers)
    labels = [draws.draw(st.integers(0, len(answers) - 1)) for _ in prompts]
    weights = tuple(0.5 + at for at in range(len(answers))) if weighted else None
    goal = Objective("label", class_weights=weights, label_smoothing=smoothing)
    assert_as_plain(MODEL, prompts, labels, trie, goal, exact, pack)


ALIASES = LabelTrie(
    [[3, 4, END], [3, 5, END], [6, END], [3, 4, 5, END], [8, 8, END], [6, 6, END]], labels=[0, 1, 2, 0, 1, 1]
)
PROMPTS = [[1, 3, 4, 30, 31], [1, 3, 4, 32], [1, 3, 4, 33, 34, 35, 36], [1, 3, 4, 41]]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_aliases(exact: bool, smoothing: float) -> None:
    for labels in ([0, 1, 2, 0], [2, 0, 1, 1]):
        assert_as_plain(MODEL, PROMPTS, labels, ALIASES, Objective("label", label_smoothing=smoothing), exact)


def test_a_label_that_is_found_costs_nothing_more_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own tokens and the tokens to the right label's choices are one forward; other labels are searched behind it."""
    trie = LabelTrie([[3, 4, END], [3, 5, END], [6, 7, 8, END], [6, 7, 9, END]])
    best = reference_scores(MODEL, PROMPTS, trie).predicted.tolist()
    judge = judge_of(MODEL, trie, Objective("label"), exact=False)
    search, forwards = judge.scorer.search, []
    feed = type(search)._feed
    monkeypatch.setattr(type(search), "_feed", lambda self, *given: (forwards.append(1), feed(self, *given))[1])
    assert judge(PROMPTS, best).targets.tolist() == best
    assert len(forwards) == 1
    forwards.clear()
    assert search.score(PROMPTS).predicted.tolist() == best
    assert len(forwards) > 1


def test_the_loss_of_sft_is_not_known_but_the_label_is() -> None:
    trie = LabelTrie([[3, 4, END], [3, 5, END], [6, END]])
    for exact in (True, False):
        judge = judge_of(MODEL, trie, Objective("sft"), exact)
        judged = judge(PROMPTS, [0, 1, 2, 0])
        assert not judge.knows_loss and judged.loss is None
        assert judged.targets.tolist() == reference_scores(MODEL, PROMPTS, trie).predicted.tolist()


def test_the_cheaper_method_is_planned_unless_probabilities_are_needed() -> None:
    many = LabelTrie(
        [[3 + one, 20 + two, 40 + three, END] for one in range(8) for two in range(8) for three in range(8)]
    )
    few = LabelTrie([[3, END], [4, END]])
    prompts = [[1, 3, 4, 50 + at] for at in range(40)]
    for trie, probabilities, exact in ((many, False, False), (many, True, True), (few, False, True)):
        judge = LabelJudge.plan(MODEL, trie, Objective("label"), prompts, probabilities=probabilities)
        assert judge.exact is judge.probable is exact


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 3.0)])
def test_yes_or_no(smoothing: float, weights: tuple[float, ...] | None) -> None:
    questions = QuestionTrie(
        [Question((20, 21, 9), 5, 6), Question((20,), 5, 6), Question((), 7, 8), Question((23, 9), 6, 11)]
    )
    goal = Objective("label", class_weights=weights, label_smoothing=smoothing)
    labels = [(0, 3), (), (1, 2), (0, 1, 2, 3)]
    flags = [[int(label in row) for label in range(4)] for row in labels]
    judged = YesNoJudge.plan(MODEL, questions, goal)(PROMPTS, flags)
    expected = ReferenceYesNoScorer(MODEL, questions).score(PROMPTS).exp()
    torch.testing.assert_close(judged.probabilities, expected.double(), atol=1e-5, rtol=0)
    assert judged.targets.tolist() == (expected >= 0.5).long().tolist()
    batch = padded_yes_no_batch(PROMPTS, labels, questions, goal, pad_token_id=0)
    assert judged.loss == pytest.approx(plain_loss(MODEL, batch), rel=1e-5)


def test_a_head() -> None:
    from .test_head import LABELS, TRIE, WEIGHTS, build_head
    from .test_head import PROMPTS as ROWS

    goal = Objective("label", class_weights=WEIGHTS, label_smoothing=0.1)
    assert_as_plain(build_head(), ROWS, LABELS, TRIE, goal, exact=True)


def test_training_mode_and_gradients_are_left_alone() -> None:
    judge_of(MODEL, ALIASES, Objective("label"), exact=False)(PROMPTS, [0, 1, 2, 0])
    assert (
        MODEL.training
        and padded_logits(
            MODEL, padded_batch(PROMPTS, [0] * 4, ALIASES, Objective("label"), pad_token_id=0)
        ).requires_grad
    )


@pytest.mark.parametrize("exact", [True, False])
def test_weights_that_are_no_numbers_give_a_loss_that_is_none(exact: bool) -> None:
    """A search among them would not find its end; the trainer refuses the loss."""
    model = build()
    next(model.parameters()).data.fill_(float("nan"))
    trie = LabelTrie([[3, 4, END], [3, 5, END], [6, END]])
    judged = judge_of(model, trie, Objective("label"), exact)(PROMPTS, [0, 1, 2, 0])
    assert judged.loss is not None and judged.loss[0] != judged.loss[0]
