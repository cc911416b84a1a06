"""The label set: ordered, unique, checked once at birth.

labels = LabelSet.from_names(["negative", "neutral", "positive"])
labels.names[2], labels.index("neutral")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from llmcls.errors import LlmclsError, several, unknown


@dataclass(frozen=True, slots=True)
class Label:
    """One valid answer: its exact string, and a description that templates may show to the model."""

    name: str
    description: str = ""


class LabelSet(Sequence[Label]):
    """An immutable, ordered set of at least two labels.

    Raises:
        LlmclsError: for fewer than two labels, duplicates, empty names, or names with white space around
            them; all problems in one message.
    """

    __slots__ = ("_index", "_labels")

    def __init__(self, labels: Iterable[Label]) -> None:
        self._labels = tuple(labels)
        names = [label.name for label in self._labels]
        problems = [
            f"label {name!r} is empty or has white space around it; strip it"
            for name in names
            if not name or name != name.strip()
        ]
        problems += [
            f"label {name!r} occurs {count} times; keep one" for name, count in Counter(names).items() if count > 1
        ]
        if len(names) < 2:
            found = f"only one label ({names[0]!r})" if names else "no label"
            problems.append(f"there is {found}, but a classifier needs at least two; check the label column")
        if problems:
            raise LlmclsError(several(problems, "The label set cannot be used"))
        self._index = {name: position for position, name in enumerate(names)}

    @classmethod
    def from_names(cls, names: Iterable[str], descriptions: Mapping[str, str] | None = None) -> LabelSet:
        """Build from label names in the order given; descriptions of unknown labels are refused."""
        names = list(names)
        descriptions = descriptions or {}
        for name in descriptions:
            if name not in names:
                raise LlmclsError(unknown("label in the descriptions", name, names))
        return cls(Label(name, descriptions.get(name, "")) for name in names)

    @property
    def names(self) -> tuple[str, ...]:
        """The label names, in order."""
        return tuple(label.name for label in self._labels)

    def position(self, name: str) -> int:
        """The index of a label name.

        Raises:
            LlmclsError: when there is no such label.
        """
        try:
            return self._index[name]
        except KeyError:
            raise LlmclsError(unknown("label", name, self._index)) from None

    @overload
    def __getitem__(self, position: int) -> Label: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Label, ...]: ...
    def __getitem__(self, position: int | slice) -> Label | tuple[Label, ...]:
        return self._labels[position]

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and self._labels == other._labels

    def __hash__(self) -> int:
        return hash(self._labels)

    def __repr__(self) -> str:
        return f"LabelSet({', '.join(map(repr, self.names))})"
