"""Solved examples for few-shot templates: from the training split only, balanced over labels, never the row itself.

shots = choose_shots(train, labels, per_label=1, seed=42)
shots.without(example)     # the shots to show with this row
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.records import Example


@dataclass(frozen=True, slots=True)
class Shots:
    """The chosen examples in the order shown, and per label a spare for the row that is a shot itself."""

    examples: tuple[Example, ...] = ()
    spares: tuple[Example, ...] = ()

    def without(self, example: Example) -> tuple[Example, ...]:
        """The shots to show with `example`: where its text is a shot, that shot's spare instead.

        All other rows see the same shots, so that they share one prompt prefix.
        """
        if all(shot.text != example.text for shot in self.examples):
            return self.examples
        shown = []
        for shot in self.examples:
            if shot.text != example.text:
                shown.append(shot)
            else:
                shown += [spare for spare in self.spares if spare.label == shot.label]
        return tuple(shown)

    def of(self, labels: LabelSet) -> Shots:
        """Those of these labels, in their order."""
        known = set(labels.names)
        return Shots(*(tuple(row for row in rows if row.label in known) for rows in (self.examples, self.spares)))


def choose_shots(train: Sequence[Example], labels: LabelSet, *, per_label: int, seed: int) -> Shots:
    """Draw `per_label` shots of every label, with the seed, from the shorter half of the label's texts.

    Shots are shown in rounds (one of each label, then the next of each), so that no label stands last more often.

    Raises:
        LlmclsError: when a label has fewer than `per_label` distinct texts.
    """
    rng = random.Random(seed)
    rounds: list[list[Example]] = [[] for _ in range(per_label)]
    spares = []
    by_text: dict[str | None, dict[str, Example]] = {name: {} for name in labels.names}
    for row in train:
        if row.label in by_text:
            by_text[row.label][row.text] = row
    for name in labels.names:
        distinct = list(by_text[name].values())
        if len(distinct) < per_label:
            raise LlmclsError(
                f"Label {name!r} has {len(distinct)} training texts, but prompt.shots_per_label is {per_label}; "
                "lower it."
            )
        middle = median(len(row.text) for row in distinct)
        short = [row for row in distinct if len(row.text) <= middle]
        pool = short if len(short) > per_label else distinct
        drawn = rng.sample(pool, min(per_label + 1, len(pool)))
        for position, row in enumerate(drawn[:per_label]):
            rounds[position].append(row)
        spares += drawn[per_label:]
    return Shots(tuple(row for batch in rounds for row in batch), tuple(spares))
