"""The demo data: what the README says of it, and that it is what its generator writes."""

import csv
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from llmcls_nano import DEMO_FOLDER
from llmcls_nano.generate_demo import COUNTS, SPLITS, read_phrases


@pytest.fixture(scope="module")
def rows():
    found = {}
    for split in SPLITS:
        with (DEMO_FOLDER / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            found[split] = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    return found


def fold(text):
    return " ".join(text.lower().split())


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_generator_writes_exactly_the_shipped_files(tmp_path, hash_seed):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "llmcls_nano.generate_demo", str(tmp_path)]
    subprocess.run(command, env=environment, check=True)
    for split in SPLITS:
        assert (tmp_path / f"{split}.csv").read_bytes() == (DEMO_FOLDER / f"{split}.csv").read_bytes()


def test_sizes_and_moderate_imbalance(rows):
    assert {split: len(pairs) for split, pairs in rows.items()} == {"train": 1000, "validation": 200, "test": 300}
    counts = Counter(label for pairs in rows.values() for _, label in pairs)
    assert counts == COUNTS
    assert 2 < max(counts.values()) / min(counts.values()) <= 3
    for split, part in SPLITS.items():
        assert Counter(label for _, label in rows[split]) == {name: n * part // 15 for name, n in COUNTS.items()}


def test_no_text_occurs_twice_whatever_its_case_and_spaces(rows):
    folded = [fold(text) for pairs in rows.values() for text, _ in pairs]
    assert len(set(folded)) == len(folded)


def test_few_test_messages_have_a_near_duplicate_in_training(rows):
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), use_idf=False)
    train = vectorizer.fit_transform([text for text, _ in rows["train"]])
    nearest = (vectorizer.transform([text for text, _ in rows["test"]]) @ train.T).toarray().max(axis=1)
    assert (nearest > 0.9).mean() < 0.03


def test_lengths_run_from_three_to_sixty_words(rows):
    lengths = sorted(len(text.split()) for pairs in rows.values() for text, _ in pairs)
    assert lengths[0] == 3 and 50 <= lengths[-1] <= 60
    assert lengths[len(lengths) // 20] <= 6  # the terse twentieth
    assert lengths[-len(lengths) // 20] >= 40  # the chatty twentieth


def test_texts_are_clean_single_lines_without_left_over_notation(rows):
    for text, label in (pair for pairs in rows.values() for pair in pairs):
        assert text == " ".join(text.split()) and text
        assert not re.search(r"[{}|<>\[\]]| [.,?;:](?: |$)|,[.,]", text), text
        assert label in COUNTS


def test_baseline_finds_it_learnable_but_not_easy(rows):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    for strength in (1, 10):
        baseline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b"),
            LogisticRegression(C=strength, max_iter=1000),
        )
        baseline.fit(*zip(*rows["train"], strict=True))
        assert 0.85 <= baseline.score(*zip(*rows["test"], strict=True)) <= 0.95


def test_phrases_use_known_slots_tags_and_products():
    sections = read_phrases(DEMO_FOLDER / "phrases.txt")
    products = {item.text for kind in ("gadget", "goods") for item in sections[f"slot {kind}"]}
    slots = {name[5:] for name in sections if name.startswith("slot ")}
    slots |= {"p", "p2", "g", "g2", "w", "ap", "o", "o2", "amt", "day1"}
    for name, fragments in sections.items():
        assert len({fragment.text for fragment in fragments}) == len(fragments), f"a fragment of {name} occurs twice"
        for fragment in fragments:
            assert fragment.text.count("{") == fragment.text.count("}"), fragment.text
            assert set(re.findall(r"<(\w+)>", fragment.text)) <= slots, fragment.text
            assert set(fragment.products) <= products, fragment
            assert {tag for tag in fragment.tags if not tag.startswith("p=")} <= {
                "g", "w", "here", "problem", "after", "alone",
            }  # fmt: skip
