"""Lists of labels: what may follow, against the enumeration of every valid list; and what `generate` says."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList

from llmcls.engine.lists import LabelListLogitsProcessor, ListItems, ListScorer
from llmcls.engine.reference import only_config
from llmcls.errors import LlmclsError

from .conftest import build

COMMA, END, PAD = 9, 2, 0
# The first is the beginning of the second, and the third shares a token with it.
NAMES = [(20,), (20, 21), (22, 21)]
PROMPTS = [[1, 3, 4, 30, 31], [1, 3], [1, 3, 4, 33, 34, 35, 36], [5, 5, 5]]
MODEL = build()


def items_of(names):
    return ListItems(names, [(COMMA, *name) for name in names], END)


def every_list(items):
    labels = range(len(items.first))
    return {items.tokens(said): said for size in range(len(items.first) + 1) for said in permutations(labels, size)}


def assert_allowed_is_what_some_list_goes_on_with(items):
    lists = every_list(items)
    beginnings = {tokens[:stop] for tokens in lists for stop in range(len(tokens))}
    for beginning in beginnings:
        expected = {tokens[len(beginning)] for tokens in lists if tokens[: len(beginning)] == beginning}
        assert set(items.allowed(beginning)) == expected, beginning
    for tokens, said in lists.items():
        assert items.allowed(tokens) == []
        read = items.read(tokens)
        assert items.tokens(read) == tokens and len(set(read)) == len(read) <= len(said)
        assert items.read([*tokens, PAD, PAD]) == read
        assert len(tokens) <= items.longest
    return lists


def test_three_labels():
    items = items_of(NAMES)
    lists = assert_allowed_is_what_some_list_goes_on_with(items)
    assert len(lists) == 1 + 3 + 6 + 6
    assert all(items.read(tokens) == said for tokens, said in lists.items())
    assert items.allowed([20]) == [END, COMMA, 21]
    assert items.allowed([20, COMMA, 20]) == [21]  # the first is said, the second begins like it
    assert items.allowed([77]) == items.allowed([20, 77]) == []
    assert items.read([20]) is None and items.read([21, END]) is None


# The comma as a token of a label, too: lists that can be read in two ways.
names = st.lists(st.sampled_from([COMMA, 20, 21]), min_size=1, max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.lists(names, min_size=1, max_size=3, unique=True))
def test_any_three_labels(drawn):
    assert_allowed_is_what_some_list_goes_on_with(items_of(drawn))


@settings(max_examples=15, deadline=None)
@given(
    drawn=st.lists(
        st.lists(st.integers(20, 24), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4, unique=True
    )
)
def test_generate_says_lists_only(drawn):
    items = items_of(drawn)
    lists = every_list(items)
    found = ListScorer(MODEL, items, pad_token_id=PAD, batch_size=3).score(PROMPTS)
    assert len(found) == len(PROMPTS)
    for prompt, said in zip(PROMPTS, found, strict=True):
        assert said in lists.values()
        assert items.tokens(said) == slow_greedy(prompt, lists)


def slow_greedy(prompt, lists):
    """The best token among those that some list goes on with, one plain forward a step."""
    tokens = ()
    with torch.no_grad():
        while not tokens or tokens[-1] != END:
            logits = MODEL.eval()(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1]
            valid = sorted({full[len(tokens)] for full in lists if full[: len(tokens)] == tokens and full != tokens})
            tokens = (*tokens, valid[int(logits[valid].argmax())])
    MODEL.train()
    return tokens


def test_sampling_and_beams_say_lists_only():
    items = items_of(NAMES)
    lists = every_list(items)
    config = GenerationConfig(
        do_sample=True, num_beams=3, num_return_sequences=3, max_new_tokens=items.longest, pad_token_id=PAD,
        eos_token_id=END,
    )  # fmt: skip
    torch.manual_seed(0)
    with only_config(MODEL, config):
        output = MODEL.eval().generate(
            input_ids=torch.tensor([[1, 3, 4], [1, 3, 5]]),
            logits_processor=LogitsProcessorList([LabelListLogitsProcessor(items, 3, PAD)]),
        )
    MODEL.train()
    assert len(output) == 6
    for tokens in output[:, 3:].tolist():
        assert tuple(tokens[: tokens.index(END) + 1]) in lists


def test_what_is_refused():
    with pytest.raises(LlmclsError, match="holds token 2, which closes a list"):
        items_of([(20,), (21, END)])
    with pytest.raises(LlmclsError, match="2 first and 1 later items"):
        ListItems([(20,), (21,)], [(COMMA, 20)], END)
