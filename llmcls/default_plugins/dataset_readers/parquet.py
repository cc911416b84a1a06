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
        return Table(list(schema.names), ParquetRows(path), _class_names(schema.metadata or {}))


@dataclass(frozen=True, slots=True)
class ParquetRows:
    """The rows of a Parquet file, one batch in memory at a time; can be walked more than once."""

    path: Path

    def __iter__(self) -> Iterator[Row]:
        with _explained(self.path):
            from pyarrow import parquet

            number = 0
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(values, f"{self.path.name}:row {number}")

    def __len__(self) -> int:
        with _explained(self.path):
            from pyarrow import parquet

            return int(parquet.read_metadata(self.path).num_rows)


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


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The names of `ClassLabel` columns and lists of them, as `datasets.Dataset.to_parquet` writes them."""
    features: Any = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else None
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = tuple(inner["names"])
    return found
