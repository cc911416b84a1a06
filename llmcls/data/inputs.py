"""Loads one split: for prediction, a row at a time from files of any size; for evaluation, all rows, checked.

for example in load_examples("new_tickets.csv", text_columns=["body"]): ...
examples = load_labelled("tickets/", split="test", labels=labels)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcls.data.columns import Columns, choose_columns
from llmcls.data.examples import example_maker, make_examples
from llmcls.data.reader import DatasetReader, Table
from llmcls.data.sources import describe, open_tables
from llmcls.data.split_names import standard_name
from llmcls.errors import LlmclsError, several, unknown
from llmcls.labels import LabelSet
from llmcls.records import Example


@dataclass(frozen=True, slots=True)
class ExampleStream:
    """Examples, made as they are asked for; can be walked as often as its source can.

    Attributes:
        table: the raw rows, with `table.columns` in order.
        columns: the columns that were chosen.
        on_problem: called with one sentence for each row that cannot be used, which is then skipped; None to raise.
    """

    table: Table
    columns: Columns
    on_problem: Callable[[str], None] | None = None

    def __iter__(self) -> Iterator[Example]:
        return (example for _, example in self.with_values())

    def with_values(self) -> Iterator[tuple[Mapping[str, Any], Example]]:
        """Each example with its row's values as the source has them, to write them out beside the prediction."""
        make = example_maker(self.table, self.columns, require_labels=False)
        for row in self.table.rows:
            made = make(row)
            if isinstance(made, Example):
                yield row.values, made
            elif self.on_problem is None:
                raise LlmclsError(f"A row cannot be used: {made}.")
            else:
                self.on_problem(made)


def load_examples(
    data: object,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    split: str | None = None,
    on_problem: Callable[[str], None] | None = None,
    catalog: Mapping[str, DatasetReader] | None = None,
) -> ExampleStream:
    """Open one split for prediction, lazily; rows need neither label nor text.

    Args:
        data: a specification, a path, or a Python object; see `llmcls.data.sources.open_tables`.
        text_columns: the columns that hold the text; empty to guess one.
        label_column: read where the data has it, so that a prediction can be compared; never needed.
        split: which split; None where there is only one.
        on_problem: see `ExampleStream`.
        catalog: the dataset readers by name; all that plugins registered when None.

    Raises:
        LlmclsError: for wrong columns and splits; while walking, for a row that cannot be used.
    """
    table = _one_table(data, split, catalog)
    columns = choose_columns(
        table.columns, text=text_columns, label=label_column, require_label=False, where=describe(data)
    )
    return ExampleStream(table, columns, on_problem)


def load_labelled(
    data: object,
    *,
    labels: LabelSet,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    split: str | None = None,
    catalog: Mapping[str, DatasetReader] | None = None,
) -> list[Example]:
    """Read one split for evaluation: every row has a text and one of the labels.

    Raises:
        LlmclsError: for wrong columns and splits, no rows, and bad rows: all of them at once, with file and line.
    """
    where = describe(data)
    table = _one_table(data, split, catalog)
    columns = choose_columns(table.columns, text=text_columns, label=label_column, where=where)
    examples, problems = make_examples(table, columns, require_labels=True, known_labels=labels.names)
    if problems:
        raise LlmclsError(several(problems, f"{where} cannot be used"))
    if not examples:
        raise LlmclsError(f"There are no rows in {where}.")
    return examples


def _one_table(data: object, split: str | None, catalog: Mapping[str, DatasetReader] | None) -> Table:
    tables = open_tables(data, catalog)
    if split is not None:
        try:
            return tables[standard_name(split)]
        except KeyError:
            raise LlmclsError(f"In {describe(data)}: {unknown('split', split, tables)}") from None
    if len(tables) > 1:
        raise LlmclsError(f"There are several splits in {describe(data)}; name one of them: {', '.join(tables)}.")
    return next(iter(tables.values()))
