"""The formats that predictions are written in, chosen by the file's ending, and the rows as each of them has them.

    format_of("out.tsv.gz")                             # OutputFormat("tsv", packed=True)
    writer = RowWriter(stream, columns, as_json=False, warn=reporter.warn, separator="|")
    format_of("out.parquet").complete(part, path, columns)

While a file grows it is text, which a killed program can go on with; .gz and Parquet are made of it at the end.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import IO, Any, Literal

from llmcls.errors import LlmclsError
from llmcls.figures import escaped, finite, to_json
from llmcls.files import replacing

FIGURES = {"probability": ".3f", "margin": ".3f", "label_mass": ".3g"}
"""Columns of figures, and how a table on the terminal shows them beside the label."""

ENDINGS: Mapping[str, Literal["csv", "tsv", "jsonl"]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class OutputFormat:
    """What a file of predictions holds.

    Attributes:
        kind: its rows' form.
        packed: whether it is gzip's.
    """

    kind: Literal["csv", "tsv", "jsonl", "parquet"]
    packed: bool = False

    @property
    def as_json(self) -> bool:
        """Whether rows are objects, with lists and numbers as such, while the file grows."""
        return self.kind in ("jsonl", "parquet")

    @property
    def delimiter(self) -> str:
        """What stands between two cells."""
        return "\t" if self.kind == "tsv" else ","

    def complete(self, part: Path, path: Path, columns: Sequence[str]) -> None:
        """Turn the text that has grown into the file of that name, whole or not at all.

        Raises:
            OSError: when the system refuses; the text is then as it was.
        """
        if not self.packed and self.kind != "parquet":
            part.replace(path)
            return
        with replacing(path, held=True, binary=True) as target:
            if self.packed:
                # Neither name nor time: the same predictions are the same bytes.
                with part.open("rb") as rows, gzip.GzipFile("", "wb", fileobj=target, mtime=0) as packing:
                    shutil.copyfileobj(rows, packing)
            else:
                _write_parquet(part, target, columns)
        part.unlink()


def format_of(path: str | Path, as_json: bool = False) -> OutputFormat:
    """The format that a file's ending names, in any case; without an ending CSV, or JSON lines where asked for.

    Raises:
        LlmclsError: for an ending that names none of them.
    """
    name = Path(path).name.lower()
    packed = name.endswith(".gz")
    bare = name.removesuffix(".gz")
    for ending, kind in ENDINGS.items():
        if bare.endswith(ending):
            return OutputFormat(kind, packed)
    if bare.endswith(".parquet") and not packed:
        return OutputFormat("parquet")
    if "." in name:
        raise LlmclsError(
            f"'{path}' ends in none of the formats that predictions are written in; name it "
            f"{', '.join(ENDINGS)} (each also with .gz) or .parquet."
        )
    return OutputFormat("jsonl" if as_json else "csv")


class RowWriter:
    """Writes rows as delimited cells under a header, or as JSON lines.

    Args:
        stream: where they go.
        columns: the header.
        as_json: JSON lines, which have a row's own keys instead of columns.
        warn: told once of keys that the header has no column for.
        delimiter: what stands between two cells.
        separator: what stands between the labels of a cell with several; None: other lists are written as JSON.
        escape_formulas: put an apostrophe before text that a spreadsheet would compute (`escaped`); of no meaning to
            JSON.
    """

    def __init__(
        self,
        stream: IO[str],
        columns: Sequence[str],
        as_json: bool,
        warn: Callable[[str], None],
        *,
        delimiter: str = ",",
        separator: str | None = None,
        escape_formulas: bool = False,
    ) -> None:
        self._escape = escape_formulas
        self._stream = stream
        self._columns = frozenset(columns)
        self._warn: Callable[[str], None] | None = warn
        self._separator = separator
        # QUOTE_NONNUMERIC: Python before 3.13 leaves a lone carriage return unquoted otherwise, which ends the row.
        self._csv = None if as_json else csv.DictWriter(
            stream, columns, extrasaction="ignore", quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n",
            delimiter=delimiter,
        )  # fmt: skip

    def write_header(self) -> None:
        """The column names, unless it is JSON."""
        if self._csv:
            self._csv.writerow({name: self._text(name) for name in self._csv.fieldnames})

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows."""
        for row in rows:
            if self._csv is None:
                self._stream.write(to_json(row) + "\n")
                continue
            if self._warn and (unknown := [name for name in row if name not in self._columns]):
                self._warn(
                    f"keys that the first rows do not have are left out of the CSV: {', '.join(unknown)}; "
                    "write .jsonl to keep all."
                )
                self._warn = None
            self._csv.writerow({name: self._text(_cell(value, self._separator)) for name, value in row.items()})

    def _text(self, cell: Any) -> Any:
        return escaped(cell) if self._escape else cell


