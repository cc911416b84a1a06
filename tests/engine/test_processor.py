import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from llmcls.engine import LabelConstraintLogitsProcessor, reference_scores
from llmcls.errors import LlmclsError

from .conftest import generate_labels

END = 2
ANSWERS = [[5, 7, 2], [5, 8, 2], [5, 8, 9, 2], [9, 2], [11, 12, 13, 2], [11, 12, 14, 2], [3, 0, 2]]
answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=1, max_size=12, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)


def stripped(row):
    """The answer within generated tokens: up to the end token."""
    return row[: row.index(END) + 1]


@given(answer_sets, st.integers(0, 3), st.data())
def test_allowed_tokens_are_the_continuations(answers, prompt_length, data):
    answer = data.draw(st.sampled_from(answers))
    done = data.draw(st.integers(0, len(answer)))
    processor = LabelConstraintLogitsProcessor(answers, prompt_length, pad_token_id=0)
    ids = torch.tensor([[4] * prompt_length + answer[:done]], dtype=torch.int64)
    scores = torch.randn(1, 8)
    masked = processor(ids, scores)
    allowed = {a[done] for a in answers if len(a) > done and a[:done] == answer[:done]} or {0, END}
    assert set(masked[0].isfinite().nonzero()[:, 0].tolist()) == allowed
    kept = masked.isfinite()
    assert torch.equal(masked[kept], scores[kept])


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 2.0},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 12, "num_return_sequences": 7},
        {"do_sample": True, "num_return_sequences": 5},
    ],
)
def test_anyones_generate_ends_in_valid_answers(llama, how):
    torch.manual_seed(1)
    ids = torch.tensor([[0, 0, 1, 20, 21], [1, 30, 31, 32, 33], [0, 0, 0, 0, 1]])
    processor = LabelConstraintLogitsProcessor(ANSWERS, prompt_length=5, pad_token_id=0)
    output = llama.eval().generate(
        input_ids=ids,
        attention_mask=(torch.arange(5) >= torch.tensor([[2], [0], [4]])).long(),
        max_new_tokens=processor.longest,
        logits_processor=LogitsProcessorList([processor]),
        pad_token_id=0,
        eos_token_id=END,
        use_cache=True,
        **how,
    )
    llama.train()
    answers = [stripped(row) for row in output[:, 5:].tolist()]
    assert len(answers) == 3 * how.get("num_return_sequences", 1)
    assert all(answer in ANSWERS for answer in answers)


def test_beam_search_over_all_labels_finds_the_best(llama):
    """With a beam for every label, beam search is an exact argmax over the labels' global probabilities."""
    prompts = [[1, 20, 21], [1, 30, 31], [1, 40, 22]]
    processor = LabelConstraintLogitsProcessor(ANSWERS, 3, pad_token_id=0)
    output = llama.eval().generate(
        input_ids=torch.tensor(prompts),
        attention_mask=torch.ones(3, 3, dtype=torch.int64),
        max_new_tokens=processor.longest,
        num_beams=len(ANSWERS),
        length_penalty=0.0,
        logits_processor=LogitsProcessorList([processor]),
        pad_token_id=0,
        eos_token_id=END,
        use_cache=True,
    )
    llama.train()
    found = [ANSWERS.index(stripped(row)) for row in output[:, 3:].tolist()]
    assert found == reference_scores(llama, prompts, ANSWERS).global_.argmax(1).tolist()


def test_dead_sequences_can_only_pad():
    processor = LabelConstraintLogitsProcessor([[5, 2], [6, 2]], 0, pad_token_id=0)
    assert processor.allowed([7]) == [0]
    assert LabelConstraintLogitsProcessor([[5, 2], [6, 2]], 0).allowed([7]) == [2]


def test_checkpoints_own_generation_settings_do_not_interfere(make_model):
    model = make_model()
    prompts = [[1, 5, 9, at] for at in range(20, 50)]
    plain = generate_labels(model, prompts, ANSWERS, pad_token_id=0).tolist()
    assert len(set(plain)) > 3
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.suppress_tokens = [5, 9]
    model.generation_config.min_new_tokens = 4
    saved = model.generation_config
    assert generate_labels(model, prompts, ANSWERS, pad_token_id=0).tolist() == plain
    assert model.generation_config is saved


def test_answers_longer_than_the_default_length(llama):
    answers = [[5] * 30 + [2], [5] * 30 + [6, 2]]
    assert set(generate_labels(llama, [[1, at] for at in range(20, 40)], answers, pad_token_id=0).tolist()) == {0, 1}


def test_answers_that_share_an_end_token_with_the_inside_of_others(llama):
    """Without a common end token, generation must not stop at a token that another answer holds inside."""
    answers = [[5, 7], [7, 8], [8, 7, 5], [8, 7, 9]]
    prompts = [[1, at, at + 1] for at in range(20, 40)]
    greedy = []
    for prompt in prompts:
        tokens: list[int] = []
        while tokens not in answers:
            valid = sorted({a[len(tokens)] for a in answers if a[: len(tokens)] == tokens})
            with torch.no_grad():
                logits = llama.eval()(torch.tensor([prompt + tokens])).logits[0, -1]
            tokens.append(max(valid, key=lambda token: float(logits[token])))
        greedy.append(answers.index(tokens))
    llama.train()
    assert generate_labels(llama, prompts, answers, pad_token_id=0, batch_size=6).tolist() == greedy


def test_a_negative_prompt_length_is_refused():
    with pytest.raises(LlmclsError, match="prompt_length is -1"):
        LabelConstraintLogitsProcessor([[5, 2]], -1)
