"""Cuts a stratified split from the training examples, and caps the examples per class; all by the seed.

train, validation = cut_stratified(train, size=0.1, seed=42)
train = cap_per_class(train, 500, seed=42)
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from llmcls.records import Example


def cut_stratified(examples: Sequence[Example], size: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Cut a share of the examples off, with every label in about the same proportion on both sides.

    Only examples whose text occurs once and whose label occurs at least twice among those can be cut off: a
    repeated text would otherwise be learnt and asked. At least as many are cut off as there are such labels. An
    example with several labels counts as one of its rarest, whose proportion is the hardest to keep.

    Args:
        examples: the examples, all with labels.
        size: the share to cut off, above 0 and below 1.
        seed: decides which ones.

    Returns:
        What stays and what was cut off, both in their old order; nothing is cut off where nothing can be.
    """
    from sklearn.model_selection import train_test_split

    texts = Counter(example.text for example in examples)
    single = [position for position, example in enumerate(examples) if texts[example.text] == 1]
    label_of = rarest_labels(examples)
    members = Counter(label_of[position] for position in single)
    candidates = [position for position in single if members[label_of[position]] > 1]
    labels = [label_of[position] for position in candidates]
    classes = len(set(labels))
    # scikit-learn wants at least one example per label on either side.
    wanted = min(max(round(len(examples) * size), classes), len(candidates) - classes)
    if wanted < 1:
        return list(examples), []
    _, chosen = train_test_split(candidates, test_size=wanted, random_state=seed, stratify=labels)
    cut = set(chosen)
    kept = {name for position, example in enumerate(examples) if position not in cut for name in example.names}
    for position in sorted(chosen):  # of a rare label scikit-learn may take every example
        if not kept.issuperset(names := examples[position].names):
            cut.remove(position)
            kept.update(names)
    stay = [example for position, example in enumerate(examples) if position not in cut]
    return stay, [example for position, example in enumerate(examples) if position in cut]


def rarest_labels(examples: Sequence[Example]) -> list[str]:
    """Of each example's labels the one that the fewest examples have; an empty name where there is none."""
    counts = Counter(name for example in examples for name in example.names)
    return [min(example.names, key=lambda name: (counts[name], name), default="") for example in examples]


def cap_per_class(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """Keep at most `limit` examples of each label, drawn by the seed, in their old order."""
    positions: dict[str | None, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        positions[example.label].append(position)
    kept: set[int] = set()
    for label, members in positions.items():
        # One generator per label: what is drawn of one label does not hang on the others.
        kept.update(random.Random(f"{seed}:{label}").sample(members, min(limit, len(members))))
    return [example for position, example in enumerate(examples) if position in kept]
