"""Writes the demo data: customer messages to the imaginary household shop Tindle & Rowe, with six labels.

    python -m llmcls_nano.generate_demo DIR        # train.csv, validation.csv, test.csv

The messages are put together from the hand-written fragments in `demo/phrases.txt` (its head explains the notation)
and then written down the way people write: tidily or not. The same seed gives the same bytes on every Python version,
because all chance comes from `random.Random.random()`, the one method whose sequence Python promises to keep.
"""

from __future__ import annotations

import csv
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SEED = 5
MOST_WORDS = 60
SPLITS = {"train": 10, "validation": 2, "test": 3}  # parts of fifteen
COUNTS = {  # rows per label in all splits together, each divisible by fifteen
    "billing": 300,
    "delivery": 360,
    "returns": 240,
    "account access": 195,
    "product fault": 270,
    "praise": 135,
}
ASIDES = {  # topics that a message may mention although it is about something else
    "billing": ("delivery", "product fault", "account access", "praise"),
    "delivery": ("billing", "returns", "account access", "praise"),
    "returns": ("billing", "delivery", "product fault", "account access", "praise"),
    "account access": ("billing", "delivery", "product fault", "praise"),
    "product fault": ("billing", "delivery", "returns", "account access", "praise"),
    "praise": ("billing", "delivery", "product fault"),
}
HARD_SHARE, SHORT_SHARE = 0.22, 0.12  # of all messages; the other concerns are plain
ASIDE_SHARE = 0.36
GENERAL_ASK = 0.4
SIMILAR = 0.6  # two messages that share this part of their word pairs count as near-duplicates
AMOUNTS = (9, 12, 15, 19, 24, 29, 34, 39, 45, 49, 59, 64, 79, 89, 120, 149)
GLAD = ("😊", "❤️", "👍", "🙌", "🎉", "😍", "⭐⭐⭐⭐⭐")
SAD = ("😕", "🙄", "😡", "🤷", "🙏", "😩", "😅", "🤔", "😬", "👀")
MISSPELLINGS = {
    "received": "recieved", "definitely": "definately", "address": "adress", "which": "wich", "because": "becuase",
    "separate": "seperate", "tomorrow": "tommorow", "until": "untill", "account": "acount", "their": "thier",
    "really": "realy", "business": "buisness", "believe": "beleive", "the": "teh", "you": "u", "your": "ur",
    "please": "pls", "and": "&", "with": "w/", "something": "smth", "payment": "payement", "parcel": "parcle",
    "delivered": "deliverd", "refund": "refnud", "password": "pasword", "warranty": "waranty", "though": "tho",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fragment:
    """One line of the phrase file: its text, still with alternatives and slots, and its tags."""

    text: str
    tags: frozenset[str] = frozenset()

    @property
    def products(self) -> tuple[str, ...]:
        """The products that the fragment makes sense for; empty when the tags do not say."""
        return next((tuple(tag[2:].split("/")) for tag in self.tags if tag.startswith("p=")), ())


def read_phrases(path: Path) -> dict[str, list[Fragment]]:
    """Read the phrase file into fragments by section name, in order."""
    sections: dict[str, list[Fragment]] = {}
    current: list[Fragment] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            tags, text = re.fullmatch(r"(?:\(([^)]*)\) )?(.*)", line).groups()  # type: ignore[union-attr]
            current.append(Fragment(text, frozenset(tags.split(", ")) if tags else frozenset()))
    return sections


class Chance:
    """Random decisions made from `random()` alone: `choice` and `shuffle` may change between Python versions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1."""
        return int(self._random.random() * limit)

    def happens(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random.random() < probability

    def pick(self, things: Sequence[T]) -> T:
        """One of the things, all equally likely."""
        return things[self.below(len(things))]

    def shuffled(self, things: Sequence[T]) -> list[T]:
        """The things in random order."""
        pool = list(things)
        return [pool.pop(self.below(len(pool))) for _ in range(len(pool))]


@dataclass(slots=True)
class Scene:
    """What stays the same throughout one message, and which slot values it has used up."""

    product: str
    order: str
    currency: str
    unused: dict[str, list[str]] = field(default_factory=dict)
    amounts: list[int] = field(default_factory=list)


class Writer:
    """Writes one message at a time."""

    def __init__(self, sections: dict[str, list[Fragment]], chance: Chance) -> None:
        self.sections = sections
        self.chance = chance
        self.slots = {
            name[5:]: [item.text for item in items] for name, items in sections.items() if name[:5] == "slot "
        }
        self._decks: dict[str, list[Fragment]] = {}

    def write(self, label: str) -> str:
        """Write a message whose concern is `label`; it may come out too long."""
        roll = self.chance.below(1000) / 1000
        kind = "short" if roll < SHORT_SHARE else "hard" if roll < SHORT_SHARE + HARD_SHARE else "core"
        concern = self._deal(f"{label}.{kind}")
        scene = self._scene(concern)
        parts = self._parts(label, kind, concern, scene)
        return self._write_down([self._fill(part, scene) for part in parts], kind, label)

    def _deal(self, section: str) -> Fragment:
        """The next fragment of a shuffled deck, so that all are used equally often."""
        deck = self._decks.setdefault(section, [])
        if not deck:
            deck.extend(self.chance.shuffled(self.sections[section]))
        return deck.pop()

    def _scene(self, concern: Fragment) -> Scene:
        gadget, goods = "g" in concern.tags or "<g" in concern.text, "w" in concern.tags or "<w" in concern.text
        products = concern.products or (
            *(self.slots["gadget"] if gadget or not goods else ()),
            *(self.slots["goods"] if goods or not gadget else ()),
        )
        number = f"{self.chance.below(90000) + 10000}"
        order = self.chance.pick(["", "", "#", "TR", "TR-", "tr "]) + number
        return Scene(self.chance.pick(products), order, self.chance.pick(["£", "£", "£", "", "€", "quid", "EUR"]))

    def _any(self, section: str, label: str, scene: Scene) -> list[Fragment]:
        """A fragment of the section that fits the label and the product; none when the first three do not."""
        for _ in range(3):
            fragment = self.chance.pick(self.sections[section])
            unfit = (
                ("g" in fragment.tags and scene.product not in self.slots["gadget"])
                or ("here" in fragment.tags and label == "delivery")
                or ("problem" in fragment.tags and label == "praise")
            )
            if not unfit:
                return [fragment]
        return []

    def _parts(self, label: str, kind: str, concern: Fragment, scene: Scene) -> list[str]:
        """The message's parts in order, not yet filled in."""
        happens = self.chance.happens
        alone = "alone" in concern.tags
        ask = "any.ask" if label != "praise" and (happens(GENERAL_ASK) or alone) else f"{label}.ask"
        wordy = self.chance.pick([0.35, 0.8, 1.3])
        before: list[Fragment] = []
        after: list[Fragment] = []
        if kind == "short":
            wordy = 0.6
            if happens(0.25):
                after += self._any(ask, label, scene)
        else:
            if happens(0.42 * wordy):
                before += self._any("any.context", label, scene)
            if happens(0.25 * wordy):
                self._place(self._any("any.chat", label, scene), before, after)
            for _ in range(2):
                if happens(ASIDE_SHARE * wordy):
                    self._place(self._any(f"aside.{self.chance.pick(ASIDES[label])}", label, scene), before, after)
            if happens((0.2 if kind == "hard" else 0.5) * wordy) and not alone:
                after += self._any(f"{label}.more", label, scene)
            if happens(0.4 * wordy):
                self._place(self._any(ask, label, scene), before, after, first=0.25)
        opening = self._any("any.open", label, scene) if happens(0.4 * wordy) else []
        closing = self._any("any.close", label, scene) if happens(0.35 * wordy) else []
        return [fragment.text for fragment in [*opening, *dict.fromkeys([*before, concern, *after]), *closing]]

    def _place(self, found: list[Fragment], before: list[Fragment], after: list[Fragment], first: float = 0.5) -> None:
        """Put what was found before the concern (with probability `first`) or after it, as its tags allow."""
        early = self.chance.happens(first)
        for fragment in found:
            (before if early and "after" not in fragment.tags else after).append(fragment)

    def _fill(self, text: str, scene: Scene) -> str:
        """Choose among alternatives, innermost first, and fill the slots."""
        while found := re.search(r"\{([^{}]*)\}", text):
            text = text[: found.start()] + self.chance.pick(found[1].split("|")) + text[found.end() :]
        while found := re.search(r"<(\w+)>", text):
            text = text[: found.start()] + self._slot(found[1], scene) + text[found.end() :]
        text = re.sub(r"\s+", " ", text).strip()
        text = re.sub(r" ([.,?!;:])(?= |$)", r"\1", text)
        return re.sub(r"([.,?!;:])[.,](?!\.)", r"\1", text)

    def _slot(self, name: str, scene: Scene) -> str:
        product = scene.product
        if name in ("p", "g", "w"):
            return product
        if name == "ap":
            return ("an " if product[0] in "aeiou" else "a ") + product
        if name in ("p2", "g2"):
            return product + ("es" if product.endswith(("sh", "ch")) else "s")
        if name == "o":
            return scene.order
        if name == "o2":
            return f"{self.chance.below(9000) + 1000}"
        if name == "amt":
            return self._amount(scene)
        values = self.slots[name.rstrip("1")]
        if name.endswith("1"):
            return scene.unused.setdefault(name, [self.chance.pick(values)])[0]
        unused = scene.unused.setdefault(name, [])
        if not unused:
            unused.extend(self.chance.shuffled(values))
        return unused.pop()

    def _amount(self, scene: Scene) -> str:
        if not scene.amounts:
            scene.amounts.extend(self.chance.shuffled(AMOUNTS))
        whole, currency = scene.amounts.pop(), scene.currency
        cents = self.chance.pick(["", ".99", ".50", ".95", ".00", ".20"])
        if currency == "quid":
            return f"{whole} quid"
        if currency == "EUR":
            return f"{whole}{cents.replace('.', ',')} EUR"
        return f"{currency}{whole}{cents or ('' if currency else '.00')}"

    # From here on: how people put it in writing.

    def _write_down(self, parts: list[str], kind: str, label: str) -> str:
        style = self.chance.pick(["tidy"] * 7 + ["relaxed"] * 7 + ["lower"] * 5 + ["dots", "loud"])
        parts = [self._start(part) if kind != "short" or style == "tidy" else part for part in parts]
        text = self._join(parts, style, kind)
        if style in ("lower", "dots"):
            text = text.lower()
        if style != "tidy":
            text = self._blunder(text, self.chance.pick([0, 1, 1, 2, 3] if style == "lower" else [0, 0, 1, 1, 2]))
            if self.chance.happens(0.5):
                text = re.sub(r"(?<=\w)'(?=[a-z])", "", text)
        if self.chance.happens(0.22 if label == "praise" else 0.08):
            symbol = self.chance.pick(GLAD if label == "praise" else SAD)
            text = f"{text} {symbol}" if self.chance.happens(0.8) else f"{symbol} {text}"
        return text

    def _start(self, part: str) -> str:
        part = part[0].upper() + part[1:]
        return re.sub(r"([.?!] )([a-z])", lambda found: found[1] + found[2].upper(), part)

    def _join(self, parts: list[str], style: str, kind: str) -> str:
        greeting = {fragment.text for fragment in self.sections["any.open"]}
        pieces = []
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            closed = part[-1] in ".?!…)"
            if part in greeting or (position == 0 and part.startswith("Hi, ")):
                mark = self.chance.pick([",", "", ".", "!", " -"] if style != "tidy" else [",", ",", "."])
            elif closed:
                mark = ""
            elif last:
                mark = "." if style == "tidy" and kind != "short" and len(part.split()) > 4 else ""
            elif style == "lower":
                mark = self.chance.pick([",", "", " -", ".", ".."])
            else:
                mark = "."
            if style == "dots" and not last:
                part, mark = part.rstrip("."), "..." if part[-1] not in "?!" else ""
            if style == "loud":
                part, mark = self._louder(part, mark)
            if style == "lower" and self.chance.happens(0.4):
                part = part.rstrip(".")
            pieces.append(part + mark)
        return " ".join(pieces)

    def _louder(self, part: str, mark: str) -> tuple[str, str]:
        if self.chance.happens(0.25):
            part = part.upper()
        if mark == "." or part[-1] in ".?":
            return part.rstrip("."), "!" * (1 + self.chance.below(3))
        return part, mark

    def _blunder(self, text: str, count: int) -> str:
        """Misspell `count` words, as a hurried hand or a habit would."""
        words = text.split(" ")
        for _ in range(count):
            place = self.chance.below(len(words))
            word = words[place]
            if word.lower() in MISSPELLINGS and self.chance.happens(0.7):
                words[place] = MISSPELLINGS[word.lower()]
            elif len(word) > 3 and word.isalpha():
                at = 1 + self.chance.below(len(word) - 2)
                slips = [
                    word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # swapped
                    word[:at] + word[at + 1 :],  # left out
                    word[:at] + word[at] + word[at:],  # doubled
                ]
                words[place] = self.chance.pick(slips)
        return " ".join(words)


def generate(seed: int = SEED) -> dict[str, list[tuple[str, str]]]:
    """Make the demo data: (text, label) pairs by split, shuffled; no two messages are alike or nearly alike."""
    chance = Chance(seed)
    writer = Writer(read_phrases(Path(__file__).parent / "demo" / "phrases.txt"), chance)
    seen: list[frozenset[tuple[str, ...]]] = []
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for label, count in COUNTS.items():
        texts: list[str] = []
        while len(texts) < count:
            text = writer.write(label)
            pairs = _word_pairs(text)
            if 3 <= len(text.split()) <= MOST_WORDS and not any(_alike(pairs, other) for other in seen):
                seen.append(pairs)
                texts.append(text)
        start = 0
        for split, part in SPLITS.items():
            stop = start + count * part // 15
            rows[split] += [(text, label) for text in texts[start:stop]]
            start = stop
    return {split: chance.shuffled(pairs) for split, pairs in rows.items()}


def _word_pairs(text: str) -> frozenset[tuple[str, ...]]:
    words = ["", *re.sub(r"[^a-z ]", "", text.lower()).split(), ""]
    return frozenset(pairwise(words))


def _alike(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> bool:
    return len(one & other) >= SIMILAR * len(one | other)


def write_demo(folder: Path, seed: int = SEED) -> None:
    """Write train.csv, validation.csv and test.csv (columns text, label; UTF-8; \\n line ends) into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, pairs in generate(seed).items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["text", "label"])
            writer.writerows(pairs)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m llmcls_nano.generate_demo DIR")
    write_demo(Path(sys.argv[1]))
