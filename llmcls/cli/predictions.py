"""Predicts any number of rows, a batch at a time, and sets bad rows aside; nothing it holds grows with the input.

    for batch in predict_batches(items, classifier, size=rows_at_once(classifier)):
        writer.write(...batch.results); batch.bad

A batch's scores depend on its own rows only, to the last bit: batches are cut at the same rows and the shared prompt
prefix is computed before the first one, whether a file is predicted from its first row or from its millionth. The next
batch is read and encoded while the model is busy with this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from llmcls.ahead import ENCODING, ahead
from llmcls.answers.refusals import NOT_FINITE, REMEDY
from llmcls.cli.arriving import ArrivingRows
from llmcls.data.inputs import BadRow, GoodRow, load_examples, show_values
from llmcls.data.paths import has_scheme, to_path
from llmcls.data.reader import FileFormat
from llmcls.errors import LlmclsError
from llmcls.records import Example

if TYPE_CHECKING:
    from llmcls.classifier import Classifier
    from llmcls.console import Advance
    from llmcls.prompt.encoding import Encoder
    from llmcls.records import Prediction
    from llmcls.streaming import EncodedRows

ROWS_AT_ONCE = {"cpu": 128, "cuda": 1024}
"""Rows of a batch for each process. A killed prediction repeats one batch: two to three minutes of a 1B model on two
CPU cores, a second or so on a GPU."""

MANY, TOO_MANY = 100, 0.1
"""From how many rows on, and above which share of them, rows without finite scores end a prediction."""
CHARACTERS_AT_ONCE = 8_000_000
"""Characters of a batch's texts from which on it takes no more rows."""

