"""Which columns hold the text and the label: as named by the user, or the one clear guess.

columns = choose_columns(["title", "abstract", "label_name"], text=["title", "abstract"])
columns.text, columns.label        # ("title", "abstract"), "label_name"
choose_columns(["text", "joy", "fear"], label=["joy", "fear"]).label        # ("joy", "fear"), of zeros and ones
"""

from __future__ import annotations

import shlex
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmcls.data.one_hot import find_flags
from llmcls.data.reader import Row
from llmcls.errors import LlmclsError, LlmclsWarning, several, unknown

TEXT_NAMES = ("text", "texts", "sentence", "content", "review", "message", "tweet", "comment", "utterance",
              "query", "document", "body", "post")  # fmt: skip
LABEL_NAMES = ("label", "labels", "label_name", "category", "class", "target", "intent", "sentiment")


@dataclass(frozen=True, slots=True)
class Columns:
    """The chosen columns.

    Attributes:
        text: the text column or columns; several are joined in this order.
        label: the label column; several, each a label and all of zeros and ones; or None where labels are not read.
        label_separator: what stands between the labels of a row in a multi-label task; None: a row has one label.
        weight: the column that says how much a training row counts; None: all count alike.
    """

    text: tuple[str, ...]
    label: str | tuple[str, ...] | None = None
    label_separator: str | None = None
    weight: str | None = None

    @property
    def label_columns(self) -> tuple[str, ...]:
        """All columns that say what a row's label is."""
        return self.label if isinstance(self.label, tuple) else () if self.label is None else (self.label,)

    def __post_init__(self) -> None:
        problems = [f"text column '{name}' is named twice" for name, count in Counter(self.text).items() if count > 1]
        if not self.text:
            problems.append("there is no text column")
        problems += [
            f"'{name}' is named both as text and as label column"
            for name in dict.fromkeys(self.label_columns)
            if name in self.text
        ]
        if self.weight is not None and self.weight in (*self.text, *self.label_columns):
            problems.append(f"'{self.weight}' is named as weight column, and as text or label column, too")
        # A label has its column's name, stripped.
        counts = Counter(name.strip() for name in self.label_columns)
        problems += [f"label column '{name}' is named twice" for name, count in counts.items() if count > 1]
        problems += [
            f"label column '{name}' holds the separator {mark!r}; choose another data.label_separator"
            for name in counts
            if isinstance(self.label, tuple) and (mark := self.label_separator) and mark in name
        ]
        if problems:
            raise LlmclsError(several(problems, "The columns cannot be used"))


def check_header(columns: Sequence[str], where: str) -> None:
    """Refuse a header in which a column has no name or two have the same.

    Raises:
        LlmclsError: naming all of them.
    """
    problems = [
        f"column {position} of {len(columns)} has no name; name it or remove it (pandas: to_csv(index=False))"
        for position, name in enumerate(columns, 1)
        if not name.strip()
    ]
    problems += [
        f"column '{name}' occurs {count} times; rename or remove all but one"
        for name, count in Counter(columns).items()
        if count > 1 and name.strip()
    ]
    if problems:
        hint = header_hint(columns)
        raise LlmclsError(several(problems, f"The columns of {where} cannot be used") + (f"\n{hint}" if hint else ""))


