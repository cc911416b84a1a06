"""What a prediction leaves beside its rows so that a killed program can go on: how far it came, and of what.

    journal = Journal(Path("out.csv.partial.json"))
    kept = journal.read()                                # None where it cannot be understood
    rows = DigestedFile(Path("out.csv.partial"), errors="replace")
rows.cut(kept.sizes[0])                              # goes on there
size, digest = rows.save()

A digest of the bytes tells rows that somebody has edited meanwhile from rows that were written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmcls.cli.predictions import Tally
from llmcls.files import find_json, flush, replacing

MARK = "journal of an unfinished prediction"
"""What `llmcls` says in a journal; those of older versions lack it, and have no digests."""

AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What the journal says.

    Attributes:
        tally: how far the attempt has come.
        sizes: the sizes of both files then, in bytes.
        digests: the SHA-256 of so many bytes of them; None where it is not known.
        identity: all that decides what is written; None for what cannot be gone on with.
    """

    tally: Tally = field(default_factory=Tally)
    sizes: tuple[int, int] = (0, 0)
    digests: tuple[str, str] | None = None
    identity: dict[str, Any] | None = None


class Journal:
    """The file `FILE.partial.json`.

    Args:
        path: its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kept: Kept) -> None:
        """Replace it, whole or not at all."""
        with replacing(self.path, held=True) as file:
            json.dump(
                {
                    "llmcls": MARK,
                    "tally": asdict(kept.tally),
                    "sizes": kept.sizes,
                    "digests": kept.digests,
                    "identity": kept.identity,
                },
                file,
                indent=1,
            )

    def read(self) -> Kept | None:
        """What it says, where that can be understood."""
        try:
            written = json.loads(self.path.read_text(encoding="utf-8"))
            rows, errors = written["sizes"]
            digests = written.get("digests")
            return Kept(
                Tally(**written["tally"]),
                (int(rows), int(errors)),
                None if digests is None else (str(digests[0]), str(digests[1])),
                None if written["identity"] is None else dict(written["identity"]),
            )
        except (ValueError, KeyError, TypeError, IndexError, OSError):
            return None

    def is_own(self) -> bool:
        """Whether the file is a journal at all: by its mark, or by what those of older versions hold."""
        content = find_json(self.path)
        if not isinstance(content, dict):
            return False
        return content.get("llmcls") == MARK or content.keys() == {"tally", "sizes", "identity"}


class DigestedFile(io.TextIOWrapper):
    """A text file that is appended to, and knows the digest of all that it holds.

    Args:
        path: the file; made where there is none.
        errors: what becomes of text that is not valid Unicode, as `open` takes it.
    """

    def __init__(self, path: Path, errors: str) -> None:
        self._raw = _Digesting(path, "a+b")
        super().__init__(io.BufferedWriter(self._raw), encoding="utf-8", errors=errors, newline="")

    def cut(self, size: int) -> None:
        """Keep the first so many bytes."""
        self.flush()
        self._raw.truncate(size)
        self._raw.digest = self._raw.digest_of(size)

    def save(self) -> tuple[int, str]:
        """Bring all that was written to the disk: the size, and the digest."""
        return flush(self), self._raw.digest.hexdigest()

    def digest_of(self, size: int) -> str:
        """The digest of the first so many bytes."""
        return str(self._raw.digest_of(size).hexdigest())


class _Digesting(io.FileIO):
    """Bytes that are digested as the system has taken them: a full disk may take a part."""

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.digest = hashlib.sha256()  # of an empty file; `cut` makes it that of a file that is gone on with

    def write(self, data: Any) -> int:
        written = super().write(data)
        self.digest.update(memoryview(data)[:written])
        return written

    def digest_of(self, size: int) -> Any:
        digest, left = hashlib.sha256(), size
        self.seek(0)
        while left and (piece := self.read(min(AT_ONCE, left))):
            digest.update(piece)
            left -= len(piece)
        self.seek(0, os.SEEK_END)  # what is written is appended wherever this is
        return digest
