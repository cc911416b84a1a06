"""From raw rows to examples: texts joined, labels named, and every problem of the data reported at once.

    examples, problems = make_examples(table, Columns(("title", "abstract"), "label_name"), require_labels=True)

One rule for all readers; a row is either an `Example` or one sentence that starts with its source.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, NamedTuple

from llmcls.data.columns import Columns
from llmcls.data.listed import is_hot, looks_listed, name_hot, read_hot, read_list
from llmcls.data.one_hot import is_missing as is_missing
from llmcls.data.one_hot import read_flags
from llmcls.data.reader import Row, Table
from llmcls.data.weights import read_weight
from llmcls.figures import to_json
from llmcls.labels import look, show
from llmcls.records import Example

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
LONGEST_TEXT = 2_000_000
"""Characters of a text: more than any model reads, and half a gigabyte of memory while it is cut to what one reads."""

NO_LABEL = "the label is missing"
NOT_ONE_LABEL = "a row has one label"
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadRow(NamedTuple):
    """A row that cannot be used: where it stands, one sentence that says why, and the row itself as text."""

    source: str
    problem: str
    raw: str

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


def show_values(values: Mapping[str, Any]) -> str:
    """A row's values as one line of JSON; what JSON has no form for is shown as text."""
    return to_json(values)


def set_aside(row: Row, problem: str) -> BadRow:
    """The row with its problem, which `example_maker` made."""
    raw = row.raw if row.problem is not None else show_values(row.values)
    raw = raw if len(raw) <= LONGEST_TEXT else f"{raw[:1000]} ..."
    return BadRow(row.source, problem.removeprefix(f"{row.source}: "), raw)


def too_long(text: str) -> str | None:
    """The problem of a text that is longer than `LONGEST_TEXT`."""
    if len(text) <= LONGEST_TEXT:
        return None
    return f"the text has {len(text):,} characters, more than the {LONGEST_TEXT:,} that are read; cut it"


def make_examples(
    table: Table,
    columns: Columns,
    *,
    require_labels: bool,
    known_labels: Collection[str] | None = None,
    spellings: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
) -> tuple[list[Example], list[BadRow]]:
    """All examples of a table, and all rows that cannot be used; as text each is `source: sentence`.

    Args:
        table: the rows.
        columns: which columns hold text and label.
        require_labels: whether a row without label, or without any text, is a problem; False for prediction.
        known_labels: the labels that may occur; None while they are being learnt from this table.
        spellings: aliases of labels, each with the label that it counts as.
        order: the labels in the order that the user gave, by which zeros and ones are named.
    """
    examples: list[Example] = []
    bad: list[BadRow] = []
    make = example_maker(
        table, columns, require_labels=require_labels, known_labels=known_labels, spellings=spellings, order=order
    )
    for row in table.rows:
        made = make(row)
        if isinstance(made, Example):
            examples.append(made)
        else:
            bad.append(set_aside(row, made))
    return examples, bad


