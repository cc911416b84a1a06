"""Loads a data set for training: examples per split, the label set, and notes on everything that was decided.

data = load_training_data(settings)     # what the settings name
data = load_data("tickets/", text_columns=["subject", "body"], seed=42)
data.train, data.validation, data.test, data.labels.names
print("\\n".join(data.notes))        # no validation split: 10 % of train (120 rows), stratified, seed 42
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from llmcls.data.columns import Columns, choose_columns
from llmcls.data.cut import cap_per_class, cut_missing
from llmcls.data.examples import NO_LABEL, NOT_ONE_LABEL, BadRow, class_names_of, make_examples
from llmcls.data.kept import LabelChoice, keep_only, refuse_others, say_left_out
from llmcls.data.reader import SPLITS, DatasetReader, FileFormat, Table
from llmcls.data.sources import describe, open_tables, warn_of_unused
from llmcls.data.weights import leave_out_weightless
from llmcls.errors import LlmclsError, LlmclsWarning, several, unknown
from llmcls.labels import LabelSet, look_alikes, show
from llmcls.records import Example
from llmcls.settings.rows import SIZE_RULE, check_size

if TYPE_CHECKING:
    from llmcls.settings import Settings


@dataclass(frozen=True, slots=True)
class DataSplits:
    """A data set, checked: every example has a text and a label of the label set.

    Attributes:
        train: the training examples, never empty.
        validation: may be empty.
        test: may be empty; evaluation then falls on validation.
        labels: in the order given, else that of the source's class names, else sorted by name.
        columns: the columns that were used.
        cut: the rows of each split that was cut from train because the source has no such split.
        left_out: what was left out of each split because of its label, as one sentence.
        other_labels: the labels that are not kept.
        notes: what was decided and what is worth knowing, one sentence each.
        bad_rows: the rows that were left out because they cannot be used, where that was wanted.
        fingerprints: per split, the SHA-256 over its texts and labels in order.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: LabelSet
    columns: Columns
    notes: tuple[str, ...] = ()
    bad_rows: tuple[BadRow, ...] = ()
    cut: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    other_labels: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        prints = {split: fingerprint(self[split]) for split in SPLITS}
        object.__setattr__(self, "fingerprints", prints)

    def __getitem__(self, split: str) -> tuple[Example, ...]:
        if split not in SPLITS:
            raise LlmclsError(unknown("split", split, SPLITS))
        examples: tuple[Example, ...] = getattr(self, split)
        return examples

    @property
    def fingerprint(self) -> str:
        """One SHA-256 for the whole data set: texts and labels of each split, in order."""
        return hashlib.sha256(json.dumps(dict(self.fingerprints), sort_keys=True).encode()).hexdigest()


def fingerprint(examples: Iterable[Example]) -> str:
    """The SHA-256 over texts, labels and weights in order; sources and other columns do not count."""
    digest = hashlib.sha256()
    for example in examples:
        weight = [] if example.weight == 1 else [example.weight]
        digest.update(json.dumps([example.text, example.label, *weight]).encode() + b"\n")
    return digest.hexdigest()


def load_training_data(
    settings: Settings, data: object = None, check: Callable[[LabelSet], None] | None = None
) -> DataSplits:
    """Read the data of the settings, or `data` in the way that the settings say; `check` as `load_data` has it.

    Raises:
        LlmclsError: see `load_data`.
    """
    wanted = settings.data
    splits = load_data(
        data if data is not None else wanted.source,
        text_columns=wanted.text_columns,
        label_column=wanted.label_column,
        weight_column=wanted.weight_column,
        labels=wanted.labels or None,
        aliases=wanted.label_aliases,
        validation_size=wanted.validation_size,
        test_size=wanted.test_size,
        seed=settings.seed,
        label_separator=wanted.label_separator if settings.form.several else None,
        max_per_class={str(split): limit for split, limit in wanted.max_per_class.items()},
        form=FileFormat.of(wanted),
        skip_bad_rows=wanted.bad_rows == "skip",
        choice=LabelChoice.of(wanted),
        check=check,
    )
    others = set(splits.other_labels)
    described = {name: text for name, text in wanted.label_descriptions.items() if name not in others}
    spelt = {name: aliases for name, aliases in wanted.label_aliases.items() if name not in others}
    labels = LabelSet.from_names(splits.labels.names, described, spelt)
    return replace(splits, labels=labels)


