"""A prompt that is too long loses characters of its text, and of the columns it shows, and nothing else.

tokens, needed = shorten(example, tokenize, tokenizer, length=len(tokens.ids), budget=500, fields=False)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from llmcls.prompt.marks import clean
from llmcls.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TruncationSide = Literal["right", "left"]


class Tokenized(Protocol):
    """A prompt as tokens, and whatever else is known of them."""

    @property
    def ids(self) -> list[int]:
        """The tokens."""
        ...


TokenizedT = TypeVar("TokenizedT", bound=Tokenized)
SLACK = 3
"""Tokens that a cut row may stay below the limit; finding the last one would cost more tokenisations."""


def shorten(
    example: Example,
    tokenize: Callable[[Example], TokenizedT],
    tokenizer: PreTrainedTokenizerFast,
    *,
    length: int,
    budget: int,
    fields: bool,
    side: TruncationSide = "right",
) -> tuple[TokenizedT | None, int]:
    """Cut text until the prompt fits.

    The longest values are cut first, all to the same number of tokens. How many that is follows from the excess where
    a token cut is a token less; where it is not (a column that is not shown, a filter), it is searched for.

    Args:
        example: the row, whose prompt has more than `budget` tokens.
        tokenize: the whole prompt of a row.
        tokenizer: says which characters a value's tokens stand for.
        length: tokens of the prompt as it is.
        budget: tokens that it may have.
        fields: whether the prompt shows columns, which are cut as well.
        side: which end of a value is cut off.

    Returns:
        The prompt that fits, None where none does without any text; and the tokens of the shortest one that does not.
    """
    shown = example.fields if fields else {}
    values = [clean(value) for value in (example.text, *shown.values())]
    batch = tokenizer(values, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    lengths = [len(offsets) for offsets in batch["offset_mapping"]]
    fitting: TokenizedT | None = None
    fits, too_long, predictable = -1, max(lengths), True
    while too_long - fits > 1 and (fitting is None or budget - len(fitting.ids) > SLACK):
        keep = _level([min(known, too_long) for known in lengths], length - budget)
        if not (predictable and fits < keep < too_long):
            keep = (fits + too_long) // 2
        text, *rest = [_cut(*value, keep, side) for value in zip(values, batch["offset_mapping"], strict=True)]
        tokens = tokenize(Example(text, example.label, dict(zip(shown, rest, strict=True)), example.source))
        if len(tokens.ids) <= budget:
            fitting, fits = tokens, keep
        else:
            predictable = predictable and 2 * (length - len(tokens.ids)) >= length - budget
            too_long, length = keep, len(tokens.ids)
    return fitting, length


def _cut(value: str, offsets: Sequence[tuple[int, int]], keep: int, side: TruncationSide) -> str:
    if len(offsets) <= keep:
        return value
    if side == "right":
        return value[: offsets[keep][0]]
    return value[offsets[len(offsets) - keep][0] :] if keep else ""


def _level(lengths: Sequence[int], excess: int) -> int:
    """The largest length to cut the longest values to, so that together they lose `excess` or more."""
    descending = sorted(lengths, reverse=True)
    total = 0
    for count, (length, shorter) in enumerate(pairwise([*descending, 0]), 1):
        total += length
        if total - count * shorter >= excess:
            return (total - excess) // count
    return 0
