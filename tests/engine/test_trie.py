import csv
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmcls.engine.trie import LabelTrie, TrieStatistics
from llmcls.errors import LlmclsError

END = 2
answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=1, max_size=12, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)


def prefixes(answers):
    """Every non-empty prefix: what the nodes of the trie are."""
    return {tuple(answer[:length]) for answer in answers for length in range(1, len(answer) + 1)}


def followers(answers, prefix):
    return sorted({answer[len(prefix)] for answer in answers if answer[: len(prefix)] == prefix and answer != prefix})


def spelled(trie, node):
    return [int(trie.token[at]) for at in trie.path(node)]


@given(answer_sets)
def test_nodes_are_the_prefixes_of_the_answers(answers):
    trie = LabelTrie(answers)
    spellings = [tuple(spelled(trie, node)) for node in range(1, trie.size)]
    assert len(set(spellings)) == len(spellings)
    assert set(spellings) == prefixes(answers)
    for node in range(trie.size):
        prefix = spelled(trie, node)
        assert trie.token[trie.children(node)].tolist() == followers(answers, prefix)
        assert trie.depth[node] == len(prefix)
        assert (trie.label[node] >= 0) == (prefix in answers)
        below = [other for other in range(trie.size) if spelled(trie, other)[: len(prefix)] == prefix]
        assert below == list(range(node, trie.exit[node]))
        for token in range(8):
            child = trie.descend(node, token)
            assert (child >= 0) == (token in followers(answers, prefix))
            assert child < 0 or spelled(trie, child) == [*prefix, token]


@given(answer_sets)
def test_leaves_landing_and_fed(answers):
    trie = LabelTrie(answers)
    assert [spelled(trie, int(leaf)) for leaf in trie.leaf] == answers
    branching = [node for node in range(trie.size) if len(followers(answers, spelled(trie, node))) > 1]
    for node in range(trie.size):
        assert bool(trie.fed[node]) == any(node <= other < trie.exit[node] for other in branching)
        walk = spelled(trie, node)
        while len(followers(answers, walk)) == 1:
            walk = walk + followers(answers, walk)
        assert spelled(trie, int(trie.landing[node])) == walk


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "there is no answer"),
        ([[5, 2], []], "answer 1 has no tokens"),
        ([[5, 2], [6, 2], [5, 2]], "answers 0 and 2 are the same"),
        ([[5, 6, 7], [5, 6]], "answer 1 [5, 6] is a prefix of answer 0"),
        ([[5, 2], [6, -1]], "negative token -1"),
    ],
)
def test_what_is_no_label_set_is_refused(answers, said):
    with pytest.raises(LlmclsError) as error:
        LabelTrie(answers)
    assert said in str(error.value)


def test_all_problems_in_one_message():
    with pytest.raises(LlmclsError, match="3 problems"):
        LabelTrie([[5, 2], [5, 2], [5], []])


def test_statistics_of_a_small_set():
    trie = LabelTrie([[5, 7, 2], [5, 8, 2], [5, 8, 9, 2], [6, 2]])
    # Nodes: 5, 57, 572, 58, 582, 589, 5892, 6, 62. Choices: at the root, after 5, after 58.
    assert trie.statistics == TrieStatistics(labels=4, nodes=9, branching=3, fed=2, forced=3, depth=4)


def test_ten_thousand_labels_stay_linear():
    rng = random.Random(0)
    names = {tuple(rng.randrange(3, 60) for _ in range(rng.randrange(1, 9))) for _ in range(13_000)}
    answers = [[*name, END] for name in sorted(names)[:10_000]]
    assert len(answers) == 10_000
    trie = LabelTrie(answers)
    assert trie.size - 1 == len(prefixes(answers))
    for attribute in vars(trie).values():
        if isinstance(attribute, np.ndarray):
            assert attribute.size <= trie.size + 1


def test_banking77_in_the_llama_vocabulary(shared: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / "llama-3.2")
    with (shared / "data" / "banking77" / "train.csv").open(newline="", encoding="utf-8") as file:
        names = sorted({row["label"] for row in csv.DictReader(file)})
    answers = [[*tokenizer.encode(name, add_special_tokens=False), tokenizer.eos_token_id] for name in names]
    statistics = LabelTrie(answers).statistics
    assert (statistics.labels, statistics.nodes, statistics.fed) == (77, 255 + 77, 27)
