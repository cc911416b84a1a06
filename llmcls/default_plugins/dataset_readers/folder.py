"""Reads a folder that holds a file per split: train.csv, validation.jsonl (or val, valid, dev), test.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmcls.data.paths import cannot_read, is_folder, to_path
from llmcls.data.reader import SPLITS, DatasetReader, Table
from llmcls.data.split_names import standard_name, standard_splits
from llmcls.default_plugins.dataset_readers.files import FileReader
from llmcls.errors import LlmclsError


class FolderReader(DatasetReader):
    """Reads a folder of split files; `readers` are those of single files."""

    name = "folder"
    description = "a folder with train, validation (val, valid, dev) and test files of these formats: tickets/"

    def __init__(self, readers: Sequence[FileReader]) -> None:
        self._readers = readers

    def reads(self, spec: str) -> bool:
        """Whether the specification is a folder."""
        return is_folder(spec)

    def read(self, spec: str) -> dict[str, Table]:
        """One table per split file; other files are left alone."""
        folder = to_path(spec)
        try:
            names = sorted(path.name for path in folder.iterdir() if path.is_file())
        except OSError as error:
            raise cannot_read(folder, error) from error
        files: dict[str, Path] = {}
        for name in names:
            stem = self._stem(name)
            if stem is not None and standard_name(stem) in SPLITS:
                if stem in files:
                    raise LlmclsError(
                        f"Folder '{spec}' has two {standard_name(stem)} files, '{files[stem].name}' and '{name}'; "
                        "rename or remove one."
                    )
                files[stem] = folder / name
        if not files:
            suffixes = ", ".join(reader.suffixes[0] for reader in self._readers)
            listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise LlmclsError(
                f"Folder '{spec}' has no split files: it needs train, and may have validation and test, as {suffixes}; "
                f"it holds {listed or 'no files'}."
            )
        chosen = standard_splits(files, f"Folder '{spec}'")
        return {split: self._table(path) for split, path in chosen.items()}

    def _stem(self, name: str) -> str | None:
        """The file's name without the ending of a format that can be read; None for other files."""
        endings = [suffix for reader in self._readers for suffix in reader.suffixes if name.lower().endswith(suffix)]
        return name[: -max(map(len, endings))] if endings else None

    def _table(self, path: Path) -> Table:
        reader = next(reader for reader in self._readers if reader.reads(str(path)))
        return next(iter(reader.read(str(path)).values()))
