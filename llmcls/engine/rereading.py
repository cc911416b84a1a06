"""Rows that failed in a pack are read again without the others: one row's NaN makes those of its whole pack NaN.

    parts, places = reread(scorer.score, prompts, first, lambda scores: scores.failing)
    LabelScores.concatenate(parts).take(places)

A masked attention score is NaN + (-inf) where a key is NaN, and 0 x NaN is NaN, so a row that overflows takes the
others of its forward along. The failed rows are halved until each failing one stands alone. A model that gives no
row a score is given up after a few single rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

    from llmcls.engine.scores import Prompts

Scores = TypeVar("Scores")

HOPELESS = 4
"""Rows that must fail alone, while none has a score, until the model itself is taken to be at fault."""


def reread(
    score: Callable[[Prompts], Scores], prompts: Prompts, first: Scores, failing: Callable[[Scores], torch.Tensor]
) -> tuple[list[Scores], list[int]]:
    """Score failed rows again, apart from the others.

    Args:
        score: scores prompts.
        prompts: all of them.
        first: their scores.
        failing: (rows,) bool, which rows of some scores have failed.

    Returns:
        Scores, `first` and further ones, and the place of each prompt's in all of these, one behind the other.
    """
    parts, places, total = [first], list(range(len(prompts))), len(prompts)
    failed = [row for row, bad in enumerate(failing(first).tolist()) if bad]
    saved, hopeless = len(prompts) - len(failed), 0
    pending = _halves(failed) if len(prompts) > 1 else []
    while pending and (saved or hopeless < HOPELESS):
        rows = pending.pop()
        again = score([prompts[row] for row in rows])
        flags = failing(again).tolist()
        parts.append(again)
        for at, row in enumerate(rows):
            places[row] = total + at
        total += len(rows)
        failed = [row for row, bad in zip(rows, flags, strict=True) if bad]
        saved += len(rows) - len(failed)
        if len(rows) == 1:
            hopeless += len(failed)
        else:
            pending += _halves(failed)
    return parts, places


def _halves(rows: list[int]) -> list[list[int]]:
    """Two halves, the first one last: it is taken first."""
    middle = (len(rows) + 1) // 2
    return [half for half in (rows[middle:], rows[:middle]) if half]
