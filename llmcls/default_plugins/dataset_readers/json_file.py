"""Reads .json as a whole: a list of objects, alone or under a key, a dict of columns, or either for each split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcls.data.objects import tables_from_object
from llmcls.data.paths import require_file
from llmcls.data.reader import FileFormat, Row, Table
from llmcls.default_plugins.dataset_readers.files import FileReader, read_whole, refuse_wide_encoding
from llmcls.default_plugins.dataset_readers.json_lines import JsonLinesReader
from llmcls.errors import LlmclsError

LARGEST = 512 * 1024 * 1024
"""Bytes of a file, which is read as a whole and takes ten times its size in memory."""

# Where exports put their rows: {"data": [{...}, {...}]}
_KEYS = ("data", "rows", "examples", "records", "items")


@dataclass(frozen=True, slots=True)
class NamedRows:
    """Rows whose source begins with the name of their file."""

    rows: Iterable[Row]
    name: str

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            yield replace(row, source=f"{self.name}:{row.source.partition(':')[2]}")


class JsonReader(FileReader):
    """Reads JSON files."""

    name = "json"
    description = 'a JSON list of objects, also as {"data": [...]}, UTF-8: tickets.json, tickets.json.gz'
    suffixes = (".json", ".json.gz")
    takes = ("encoding",)

    def read_as(self, spec: str, form: FileFormat) -> dict[str, Table]:
        """The file's splits where it has some; else it is the train split."""
        path = require_file(spec)
        data = _load(path, form.encoding)
        if data is None:
            return {"train": JsonLinesReader().table_as(path, form)}
        try:
            tables = tables_from_object(data)
        except LlmclsError as error:
            raise LlmclsError(f"In '{path}': {error}") from error
        names = {split: path.name if len(tables) == 1 else f"{path.name}:{split}" for split in tables}
        return {split: replace(table, rows=NamedRows(table.rows, names[split])) for split, table in tables.items()}

    def table(self, path: Path) -> Table:
        """The table of a file without splits."""
        return self.table_as(path, FileFormat())

    def table_as(self, path: Path, form: FileFormat) -> Table:
        """`table`, of a file in this encoding."""
        tables = self.read_as(str(path), form)
        if len(tables) > 1:
            raise LlmclsError(f"'{path}' holds the splits {', '.join(tables)}; give the file itself.")
        return next(iter(tables.values()))


def _load(path: Path, encoding: str | None) -> Any:
    """What the file holds, out of its wrapping; None where it holds an object a line.

    Raises:
        LlmclsError: when it is empty or no JSON.
    """
    content = read_whole(path, LARGEST, "write one object a line, as .jsonl, which is read a line at a time")
    refuse_wide_encoding(content[:4], path, encoding)
    try:
        text = content.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        raise LlmclsError(
            f"'{path}' is not {encoding or 'UTF-8'} (byte {error.start:,}); save it as UTF-8, or set data.encoding."
        ) from error
    if not text.strip():
        raise LlmclsError(f"'{path}' is empty; it needs a list of objects such as [{{\"text\": ...}}].")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return None
        raise LlmclsError(f"'{path}' is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise LlmclsError(f"'{path}' is not usable JSON: {error}.") from error
    if isinstance(data, Mapping):
        lists = [key for key, part in data.items() if isinstance(part, list) and _holds_objects(part)]
        if len(lists) == 1 and (lists[0] in _KEYS or len(data) == 1) and lists[0] not in {"train"}:
            return data[lists[0]]
        if not lists and all(isinstance(part, str | int | float | bool | None) for part in data.values()):
            return [data]  # the one line of JSON lines
    if not isinstance(data, list | dict):
        raise LlmclsError(f"'{path}' holds a JSON {type(data).__name__}; it needs a list of objects.")
    return data


def _holds_objects(part: list[Any]) -> bool:
    return any(isinstance(row, Mapping) for row in part)
