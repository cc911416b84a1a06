"""Data that is already in Python: pandas frames, `datasets` objects, lists of dicts, dicts of columns or of splits.

    tables_from_object({"train": frame, "test": [{"text": "...", "label": "a"}]})

pandas and datasets are never imported here: an object of theirs proves that they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcls.data.columns import check_header
from llmcls.data.reader import SPLITS, Row, Table
from llmcls.data.split_names import standard_name, standard_splits
from llmcls.errors import LlmclsError


@dataclass(frozen=True, slots=True)
class ObjectRows:
    """The rows of an object that can be walked more than once; `source` is `train:row 1` and so on."""

    walk: Callable[[], Iterable[Any]]
    name: str

    def __iter__(self) -> Iterator[Row]:
        for number, values in enumerate(self.walk(), 1):
            source = f"{self.name}:row {number}"
            if isinstance(values, Mapping):
                yield Row(values, source)
            else:
                yield Row({}, source, f"the row is a {type(values).__name__}, not a dict of columns")


def tables_from_object(data: object) -> dict[str, Table]:
    """One table per split; an object without splits is the train split.

    Raises:
        LlmclsError: for objects of other kinds, objects without columns, and two objects for one split.
    """
    if not isinstance(data, Mapping):
        return {"train": table_from_object(data, "train")}
    if not any(isinstance(name, str) and standard_name(name) in SPLITS for name in data):
        return {"train": _from_columns(data, "train")}
    if odd := [name for name in data if not isinstance(name, str)]:
        raise LlmclsError(f"A dict of data has split names as keys, not {', '.join(map(repr, odd))}.")
    return {name: table_from_object(part, name) for name, part in standard_splits(data, "The dict").items()}


def _from_columns(data: Mapping[Any, Any], split: str) -> Table:
    """The table of a dict of columns, `{"text": [...], "label": [...]}`.

    Raises:
        LlmclsError: for any other dict without a single split name, saying what it looks like.
    """
    keys = ", ".join(map(repr, list(data)[:8])) + (", ..." if len(data) > 8 else "")
    wanted = "has splits as keys, {'train': ..., 'test': ...}, or columns, {'text': [...], 'label': [...]}"
    parts = list(data.values())
    if data and all(isinstance(part, Mapping) for part in parts):
        raise LlmclsError(
            f"A dict of data {wanted}, but this one holds a dict under each of its keys ({keys}), "
            "as DataFrame.to_dict() makes it; give the DataFrame itself, or a list of one dict a row."
        )
    if not data or not all(isinstance(name, str) for name in data):
        raise LlmclsError(f"A dict of data {wanted}; this one has {f'the keys {keys}' if data else 'no keys at all'}.")
    if all(part is None or isinstance(part, str | int | float) for part in parts):
        raise LlmclsError(
            f"A dict of data {wanted}; this one ({keys}) looks like a single row: give a list of such dicts."
        )
    columns = {}
    for name, part in data.items():
        cells = part.tolist() if hasattr(part, "tolist") else part
        if not isinstance(cells, Sequence) or isinstance(cells, str | bytes | bytearray) or _holds_rows(cells):
            raise LlmclsError(f"A dict of data {wanted}; this one has a {type(part).__name__} under the key {name!r}.")
        columns[name] = cells
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise LlmclsError(f"The columns of a dict are equally long, but {shown} values.")
    names = list(columns)
    check_header(names, "the dict")

    def walk() -> Iterator[dict[str, Any]]:
        for cells in zip(*columns.values(), strict=True):
            yield dict(zip(names, cells, strict=True))

    return Table(names, ObjectRows(walk, split))


def _holds_rows(cells: Sequence[Any]) -> bool:
    return bool(cells) and all(isinstance(cell, Mapping) for cell in cells)


def table_from_object(data: object, name: str) -> Table:
    """The table of one split.

    Args:
        data: a pandas `DataFrame`, a `datasets.Dataset`, or a sequence of dicts.
        name: what to call it in each row's source.

    Raises:
        LlmclsError: for objects of other kinds and objects without columns.
    """
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return _from_frame(data, name)
    if datasets is not None and isinstance(data, datasets.Dataset):
        return table_from_dataset(data, name)
    if isinstance(data, Mapping):
        return _from_columns(data, name)
    if isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray):
        columns = list(dict.fromkeys(str(key) for row in data if isinstance(row, Mapping) for key in row))
        if not columns:
            raise LlmclsError(f"The {name} data is a {type(data).__name__} without a single dict of columns in it.")
        return Table(columns, ObjectRows(lambda: data, name))
    raise LlmclsError(
        f"Cannot read data of type {type(data).__module__}.{type(data).__qualname__}; give a path or specification, "
        "a pandas DataFrame, a datasets Dataset or DatasetDict, a list of dicts, a dict of columns, or a dict of "
        "splits of these."
    )


def table_from_dataset(dataset: Any, name: str) -> Table:
    """The table of a `datasets.Dataset`, read in batches; `ClassLabel` columns bring their class names."""
    columns = list(dataset.column_names)
    check_header(columns, f"the {name} data")
    class_names = {}
    for column, feature in dataset.features.items():
        inner = getattr(feature, "feature", feature)  # of a list of classes
        if type(inner).__name__ == "ClassLabel" and inner.names:
            class_names[column] = tuple(inner.names)

    def walk() -> Iterator[dict[str, Any]]:
        for batch in dataset.with_format(None).iter(batch_size=1000):
            for cells in zip(*(batch[column] for column in columns), strict=True):
                yield dict(zip(columns, cells, strict=True))

    return Table(columns, ObjectRows(walk, name), class_names)


def _from_frame(frame: Any, name: str) -> Table:
    columns = [str(column) for column in frame.columns]
    check_header(columns, f"the {name} data")

    def walk() -> Iterator[dict[str, Any]]:
        for cells in frame.itertuples(index=False, name=None):
            yield dict(zip(columns, cells, strict=True))

    return Table(columns, ObjectRows(walk, name))