def load_data(
    data: object,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | Sequence[str] | None = None,
    weight_column: str | None = None,
    labels: LabelSet | Sequence[str] | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
    validation_size: float | None = None,
    test_size: float | None = None,
    seed: int = 42,
    label_separator: str | None = None,
    max_per_class: Mapping[str, int] | None = None,
    catalog: Mapping[str, DatasetReader] | None = None,
    form: FileFormat | None = None,
    skip_bad_rows: bool = False,
    choice: LabelChoice | None = None,
    check: Callable[[LabelSet], None] | None = None,
) -> DataSplits:
    """Read all splits, check every row, and cut what is missing.

    Args:
        data: a specification, a path, or a Python object; see `llmcls.data.sources.open_tables`.
        text_columns: the columns that hold the text, joined in this order; empty to guess one.
        label_column: the column that holds the label, or several of zeros and ones, each a label; None to guess.
        weight_column: the column that says how much each row of train counts; None: all count alike.
        labels: the label set; None to take it from the data.
        aliases: other spellings of labels, each of which counts as its label.
        validation_size: the share (a float) or the number of rows (an integer) of train that becomes validation where
            there is no such split; 0 for none; None for the rule of `cut_missing`.
        test_size: the same for test, cut first; with 0 evaluation falls on validation.
        seed: decides every cut and every cap.
        label_separator: what stands between the labels of a row, which may have any number; None: it has one.
        max_per_class: per split, keep at most so many examples of each label, after the cuts; see `cut_missing`.
        catalog: the dataset readers by name; all that plugins registered when None.
        form: what files of text do not say of themselves.
        skip_bad_rows: leave rows that cannot be used out, and tell of them, instead of raising.
        choice: which labels are kept, and what becomes of the rows of others; None: all, and others are problems.
        check: refuses label sets before any split is cut, which imports scikit-learn.

    Raises:
        LlmclsError: for wrong columns, empty splits, and bad rows: all of them at once, with file and line.

    Warns:
        LlmclsWarning: when texts of train come again in another split, one text has two labels, labels look alike,
            a split is left out because it has no labels, or a size is given for a split that the data has.
    """
    limits = max_per_class or {}
    sizes = _check_choices({"test": test_size, "validation": validation_size}, limits)
    where = describe(data)
    tables = open_tables(data, catalog, form)
    warn_of_unused(data, catalog, form)
    if "train" not in tables:
        raise LlmclsError(f"{where} has no train split; it has: {', '.join(tables)}.")
    columns = choose_columns(
        tables["train"].columns,
        text=text_columns,
        label=label_column,
        label_separator=label_separator,
        weight=weight_column,
        where=where,
        rows=tables["train"].rows,
    )
    notes = _guess_notes(columns, text_columns, label_column)
    if ignored := [name for name in tables if name not in SPLITS]:
        notes.append(f"splits that are not used: {', '.join(ignored)}")
    given = labels if isinstance(labels, LabelSet) or labels is None else LabelSet.from_names(labels, aliases=aliases)
    bad: list[BadRow] | None = [] if skip_bad_rows else None
    read = _read_splits(tables, columns, given, aliases or {}, where, notes, bad, choice or LabelChoice())
    splits, label_set = read.splits, read.labels
    if check is not None:
        check(label_set)
    if columns.weight is not None:
        splits["train"], weightless = leave_out_weightless(splits["train"], columns.weight)
        notes += weightless
    notes += _size_notes(splits, sizes)
    cut = cut_missing(splits, sizes, limits, single=not {"validation", "test"} & tables.keys(), seed=seed)
    notes += [*cut.notes, *_lack_notes(splits, sizes)]
    for split, limit in limits.items():
        before = len(splits[split])
        splits[split] = cap_per_class(splits[split], limit, seed)
        if len(splits[split]) < before or split not in cut.rows:
            notes.append(f"{split}: at most {limit} rows per label, {before} -> {len(splits[split])} rows, seed {seed}")
    notes += _label_notes(splits, label_set)
    notes += _look_alike_notes(label_set)
    notes += _repetition_notes(splits)
    _doubt_separator(splits["train"], columns.label_separator, where)
    train, validation, test = (tuple(splits[split]) for split in SPLITS)
    return DataSplits(
        train,
        validation,
        test,
        label_set,
        columns,
        tuple(notes),
        tuple(bad or ()),
        cut.rows,
        read.left_out,
        read.other_labels,
    )


def _check_choices(sizes: Mapping[str, float | None], limits: Mapping[str, int]) -> dict[str, float | None]:
    """The sizes as numbers of Python's own."""
    problems, checked = [], {}
    for split, size in sizes.items():
        try:
            checked[split] = check_size(size)
        except ValueError:
            problems.append(f"{split}_size is {size}, but {SIZE_RULE}")
    for split, limit in limits.items():
        if split not in SPLITS:
            problems.append(unknown("split in max_per_class", split, SPLITS))
        if limit < 1:
            problems.append(f"max_per_class of {split} is {limit}, but it is at least 1")
    if problems:
        raise LlmclsError(several(problems, "The data settings cannot be used"))
    return checked