def _cell(value: Any, separator: str | None) -> Any:
    """A value as a cell: labels joined as readers split them, other lists and mappings as JSON, the rest as it is."""
    value = finite(value.tolist() if hasattr(value, "tolist") else value)
    if not isinstance(value, list | dict | set):
        return value
    if separator is not None and isinstance(value, list) and all(_is_label(item, separator) for item in value):
        return separator.join(map(str, value))
    return to_json(value)


def _is_label(item: Any, separator: str) -> bool:
    """Whether an item of a joined list is read as the same again."""
    if isinstance(item, str):
        return bool(item.strip()) and separator not in item
    return isinstance(item, Integral) and not isinstance(item, bool)


def _write_parquet(rows: Path, target: IO[bytes], columns: Sequence[str]) -> None:
    """JSON lines as Parquet; a column of mixed values, or of mappings, is text, other values as JSON.

    Two walks, so that nothing grows with the rows: one for the columns' types, one for their values.
    """
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    types: dict[str, Any] = dict.fromkeys(columns, pyarrow.null())
    for batch in _batches(rows):
        for name in dict.fromkeys(key for row in batch for key in row):
            found = _type_of([row.get(name) for row in batch])
            types[name] = _common_type(types.get(name, pyarrow.null()), found)
    for name, kind in types.items():
        if pyarrow.types.is_null(kind):
            figure = name in FIGURES or name.startswith("p(")
            types[name] = pyarrow.float64() if figure else pyarrow.string()
    schema = pyarrow.schema(list(types.items()))
    with parquet.ParquetWriter(target, schema) as writer:
        for batch in _batches(rows):
            cells = [_column([row.get(name) for row in batch], kind) for name, kind in types.items()]
            writer.write_table(pyarrow.Table.from_arrays(cells, schema=schema))


def _batches(rows: Path) -> Iterator[list[dict[str, Any]]]:
    with rows.open(encoding="utf-8") as lines:
        while batch := [json.loads(line) for line in islice(lines, ROWS_AT_ONCE)]:
            yield batch


def _type_of(values: Sequence[Any]) -> Any:
    """The Arrow type that holds all of these values: a plain one, or a list of plain ones; else text."""
    import pyarrow

    try:
        kind = pyarrow.array(values).type
    except (pyarrow.ArrowException, OverflowError):
        return pyarrow.string()
    inner = kind.value_type if pyarrow.types.is_list(kind) else kind
    return pyarrow.string() if pyarrow.types.is_nested(inner) else kind


def _common_type(one: Any, other: Any) -> Any:
    import pyarrow

    schemas = [pyarrow.schema([("value", kind)]) for kind in (one, other)]
    try:
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field("value").type
    except pyarrow.ArrowException:
        return pyarrow.string()


def _column(values: Sequence[Any], kind: Any) -> Any:
    import pyarrow

    if pyarrow.types.is_string(kind):
        values = [value if value is None or isinstance(value, str) else to_json(value) for value in values]
    return pyarrow.array(values, type=kind)
