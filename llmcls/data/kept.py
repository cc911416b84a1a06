"""Which labels of a data set are wanted, and what becomes of the rows of all others.

choice = LabelChoice(keep={"top": 5}, drop=True)
kept = choice.resolve(["a", "b", "c"], train, spellings={})
train, counts = keep_only(train, kept, separator=None)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from llmcls.data.examples import BadRow, show_values
from llmcls.errors import LlmclsError, several, unknown
from llmcls.records import Example

if TYPE_CHECKING:
    from llmcls.settings import DataSettings


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """The labels to keep, and whether rows of other labels are left out or problems.

    Attributes:
        keep: names or aliases; or a rule about the training split: `{"min_rows": n}`, those of so many rows and more,
            `{"top": n}`, the most frequent ones (of these); empty for all.
        drop: leave rows of other labels out; of rows with several labels only the other labels are taken out.
    """

    keep: Sequence[str] | Mapping[Literal["top", "min_rows"], int] = ()
    drop: bool = False

    @classmethod
    def of(cls, settings: DataSettings) -> LabelChoice:
        """What the settings name."""
        return cls(settings.keep_labels, settings.drops_other_labels)

    def resolve(
        self, labels: Sequence[str], train: Sequence[Example], spellings: Mapping[str, str], where: str
    ) -> tuple[str, ...]:
        """The labels that are kept, in the order of `labels`.

        Args:
            labels: all that there are to choose from.
            train: the training examples, by which labels are counted.
            spellings: aliases, each with its label.
            where: what to call the data in messages.

        Raises:
            LlmclsError: for names that are not among the labels, and for more labels than there are.
        """
        if isinstance(self.keep, Mapping):
            counts = Counter(name for example in train for name in example.names)
            least = self.keep.get("min_rows", 1)
            found = [name for name in labels if counts[name] >= least]
            wanted = self.keep.get("top", 2)
            if wanted > len(found):
                rows = f", of which {len(found)} have {least} rows and more" if least > 1 else ""
                raise LlmclsError(
                    f"data.keep_labels wants {wanted} labels or more, but the training rows of {where} have "
                    f"{sum(count > 0 for count in counts.values())}{rows}; ask for less."
                )
            chosen = set(sorted(found, key=lambda name: (-counts[name], name))[: self.keep.get("top")])
        elif self.keep:
            names = [spellings.get(name, name) for name in self.keep]
            problems = [
                unknown("label", given, labels)
                for given, name in zip(self.keep, names, strict=True)
                if name not in labels
            ]
            if problems:
                raise LlmclsError(several(problems, f"data.keep_labels does not fit {where}"))
            chosen = set(names)
            if len(chosen) < 2:
                raise LlmclsError(
                    f"data.keep_labels keeps only {names[0]!r}, of which the others are aliases, but a classifier "
                    "needs at least two labels; name another one."
                )
        else:
            chosen = set(labels)
        return tuple(name for name in labels if name in chosen)


def keep_only(
    examples: Sequence[Example], kept: Sequence[str], separator: str | None
) -> tuple[list[Example], dict[str, int]]:
    """The examples without what is not kept, and how many rows had each other label, the most frequent first.

    An example with several labels stays with those of its labels that are kept, also with none.
    """
    rank = {name: place for place, name in enumerate(kept)}
    others: Counter[str] = Counter()
    found = []
    for example in examples:
        others.update(name for name in example.names if name not in rank)
        if example.labels is not None and separator is not None:
            labels = tuple(sorted((name for name in example.labels if name in rank), key=rank.__getitem__))
            found.append(replace(example, label=separator.join(labels), labels=labels))
        elif example.label in rank:
            found.append(example)
    return found, dict(sorted(others.items(), key=lambda item: (-item[1], item[0])))


def refuse_others(examples: Sequence[Example], kept: Sequence[str]) -> tuple[list[Example], list[BadRow]]:
    """The examples that have no other labels than those kept, and the rest as rows that cannot be used."""
    good, bad = [], []
    for example in examples:
        if other := [name for name in example.names if name not in kept]:
            problem = f"label {other[0]!r} is not one of the {len(kept)} labels that data.keep_labels keeps"
            bad.append(BadRow(example.source, problem, show_values({"text": example.text, "label": example.label})))
        else:
            good.append(example)
    return good, bad


def say_left_out(split: str, others: Mapping[str, int], before: int, after: int, several_labels: bool) -> str:
    """One sentence on what `keep_only` left out."""
    shown = ", ".join(f"{name} ({count})" for name, count in list(others.items())[:5])
    shown += f" and {len(others) - 5} more" if len(others) > 5 else ""
    if several_labels:
        return f"{split}: other labels, {len(others)} in all, are taken out of the rows' lists: {shown}"
    return f"{split}: {before - after} of {before} rows have other labels and are left out: {shown}"
