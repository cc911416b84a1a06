"""Where predictions go: the standard output, or a file that a killed program can go on with.

    with FileOutput(Path("out.csv"), reporter) as output:      # out.csv.partial, locked
        tally = output.begin(columns, identity=identity)       # what an earlier attempt has left, or Tally()
        output.add(rows, bad, tally)                           # any number of times
        output.finish(tally)                                   # out.csv, and out.csv.errors.csv if there are any

`out.csv.partial.json` says how many rows and bytes are safe, with their digest, and of which prediction. It is written
before the other files are made, which marks them as llmcls's, and then after the rows are on the disk, so whatever a
killed process or a full disk left behind them is cut off by the next attempt.
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
from pathlib import Path
from typing import IO, Any, cast

from llmcls.cli.formats import FIGURES, RowWriter, format_of
from llmcls.cli.journal import DigestedFile, Journal, Kept
from llmcls.cli.places import behind_links, is_list_of_bad_rows, refuse_foreign, refuse_read
from llmcls.cli.predictions import PROMPT, Tally
from llmcls.cli.shared import show, table
from llmcls.console import Reporter
from llmcls.data.inputs import BadRow
from llmcls.errors import LlmclsError
from llmcls.figures import escaped, finite
from llmcls.files import LockedError, draft_of, flush, flush_folder, locked
from llmcls.visible import VisibleStream, visible

SAVE_EVERY = 1.0
"""Seconds between two saves at least: a save waits for the disk."""


class StandardOutput:
    """Predictions on the standard output, which cannot be gone on with; what is wrong with bad rows goes nowhere."""

    listing: Path | None = None

    def __init__(self, reporter: Reporter, escape_formulas: bool = False, delimiter: str = ",") -> None:
        self._reporter, self._escape, self._delimiter = reporter, escape_formulas, delimiter
        self._stream: IO[str] = sys.stdout

    def __enter__(self) -> StandardOutput:
        self._stream = cast("IO[str]", VisibleStream(sys.stdout)) if sys.stdout.isatty() else sys.stdout
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(
        self, columns: Sequence[str], *, as_json: bool = False, separator: str | None = None, **_: object
    ) -> Tally:
        """Write the header; nothing is there yet."""
        self._writer = RowWriter(
            self._stream,
            columns,
            as_json,
            self._reporter.warn,
            delimiter=self._delimiter,
            separator=separator,
            escape_formulas=self._escape,
        )
        self._writer.write_header()
        self._stream.flush()
        return Tally()

    def add(self, rows: Iterable[Mapping[str, Any]], bad: Sequence[BadRow], tally: Tally) -> None:
        """Write rows; who reads them may wait for each."""
        self._writer.write(rows)
        self._stream.flush()

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
            prompts = (Text(visible(row[name])) for name in self._prompts)
            self._table.add_row(
                Text(visible(row["text"])), Text(visible(row["predicted"]), style="bold"), *values, *prompts
            )

    def finish(self, tally: Tally) -> None:
        """Show it."""
        if self._table.row_count:
            show(self._table)


class ThroughOutput(StandardOutput):
    """Predictions to a pipe or a device: what is written is gone, so nothing is replaced, kept or gone on with.

    Args:
        path: where they go.
        reporter: see `RowWriter`.
        escape_formulas: see `RowWriter`.

    Raises:
        LlmclsError: for a format that cannot be written row by row, and when the system refuses.
    """

    def __init__(self, path: Path, reporter: Reporter, escape_formulas: bool = False) -> None:
        super().__init__(reporter, escape_formulas)
        self._path = path
        self._opened = ExitStack()

    def __enter__(self) -> ThroughOutput:
        form = format_of(self._path)
        if form.packed or form.kind == "parquet":
            raise LlmclsError(
                f"'{self._path}' is not a regular file, and {self._path.suffix} cannot be written through it; name it "
                ".csv, .tsv or .jsonl."
            )
        self._delimiter = form.delimiter
        return self

    def __exit__(self, *_: object) -> None:
        with explaining(self._path):
            self._opened.close()

    def begin(self, columns: Sequence[str], *, as_json: bool = False, **options: Any) -> Tally:
        """Open it, which waits for a pipe's reader, and write the header."""
        with explaining(self._path):
            # "a": the file behind an open descriptor is another program's as well.
            stream = self._path.open("a", encoding="utf-8", errors="replace", newline="")
            self._stream = self._opened.enter_context(stream)
            return super().begin(columns, as_json=format_of(self._path, as_json).as_json, **options)


