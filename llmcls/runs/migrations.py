"""Reads the run cards of earlier formats: every format that was ever released stays readable.

    card = migrate(card)                                # a `run.json` of any known format, as `FORMAT` has it
    values = migrate_settings(values, card["format"])   # and its `settings.yaml`; the format is that of the file

A change of the format takes one more function in `STEPS`, of the settings one in `SETTINGS_STEPS`, and, in
`tests/runs/formats/`, a run directory of the format before it, which the tests open and predict with. The directory
itself is not changed.
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


def migrate_settings(values: Card, written: int) -> Card:
    """The nested settings of a run whose files have the format `written`, as they have to be said today."""
    for number in range(written, FORMAT):
        values = SETTINGS_STEPS.get(number, dict)(values)
    return values


def readable_formats() -> range:
    """All formats that `migrate` takes."""
    return range(min(STEPS, default=FORMAT), FORMAT + 1)


def _from_1(card: Card) -> Card:
    """Format 2 keeps what the form of answer decided on held-out rows under one name for all forms."""
    return {**card, "decision": card.get("thresholds")}


def _settings_from_1(values: Card) -> Card:
    """Before format 2 no test split was ever cut: one cut today would hold rows that the run was trained on."""
    data = {**values.get("data", {}), "test_size": 0}
    # The default was written out as a number, which today is a choice, and warned of where the data has the split.
    if data.get("validation_size") == 0.1 and "validation" not in data.get("max_per_class", {}):
        data["validation_size"] = None
    return {**values, "data": data}


STEPS: Mapping[int, Callable[[Card], Card]] = {1: _from_1}
"""From each earlier format to the next one."""

SETTINGS_STEPS: Mapping[int, Callable[[Card], Card]] = {1: _settings_from_1}
"""The same for the settings; a format that has none changed nothing of them."""
