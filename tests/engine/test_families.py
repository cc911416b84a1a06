"""Every family that is claimed to be packed: scores and gradients are those of plain forwards."""

import inspect

import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from llmcls.engine import supports_packing
from llmcls.engine.attention import ONE_WINDOW, VERIFIED, WINDOW_BY_LAYER
from llmcls.engine.objectives import Objective
from llmcls.engine.search import SearchScorer
from llmcls.engine.trie import LabelTrie

from ..families import settings_of
from .conftest import build
from .test_objectives import assert_same_training
from .test_packed import ANSWERS, assert_agrees, prompts_of

SAME = 2e-5


@pytest.mark.parametrize("kind", sorted(VERIFIED))
def test_every_verified_architecture(kind):
    model = build(kind, **settings_of(kind))
    assert supports_packing(model) is None
    prompts = prompts_of(3)
    expected = assert_agrees(model, prompts, ANSWERS, SAME, pack_tokens=9)
    assert expected.local.std() > 0.3
    assert_same_training(model.eval(), prompts, [0, 2, 3], LabelTrie(ANSWERS), Objective("sft"), 2e-5, floor=0.1)


@pytest.mark.parametrize("kind", sorted(ONE_WINDOW | WINDOW_BY_LAYER))
def test_sliding_windows(kind):
    """A window that the rows fit into changes nothing; one that they exceed is kept by every layer that has one."""
    prompts = prompts_of(4, prefix=(1, 3, 4, 5, 6, 7, 8, 9), longest=20)
    wide = build(kind, **settings_of(kind, 64))
    narrow = build(kind, **settings_of(kind, 5))
    assert supports_packing(wide) is None and supports_packing(narrow) is None
    fitting = assert_agrees(wide, prompts, ANSWERS, SAME, pack_tokens=9)
    beyond = assert_agrees(narrow, prompts, ANSWERS, SAME, pack_tokens=9)
    assert (fitting.local - beyond.local).abs().max() > 0.05
    trie, labels = LabelTrie(ANSWERS), [0, 2, 3, 5]
    assert_same_training(narrow.eval(), prompts, labels, trie, Objective("label"), 2e-5, floor=0.1)
    search = SearchScorer(narrow, trie, pack_tokens=9).score(prompts)
    assert torch.equal(search.predicted, beyond.predicted)


def test_no_family_with_a_window_is_forgotten():
    """What of the verified models makes a mask for a window says so in its own source."""
    for kind in VERIFIED:
        source = inspect.getsource(inspect.getmodule(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]))
        slides, by_layer = ("create_sliding_window_causal_mask" in source, "attention_mask, dict)" in source)
        assert not slides or kind in (WINDOW_BY_LAYER if by_layer else ONE_WINDOW), kind
