"""Cuts the splits that a source lacks from its training examples, and caps the examples per class; all by the seed.

cut = cut_missing(splits, {"test": 200, "validation": 0.1}, {}, single=True, seed=42)
train, validation = cut_stratified(train, size=0.1, seed=42)
train, test = cut_per_class(train, 500, seed=42)
train = cap_per_class(train, 500, seed=42)
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llmcls.errors import LlmclsError
from llmcls.records import Example

SHARE = 0.1
"""What is cut off where the settings do not say how much."""
ENOUGH = 500
"""So many rows a single table must have for a test split to be cut unasked: a tenth of fewer says little."""


class Cut(NamedTuple):
    """What `cut_missing` did: the rows it cut for each split, and one sentence for each decision."""

    rows: dict[str, int]
    notes: list[str]


def cut_missing(
    splits: dict[str, list[Example]],
    sizes: Mapping[str, float | None],
    limits: Mapping[str, int],
    *,
    single: bool,
    seed: int,
) -> Cut:
    """Cut test, then validation, from train where they have no rows; `splits` is changed.

    Args:
        splits: the examples of each split.
        sizes: for `test` and `validation` a share of the whole train split (a float), a number of rows (an integer),
            0 for none, or None: the limit of that split where there is one and the source is a single table; else a
            tenth, for test only of a single table with 500 rows or more.
        limits: the most examples of each label in a split.
        single: whether the source is one table.
        seed: decides which rows are cut.

    Raises:
        LlmclsError: when the sizes leave nothing to train on.
    """
    rows, cut, notes = len(splits["train"]), dict[str, int](), list[str]()
    missing = [split for split in ("test", "validation") if not splits[split]]
    # A row with several labels would count for each of them.
    one_each = single and all(example.labels is None for example in splits["train"])
    by_label = [split for split in missing if one_each and sizes[split] is None and split in limits]
    shares = {"validation": SHARE, "test": SHARE if single and rows >= ENOUGH else 0}
    chosen = {
        split: shares[split] if (given := sizes[split]) is None else given for split in missing if split not in by_label
    }
    _check_sum({split: size for split, size in chosen.items() if size}, sizes, rows)
    held = {split: limits[split] for split in by_label}
    others = limits.get("train", sum(held.values()))
    for split in missing:
        before = splits["train"]
        if split in by_label:
            limit = held.pop(split)
            splits["train"], splits[split] = cut_per_class(before, limit, seed, others + sum(held.values()))
            counts = Counter(example.label or "" for example in splits[split])
            names = dict.fromkeys(example.label or "" for example in before)
            short = [f"{name} ({counts[name]})" for name in names if counts[name] < limit]
            few = f", of some labels fewer: {', '.join(short[:10])}" if short else ""
            few += f" and {len(short) - 10} more" if len(short) > 10 else ""
            what = f"{limit} rows of each label of train ({len(splits[split])} rows{few}), seed {seed}"
        elif size := chosen[split]:
            # Both shares are of the whole train split, though test has already been cut from it.
            part = size if isinstance(size, int) else size * rows / len(before)
            splits["train"], splits[split] = cut_stratified(before, part, seed)
            count = len(splits[split])
            share = f"{count / rows:.1%}".replace(".0%", "%").replace("%", " %")
            fewer = f", not the {size} rows asked for" if isinstance(size, int) and count != size else ""
            what = f"{share} of train ({count} rows{fewer}), stratified, seed {seed}"
        else:
            continue
        if splits[split]:
            cut[split] = len(splits[split])
            notes.append(f"no {split} split: {what}")
        else:
            notes.append(f"no {split} split, and none can be cut from train, where no label has two different texts")
    return Cut(cut, notes)


def _check_sum(chosen: Mapping[str, float], sizes: Mapping[str, float | None], rows: int) -> None:
    """Refuse sizes that together are all rows of train, or more."""
    wanted = sum(size if isinstance(size, int) else round(size * rows) for size in chosen.values())
    if wanted < rows or not any(sizes[split] for split in chosen):
        return
    shown = " and ".join(
        f"data.{split}_size {size}{'' if sizes[split] else ' (its default)'}" for split, size in chosen.items()
    )
    raise LlmclsError(
        f"{shown} leave nothing to train on: together {wanted} rows, of the {rows} that there are; make "
        f"{'them' if len(chosen) > 1 else 'it'} smaller."
    )


def cut_stratified(examples: Sequence[Example], size: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Cut some of the examples off, with every label in about the same proportion on both sides.

    Only examples whose text occurs once and whose label occurs at least twice among those can be cut off: a
    repeated text would otherwise be learnt and asked. At least as many are cut off as there are such labels. An
    example with several labels counts as one of its rarest, whose proportion is the hardest to keep.

    Args:
        examples: the examples, all with labels.
        size: the share to cut off, a float above 0 and below 1, or the number of examples, an integer.
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
    rows = size if isinstance(size, int) else round(len(examples) * size)
    wanted = min(max(rows, classes), len(candidates) - classes)
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


def cut_per_class(
    examples: Sequence[Example], limit: int, seed: int, others: int = 0
) -> tuple[list[Example], list[Example]]:
    """Cut the same number of examples of each label off.

    Only examples whose text occurs once are cut off, as in `cut_stratified`, and at least one of each label stays.

    Args:
        examples: the examples, all with labels.
        limit: how many of each label.
        seed: decides which ones.
        others: how many of each label are wanted elsewhere; a label that has too few is divided in this ratio.

    Returns:
        What stays and what was cut off, both in their old order.
    """
    texts = Counter(example.text for example in examples)
    counts = Counter(example.label for example in examples)
    single: dict[str | None, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        if texts[example.text] == 1:
            single[example.label].append(position)
    cut: set[int] = set()
    for label, members in single.items():
        wanted = min(limit, counts[label] * limit // (limit + others), len(members), counts[label] - 1)
        cut.update(random.Random(f"{seed}:{label}").sample(members, wanted))
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
