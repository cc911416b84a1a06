"""Opens whatever the user calls data: the reader that is meant for a specification, or a Python object.

tables = open_tables("tickets/")        # {"train": Table, "test": Table}
open_tables(pandas_frame), open_tables({"train": "a.csv", "test": "b.csv"})
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path

from llmcls.data.objects import table_from_object, tables_from_object
from llmcls.data.paths import has_scheme, looks_like_path, no_such_path, path_exists
from llmcls.data.read_tables import check_tables
from llmcls.data.reader import FIELDS_OF_FORMAT, SPLITS, DatasetReader, FileFormat, Table, dataset_readers
from llmcls.data.split_names import standard_name, standard_splits
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.plugin.blame import ask
from llmcls.plugin.packages import packaged


def open_tables(
    data: object, catalog: Mapping[str, DatasetReader] | None = None, form: FileFormat | None = None
) -> dict[str, Table]:
    """One table per split, under the standard split names; a source without splits is the train split.

    Args:
        data: a specification for a reader, a path, or an object that `tables_from_object` takes; the values of
            a dict of splits may be specifications, too.
        catalog: the dataset readers by name; all that plugins registered when None.
        form: what files of text do not say of themselves.

    Raises:
        LlmclsError: when no reader is meant for it, or the source cannot be read.
    """
    if isinstance(data, str | PathLike):
        return _open_spec(str(fspath(data)), catalog, form)
    if (
        isinstance(data, Mapping)
        and any(isinstance(part, str | PathLike) for part in data.values())
        and _names_files(data)
    ):
        tables = {}
        for name, part in standard_splits(data, "The dict").items():
            tables[name] = (
                _open_single(part, catalog, form) if isinstance(part, str | PathLike) else table_from_object(part, name)
            )
        return tables
    return tables_from_object(data)


def choose_reader(spec: str, catalog: Mapping[str, DatasetReader] | None = None) -> DatasetReader:
    """The first reader that is meant for the specification.

    Raises:
        LlmclsError: when there is none, with what the readers can read, or because there is no such file.
    """
    readers = dataset_readers() if catalog is None else catalog
    for reader in readers.values():
        if ask(reader, "reads", spec, gives=object):
            return reader
    if said := packaged("data set", spec):
        raise LlmclsError(said)
    if looks_like_path(spec) and not path_exists(spec):
        raise LlmclsError(no_such_path(spec))
    known = "\n".join(f"  - {reader.name}: {reader.description}" for reader in readers.values())
    missing = "" if path_exists(spec) else f" There is no file or folder '{spec}' either."
    raise LlmclsError(f"No dataset reader is meant for '{spec}'.{missing} What can be read:\n{known or '  - nothing'}")


def warn_of_unused(data: object, catalog: Mapping[str, DatasetReader] | None, form: FileFormat | None) -> None:
    """Warn of a format that is named but that the reader of the data has no use for."""
    takes: tuple[str, ...] = ()
    if isinstance(data, str | PathLike):
        takes = choose_reader(str(fspath(data)), catalog).takes
    elif isinstance(data, Mapping):
        takes = FIELDS_OF_FORMAT  # of each split's own source
    if unused := [f"data.{name}" for name in (form.given if form else ()) if name not in takes]:
        warnings.warn(
            f"{describe(data)} is read without {' and '.join(unused)}, which it has no use for; leave it out.",
            LlmclsWarning,
            stacklevel=4,
        )


def describe(data: object) -> str:
    """What to call data in messages."""
    return f"'{fspath(data)}'" if isinstance(data, str | PathLike) else f"the {type(data).__name__}"


def _names_files(data: Mapping[object, object]) -> bool:
    """Whether a dict holds specifications, not the cells of a row: one of a split, or of what may be a source."""
    return any(isinstance(name, str) and standard_name(name) in SPLITS for name in data) or all(
        has_scheme(part) or looks_like_path(part) or path_exists(part)
        for part in data.values()
        if isinstance(part, str)
    )


def _open_spec(spec: str, catalog: Mapping[str, DatasetReader] | None, form: FileFormat | None) -> dict[str, Table]:
    reader = choose_reader(spec, catalog)
    tables = ask(reader, "read_as", spec, form or FileFormat(), gives=Mapping)
    return standard_splits(check_tables(reader, tables), f"'{spec}'")


def _open_single(
    part: str | PathLike[str], catalog: Mapping[str, DatasetReader] | None, form: FileFormat | None
) -> Table:
    tables = _open_spec(str(fspath(part)), catalog, form)
    if len(tables) != 1:
        raise LlmclsError(f"'{Path(part)}' holds the splits {', '.join(tables)}; give the file of one split.")
    return next(iter(tables.values()))
