"""The built-in dataset readers, one module each; the first that is meant for a specification reads it.

llmcls train --data tickets.csv        # or tickets/, tickets.parquet, hub:ag_news
"""

from __future__ import annotations

from llmcls import hookimpl
from llmcls.data.reader import DatasetReader
from llmcls.default_plugins.dataset_readers.delimited import CsvReader, TsvReader
from llmcls.default_plugins.dataset_readers.excel import ExcelReader
from llmcls.default_plugins.dataset_readers.folder import FolderReader
from llmcls.default_plugins.dataset_readers.hub import HubReader
from llmcls.default_plugins.dataset_readers.json_file import JsonReader
from llmcls.default_plugins.dataset_readers.json_lines import JsonLinesReader
from llmcls.default_plugins.dataset_readers.parquet import ParquetReader
from llmcls.default_plugins.dataset_readers.saved import SavedReader


@hookimpl
def register_dataset_readers() -> list[DatasetReader]:
    """The readers of files, folders and Hub data sets."""
    files = [CsvReader(), TsvReader(), JsonLinesReader(), JsonReader(), ParquetReader(), ExcelReader()]
    return [*files, SavedReader(), FolderReader(files), HubReader()]
