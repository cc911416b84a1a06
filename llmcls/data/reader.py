"""The dataset-reader contract: a specification such as `tickets.csv` or `hub:ag_news` becomes tables of rows.

    for split, table in reader.read("tickets/").items():
        for row in table.rows: ...

A reader only delivers rows; which columns hold text and label, and what is wrong with a row, is decided in one
place for all readers: `llmcls.data.examples`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import pluggy

from llmcls.plugin.catalog import Catalog
from llmcls.plugin.manager import load_plugins

if TYPE_CHECKING:
    from llmcls.settings import DataSettings

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What a file of text does not say of itself, from the settings of the same names in `data`.

    Attributes:
        delimiter: what stands between cells; None: what the name of the file says, or else its header.
        encoding: how characters are written as bytes; None: as UTF-8.
        quoting: whether quotation marks quote cells (`quoted`), are text (`plain`), or the file decides (`auto`).
    """

    delimiter: str | None = None
    encoding: str | None = None
    quoting: str = "auto"

    @classmethod
    def of(cls, settings: DataSettings) -> FileFormat:
        """The format that the settings name."""
        return cls(**{name: getattr(settings, name) for name in FIELDS_OF_FORMAT})

    @property
    def given(self) -> list[str]:
        """The names of what is not left to the file."""
        return [name for name in FIELDS_OF_FORMAT if getattr(self, name) != getattr(FileFormat(), name)]

    def beside(self, other: FileFormat) -> FileFormat:
        """What this one says and the other one does not; all else is left to the file."""
        return FileFormat(**{n: getattr(self, n) for n in self.given if getattr(self, n) != getattr(other, n)})


FIELDS_OF_FORMAT = tuple(each.name for each in fields(FileFormat))


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row: values by column as the source has them, and where it stands (`train.csv:17`).

    `problem` is set instead of usable values when the row could not be read (undecodable bytes, a quote that is
    never closed, broken JSON); it is one sentence, and `raw` is then the row as it stands in the source, as far as
    that can be shown as text.
    """

    values: Mapping[str, Any]
    source: str
    problem: str | None = None
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one split.

    Attributes:
        columns: column names in order.
        rows: the rows; may be a one-pass iterator, so that files of any size can be predicted. `llmcls predict` walks
            them in another thread than the one that opened the table, so what only one thread may use (a connection of
            sqlite3) is to be opened where the rows are made.
        class_names: for columns that hold integer classes, their names: `{"label": ("World", "Sports")}`.
    """

    columns: Sequence[str]
    rows: Iterable[Row]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


class DatasetReader(ABC):
    """Reads one kind of data specification.

    Attributes:
        name: what `llmcls readers` lists and messages say.
        description: one line: what it reads, with an example specification.
        takes: the fields of a `FileFormat` that `read_as` makes use of.
    """

    name: str
    description: str
    takes: tuple[str, ...] = ()

    @abstractmethod
    def reads(self, spec: str) -> bool:
        """Whether this reader is meant for the specification; must be cheap and raise nothing."""

    @abstractmethod
    def read(self, spec: str) -> Mapping[str, Table]:
        """Open the specification: one table per split it has.

        A source without splits is returned as `{"train": table}`.

        Raises:
            LlmclsError: when the source is missing, empty or unreadable as a whole.
        """

    def read_as(self, spec: str, form: FileFormat) -> Mapping[str, Table]:
        """`read`, in the format that the settings name; a reader whose sources say all of it has no use for it."""
        return self.read(spec)


def dataset_readers(manager: pluggy.PluginManager | None = None) -> Catalog[DatasetReader]:
    """Every registered dataset reader by name; those of `manager`, or of all installed plugins."""
    return Catalog(manager or load_plugins(), "register_dataset_readers", "dataset reader", DatasetReader)
