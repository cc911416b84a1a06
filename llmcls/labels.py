"""The label set: ordered, unique, checked once at birth.

labels = LabelSet.from_names(["billing", "delivery"], aliases={"billing": ["invoice", "payment"]})
labels.names[1], labels.position("delivery"), labels.spellings["invoice"]
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, overload

from llmcls.errors import LlmclsError, several, unknown

# Letters of other scripts that most fonts draw as Latin ones, and marks that keyboards and word processors exchange.
_DRAWN_AS: Final[dict[int, str | int]] = {
    **str.maketrans("аеорсухіјѕһԁ", "aeopcyxijshd"),
    **str.maketrans("АВЕКМНОРСТХІЈЅ", "ABEKMHOPCTXIJS"),
    **str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo"),
    **dict.fromkeys(map(ord, "‘’ʼ′`´"), "'"),
    **dict.fromkeys(map(ord, "“”„«»"), '"'),
}
_UNSEEN: Final = {"Mn", "Mc", "Me", "Cf", "Cc", "Co", "Cn", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Label:
    """One valid answer.

    Attributes:
        name: its exact string.
        description: what it means; templates may show it to the model.
        aliases: other spellings. In data each counts as the label; as answers, their probabilities add up.
        code: the short string that the model answers with instead of the spellings (`prompt.verbalizer: code`), or "".
    """

    name: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    code: str = ""

    @property
    def answer(self) -> str:
        """What the model is taught to say: the code where there is one, else the name."""
        return self.code or self.name


class LabelSet(Sequence[Label]):
    """An immutable, ordered set of at least two labels.

    Attributes:
        spellings: names and aliases alike, each with the name of its label.

    Raises:
        LlmclsError: for fewer than two labels, empty spellings or ones with white space around them, and spellings or
            codes that occur twice; all problems in one message.
    """

    __slots__ = ("_index", "_labels", "spellings")

    def __init__(self, labels: Iterable[Label]) -> None:
        self._labels = tuple(labels)
        names = [label.name for label in self._labels]
        problems = [
            f"{kind} {spelling!r} is empty or has white space around it; strip it"
            for label in self._labels
            for kind, spelling in (("label", label.name), *(("alias", alias) for alias in label.aliases))
            if not spelling or spelling != spelling.strip()
        ]
        problems += [
            f"label {name!r} occurs {count} times; keep one" for name, count in Counter(names).items() if count > 1
        ]
        problems += _clashes(self._labels)
        if len(names) < 2:
            found = f"only one label ({names[0]!r})" if names else "no label"
            problems.append(f"there is {found}, but a classifier needs at least two; check the label column")
        if problems:
            raise LlmclsError(several(problems, "The label set cannot be used"))
        self._index = {name: position for position, name in enumerate(names)}
        self.spellings: Mapping[str, str] = {
            spelling: label.name for label in self._labels for spelling in (label.name, *label.aliases)
        }

    @classmethod
    def from_names(
        cls,
        names: Iterable[str],
        descriptions: Mapping[str, str] | None = None,
        aliases: Mapping[str, Sequence[str]] | None = None,
    ) -> LabelSet:
        """Build from label names in the order given; descriptions and aliases of unknown labels are refused."""
        names = list(names)
        descriptions, aliases = descriptions or {}, aliases or {}
        known = set(names)
        for kind, given in (("descriptions", descriptions), ("aliases", aliases)):
            for name in given:
                if name not in known:
                    raise LlmclsError(unknown(f"label in the {kind}", name, names))
        return cls(Label(name, descriptions.get(name, ""), tuple(aliases.get(name, ()))) for name in names)

    def with_codes(self, codes: Sequence[str]) -> LabelSet:
        """The same labels, answered with these codes, one per label."""
        return LabelSet(replace(label, code=code) for label, code in zip(self._labels, codes, strict=True))

    def with_names(self, names: Sequence[str]) -> LabelSet:
        """Labels of these names, in this order: one that is known keeps its description, aliases and code.

        An alias that is one of the names is a label of its own, and no alias any more.

        Raises:
            LlmclsError: for names that are not strings, or no label set.
        """
        if isinstance(names, str):
            raise LlmclsError(f"Give a list of labels, not one string: [{names!r}, ...].")
        names = list(names)
        if strange := [name for name in names if not isinstance(name, str)]:
            raise LlmclsError(f"Label {strange[0]!r} is a {type(strange[0]).__name__}; labels must be strings.")
        known, own = {label.name: label for label in self._labels}, set(names)
        kept = (known.get(name, Label(name)) for name in names)
        return LabelSet(
            replace(label, aliases=tuple(alias for alias in label.aliases if alias not in own)) for label in kept
        )

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


def look_alikes(spellings: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Spellings of different labels that a reader hardly tells apart, in groups.

    Alike are those that differ in case, in white space, in characters that are not seen (zero-width ones, variation
    selectors), in how an accent is encoded, or in a letter or mark that is drawn like another one.

    Args:
        spellings: each with the name of its label, as `LabelSet.spellings`.
    """
    groups: dict[str, list[str]] = {}
    for spelling in spellings:
        groups.setdefault(look(spelling), []).append(spelling)
    return [tuple(group) for group in groups.values() if len({spellings[spelling] for spelling in group}) > 1]


def look(name: str) -> str:
    """What a reader sees of a name: equal for names that look alike."""
    if name.isascii():
        return " ".join(name.casefold().split())
    plain = unicodedata.normalize("NFKC", name.translate(_DRAWN_AS))
    seen = "".join(
        "-" if unicodedata.category(character) == "Pd" else character
        for character in plain
        if unicodedata.category(character) != "Cf" and not _selects_variant(character)
    )
    return " ".join(unicodedata.normalize("NFKC", seen.casefold()).split()) or name


def show(name: str) -> str:
    """A name in quotes, with an escape such as `\\u200b` for what cannot be seen or is drawn like something else."""
    return repr("".join(map(_show_character, name))).replace("\\\\u", "\\u").replace("\\\\U", "\\U")


def _show_character(character: str) -> str:
    category = unicodedata.category(character)
    doubtful = (
        category in _UNSEEN
        or (category == "Zs" and character != " ")
        or (category == "Pd" and character != "-")
        or ord(character) in _DRAWN_AS
        or unicodedata.normalize("NFKC", character) != character
    )
    if not doubtful or character.isascii():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _selects_variant(character: str) -> bool:
    return character == "\u034f" or "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _clashes(labels: Sequence[Label]) -> list[str]:
    """Aliases that are another label's spelling or occur twice, and codes of two labels."""
    problems = []
    owners: dict[str, str] = {label.name: label.name for label in labels}
    for label in labels:
        for alias in label.aliases:
            owner = owners.setdefault(alias, label.name)
            if alias == label.name or (owner == label.name and label.aliases.count(alias) > 1):
                problems.append(f"alias {alias!r} of label {label.name!r} repeats a spelling of it; leave it out")
            elif owner != label.name:
                whose = "a label itself" if owner == alias else f"an alias of {owner!r}, too"
                problems.append(f"alias {alias!r} of label {label.name!r} is {whose}; keep it in one place")
    codes = Counter(label.code for label in labels if label.code)
    problems += [f"code {code!r} stands for {count} labels" for code, count in codes.items() if count > 1]
    return list(dict.fromkeys(problems))
