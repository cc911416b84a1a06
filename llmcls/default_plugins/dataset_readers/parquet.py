"""Reads .parquet in batches of rows, with the class names that `datasets` leaves in the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcls.data.columns import check_header
from llmcls.data.paths import cannot_read
from llmcls.data.reader import Row, Table
from llmcls.default_plugins.dataset_readers.files import FileReader
from llmcls.errors import LlmclsError

ROWS_PER_BATCH = 1000

LONGEST_CELL = 16 * 1024 * 1024
"""Characters of a cell, as of a cell of a .csv file."""

LONG = 100_000
"""Characters of a cell from which on rows are taken one by one."""

_TEXTS = {"string", "large_string", "binary", "large_binary"}


class ParquetReader(FileReader):
    """Reads Parquet files."""

    name = "parquet"
    description = "Apache Parquet: tickets.parquet"
    suffixes = (".parquet",)

    def table(self, path: Path) -> Table:
        """The file's table; the source of a row is its number: `tickets.parquet:row 1`."""
        with _explained(path):
            from pyarrow import parquet  # type: ignore[import-untyped]

            with parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
        check_header(schema.names, f"'{path}'")
        return Table(list(schema.names), ParquetRows(path), _class_names(schema.metadata or {}, path))


@dataclass(frozen=True, slots=True)
class ParquetRows:
    """The rows of a Parquet file, one batch in memory at a time; can be walked more than once."""

    path: Path

    def __iter__(self) -> Iterator[Row]:
        with _explained(self.path):
            from pyarrow import parquet

            number = 0
            with parquet.ParquetFile(self.path) as file:
                texts = [each.name for each in file.schema_arrow if str(each.type) in _TEXTS]
            # As they are stored: a text of 50 MB that a thousand rows share is one text, and not 50 GB.
            with parquet.ParquetFile(self.path, read_dictionary=texts) as file:
                for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                    for values, too_long in _walk(batch):
                        number += 1
                        yield Row(values, f"{self.path.name}:row {number}", too_long)

    def __len__(self) -> int:
        with _explained(self.path):
            from pyarrow import parquet

            return int(parquet.read_metadata(self.path).num_rows)


def _walk(batch: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The rows of a batch, and what is wrong with one that has a text too long to be read."""
    from pyarrow import compute

    long = [
        name
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if hasattr(column, "dictionary") and (compute.max(compute.binary_length(column.dictionary)).as_py() or 0) > LONG
    ]
    if not long:
        yield from ((values, None) for values in batch.to_pylist())
        return
    for place in range(batch.num_rows):
        (values,) = batch.slice(place, 1).to_pylist()
        wide = [name for name in long if values[name] is not None and len(values[name]) > LONGEST_CELL]
        if wide:
            yield {}, f"column '{wide[0]}' holds more than {LONGEST_CELL:,} characters; cut its text"
        else:
            yield values, None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into one sentence."""
    try:
        yield
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, NotImplementedError) as error:  # the bases of pyarrow's own exceptions for bad content
        reason = str(error).split("\n")[0].rstrip(".")
        raise LlmclsError(f"'{path}' is no Parquet file, or a damaged one: {reason}.") from error


def _class_names(metadata: Mapping[bytes, bytes], path: Path) -> dict[str, tuple[str, ...]]:
    """The names of `ClassLabel` columns and lists of them, as `datasets.Dataset.to_parquet` writes them."""
    found = {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        for column, feature in features.items():
            inner = feature.get("feature", feature) if isinstance(feature, dict) else None
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
                names = inner["names"]
                if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
                    raise ValueError(f"the class names of column {column!r} are not a list of texts")
                found[column] = tuple(names)
    except (ValueError, AttributeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise LlmclsError(
            f"'{path}' has class names in its metadata (huggingface) that cannot be read: {reason[:200]}; write the "
            "file again, or save it as .csv."
        ) from error
    return found
