"""Reads a folder that holds a file per split: train.csv, validation.jsonl (or val, valid, dev), test.parquet.

A split may be cut into shards, as in a clone of a Hub data set: data/train-00000-of-00002.parquet and so on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from llmcls.data.paths import cannot_read, is_folder, to_path
from llmcls.data.reader import FIELDS_OF_FORMAT, SPLITS, DatasetReader, FileFormat, Row, Table
from llmcls.data.split_names import standard_name, standard_splits
from llmcls.default_plugins.dataset_readers.files import FileReader
from llmcls.errors import LlmclsError, several

# train-00000-of-00002, and train-00000-of-00002-a09b74b3ef9c3b56 of older clones
_SHARD = re.compile(r"(.+?)[-_.](\d+)-of-(\d+)(?:-[0-9a-f]{8,})?")


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The rows of all shards of a split, in order; can be walked as often as each of them."""

    tables: Sequence[Table]

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(table.rows for table in self.tables)


class FolderReader(DatasetReader):
    """Reads a folder of split files; `readers` are those of single files."""

    name = "folder"
    description = "a folder with train, validation (val, valid, dev) and test files of these formats: tickets/"

    takes = FIELDS_OF_FORMAT

    def __init__(self, readers: Sequence[FileReader]) -> None:
        self._readers = readers

    def reads(self, spec: str) -> bool:
        """Whether the specification is a folder."""
        return is_folder(spec)

    def read(self, spec: str) -> dict[str, Table]:
        """One table per split; other files are left alone."""
        return self.read_as(spec, FileFormat())

    def read_as(self, spec: str, form: FileFormat) -> dict[str, Table]:
        """`read`, of files in this format."""
        folder = to_path(spec)
        files = self._split_files(folder)
        if not files:
            # A clone of a Hub data set has its files in a folder below: `data`, or one a configuration.
            below = {path: found for path in _entries(folder) if path.is_dir() and (found := self._split_files(path))}
            if len(below) > 1:
                choices = ", ".join(f"'{path}'" for path in below)
                raise LlmclsError(f"Several folders in '{spec}' have split files; give one of them: {choices}.")
            files = next(iter(below.values()), {})
        if not files:
            suffixes = ", ".join(reader.suffixes[0] for reader in self._readers)
            names = [path.name for path in _entries(folder) if path.is_file()]
            listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise LlmclsError(
                f"Folder '{spec}' has no split files: it needs train, and may have validation and test, as {suffixes}; "
                f"it holds {listed or 'no files'}."
            )
        chosen = standard_splits(files, f"Folder '{spec}'")
        return {split: self._table(paths, form) for split, paths in chosen.items()}

    def _split_files(self, folder: Path) -> dict[str, list[Path]]:
        """The files of each split, in order; of a split that is not cut into shards there is one.

        Raises:
            LlmclsError: for splits with two files, and with shards that are missing or of two kinds.
        """
        found: dict[str, list[Path]] = defaultdict(list)
        shards: dict[str, dict[tuple[int, int], Path]] = defaultdict(dict)
        problems = []
        for path in _entries(folder):
            stem = self._stem(path.name)
            if stem is None or not path.is_file():
                continue
            shard = _SHARD.fullmatch(stem)
            split = shard[1] if shard else stem
            if standard_name(split) not in SPLITS:
                continue
            place = (int(shard[3]), int(shard[2])) if shard else (0, 0)
            other = shards[split].setdefault(place, path)
            if other != path or (0, 0) in shards[split].keys() - {place} or (not shard and len(shards[split]) > 1):
                other = next(each for each in shards[split].values() if each != path)
                raise LlmclsError(
                    f"Folder '{folder}' has two {standard_name(split)} files, '{other.name}' and '{path.name}'; "
                    "rename or remove one."
                )
            found[split].append(path)
        for split, places in shards.items():
            totals = {total for total, _ in places}
            missing = [at for total in totals for at in range(total) if (total, at) not in places]
            if totals == {0}:
                continue
            if len(totals) > 1:
                problems.append(f"{split} has shards of {' and of '.join(map(str, sorted(totals)))}; keep one set")
            elif missing:
                numbers = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
                problems.append(f"{split} has {len(places)} of {max(totals)} shards; copy the others, too: {numbers}")
            found[split] = [places[place] for place in sorted(places)]
        if problems:
            raise LlmclsError(several(problems, f"Folder '{folder}' is not complete"))
        return dict(found)

    def _stem(self, name: str) -> str | None:
        """The file's name without the ending of a format that can be read; None for other files."""
        endings = [suffix for reader in self._readers for suffix in reader.suffixes if name.lower().endswith(suffix)]
        return name[: -max(map(len, endings))] if endings else None

    def _table(self, paths: Sequence[Path], form: FileFormat) -> Table:
        tables = [self._read_file(path, form) for path in paths]
        first = tables[0]
        if len(tables) == 1:
            return first
        names: dict[str, Sequence[str]] = {}
        for path, table in zip(paths, tables, strict=True):
            if set(table.columns) != set(first.columns):
                raise LlmclsError(
                    f"'{path}' has the columns {', '.join(table.columns)}, but '{paths[0].name}' has "
                    f"{', '.join(first.columns)}; the shards of a split need the same ones."
                )
            _agree(names, table.class_names, path)
        return Table(first.columns, ShardRows(tables), names)

    def _read_file(self, path: Path, form: FileFormat) -> Table:
        reader = next(reader for reader in self._readers if reader.reads(str(path)))
        return reader.table_as(path, form)


def _agree(names: dict[str, Sequence[str]], found: Mapping[str, Sequence[str]], path: Path) -> None:
    for column, classes in found.items():
        if list(names.setdefault(column, classes)) != list(classes):
            raise LlmclsError(f"'{path}' has other class names in column '{column}' than the shards before it.")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise cannot_read(folder, error) from error
