"""What the readers of single files share: choosing by suffix, opening (also .gz), one sentence for what fails.

class IniReader(FileReader):
    name, description, suffixes = "ini", "one section a row: `tickets.ini`", (".ini",)
    def table(self, path): ...
"""

from __future__ import annotations

import gzip
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from llmcls.data.paths import cannot_read, has_scheme, is_folder, require_file
from llmcls.data.reader import DatasetReader, Table
from llmcls.errors import LlmclsError


class FileReader(DatasetReader):
    """Reads one file, which is the train split; `suffixes` are the lower-case endings it is meant for."""

    suffixes: tuple[str, ...]

    def reads(self, spec: str) -> bool:
        """Whether the specification ends like this reader's files and is no folder, there or not."""
        return not has_scheme(spec) and spec.lower().endswith(self.suffixes) and not is_folder(spec)

    def read(self, spec: str) -> dict[str, Table]:
        """The file as `{"train": table}`."""
        return {"train": self.table(require_file(spec))}

    @abstractmethod
    def table(self, path: Path) -> Table:
        """The file's table, whose rows can be walked more than once.

        Raises:
            LlmclsError: when the file is empty or unreadable as a whole.
        """


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where it ends in .gz; what fails inside becomes an `LlmclsError`."""
    packed = path.suffix.lower() == ".gz"
    try:
        with cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LlmclsError(f"Cannot unpack '{path}': {error}; the file is damaged or not gzip at all.") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def show_bytes(line: bytes) -> str:
    """A line of a file as text without its end; bytes that are not UTF-8 are written as `\\xe9`."""
    return line.decode("utf-8", errors="backslashreplace").rstrip("\r\n")


def refuse_wide_encoding(head: bytes, path: Path) -> None:
    """Say it when a file is UTF-16 or UTF-32: every row would fail, and none would say why.

    Raises:
        LlmclsError: when `head`, the first bytes, start with the mark of one.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        raise LlmclsError(f"'{path}' is encoded as UTF-16 or UTF-32; save it as UTF-8.")