def example_maker(
    table: Table,
    columns: Columns,
    *,
    require_labels: bool,
    known_labels: Collection[str] | None = None,
    spellings: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
) -> Callable[[Row], Example | str]:
    """The function that turns one row of this table into an example, or into its problem."""
    others = [name for name in table.columns if name not in (*columns.text, *columns.label_columns)]
    class_names = class_names_of(table, columns)
    separator = columns.label_separator
    known = None if known_labels is None else frozenset(known_labels)
    spellings = spellings or {}
    names = tuple(class_names or order)
    rank = {name: place for place, name in enumerate(known_labels or class_names)}

    @cache
    def unknown_label(label: str) -> str:
        alike = [
            name
            for name in known_labels or ()
            if look(name) == look(label) and {*map(show, (name, label))} != {repr(name), repr(label)}
        ]
        close = alike[:1] or difflib.get_close_matches(label, sorted(known_labels or ()), n=1, cutoff=0.6)
        hint = f"; did you mean {show(close[0]) if alike else repr(close[0])}?" if close else ""
        shown = show(label) if alike else repr(label)
        return f"label {shown} is not one of the {len(known_labels or ())} known labels{hint}"

    def make(row: Row) -> Example | str:
        if row.problem is not None:
            return f"{row.source}: {row.problem}"
        try:
            text = join_texts([as_text(row.values.get(name), name) for name in columns.text])
            if problem := too_long(text):
                return f"{row.source}: {problem}"
            label, labels = None, None
            if isinstance(columns.label, tuple):
                flags = read_flags(row.values, columns.label)
                if flags is not None and separator is not None:
                    labels = _sort({spellings.get(name.strip(), name.strip()) for name in flags}, rank)
                    label = separator.join(labels)
                elif flags is not None:
                    label = _only([spellings.get(name.strip(), name.strip()) for name in flags])
            elif columns.label is not None and separator is not None:
                labels = name_labels(row.values.get(columns.label), separator, class_names, rank, spellings, names)
                label = separator.join(labels)
            elif columns.label is not None:
                label = name_label(row.values.get(columns.label), class_names, names)
                label = spellings.get(label, label) if label else label
            weight = 1.0 if columns.weight is None else read_weight(row.values.get(columns.weight), columns.weight)
            fields = {name: as_field(row.values.get(name)) for name in others}
        except ValueError as error:
            return f"{row.source}: {error}"
        if require_labels:
            wrong = [] if text.strip() else ["the row has no text"]
            if label is None:
                wrong.append(NO_LABEL)
            elif known is not None:
                found = (label,) if labels is None else labels
                wrong += [unknown_label(name) for name in found if name not in known]
            if wrong:
                return f"{row.source}: {' and '.join(wrong)}"
        return Example(text, label, fields, row.source, labels, weight)

    return make


def class_names_of(table: Table, columns: Columns) -> tuple[str, ...]:
    """The class names of the label column in their order, or the label columns; empty where the source knows none."""
    if isinstance(columns.label, tuple):
        return tuple(name.strip() for name in columns.label)
    return tuple(name.strip() for name in table.class_names.get(columns.label or "", ()))


def join_texts(texts: Sequence[str]) -> str:
    """One column's text verbatim; of several, those that are not blank, stripped, joined by ". " and closed by "."."""
    if len(texts) == 1:
        return texts[0]
    joined = ". ".join(stripped for text in texts if (stripped := text.strip()))
    return joined if not joined or joined.endswith(".") else f"{joined}."


def as_text(value: object, column: str) -> str:
    """A text column's value as text; a missing one (None, NaN) is empty.

    Raises:
        ValueError: for lists, mappings and bytes, and for text that is no valid Unicode.
    """
    if isinstance(value, str):
        text = value
    elif is_missing(value):
        return ""
    elif _is_many(value):
        raise ValueError(f"column '{column}' holds {_kind(value)}, not text")
    else:
        text = str(value)
    if not text.isascii() and (found := _SURROGATE.search(text)):
        raise ValueError(f"column '{column}' holds half a character (U+{ord(found[0]):04X}), which is no valid Unicode")
    return text