def _guess_notes(columns: Columns, text_columns: Sequence[str], label_column: object) -> list[str]:
    notes = []
    if not text_columns:
        notes.append(f"text column: '{columns.text[0]}' (not named, taken by its name or as the only one)")
    if label_column is None:
        notes.append(f"label column: '{columns.label}' (not named, taken by its name)")
    return notes


class _Read(NamedTuple):
    splits: dict[str, list[Example]]
    labels: LabelSet
    left_out: dict[str, str]
    other_labels: tuple[str, ...]


def _read_splits(
    tables: Mapping[str, Table],
    columns: Columns,
    given: LabelSet | None,
    aliases: Mapping[str, Sequence[str]],
    where: str,
    notes: list[str],
    skipped: list[BadRow] | None,
    choice: LabelChoice,
) -> _Read:
    """Make the examples of all splits, and the label set; train first, since its labels bind the others.

    Rows that cannot be used are added to `skipped`; where it is None, they are problems.
    """
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    problems: list[str] = []
    bad_rows = False
    spellings = given.spellings if given else {alias: name for name, others in aliases.items() for alias in others}
    known: Sequence[str] | None = given.names if given is not None else None
    everything: Sequence[str] = known or ()
    others: set[str] = set()
    left_out: dict[str, str] = {}
    for split in SPLITS:
        if split not in tables:
            continue
        table = tables[split]
        unlabelled = split != "train" and not any(name in table.columns for name in columns.label_columns)
        named = columns.text if unlabelled else (*columns.text, *columns.label_columns)
        missing = [name for name in named if name not in table.columns]
        if missing:
            problems += [f"{split}: {unknown('column', name, table.columns)}" for name in missing]
            continue
        found: list[BadRow] = []
        if not unlabelled:
            splits[split], found = make_examples(
                table,
                columns if split == "train" else replace(columns, weight=None),  # figures are unweighted
                require_labels=True,
                known_labels=None if choice.drop else known,
                spellings=spellings,
                order=given.names if given else (),
            )
            unlabelled = split != "train" and _all_unlabelled(splits[split], [row.problem for row in found])
        if unlabelled:
            splits[split] = []
            message = f"{split}: no row has a label, so this split is left out"
            notes.append(message)
            warnings.warn(f"{where}, {message}; it can only be predicted.", LlmclsWarning, stacklevel=3)
            continue
        if split == "train" and given is None:
            names = [name for name in class_names_of(table, columns) if spellings.get(name, name) == name]
            everything = names or sorted({name for example in splits[split] for name in example.names})
            known = everything or None
        empty = not splits[split] and not found
        if split == "train" and choice.keep and everything:
            known = choice.resolve(everything, splits[split], spellings, where)
            others.update(name for name in everything if name not in known)
            if not choice.drop:
                splits[split], refused = refuse_others(splits[split], known)
                found += refused
        if choice.drop and known is not None:
            before = len(splits[split])
            splits[split], counts = keep_only(splits[split], known, columns.label_separator)
            others.update(counts)
            if counts:
                sentence = say_left_out(split, counts, before, len(splits[split]), columns.label_separator is not None)
                left_out[split] = sentence
                notes.append(sentence)
            if split == "train" and before and not splits[split]:
                problems.append(f"train: none of the {before} rows has one of the labels {', '.join(known[:10])}")
        if empty:
            problems.append(f"{split}: there are no rows, only column names")
        bad_rows |= bool(found)
        if skipped is None or not splits[split]:
            problems += map(str, found)
        elif found:
            skipped += found
            rows = len(splits[split]) + len(found)
            note = f"{split}: {len(found)} of {rows} rows cannot be used and are left out; the first is {found[0]}"
            notes.append(note)
            warnings.warn(f"{where}, {note}.", LlmclsWarning, stacklevel=3)
    if problems:
        lacking = columns.label_separator is None and any(
            problem.endswith((NO_LABEL, NOT_ONE_LABEL)) for problem in problems
        )
        hint = "\nWhere a text may have no label, or several, set task to multi_label." if lacking else ""
        if any(" known labels" in problem for problem in problems):
            hint += "\nTo leave rows of other labels out, set data.other_labels to drop."
        if skipped is None and splits["train"] and bad_rows:
            hint += "\nTo train without the rows that cannot be used, set data.bad_rows to skip."
        raise LlmclsError(several(problems, f"{where} cannot be used") + hint)
    if given is not None:
        kept = given if not choice.keep else LabelSet(label for label in given if label.name in (known or ()))
        return _Read(splits, kept, left_out, tuple(sorted(others)))
    try:
        spelt = {name: aliases[name] for name in aliases if name not in others}
        return _Read(splits, LabelSet.from_names(known or (), aliases=spelt), left_out, tuple(sorted(others)))
    except LlmclsError as error:
        shown = " and ".join(f"'{name}'" for name in columns.label_columns)
        raise LlmclsError(f"In {where}, column {shown}: {error}") from error


