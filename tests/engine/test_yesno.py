"""Yes or no for every label: the packed tree against one plain forward per row and label, scores and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.functional import binary_cross_entropy_with_logits

from llmcls.engine.objectives import Objective, packed_logits, packed_loss, padded_logits, padded_loss, rows_right
from llmcls.engine.yesno import (
    PackedYesNoScorer,
    Question,
    QuestionTrie,
    ReferenceYesNoScorer,
    make_yes_no_scorer,
    packed_yes_no_batch,
    padded_yes_no_batch,
)
from llmcls.errors import LlmclsError, LlmclsWarning

from .conftest import build

YES, NO = 5, 6
PROMPTS = [[1, 3, 4, 30, 31], [1, 3, 4, 32], [1, 3, 4, 33, 34, 35, 36], [1, 3, 4, 41]]
# Shared starts, a question that begins another one, an empty question, answers of their own to the same tokens.
QUESTIONS = QuestionTrie(
    [
        Question((20, 21, 9), YES, NO),
        Question((20, 22, 9), YES, NO),
        Question((20,), YES, NO),
        Question((), 7, 8),
        Question((23, 9), NO, 11),
        Question((23, 9), 12, 13),
    ]
)
LABELS = [(0, 3), (), (1, 2, 4), (4, 5)]
WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.5, 0.7)
MODEL = build()
names = st.lists(st.integers(20, 23), max_size=3).map(tuple)
question_sets = st.lists(names, min_size=1, max_size=8, unique=True).map(
    lambda asked: QuestionTrie([Question(tokens, YES, NO) for tokens in asked])
)
prompt_sets = st.tuples(
    st.lists(st.integers(3, 96), max_size=6),
    st.lists(st.lists(st.integers(3, 96), min_size=1, max_size=7), min_size=1, max_size=4),
).map(lambda pair: [pair[0] + own for own in pair[1]])


@settings(max_examples=30, deadline=None)
@given(questions=question_sets, prompts=prompt_sets, pack=st.sampled_from([1, 4, 13, None]))
def test_packed_scores_are_the_reference(questions, prompts, pack):
    fast = PackedYesNoScorer(MODEL, questions, pack_tokens=pack).score(prompts)
    slow = ReferenceYesNoScorer(MODEL, questions).score(prompts)
    assert fast.shape == (len(prompts), len(questions)) and fast.dtype == torch.float32
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=0)


def test_scores_of_the_hand_made_questions():
    seen = []
    fast = PackedYesNoScorer(MODEL, QUESTIONS).score(PROMPTS, progress=seen.append)
    slow = ReferenceYesNoScorer(MODEL, QUESTIONS).score(PROMPTS)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=0)
    assert sum(seen) == len(PROMPTS)
    assert (fast.exp().sum(1) - 1).abs().min() > 0.01  # no distribution over labels
    # Shared starts are fed once: 20, 21, 9, 22, 9, 23, 9.
    assert len(QUESTIONS.plan.branch.tokens) == 7
    assert PackedYesNoScorer(MODEL, QUESTIONS).score([]).shape == (0, 6)
    assert MODEL.training


def test_equal_questions_are_asked_once(monkeypatch):
    head = QuestionTrie([Question((), label, 9) for label in (5, 6, 7)])
    forwards, original = [], type(MODEL).forward
    monkeypatch.setattr(type(MODEL), "forward", lambda *a, **k: (forwards.append(1), original(*a, **k))[1])
    slow = ReferenceYesNoScorer(MODEL, head).score(PROMPTS)
    assert len(forwards) == len(PROMPTS)
    torch.testing.assert_close(PackedYesNoScorer(MODEL, head).score(PROMPTS), slow, atol=1e-4, rtol=0)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_training(model, prompts, labels, questions, objective, floor=0.0):
    packed = packed_loss(model, packed_yes_no_batch(prompts, labels, questions, objective))
    padded = padded_loss(model, padded_yes_no_batch(prompts, labels, questions, objective, pad_token_id=0))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    fast, slow = gradients(model, packed), gradients(model, padded)
    assert fast.keys() == slow.keys()
    whole = torch.cat([gradient.flatten() for gradient in slow.values()]).norm()
    for name, gradient in slow.items():
        assert (fast[name] - gradient).norm() <= 1e-5 * max(gradient.norm(), floor * whole), name


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_packed_training_is_padded_training(weights, smoothing):
    objective = Objective("label", "example", weights, smoothing)
    assert_same_training(MODEL, PROMPTS, LABELS, QUESTIONS, objective)


@settings(max_examples=20, deadline=None)
@given(questions=question_sets, prompts=prompt_sets, data=st.data())
def test_packed_training_is_padded_training_for_any_batch(questions, prompts, data):
    positions = st.lists(st.integers(0, len(questions) - 1), unique=True)
    labels = data.draw(st.lists(positions, min_size=len(prompts), max_size=len(prompts)))
    assert_same_training(MODEL, prompts, labels, questions, Objective("label"), floor=0.1)


def test_lora_gradients():
    model = get_peft_model(build(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    assert_same_training(model, PROMPTS, LABELS, QUESTIONS, Objective("label", "example", WEIGHTS))


def test_the_loss_is_binary_cross_entropy():
    """Against torch's own, from the reference's log-odds; smoothing by smoothed targets."""
    log_yes = ReferenceYesNoScorer(MODEL, QUESTIONS).score(PROMPTS).double()
    odds = log_yes - torch.log1p(-log_yes.exp())
    true = torch.zeros(len(PROMPTS), len(QUESTIONS), dtype=torch.float64)
    for row, labels in enumerate(LABELS):
        true[row, list(labels)] = 1
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = binary_cross_entropy_with_logits(odds, true, pos_weight=weights)
    batch = packed_yes_no_batch(PROMPTS, LABELS, QUESTIONS, Objective("label", "example", WEIGHTS))
    assert packed_loss(MODEL, batch).item() == pytest.approx(expected.item(), abs=1e-5)
    assert packed_loss(MODEL, batch, 1.0).item() == pytest.approx(expected.item() * len(PROMPTS), abs=1e-4)
    smooth = binary_cross_entropy_with_logits(odds, 0.9 * true + 0.05)
    batch = packed_yes_no_batch(PROMPTS, LABELS, QUESTIONS, Objective("label", label_smoothing=0.1))
    assert packed_loss(MODEL, batch).item() == pytest.approx(smooth.item(), abs=1e-5)


def test_a_row_is_right_with_all_its_labels():
    predicted = ReferenceYesNoScorer(MODEL, QUESTIONS).score(PROMPTS).exp() >= 0.5
    labels = [row.nonzero()[:, 0].tolist() for row in predicted]
    labels[1] = [label for label in range(len(QUESTIONS)) if label not in labels[1]]
    labels[2] = [*labels[2], 0] if 0 not in labels[2] else [label for label in labels[2] if label]
    packed = packed_yes_no_batch(PROMPTS, labels, QUESTIONS, Objective("label"))
    padded = padded_yes_no_batch(PROMPTS, labels, QUESTIONS, Objective("label"), pad_token_id=0)
    with torch.no_grad():
        for logits, batch in ((packed_logits(MODEL, packed), packed), (padded_logits(MODEL, padded), padded)):
            assert rows_right(logits, batch).tolist() == [len(PROMPTS) - 2, len(PROMPTS)]


def test_where_answers_part():
    assert Question.between((20, 9, 5), (20, 9, 6, 7)) == Question((20, 9), 5, 6)
    assert Question.between((5,), (6,)) == Question((), 5, 6)
    for yes, no in (((20, 9), (20, 9)), ((20, 9), (20, 9, 5)), ((20, 9, 5), (20,))):
        with pytest.raises(LlmclsError, match="do not differ by a token"):
            Question.between(yes, no)


def test_questions_that_cannot_be_told_apart():
    same = [Question((20, 9), YES, NO), Question((20, 9), YES, 8), Question((20, 9, NO, 9), YES, NO)]
    with pytest.raises(LlmclsError) as refused:
        QuestionTrie(same)
    assert "questions 0 and 1 are the same tokens" in str(refused.value)
    assert "question 2 begins with question 0 and its answer" in str(refused.value)
    with pytest.raises(LlmclsError, match="there is none"):
        QuestionTrie([])


def test_what_is_refused():
    with pytest.raises(LlmclsError, match="Method 'greedy' does not answer yes or no"):
        make_yes_no_scorer(MODEL, QUESTIONS, method="greedy")
    with pytest.raises(LlmclsError, match="vocabulary has 97 tokens"):
        make_yes_no_scorer(MODEL, QuestionTrie([Question((300,), YES, NO)]), method="reference")
    with pytest.warns(LlmclsWarning, match="using 'reference'"):
        slow = make_yes_no_scorer(build("mamba", num_attention_heads=None), QUESTIONS)
    assert isinstance(slow, ReferenceYesNoScorer)
    for prompts, labels, message in (
        ([], [], "0 prompts and 0 rows"),
        (PROMPTS, LABELS[:2], "4 prompts and 2 rows"),
        (PROMPTS[:1], [(6,)], "Label index 6"),
        ([[]], [()], "no tokens"),
    ):
        with pytest.raises(LlmclsError, match=message):
            packed_yes_no_batch(prompts, labels, QUESTIONS, Objective("label"))
    with pytest.raises(LlmclsError, match="Objective 'sft' does not learn yes and no"):
        packed_yes_no_batch(PROMPTS, LABELS, QUESTIONS, Objective("sft"))
    with pytest.raises(LlmclsError, match="1 class weights for 6 labels"):
        packed_yes_no_batch(PROMPTS, LABELS, QUESTIONS, Objective("label", class_weights=(1.0,)))
