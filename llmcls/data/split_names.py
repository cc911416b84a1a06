"""The names of splits: `val`, `valid` and `dev` all mean validation.

standard_splits({"train": a, "dev": b}, "folder 'tickets'")   # {"train": a, "validation": b}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from llmcls.data.reader import SPLITS
from llmcls.errors import LlmclsError

SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}

T = TypeVar("T")


def standard_name(name: str) -> str:
    """The standard name of a split where it has one (`Dev` -> `validation`), else the name itself."""
    lowered = name.lower()
    standard = SPLIT_ALIASES.get(lowered, lowered)
    return standard if standard in SPLITS else name


def standard_splits(found: Mapping[str, T], where: str) -> dict[str, T]:
    """Rename splits to their standard names; the standard ones come first, others keep their names.

    Raises:
        LlmclsError: when two of them mean the same split.
    """
    origin: dict[str, str] = {}
    for name in found:
        standard = standard_name(name)
        if standard in origin:
            raise LlmclsError(
                f"{where} has two {standard} splits, '{origin[standard]}' and '{name}'; rename or remove one."
            )
        origin[standard] = name
    order = [name for name in SPLITS if name in origin] + [name for name in origin if name not in SPLITS]
    return {name: found[origin[name]] for name in order}