def _all_unlabelled(examples: Sequence[Example], problems: Sequence[str]) -> bool:
    """Whether no row has a label; a multi-label row may have none, but hardly all of them."""
    missing = all(problem.endswith(NO_LABEL) for problem in problems)
    return bool(examples or problems) and missing and not any(example.names for example in examples)


def _size_notes(splits: Mapping[str, Sequence[Example]], sizes: Mapping[str, float | None]) -> list[str]:
    """Note, and warn of, sizes that cut nothing."""
    notes = [
        f"data.{split}_size {size} cuts nothing, for the data has a {split} split ({len(splits[split])} rows); leave "
        "it out"
        for split, size in sizes.items()
        if size and splits[split]
    ]
    for note in notes:
        warnings.warn(f"{note}.", LlmclsWarning, stacklevel=3)
    return notes


def _lack_notes(splits: Mapping[str, Sequence[Example]], sizes: Mapping[str, float | None]) -> list[str]:
    """Note what it means that a split has no rows."""
    notes = []
    if not splits["validation"] and sizes["validation"] == 0:
        notes.append("no validation split, and validation_size is 0: nothing tells when to stop")
    if not splits["test"]:
        falls = "evaluation falls on validation" if splits["validation"] else "there is nothing to evaluate on"
        notes.append(f"no test split: {falls}")
    return notes


def _label_notes(splits: Mapping[str, Sequence[Example]], labels: LabelSet) -> list[str]:
    seen = {name for example in splits["train"] for name in example.names}
    if never := [name for name in labels.names if name not in seen]:
        shown = ", ".join(never[:10]) + (f" and {len(never) - 10} more" if len(never) > 10 else "")
        return [f"labels without a training row: {shown}"]
    return []


def _look_alike_notes(labels: LabelSet) -> list[str]:
    """Note, and warn of, labels that are hardly told apart: most are one label in two spellings."""
    groups = look_alikes(labels.spellings)
    if not groups:
        return []
    listed = "; ".join(" and ".join(map(show, group)) for group in groups[:10])
    more = f"; and {len(groups) - 10} more" if len(groups) > 10 else ""
    note = (
        f"labels that look alike are learnt as different ones: {listed}{more}. Spell each one way, or make the others "
        "aliases of it in data.label_aliases"
    )
    warnings.warn(f"{note}.", LlmclsWarning, stacklevel=3)
    return [note]


def _doubt_separator(train: Sequence[Example], separator: str | None, where: str) -> None:
    """Warn of a multi-label task that no row needs: the separator is another one, or the task."""
    if separator is not None and all(len(example.names) < 2 for example in train):
        message = (
            f"{where}: task is multi_label, but no training row has two labels; check data.label_separator, which is "
            f"{separator!r}, or set task to single_label"
        )
        warnings.warn(f"{message}.", LlmclsWarning, stacklevel=3)


def _repetition_notes(splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """Note, and warn of, texts that come again where they make the figures dishonest or the lesson unclear."""
    notes = []
    label_of: dict[str, str | None] = {}
    ambiguous = set()
    for example in splits["train"]:
        if label_of.setdefault(example.text, example.label) != example.label:
            ambiguous.add(example.text)
    if ambiguous:
        counts = Counter(example.text in ambiguous for example in splits["train"])
        several_labels = splits["train"][0].labels is not None
        what, each = ("different labels", "the same labels") if several_labels else ("more than one label", "one label")
        notes.append(f"train: texts with {what}: {len(ambiguous)} ({counts[True]} rows); settle on {each} each")
    for split in ("validation", "test"):
        if repeated := sum(example.text in label_of for example in splits[split]):
            notes.append(
                f"{split}: {repeated} of {len(splits[split])} texts are in train, too, which makes its figures "
                "look better than they are; remove them on one side"
            )
    for note in notes:
        warnings.warn(note, LlmclsWarning, stacklevel=3)
    return notes
