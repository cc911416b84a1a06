import warnings
from typing import get_args

import pytest
import torch

from llmcls.engine import LabelScores, Method, make_scorer, reference_scores
from llmcls.errors import LlmclsError, LlmclsWarning

from .conftest import build

ANSWERS = [[5, 7, 2], [5, 8, 2], [5, 8, 9, 2], [9, 2], [11, 12, 13, 2], [11, 12, 14, 2]]
PROMPTS = [[1, 3, 4, at, at + 1][: 3 + at % 3] for at in range(20, 32)]
MODEL = build()


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_behind_one_interface(method):
    expected = reference_scores(MODEL, PROMPTS, ANSWERS)
    seen: list[int] = []
    scorer = make_scorer(MODEL, ANSWERS, method=method, pad_token_id=0, pack_tokens=16, batch_size=5)
    scores = scorer.score(PROMPTS, progress=seen.append)
    assert sum(seen) == len(PROMPTS)
    assert scores.local.shape == expected.local.shape and scores.local.dtype == torch.float32
    known = ~scores.local.isnan()
    torch.testing.assert_close(scores.local[known], expected.local[known], atol=1e-4, rtol=0)
    if method in ("exact", "reference", "best-first"):
        assert torch.equal(scores.predicted, expected.predicted)
    assert scorer.score([]).local.shape == (0, len(ANSWERS))


@pytest.mark.parametrize(
    ("method", "slow"), [("exact", "reference"), ("best-first", "reference"), ("greedy", "generate")]
)
def test_models_that_cannot_be_packed_fall_back_aloud(method, slow):
    model = build(attn_implementation="eager")
    with pytest.warns(LlmclsWarning, match=f"attention 'eager'.*'{slow}'") as caught:
        scorer = make_scorer(model, ANSWERS, method=method, pad_token_id=0)
    assert len(caught) == 1
    expected = make_scorer(model, ANSWERS, method=slow, pad_token_id=0).score(PROMPTS)
    assert torch.equal(scorer.score(PROMPTS).predicted, expected.predicted)


def test_fallback_to_a_recurrent_model():
    model = build("mamba", num_hidden_layers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = make_scorer(model, ANSWERS, pad_token_id=0).score(PROMPTS[:3], want_global=True)
    torch.testing.assert_close(scores.local.exp().sum(1), torch.ones(3))


def test_what_is_not_possible_is_refused():
    with pytest.raises(LlmclsError, match="Did you mean 'greedy'"):
        make_scorer(MODEL, ANSWERS, method="gredy", pad_token_id=0)
    with pytest.raises(LlmclsError, match="no probabilities"):
        make_scorer(MODEL, ANSWERS, method="generate", pad_token_id=0).score(PROMPTS, want_global=True)
    with pytest.raises(LlmclsError, match="token 500"):
        make_scorer(MODEL, [[5, 2], [500, 2]], method="generate", pad_token_id=0)


def test_scores_of_different_shapes_are_refused():
    with pytest.raises(LlmclsError, match=r"LabelScores.margin has shape \(3,\)"):
        LabelScores(torch.zeros(2, 4), torch.zeros(2), torch.zeros(3), torch.zeros(2))
