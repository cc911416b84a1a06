"""Rows in groups whose texts are not too long together: tokenising takes some 250 bytes of memory a character.

for group in in_groups(examples):
    encoder.encode(group)
"""

from __future__ import annotations

from collections.abc import Sequence

from llmcls.records import Example

CHARACTERS = 2_000_000
"""Characters of text, and of other columns, in a group; a row that has more is a group of its own."""


def in_groups(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """The rows in their order; nearly always they are one group."""
    sizes = [len(str(row.text)) + sum(map(len, row.fields.values())) for row in examples]
    if sum(sizes) <= CHARACTERS:
        return [examples]
    groups: list[Sequence[Example]] = []
    start = size = 0
    for place, added in enumerate(sizes):
        if size + added > CHARACTERS and place > start:
            groups.append(examples[start:place])
            start, size = place, 0
        size += added
    return [*groups, examples[start:]]