def as_field(value: object) -> str:
    """Any other column's value as text; a missing one is empty, half characters become U+FFFD."""
    text = "" if is_missing(value) else str(value)
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def name_label(value: Any, class_names: Sequence[str] = (), names: Sequence[str] = ()) -> str | None:
    """The name of a label, or None when it is missing.

    Text is stripped. With `class_names`, an integer (or integral number, or text of one) becomes
    `class_names[value]`, and -1, the mark of unlabelled rows in `datasets`, is missing. Without them, numbers and
    booleans become their text.

    Raises:
        ValueError: when the value cannot be a label, or the class names have no such index.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        hot = None if value.strip() in names else read_hot(value)
        if hot and (len(hot) > 2 or len(hot) == len(names)):
            return _name_one(hot, names)
        if value.strip() not in names and looks_listed(value):
            raise ValueError(f"the label {value.strip()!r} is a list in text; a row has one label, a name or a number")
    elif _is_many(value):
        hot = value.tolist() if hasattr(value, "tolist") else value
        if names and isinstance(hot, list | tuple) and is_hot(hot, names):
            return _name_one(hot, names)
        raise ValueError(f"the label is {_kind(value)}; a row has one label, a name or a number")
    number: int | None = None
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
    elif isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        number = int(float(value))
    name = str(number) if number is not None else str(value).strip()
    if not class_names or number is None:
        if not name:
            return None
        if _SURROGATE.search(name):
            raise ValueError(f"label {name!r} holds half a character, which is no valid Unicode")
        if not class_names or name in class_names:
            return name
        if not _INTEGER.fullmatch(name):
            raise ValueError(f"label {name!r} is not one of the {len(class_names)} class names")
        number = int(name)
    if number == -1:
        return None
    if not 0 <= number < len(class_names):
        raise ValueError(
            f"label {number} is no class index; the {len(class_names)} class names have 0 to {len(class_names) - 1}"
        )
    return class_names[number]


def name_labels(
    value: Any,
    separator: str,
    class_names: Sequence[str] = (),
    rank: Mapping[str, int] | None = None,
    spellings: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
) -> tuple[str, ...]:
    """The names of a row's labels, each once, by their rank, and those without one last by name.

    `spellings` gives the name of an alias, `names` the labels in the order of a vector of zeros and ones.

    Text is cut at the separator, and what is blank between two separators is left out; a list is taken as it is, also
    where it is written as text. A missing value is a row without labels: an empty cell of a CSV file is NaN to pandas.

    Raises:
        ValueError: when one of them cannot be a label, or holds the separator.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()  # NumPy's arrays and scalars, as pandas reads Parquet's lists
    if isinstance(value, str):
        listed = None if value.strip() in names else read_list(value, separator)
        parts: Sequence[Any] = [part for part in value.split(separator) if part.strip()] if listed is None else listed
        if listed is None and len(parts) == 1:
            parts = read_hot(value) or parts
    elif isinstance(value, list | tuple | set | frozenset):
        parts = tuple(value)
    else:
        parts = () if is_missing(value) else (value,)
    if is_hot(parts, names, indices=bool(class_names)):
        parts = name_hot(parts, names)
    found = set()
    for part in parts:
        name = name_label(part, class_names)
        if name is None:
            raise ValueError("the list of labels holds an empty one")
        if separator in name:
            raise ValueError(f"label {name!r} holds the separator {separator!r}; choose another data.label_separator")
        found.add((spellings or {}).get(name, name))
    return _sort(found, rank or {})


def _sort(names: Collection[str], rank: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (rank.get(name, len(rank)), name)))


def _only(names: Sequence[str]) -> str:
    """The one label of a row of label columns."""
    different = list(dict.fromkeys(names))
    if len(different) != 1:
        held = (
            f"{len(different)} label columns hold a 1 ({', '.join(different)})"
            if names
            else "no label column holds a 1"
        )
        raise ValueError(f"{held}; {NOT_ONE_LABEL}")
    return different[0]


def _name_one(hot: Sequence[Any], names: Sequence[str]) -> str:
    chosen = name_hot(hot, names)
    if len(chosen) != 1:
        raise ValueError(f"the label is {len(hot)} zeros and ones with {len(chosen)} ones; a row has one label")
    return chosen[0]


def _is_many(value: Any) -> bool:
    """Whether a cell holds several values: a list, a mapping, bytes, an array of NumPy; its own text is never meant."""
    if getattr(value, "ndim", None) == 0:
        return False
    return isinstance(value, Iterable) and not isinstance(value, str)


def _kind(value: Any) -> str:
    if type(value).__name__ == "ndarray":
        return "an array"
    return {"dict": "a mapping", "bytes": "bytes", "bytearray": "bytes"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
