"""Reads .jsonl and .ndjson, a line at a time: one JSON object a line, UTF-8."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from llmcls.data.columns import check_header
from llmcls.data.reader import FileFormat, Row, Table
from llmcls.default_plugins.dataset_readers.files import (
    TOO_LONG,
    FileReader,
    not_decoded,
    opened,
    read_line,
    refuse_wide_encoding,
    show_bytes,
)
from llmcls.errors import LlmclsError

# Objects may leave keys out, and the columns must be known before the first row is handed over.
ROWS_FOR_COLUMNS = 1000


class JsonLinesReader(FileReader):
    """Reads JSON lines."""

    name = "jsonl"
    description = "one JSON object a line, UTF-8: tickets.jsonl, tickets.ndjson, tickets.jsonl.gz"
    suffixes = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")

    takes = ("encoding",)

    def table(self, path: Path) -> Table:
        """The file's table, in UTF-8."""
        return self.table_as(path, FileFormat())

    def table_as(self, path: Path, form: FileFormat) -> Table:
        """The file's table; its columns are the keys of the first 1,000 objects."""
        with opened(path) as file:
            refuse_wide_encoding(file.read(4), path, form.encoding)
        rows = JsonRows(path, form.encoding)
        head = list(islice(rows, ROWS_FOR_COLUMNS))
        if not head:
            raise LlmclsError(f"'{path}' is empty; it needs one JSON object a line.")
        columns = list(dict.fromkeys(key for row in head for key in row.values))
        if not columns:
            if head[0].problem is None:
                raise LlmclsError(f"The objects of '{path}' are empty; each needs keys, such as text and label.")
            raise LlmclsError(
                f"None of the first {len(head)} lines of '{path}' can be used; {head[0].source}: {head[0].problem}."
            )
        check_header(columns, f"'{path}'")
        return Table(columns, rows)


@dataclass(frozen=True, slots=True)
class JsonRows:
    """The rows of a JSON-lines file in constant memory; can be walked more than once."""

    path: Path
    encoding: str | None = None

    def __iter__(self) -> Iterator[Row]:
        with opened(self.path) as file:
            for number, (line, too_long) in enumerate(_lines(file, self.encoding), 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                source = f"{self.path.name}:{number}"
                if too_long:
                    yield Row({}, source, TOO_LONG, f"{show_bytes(line)} ...")
                elif line.strip():
                    yield _read_line(line, source, self.encoding)


def _lines(file: IO[bytes], encoding: str | None) -> Iterator[tuple[bytes, bool]]:
    """The lines in UTF-8, and whether each is too long; bytes that the encoding does not have stay as they are."""
    if encoding is None:
        while (found := read_line(file))[0]:
            yield found
    else:
        decoded = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="\n")
        try:
            while (read := read_line(decoded))[0]:
                yield read[0].encode("utf-8", errors="surrogateescape"), read[1]
        finally:
            decoded.detach()  # whoever opened the file closes it


def _read_line(line: bytes, source: str, encoding: str | None = None) -> Row:
    def unusable(problem: str) -> Row:
        return Row({}, source, problem, show_bytes(line))

    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return unusable(not_decoded(line[error.start], encoding))
    except json.JSONDecodeError as error:
        return unusable(f"the line is no JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        return unusable(f"the line is no usable JSON: {error}")
    if not isinstance(values, dict):
        kind = {"list": "list", "str": "string", "NoneType": "null"}.get(type(values).__name__, "number or truth value")
        return unusable(f'the line holds a JSON {kind}; each line needs an object like {{"text": ...}}')
    return Row(values, source)