class FileOutput:
    """The two files of a prediction while they grow: rows, and what is wrong with bad rows.

    Args:
        path: the output's name when it is complete, whose ending is its format (`llmcls.cli.formats`);
            `PATH.errors.csv` is the other file's. Of a link, the file that it names.
        reporter: hears what becomes of earlier attempts, and of this one if it fails.
        overwrite: whether files of these names may be replaced.
        sources: the files and folders that are read, which never are.
        escape_formulas: see `RowWriter`.

    Attributes:
        listing: the other file.

    Raises:
        LlmclsError: from every method, when the disk, another prediction or other files are in the way.
    """

    def __init__(
        self,
        path: Path,
        reporter: Reporter,
        *,
        overwrite: bool = False,
        sources: Sequence[Path] = (),
        escape_formulas: bool = False,
    ) -> None:
        self.named, path = path, behind_links(path)
        self.path = path
        self.listing: Path | None = path.with_name(f"{path.name}.errors.csv")
        self._reporter = reporter
        self._overwrite, self._sources, self._escape = overwrite, sources, escape_formulas
        self._names = (path, self.listing)
        self._parts = tuple(name.with_name(f"{name.name}.partial") for name in self._names)
        # A prediction to `x.csv.errors.csv` would write the list of the bad rows of one to `x.csv`.
        self._locks = tuple(part.with_name(f"{part.name}.lock") for part in self._parts)
        self._journal = Journal(path.with_name(f"{path.name}.partial.json"))
        self._identity: dict[str, Any] | None = None
        self._begun = False
        self._saved_at = 0.0
        self._lock = ExitStack()

    def __enter__(self) -> FileOutput:
        with explaining(self.path):
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            self._refuse_sources()
            was_locked = self._locks[0].exists()  # by a killed prediction, whose files these are
            self._claim()
            with ExitStack() as undone:
                undone.callback(self._lock.close)
                self._refuse_other_files(was_locked)
                if not self._journal.path.exists():
                    self._journal.write(Kept())  # first: where it is, the other files are ours
                rows, errors = self._parts
                self._rows = DigestedFile(rows, errors="replace")
                self._errors = DigestedFile(errors, errors="backslashreplace")
                undone.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        kept = self._journal.read()
        if kept is None or kept.identity is None or not kept.tally.rows:
            # While they are locked: they may be another prediction's afterwards. The journal last: it says whose they
            # are.
            for leftover in (*self._parts, self._journal.path):
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)
        elif kind is not None and self._begun:
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
        kept = Kept()
        with explaining(self.path):
            found = self._journal.read()
            if found is None or found.tally.rows:
                reason = self._judge(found) if resume else "--resume never"
                if found and not reason:
                    kept = found
                    self._refuse_edited(kept)
                    self._reporter.say(f"Going on after row {kept.tally.rows:,} of an earlier attempt.")
                else:
                    self._reporter.warn(f"beginning anew, not using '{self._parts[0]}': {reason}.")
                    self._journal.write(kept)
            for stream, size in zip(self._streams, kept.sizes, strict=True):
                stream.cut(size)
            self._format, self._columns = format_of(self.path, as_json), columns
            self._writer = RowWriter(
                self._rows,
                columns,
                self._format.as_json,
                self._reporter.warn,
                delimiter=self._format.delimiter,
                separator=separator,
                escape_formulas=self._escape,
            )
            self._bad = csv.writer(self._errors, lineterminator="\n")
            if kept.tally.rows == 0:
                self._writer.write_header()
                self._bad.writerow(BadRow._fields)
        self._begun, self._saved_at = True, time.monotonic()
        return kept.tally

    def add(self, rows: Iterable[Mapping[str, Any]], bad: Sequence[BadRow], tally: Tally) -> None:
        """Write one batch; `tally` counts it and all before it."""
        with explaining(self.path):
            self._writer.write(rows)
            self._bad.writerows(map(escaped, row) if self._escape else row for row in bad)
            if self._identity is not None and time.monotonic() - self._saved_at >= SAVE_EVERY:
                self._save(tally)

    def finish(self, tally: Tally) -> None:
        """Give the complete files their names; without bad rows there is no list of them, an old one neither."""
        with explaining(self.path):
            for stream in self._streams:
                flush(stream)
            if self._identity is not None:
                self._save(tally)  # what has come into the way meanwhile does not cost the rows
            self._refuse_occupied()
            (rows, errors), (path, listing) = self._parts, self._names
            if tally.bad:
                errors.replace(listing)
            else:
                listing.unlink(missing_ok=True)
            self._format.complete(rows, path, self._columns)  # last: where it is, all is
            for leftover in (draft_of(self._journal.path), self._journal.path):
                leftover.unlink(missing_ok=True)
            flush_folder(self.path.parent)

    @property
    def _streams(self) -> tuple[DigestedFile, DigestedFile]:
        return self._rows, self._errors

    def _save(self, tally: Tally) -> None:
        (rows, rows_digest), (errors, errors_digest) = (stream.save() for stream in self._streams)
        self._journal.write(Kept(tally, (rows, errors), (rows_digest, errors_digest), self._identity))
        self._saved_at = time.monotonic()

    def _judge(self, kept: Kept | None) -> str:
        """Why an earlier attempt cannot be gone on with; "" when it can."""
        if kept is None:
            return "its state cannot be understood"
        then, now = kept.identity or {}, self._identity or {}
        if changed := [name for name in then | now if then.get(name) != now.get(name)]:
            return f"it is of another prediction ({', '.join(changed)})"
        there = [os.fstat(stream.fileno()).st_size for stream in self._streams]
        if any(size > found for size, found in zip(kept.sizes, there, strict=True)):
            return "rows of it are missing"
        return ""

    def _refuse_edited(self, kept: Kept) -> None:
        """Refuse to go on behind rows that are not those that were written.

        Raises:
            LlmclsError: naming the file.
        """
        if kept.digests is None:  # an older version wrote it
            return
        for part, stream, size, digest in zip(self._parts, self._streams, kept.sizes, kept.digests, strict=True):
            if stream.digest_of(size) != digest:
                raise LlmclsError(
                    f"'{part}' has been changed since it was written, so the prediction cannot go on behind it; put it "
                    "back as it was, or begin anew with --resume never."
                )

    def _claim(self) -> None:
        """Hold both files until the end: two predictions would mix their rows in them."""
        try:
            for lock in self._locks:
                self._lock.enter_context(locked(lock))
        except LockedError:
            self._lock.close()
            raise LlmclsError(
                f"Another process is writing '{self.path}'; let it finish, or choose another --output."
            ) from None
        except BaseException:
            self._lock.close()
            raise

    def _refuse_sources(self) -> None:
        own = (self.named, *self._names, *self._parts, self._journal.path, *self._locks)
        refuse_read(dict.fromkeys(own), self._sources)

    def _refuse_other_files(self, was_locked: bool) -> None:
        """Keep what stands there already: what others have made always, other files unless they may be replaced."""
        if self.path.exists() and not self.path.is_file():
            raise LlmclsError(f"'{self.path}' is not a file; leave --output out to write to the standard output.")
        refuse_foreign(self._journal.path, lambda _: self._journal.is_own())
        ours = self._journal.path.exists() or was_locked
        rows, errors = self._parts
        refuse_foreign(rows, lambda _: ours)
        refuse_foreign(errors, lambda part: ours or is_list_of_bad_rows(part))
        self._refuse_occupied()

    def _refuse_occupied(self) -> None:
        path, listing = self._names
        if self._overwrite:
            refuse_foreign(listing, is_list_of_bad_rows)
            return
        # A list of bad rows beside a journal is of the attempt that is gone on with: it was killed while finishing.
        kept = self._journal.read()
        for name in [path] if kept is not None and kept.tally.rows else [path, listing]:
            if os.path.lexists(name):
                raise LlmclsError(f"'{name}' exists already; replace it with --overwrite, or choose another --output.")
        refuse_foreign(listing, is_list_of_bad_rows)


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Inside, what the operating system refuses becomes an `LlmclsError` that names the file."""
    try:
        yield
    except OSError as error:
        raise LlmclsError(f"'{path}' cannot be written: {error.strerror or error}.") from error
