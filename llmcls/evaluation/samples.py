"""A few rows to look at, drawn by a seed.

chosen = choose_rows(len(examples), 5, seed=42)            # [3, 17, 20, 41, 90]
write_samples("samples.csv", examples, before, after)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from llmcls.evaluation.files import write_rows
from llmcls.records import Example, Prediction

COLUMNS = ("source", "text", "label", "before", "after")


def choose_rows(rows: int, count: int, seed: int) -> list[int]:
    """The places of `count` rows drawn at random, ascending; all of them where there are no more.

    The same seed draws the same rows, and a smaller count some of them.
    """
    places = list(range(rows))
    random.Random(seed).shuffle(places)
    return sorted(places[:count])


def write_samples(
    path: str | Path,
    examples: Sequence[Example],
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    *,
    escape_formulas: bool = False,
) -> None:
    """Write one CSV row per example: source, text, label, and the answers before and after training.

    Raises:
        LlmclsError: when the file cannot be written.
        ValueError: when there are more examples than predictions, or fewer.
    """
    rows = zip(examples, before, after, strict=True)
    cells = ((row.source, row.text, row.label or "", old.label, new.label) for row, old, new in rows)
    write_rows(path, COLUMNS, cells, escape_formulas=escape_formulas)
