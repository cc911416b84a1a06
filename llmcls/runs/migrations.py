"""Reads the run cards of earlier formats: every format that was ever released stays readable.

    card = migrate(card)        # a `run.json` of any known format, as `FORMAT` has it

A change of the format takes one more function in `STEPS` and, in `tests/runs/formats/`, a run directory of the
format before it, which the tests open and predict with. The directory itself is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Card = dict[str, Any]

FORMAT = 2
"""The format that is written."""


def migrate(card: Card) -> Card:
    """The card in the current format; `card["format"]` must be in `readable_formats()`."""
    for number in range(card["format"], FORMAT):
        card = STEPS[number](card)
    return {**card, "format": FORMAT}


def readable_formats() -> range:
    """All formats that `migrate` takes."""
    return range(min(STEPS, default=FORMAT), FORMAT + 1)


def _from_1(card: Card) -> Card:
    """Format 2 keeps what the form of answer decided on held-out rows under one name for all forms."""
    return {**card, "decision": card.get("thresholds")}


STEPS: Mapping[int, Callable[[Card], Card]] = {1: _from_1}
"""From each earlier format to the next one."""
