"""Loads one split: for prediction, a row at a time from files of any size; for evaluation, all rows, checked.

for row in load_examples("new_tickets.csv", text_columns=["body"]).rows(): ...
examples = load_labelled("tickets/", split="test", labels=labels)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from llmcls.data.columns import Columns, choose_columns
from llmcls.data.examples import BadRow as BadRow
from llmcls.data.examples import example_maker, make_examples, set_aside
from llmcls.data.examples import show_values as show_values
from llmcls.data.kept import keep_only, say_left_out
from llmcls.data.reader import DatasetReader, FileFormat, Table
from llmcls.data.sources import describe, open_tables
from llmcls.data.split_names import standard_name
from llmcls.errors import LlmclsError, several, unknown
from llmcls.labels import LabelSet
from llmcls.records import Example


class GoodRow(NamedTuple):
    """An example with its row's values as the source has them, to write them out beside the prediction."""

    values: Mapping[str, Any]
    example: Example


@dataclass(frozen=True, slots=True)
class ExampleStream:
    """Examples, made as they are asked for; can be walked as often as its source can.

    Attributes:
        table: the raw rows, with `table.columns` in order.
        columns: the columns that were chosen.
    """

    table: Table
    columns: Columns

    def __iter__(self) -> Iterator[Example]:
        for row in self.rows():
            if isinstance(row, BadRow):
                raise LlmclsError(f"A row cannot be used: {row}.")
            yield row.example

    def rows(self, start: int = 0) -> Iterator[GoodRow | BadRow]:
        """Every row from the one at `start` on, in the order of the source."""
        make = example_maker(self.table, self.columns, require_labels=False)
        for row in islice(self.table.rows, start, None):
            made = make(row)
            if isinstance(made, Example):
                yield GoodRow(row.values, made)
            else:
                yield set_aside(row, made)

    def count(self) -> int | None:
        """The number of rows, usable or not, from reading all of them once; None where that is possible only once."""
        if isinstance(self.table.rows, Sized):
            return len(self.table.rows)
        if isinstance(self.table.rows, Iterator):
            return None
        return sum(1 for _ in self.table.rows)


def load_examples(
    data: object,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | Sequence[str] | None = None,
    label_separator: str | None = None,
    split: str | None = None,
    catalog: Mapping[str, DatasetReader] | None = None,
    form: FileFormat | None = None,
) -> ExampleStream:
    """Open one split for prediction, lazily; rows need neither label nor text.

    Args:
        data: a specification, a path, or a Python object; see `llmcls.data.sources.open_tables`.
        text_columns: the columns that hold the text; empty to guess one.
        label_column: read where the data has it (all of several), so that a prediction can be compared; never needed.
        label_separator: what stands between the labels of a row, which may have any number; None: it has one.
        split: which split; None where there is only one.
        catalog: the dataset readers by name; all that plugins registered when None.
        form: what files of text do not say of themselves.

    Raises:
        LlmclsError: for wrong columns and splits; while walking, for a row that cannot be used.
    """
    table = _one_table(data, split, catalog, form)
    columns = choose_columns(
        table.columns,
        text=text_columns,
        label=label_column,
        require_label=False,
        label_separator=label_separator,
        where=describe(data),
    )
    return ExampleStream(table, columns)


def load_labelled(
    data: object,
    *,
    labels: LabelSet,
    text_columns: Sequence[str] = (),
    label_column: str | Sequence[str] | None = None,
    label_separator: str | None = None,
    split: str | None = None,
    catalog: Mapping[str, DatasetReader] | None = None,
    form: FileFormat | None = None,
    order: Sequence[str] = (),
    drop_others: bool = False,
    notes: list[str] | None = None,
    tables: Mapping[str, Table] | None = None,
) -> list[Example]:
    """Read one split for evaluation: every row has a text and one of the labels, or with a separator any number.

    `order` has the labels as the user gave them, by which rows of zeros and ones are named; such are refused without.
    With `drop_others`, rows of other labels are left out, and `notes` gets one sentence that says how many.
    `tables` has the data where it is open already, so that it is not opened again.

    Raises:
        LlmclsError: for wrong columns and splits, no rows, and bad rows: all of them at once, with file and line.
    """
    where = describe(data)
    table = _one_table(data, split, catalog, form, tables)
    columns = choose_columns(
        table.columns,
        text=text_columns,
        label=label_column,
        label_separator=label_separator,
        where=where,
        rows=table.rows,
    )
    examples, bad = make_examples(
        table,
        columns,
        require_labels=True,
        known_labels=None if drop_others else labels.names,
        spellings=labels.spellings,
        order=order,
    )
    if bad:
        raise LlmclsError(several([str(row) for row in bad], f"{where} cannot be used"))
    if not examples:
        raise LlmclsError(f"There are no rows in {where}.")
    if drop_others:
        before = len(examples)
        examples, others = keep_only(examples, labels.names, label_separator)
        if not examples:
            shown = ", ".join(labels.names[:10]) + (", ..." if len(labels) > 10 else "")
            raise LlmclsError(f"None of the {before} rows in {where} has one of the {len(labels)} labels: {shown}.")
        if others and notes is not None:
            notes.append(say_left_out(split or "data", others, before, len(examples), label_separator is not None))
    return examples


def _one_table(
    data: object,
    split: str | None,
    catalog: Mapping[str, DatasetReader] | None,
    form: FileFormat | None,
    tables: Mapping[str, Table] | None = None,
) -> Table:
    tables = open_tables(data, catalog, form) if tables is None else tables
    if split is not None:
        try:
            return tables[standard_name(split)]
        except KeyError:
            raise LlmclsError(f"In {describe(data)}: {unknown('split', split, tables)}") from None
    if len(tables) > 1:
        raise LlmclsError(f"There are several splits in {describe(data)}; name one of them: {', '.join(tables)}.")
    return next(iter(tables.values()))