PROMPT = "prompt"
"""The column that `--prompt` adds."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of consecutive rows of the input.

    Attributes:
        results: values and prediction of each row that could be predicted, in input order.
        bad: the others, in input order.
        prompts: the prompt of each of `results`; None where not asked for.
        failed: how many of `bad` had no finite scores.
    """

    results: list[tuple[Mapping[str, Any], Prediction]]
    bad: list[BadRow]
    prompts: list[str] | None = None
    failed: int = 0

    def with_prompts(self, rows: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        """The rows to write of `results`, with their prompts where these were asked for."""
        if self.prompts is None:
            return rows
        return ({**row, PROMPT: prompt} for row, prompt in zip(rows, self.prompts, strict=True))


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a prediction has come.

    Attributes:
        rows: rows read, usable or not.
        bad: those without a prediction.
        first_problem: what is wrong with the first of these.
        ties: rows whose label rounding may have decided.
        failed: of the bad rows, those whose scores were NaN or infinite.
    """

    rows: int = 0
    bad: int = 0
    first_problem: str = ""
    ties: int = 0
    failed: int = 0

    @property
    def predicted(self) -> int:
        """Rows with a prediction."""
        return self.rows - self.bad

    def plus(self, batch: Batch) -> Tally:
        """The tally after one more batch."""
        first = self.first_problem or (str(batch.bad[0]) if batch.bad else "")
        ties = self.ties + sum(prediction.tie for _, prediction in batch.results)
        return Tally(
            self.rows + len(batch.results) + len(batch.bad),
            self.bad + len(batch.bad),
            first,
            ties,
            self.failed + batch.failed,
        )

    def check(self) -> None:
        """Refuse to go on where the model, and not a row, is at fault.

        Raises:
            LlmclsError: when no row of the first batch has finite scores, or more than a tenth of many rows have none.
        """
        scored = self.predicted + self.failed
        if self.failed == scored > 0:
            which = f"all {scored:,} rows so far, so none has a" if scored > 1 else "the only row so far, so it has no"
            raise LlmclsError(f"The {NOT_FINITE} for {which} label; {REMEDY}.")
        if scored >= MANY and self.failed > scored * TOO_MANY:
            raise LlmclsError(
                f"The {NOT_FINITE} for {self.failed:,} of the first {scored:,} rows, so they have no label; {REMEDY}."
            )


@dataclass(frozen=True, slots=True)
class Input:
    """Rows to predict.

    Attributes:
        columns: their columns' names.
        rows: walks them from a given one on.
        count: how many there are, where that can be found out; it may take a while.
        identity: tells this input, as it is now, from others; None where nothing does, so that no prediction of it can
            be gone on with.
    """

    columns: Sequence[str]
    rows: Callable[[int], Iterable[GoodRow | BadRow]]
    count: Callable[[], int | None] = lambda: None
    identity: Mapping[str, Any] | None = None

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Input:
        """The texts of the command line."""
        rows = [GoodRow({"text": text}, Example(text, source=f"text {at}")) for at, text in enumerate(texts, 1)]
        return cls(["text"], lambda start: rows[start:], lambda: len(rows))

    @classmethod
    def of_lines(cls, stream: IO[bytes]) -> Input:
        """The lines of the standard input, which has no identity, and so is always read from its first line on."""
        return cls(["text"], lambda _start: ArrivingRows(stream))

    @classmethod
    def of_data(
        cls,
        source: str,
        text_columns: Sequence[str],
        label_column: str | Sequence[str] | None,
        label_separator: str | None = None,
        form: FileFormat | None = None,
    ) -> Input:
        """Whatever a dataset reader reads; a single file is told by its place, size and time of change.

        Raises:
            LlmclsError: see `load_examples`.
        """
        stream = load_examples(
            source, text_columns=text_columns, label_column=label_column, label_separator=label_separator, form=form
        )
        identity: dict[str, Any] | None = None
        if not has_scheme(source) and (path := to_path(source)).is_file():
            found = path.stat()
            identity = {
                "input": [str(path.resolve()), found.st_size, found.st_mtime_ns],
                "text columns": stream.columns.text,
            }
            if form and form.given:
                identity["format"] = {name: getattr(form, name) for name in form.given}
        return cls(list(stream.table.columns), stream.rows, stream.count, identity)


def rows_at_once(classifier: Classifier) -> int:
    """The size of a batch for this classifier's device and processes."""
    kind = "cpu" if classifier.formats.device.type == "cpu" else "cuda"
    return ROWS_AT_ONCE[kind] * classifier.world.size


def predict_batches(
    rows: Iterable[GoodRow | BadRow],
    classifier: Classifier,
    *,
    size: int,
    label_mass: bool = False,
    probabilities: bool = True,
    prompts: bool = False,
    advance: Advance | None = None,
    encode: Callable[[Sequence[Example]], EncodedRows] | None = None,
) -> Iterator[Batch]:
    """Predict rows in batches of `size` input rows; a row that cannot be predicted never stops the others.

    Of rows that arrive one by one, a batch is what has arrived.

    Args:
        rows: the input, which another thread walks; a row without text is a bad one, unless the template shows other
            columns as well.
        classifier: predicts; several processes must all be given the same rows.
        size: rows of a batch.
        label_mass, probabilities: see `Classifier.stream`.
        prompts: also give each prompt as the model read it (`Encoder.read_prompts`).
        advance: called with the numbers of rows done, about.
        encode: encodes rows ahead of the model (`Classifier.encode`); None: each batch is encoded when its turn comes.

    Raises:
        LlmclsError: when not a single row of the first batch can be encoded: then the rows are not to blame.
    """
    advance = advance or (lambda _rows: None)
    share = _scaled(advance, classifier.world.size)
    some_predicted = False

    def predict(rows: Sequence[Example] | EncodedRows) -> list[Prediction]:
        return list(
            classifier.stream(
                rows, label_mass=label_mass, probabilities=probabilities, advance=share, mark_failures=True
            )
        )

    for chunk in _chunks(rows, classifier, size, prompts, encode):
        bad, good, texts = dict(chunk.bad), dict(chunk.good), chunk.prompts
        advance(len(bad))
        try:
            found = predict(chunk.encoded or chunk.examples)
        except LlmclsError:
            reasons = _why_not_encoded(good, classifier.encoder)
            if not reasons or (len(reasons) == len(good) and not some_predicted):
                raise
            bad |= {place: _set_aside(good[place], reason) for place, reason in reasons.items()}
            good = {place: row for place, row in good.items() if place not in reasons}
            found, texts = predict([row.example for row in good.values()]), None
        some_predicted = some_predicted or bool(good)
        if failed := {place for place, prediction in zip(good, found, strict=True) if prediction.failed}:
            bad |= {place: _set_aside(good[place], f"the {NOT_FINITE}") for place in failed}
            found = [prediction for prediction in found if not prediction.failed]
            good, texts = {place: row for place, row in good.items() if place not in failed}, None
        if prompts and texts is None:
            texts = _read_prompts([row.example for row in good.values()], classifier.encoder)
        values = [row.values for row in good.values()]
        written = list(zip(values, found, strict=True))
        yield Batch(written, [bad[place] for place in sorted(bad)], texts, len(failed))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Consecutive rows, by their places among each other.

    Attributes:
        good: those that have what the template shows.
        bad: the others.
        encoded: the good ones as tokens, or why there are none; None: to be encoded where they are predicted.
        prompts: see `Batch`; None also where they are to be read later.
    """

    good: Mapping[int, GoodRow]
    bad: Mapping[int, BadRow]
    encoded: EncodedRows | None = None
    prompts: list[str] | None = None

    @property
    def examples(self) -> list[Example]:
        return [row.example for row in self.good.values()]


def _chunks(
    rows: Iterable[GoodRow | BadRow],
    classifier: Classifier,
    size: int,
    prompts: bool,
    encode: Callable[[Sequence[Example]], EncodedRows] | None,
) -> Iterator[_Chunk]:
    """The rows in chunks, read and encoded by a thread that is one chunk ahead of the model.

    There is no thread where it would gain nothing: for rows that make one chunk; and for rows that arrive one by one,
    of which the model takes what is there.
    """
    needs_text = not classifier.encoder.template.uses("fields")
    if isinstance(rows, ArrivingRows):
        arrived: Iterator[list[GoodRow | BadRow]] = iter(lambda: rows.take(size), [])
        yield from (_sort(taken, needs_text) for taken in arrived)
        return
    walked = iter(rows)

    def prepared() -> Iterator[_Chunk]:
        while taken := _take(walked, size):
            chunk = _sort(taken, needs_text)
            if encode is not None:
                chunk = replace(chunk, encoded=encode(chunk.examples))
                if prompts:
                    with suppress(LlmclsError):  # a row of another process's share; it raises it
                        chunk = replace(chunk, prompts=_read_prompts(chunk.examples, classifier.encoder))
            yield chunk

    alone = isinstance(rows, Sized) and len(rows) <= size
    yield from prepared() if alone else ahead(prepared())


def _take(rows: Iterator[GoodRow | BadRow], size: int) -> list[GoodRow | BadRow]:
    """The next rows; fewer where they are long, for a batch is in memory as a whole."""
    taken: list[GoodRow | BadRow] = []
    characters = 0
    for row in islice(rows, size):
        taken.append(row)
        characters += len(row.raw if isinstance(row, BadRow) else row.example.text)
        if characters > CHARACTERS_AT_ONCE:
            break
    return taken


def _sort(rows: Sequence[GoodRow | BadRow], needs_text: bool) -> _Chunk:
    bad = {place: row for place, row in enumerate(rows) if isinstance(row, BadRow)}
    good = {place: row for place, row in enumerate(rows) if isinstance(row, GoodRow)}
    if needs_text:
        empty = {place: row for place, row in good.items() if not row.example.text.strip()}
        bad |= {place: _set_aside(row, "the row has no text") for place, row in empty.items()}
        good = {place: row for place, row in good.items() if place not in bad}
    return _Chunk(good, bad)


def _read_prompts(examples: Sequence[Example], encoder: Encoder) -> list[str]:
    with ENCODING:
        return encoder.read_prompts(examples)


def _set_aside(row: GoodRow, problem: str) -> BadRow:
    return BadRow(row.example.source, problem, show_values(row.values))


def _why_not_encoded(rows: Mapping[int, GoodRow], encoder: Encoder) -> dict[int, str]:
    """The problems of the rows that cannot become a prompt, one by one: a template that divides by a column, ..."""
    reasons = {}
    for place, row in rows.items():
        try:
            with ENCODING:
                encoder.encode([row.example])
        except LlmclsError as error:
            reasons[place] = str(error).rstrip(".")
    return reasons


def _scaled(advance: Advance, processes: int) -> Advance:
    """Each process hears of its own share only; the others are about as far."""
    return lambda rows: advance(rows * processes)
