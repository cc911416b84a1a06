"""What the readers of single files share: choosing by suffix, opening (also .gz), one sentence for what fails.

class IniReader(FileReader):
    name, description, suffixes = "ini", "one section a row: `tickets.ini`", (".ini",)
    def table(self, path): ...
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, AnyStr, cast

from llmcls.data.paths import cannot_read, has_scheme, is_folder, require_file
from llmcls.data.reader import DatasetReader, FileFormat, Table
from llmcls.errors import LlmclsError

# Byte-order marks, and Latin letters without one: each has zeros beside it.
_WIDE = [
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (b"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe|\xfe\xff", "utf-16"),
        (b"[^\x00]\x00[^\x00]\x00", "utf-16-le"),
        (b"\x00[^\x00]\x00[^\x00]", "utf-16-be"),
    )
]


LONGEST_LINE = 32 * 1024 * 1024
"""Bytes, or characters, of a line of a file; a packed file of a megabyte may unpack to a line of a gigabyte."""

TOO_LONG = f"the line is longer than {LONGEST_LINE:,} characters; cut its text"

_SHOWN_OF_LONG = 1000


def read_line(file: IO[AnyStr]) -> tuple[AnyStr, bool]:
    """The next line of a file, and whether it is longer than `LONGEST_LINE`: then it is only the beginning.

    A long line is read to its end, and its rest is dropped. At the end of the file the line is empty.
    """
    line = file.readline(LONGEST_LINE)
    if len(line) < LONGEST_LINE or _ends(line):
        return line, False
    while (rest := file.readline(1 << 20)) and not _ends(rest):
        pass
    return line[:_SHOWN_OF_LONG], True


def _ends(line: str | bytes) -> bool:
    return line[-1:] in ("\n", "\r", b"\n", b"\r")


class FileReader(DatasetReader):
    """Reads one file, which is the train split; `suffixes` are the lower-case endings it is meant for."""

    suffixes: tuple[str, ...]

    def reads(self, spec: str) -> bool:
        """Whether the specification ends like this reader's files and is no folder, there or not."""
        return not has_scheme(spec) and spec.lower().endswith(self.suffixes) and not is_folder(spec)

    def read(self, spec: str) -> dict[str, Table]:
        """The file as `{"train": table}`."""
        return self.read_as(spec, FileFormat())

    def read_as(self, spec: str, form: FileFormat) -> dict[str, Table]:
        """The file, written in this format, as `{"train": table}`."""
        return {"train": self.table_as(require_file(spec), form)}

    def table_as(self, path: Path, form: FileFormat) -> Table:
        """`table` of a file in this format; of use only to formats that do not say it themselves."""
        return self.table(path)

    @abstractmethod
    def table(self, path: Path) -> Table:
        """The file's table, whose rows can be walked more than once.

        Raises:
            LlmclsError: when the file is empty or unreadable as a whole.
        """


def read_whole(path: Path, limit: int, remedy: str) -> bytes:
    """All bytes of a file, unpacked where it ends in .gz.

    Args:
        path: the file.
        limit: bytes that it may have.
        remedy: what to do with a larger one.

    Raises:
        LlmclsError: when it is larger, or cannot be read.
    """
    with opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise LlmclsError(f"'{path}' is larger than {limit / 2**20:g} MiB and would be read as a whole; {remedy}.")
    return content


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
    except UnicodeError as error:
        raise LlmclsError(f"Cannot read '{path}': {error}; set data.encoding to the encoding it has.") from error


def not_decoded(byte: int, encoding: str | None, where: str = "") -> str:
    """The problem of a byte that the encoding does not have; that of Windows is by far the likeliest other one."""
    if encoding is not None:
        return f"the byte 0x{byte:02X} is not {encoding}{where}; set data.encoding to the encoding that the file has"
    likely = ", probably to cp1252" if bytes([byte]).decode("cp1252", errors="ignore") else ""
    return f"the byte 0x{byte:02X} is not UTF-8{where}; save the file as UTF-8, or set data.encoding{likely}"


def show_bytes(line: bytes) -> str:
    """A line of a file as text without its end; bytes that are not UTF-8 are written as `\\xe9`."""
    return line.decode("utf-8", errors="backslashreplace").rstrip("\r\n")


def refuse_wide_encoding(head: bytes, path: Path, encoding: str | None = None) -> None:
    """Say it when a file is UTF-16 or UTF-32: every row would fail, and none would say why.

    Raises:
        LlmclsError: when `head`, the first four bytes, shows one, and `encoding` is another.
    """
    found = next((name for mark, name in _WIDE if mark.match(head)), None)
    if found and not (encoding and codecs.lookup(encoding).name.startswith(found[:6])):
        raise LlmclsError(f"'{path}' is encoded as {found.upper()}; save it as UTF-8, or set data.encoding to {found}.")