def choose_columns(
    columns: Sequence[str],
    *,
    text: Sequence[str] = (),
    label: str | Sequence[str] | None = None,
    require_label: bool = True,
    label_separator: str | None = None,
    weight: str | None = None,
    where: str = "the data",
    rows: Iterable[Row] = (),
) -> Columns:
    """Take the named columns, and guess those that are not named.

    Args:
        columns: all columns there are.
        text: the text columns' names; empty to guess.
        label: the label column's name, or the names of several of zeros and ones; None to guess.
        require_label: False for prediction: label columns are then taken only if they are named and there.
        label_separator, weight: see `Columns`; a weight column is never guessed.
        where: what to call the source in messages.
        rows: what to look at where the label column cannot be guessed.

    Raises:
        LlmclsError: for names that do not exist (all at once), and where no guess is clear.
    """
    if label is not None and not isinstance(label, str):
        label = label[0] if len(label) == 1 else tuple(label) or None
    labels = label if isinstance(label, tuple) else () if label is None else (label,)
    named = (*text, *labels, *([] if weight is None else [weight])) if require_label else text
    wrong = [unknown("column", name, columns) for name in dict.fromkeys(named) if name not in columns]
    if wrong:
        options = "--text-column and --label-column" if require_label else "--text-column; a run asks for its own"
        hint = separator_hint(columns) or header_hint(columns) or f"Name columns with {options}."
        raise LlmclsError(f"{several(wrong, f'In {where}')} {hint}")
    if not require_label and not set(labels) <= set(columns):
        label, labels = None, ()
    if require_label and label is None:
        others = [name for name in columns if name not in (*text, weight)]
        if not any(name.strip().lower() in LABEL_NAMES for name in others):
            _offer_flags(find_flags(rows, others), where)
        label = _guess(columns, "label", others, LABEL_NAMES, where)
        labels = (label,)
    if not text:
        candidates = [name for name in columns if name not in (*labels, weight)]
        if len(candidates) == 1 and looks_like_text(candidates[0]):
            warnings.warn(f"In {where}: {header_hint(candidates)}", LlmclsWarning, stacklevel=3)
        text = candidates if len(candidates) == 1 else [_guess(columns, "text", candidates, TEXT_NAMES, where)]
    return Columns(tuple(text), label, label_separator, weight)


def _offer_flags(columns: Sequence[str], where: str) -> None:
    """Say how columns of zeros and ones are named, where nothing else can be the label."""
    if len(columns) > 1:
        options = " ".join(f"--label-column {shlex.quote(name)}" for name in columns)
        raise LlmclsError(
            f"Cannot tell which column of {where} holds the label: none is named so, but {len(columns)} hold only "
            f"zeros and ones. Where each of them is a label, name them all: {options}; where a text may have several, "
            "or none, add --task multi_label."
        )


def header_hint(columns: Sequence[str]) -> str:
    """Say it when what should be column names is a row: a sentence, a number, or a value that comes twice."""
    texts = [name for name in columns if looks_like_text(name)]
    if not texts:
        return ""
    shown = texts[0] if len(texts[0]) <= 60 else f"{texts[0][:57]}..."
    return f"The first line looks like data ({shown!r}); put a line with column names above it, such as text,label."


def looks_like_text(name: str) -> bool:
    """Whether a column name is more probably a text to classify."""
    words = name.split()
    return len(words) > 5 or len(name) > 80 or (len(words) > 2 and name.rstrip().endswith((".", "!", "?", "…")))


def separator_hint(columns: Sequence[str]) -> str:
    """Say it when a header was read as one column because it is separated by something else."""
    if len(columns) == 1:
        for mark, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas"), ("|", "vertical bars")):
            if mark in columns[0]:
                return (
                    f"The header {columns[0]!r} looks separated by {name}: "
                    "set data.delimiter, or save the file with commas (.csv) or tabs (.tsv)."
                )
    return ""


def _guess(columns: Sequence[str], role: str, candidates: Sequence[str], names: Sequence[str], where: str) -> str:
    matches = [name for name in candidates if name.strip().lower() in names]
    if len(matches) == 1:
        return matches[0]
    several_match = (
        f"{' and '.join(repr(name) for name in matches)} could each be it" if matches else "none is named so"
    )
    option = f"--{role}-column NAME"
    message = f"Cannot tell which column of {where} holds the {role}: {several_match}; name it with {option}."
    hint = separator_hint(columns) or header_hint(columns)
    raise LlmclsError(f"{message} Columns: {', '.join(columns)}." + (f" {hint}" if hint else ""))
