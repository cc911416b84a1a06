"""A few rows to look at, drawn by a seed.

chosen = choose_rows(len(examples), 5, seed=42)            # [3, 17, 20, 41, 90]
"""

from __future__ import annotations

import random


def choose_rows(rows: int, count: int, seed: int) -> list[int]:
    """The places of `count` rows drawn at random, ascending; all of them where there are no more.

    The same seed draws the same rows, and a smaller count some of them.
    """
    places = list(range(rows))
    random.Random(seed).shuffle(places)
    return sorted(places[:count])
