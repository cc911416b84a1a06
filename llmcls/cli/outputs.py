"""Where predictions go: the standard output, or a file that a killed program can go on with.

    with FileOutput(Path("out.csv"), reporter) as output:      # out.csv.partial, locked
        tally = output.begin(columns, identity=identity)       # what an earlier attempt has left, or Tally()
        output.add(rows, bad, tally)                           # any number of times
        output.finish(tally)                                   # out.csv, and out.csv.errors.csv if there are any

`out.csv.partial.json` says how many rows and bytes are safe, and of which prediction. It is written after they are on
the disk, so whatever a killed process or a full disk left behind them is cut off by the next attempt.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple

from llmcls.cli.formats import FIGURES, RowWriter, format_of
from llmcls.cli.predictions import PROMPT, Tally
from llmcls.cli.shared import show, table
from llmcls.console import Reporter
from llmcls.data.inputs import BadRow
from llmcls.errors import LlmclsError
from llmcls.figures import finite
from llmcls.files import LockedError, draft_of, flush, flush_folder, locked, replacing

SAVE_EVERY = 1.0
"""Seconds between two saves at least: a save waits for the disk."""


class StandardOutput:
    """Predictions on the standard output, which cannot be gone on with; what is wrong with bad rows goes nowhere."""

    listing: Path | None = None

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def __enter__(self) -> StandardOutput:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(
        self, columns: Sequence[str], *, as_json: bool = False, separator: str | None = None, **_: object
    ) -> Tally:
        """Write the header; nothing is there yet."""
        self._writer = RowWriter(sys.stdout, columns, as_json, self._reporter.warn, separator=separator)
        self._writer.write_header()
        sys.stdout.flush()
        return Tally()

    def add(self, rows: Iterable[Mapping[str, Any]], bad: Sequence[BadRow], tally: Tally) -> None:
        """Write rows; who reads them may wait for each."""
        self._writer.write(rows)
        sys.stdout.flush()

    def finish(self, tally: Tally) -> None:
        """Nothing is left to do."""


class TableOutput(StandardOutput):
    """Predictions of a few texts as a table on the terminal."""

    def begin(self, columns: Sequence[str], **_: object) -> Tally:
        """Make the table."""
        self._figures = [name for name in FIGURES if name in columns]
        self._prompts = [name for name in (PROMPT,) if name in columns]
        self._table = table("", "text", "predicted", *self._figures, *self._prompts)
        return Tally()

    def add(self, rows: Iterable[Mapping[str, Any]], bad: Sequence[BadRow], tally: Tally) -> None:
        """Add rows to the table."""
        from rich.text import Text

        for row in rows:
            row = finite(row)
            values = ("–" if row[name] is None else format(row[name], FIGURES[name]) for name in self._figures)
            prompts = (Text(row[name]) for name in self._prompts)
            self._table.add_row(Text(row["text"]), Text(row["predicted"], style="bold"), *values, *prompts)

    def finish(self, tally: Tally) -> None:
        """Show it."""
        if self._table.row_count:
            show(self._table)


class FileOutput:
    """The two files of a prediction while they grow: rows, and what is wrong with bad rows.

    Args:
        path: the output's name when it is complete, whose ending is its format (`llmcls.cli.formats`);
            `PATH.errors.csv` is the other file's.
        reporter: hears what becomes of earlier attempts, and of this one if it fails.
        overwrite: whether files of these names may be replaced.
        source: the file or folder that is read, which never is.

    Attributes:
        listing: the other file.

    Raises:
        LlmclsError: from every method, when the disk, another prediction or other files are in the way.
    """

    def __init__(self, path: Path, reporter: Reporter, *, overwrite: bool = False, source: Path | None = None) -> None:
        self.path = path
        self.listing: Path | None = path.with_name(f"{path.name}.errors.csv")
        self._reporter = reporter
        self._overwrite, self._source = overwrite, source
        self._names = (path, self.listing)
        self._parts = tuple(name.with_name(f"{name.name}.partial") for name in self._names)
        self._journal = path.with_name(f"{path.name}.partial.json")
        self._identity: dict[str, Any] | None = None
        self._begun = False
        self._saved_at = 0.0
        self._lock = ExitStack()

    def __enter__(self) -> FileOutput:
        with self._explained():
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            rows, errors = self._parts
            self._claim()
            with ExitStack() as undone:
                undone.callback(self._lock.close)
                self._refuse_other_files()
                self._rows = rows.open("a", encoding="utf-8", errors="replace", newline="")
                self._errors = errors.open("a", encoding="utf-8", errors="backslashreplace", newline="")
                undone.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._journal.exists():
            for part in self._parts:  # while they are locked: they may be another prediction's afterwards
                with suppress(OSError):
                    part.unlink(missing_ok=True)
        elif kind is not None and self._begun and (kept := self._read_journal()) is not None:
            self._reporter.say(f"The same command will go on after row {kept.tally.rows:,}.")
        for stream in self._streams:
            with suppress(OSError):  # what a full disk did not take is not counted as safe
                stream.close()
        self._lock.close()

    def begin(
        self,
        columns: Sequence[str],
        *,
        as_json: bool = False,
        separator: str | None = None,
        identity: Mapping[str, Any] | None = None,
        resume: bool = True,
    ) -> Tally:
        """Go on from an earlier attempt, or begin anew.

        Args:
            columns: the header's columns.
            as_json: write JSON lines where the file has no ending.
            separator: see `RowWriter`.
            identity: all that decides what is written; None for what cannot be resumed.
            resume: False to begin anew in any case.

        Returns:
            What is there already.
        """
        self._identity = None if identity is None else json.loads(json.dumps(identity))
        kept = _Kept(Tally(), (0, 0), {})
        with self._explained():
            if self._journal.exists():
                found = self._read_journal()
                reason = self._judge(found) if resume else "--resume never"
                if found and not reason:
                    kept = found
                    self._reporter.say(f"Going on after row {kept.tally.rows:,} of an earlier attempt.")
                else:
                    self._reporter.warn(f"beginning anew, not using '{self._parts[0]}': {reason}.")
                    self._journal.unlink()
            for stream, size in zip(self._streams, kept.sizes, strict=True):
                stream.truncate(size)
            self._format, self._columns = format_of(self.path, as_json), columns
            self._writer = RowWriter(
                self._rows,
                columns,
                self._format.as_json,
                self._reporter.warn,
                delimiter=self._format.delimiter,
                separator=separator,
            )
            self._bad = csv.writer(self._errors, lineterminator="\n")
            if kept.tally.rows == 0:
                self._writer.write_header()
                self._bad.writerow(BadRow._fields)
        self._begun, self._saved_at = True, time.monotonic()
        return kept.tally

    def add(self, rows: Iterable[Mapping[str, Any]], bad: Sequence[BadRow], tally: Tally) -> None:
        """Write one batch; `tally` counts it and all before it."""
        with self._explained():
            self._writer.write(rows)
            self._bad.writerows(bad)
            if self._identity is not None and time.monotonic() - self._saved_at >= SAVE_EVERY:
                self._save(tally)

    def finish(self, tally: Tally) -> None:
        """Give the complete files their names; without bad rows there is no list of them, an old one neither."""
        with self._explained():
            for stream in self._streams:
                flush(stream)
            (rows, errors), (path, listing) = self._parts, self._names
            if tally.bad:
                errors.replace(listing)
            else:
                listing.unlink(missing_ok=True)
            self._format.complete(rows, path, self._columns)  # last: where it is, all is
            for leftover in (draft_of(self._journal), self._journal):
                leftover.unlink(missing_ok=True)
            flush_folder(self.path.parent)

    @property
    def _streams(self) -> tuple[IO[str], IO[str]]:
        return self._rows, self._errors

    def _save(self, tally: Tally) -> None:
        sizes = [flush(stream) for stream in self._streams]
        with replacing(self._journal, held=True) as journal:
            json.dump({"tally": asdict(tally), "sizes": sizes, "identity": self._identity}, journal, indent=1)
        self._saved_at = time.monotonic()

    def _read_journal(self) -> _Kept | None:
        try:
            written = json.loads(self._journal.read_text(encoding="utf-8"))
            rows, errors = written["sizes"]
            return _Kept(Tally(**written["tally"]), (int(rows), int(errors)), dict(written["identity"]))
        except (ValueError, KeyError, TypeError):
            return None

    def _judge(self, kept: _Kept | None) -> str:
        """Why an earlier attempt cannot be gone on with; "" when it can."""
        if kept is None:
            return "its state cannot be understood"
        then, now = kept.identity, self._identity or {}
        if changed := [name for name in then | now if then.get(name) != now.get(name)]:
            return f"it is of another prediction ({', '.join(changed)})"
        there = [os.fstat(stream.fileno()).st_size for stream in self._streams]
        if any(size > found for size, found in zip(kept.sizes, there, strict=True)):
            return "rows of it are missing"
        return ""

    def _claim(self) -> None:
        """Hold the output until the end: two predictions would mix their rows in it."""
        try:
            self._lock.enter_context(locked(self.path.with_name(f"{self.path.name}.partial.lock")))
        except LockedError:
            raise LlmclsError(
                f"Another process is writing '{self.path}'; let it finish, or choose another --output."
            ) from None

    def _refuse_other_files(self) -> None:
        """Keep what stands there already: the input always, other files unless they may be replaced."""
        for name in (*self._names, *self._parts):
            if self._source is not None and _is_part_of(name, self._source):
                raise LlmclsError(
                    f"'{name}' is read by this prediction, which would replace it; choose another --output."
                )
        path, listing = self._names
        if path.exists() and not path.is_file():
            raise LlmclsError(f"'{path}' is not a file; leave --output out to write to the standard output.")
        if self._overwrite:
            return
        # A list of bad rows beside a journal is of the attempt that is gone on with: it was killed while finishing.
        for name in [path] if self._journal.exists() else [path, listing]:
            if name.exists():
                raise LlmclsError(f"'{name}' exists already; replace it with --overwrite, or choose another --output.")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Inside, what the operating system refuses becomes an `LlmclsError` that names the file."""
        try:
            yield
        except OSError as error:
            raise LlmclsError(f"'{self.path}' cannot be written: {error.strerror or error}.") from error


def _is_part_of(name: Path, source: Path) -> bool:
    """Whether an existing file is this one, or lies in this folder."""
    if not (name.exists() and source.exists()):
        return False
    return name.samefile(source) or source.resolve() in name.resolve().parents


class _Kept(NamedTuple):
    """What the journal says: how far an attempt has come, the sizes of both files then, and what it predicts."""

    tally: Tally
    sizes: tuple[int, int]
    identity: dict[str, Any]
