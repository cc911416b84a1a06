import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcls.engine.attention import attention_mask
from llmcls.engine.plan import ScoringPlan
from llmcls.engine.tree import Branch, RowForest, chain, check_prompts, join, shared_prefix_length
from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError

END = 2
tokens = st.lists(st.integers(3, 5), min_size=1, max_size=5)
answer_sets = st.lists(st.lists(st.integers(3, 5), max_size=3), min_size=1, max_size=6, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)


@given(st.lists(tokens, min_size=1, max_size=4), st.lists(st.integers(3, 5), max_size=3), answer_sets, st.booleans())
def test_every_token_sees_exactly_the_text_before_it(own, prefix, answers, full):
    """The mask and the positions say, for each token, exactly the plain sequence that ends in it."""
    trie = LabelTrie(answers)
    plan = ScoringPlan.for_trie(trie, full=full)
    forest = RowForest(own, [plan.branch] * len(own), len(prefix))
    tree = join(chain(prefix), forest.slice(0, forest.size))
    enter, exits = torch.from_numpy(tree.enter), torch.from_numpy(tree.exit)
    mask = attention_mask(enter, enter, exits)[0, 0].numpy()

    inner = [node for node in range(1, trie.size) if (trie.degree[node] > 0 if full else trie.fed[node])]
    expected = [prefix[: length + 1] for length in range(len(prefix))]
    for row in own:
        expected += [prefix + row[: length + 1] for length in range(len(row))]
        expected += [prefix + row + trie.token[trie.path(node)].tolist() for node in inner]
    assert len(tree.tokens) == len(expected)
    for at, text in enumerate(expected):
        assert tree.tokens[mask[at]].tolist() == text
        assert tree.positions[mask[at]].tolist() == list(range(len(text)))


@given(st.lists(tokens, min_size=1, max_size=4), answer_sets, st.integers(1, 9))
def test_slices_put_together_are_the_whole(own, answers, size):
    plan = ScoringPlan.for_trie(LabelTrie(answers), full=True)
    forest = RowForest(own, [plan.branch] * len(own), 3)
    whole = forest.slice(0, forest.size)
    parts = [forest.slice(start, start + size) for start in range(0, forest.size, size)]
    for name in ("tokens", "positions", "enter", "exit"):
        assert np.concatenate([getattr(part, name) for part in parts]).tolist() == getattr(whole, name).tolist()


def test_rows_may_have_different_branches():
    forest = RowForest([[5], [6, 7]], [Branch.path([8, 9]), Branch.path([])], 0)
    assert forest.slice(0, 9).tokens.tolist() == [5, 8, 9, 6, 7]
    assert forest.slice(0, 9).positions.tolist() == [0, 1, 2, 0, 1]


@given(st.lists(tokens, min_size=1, max_size=5))
def test_shared_prefix_is_the_longest_that_leaves_a_token(prompts):
    length = shared_prefix_length(prompts)

    def shares(count):
        return all(len(p) > count and p[:count] == prompts[0][:count] for p in prompts)

    assert shares(length) and not shares(length + 1)


def test_prompts_without_tokens_are_named():
    with pytest.raises(LlmclsError, match="prompt 1 has no tokens"):
        check_prompts([[1], []])
