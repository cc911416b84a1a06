"""Rows of a file are read and encoded ahead of the model; rows, bad ones and errors are where they would be without."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from llmcls.cli.arriving import ArrivingRows
from llmcls.cli.predictions import Input, predict_batches
from llmcls.data.inputs import BadRow, GoodRow
from llmcls.errors import LlmclsError
from llmcls.processes.world import ALONE, World
from llmcls.records import Example, Prediction
from llmcls.streaming import EncodedRows


class Encoder:
    """Refuses a text of "?", and knows which threads used it."""

    template = SimpleNamespace(uses=lambda _: False)

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self._busy = threading.Lock()

    def encode(self, examples: Iterable[Example]) -> list[Any]:
        self.threads.add(threading.current_thread().name)
        texts = [example.text for example in examples]
        assert self._busy.acquire(blocking=False), "one thread at a time"
        try:
            if "?" in texts:
                raise LlmclsError("A question cannot be encoded.")
            return list(texts)
        finally:
            self._busy.release()

    def read_prompts(self, examples: Iterable[Example]) -> list[str]:
        return [f"<s>{text}" for text in self.encode(examples)]


@dataclass(frozen=True)
class Stub:
    world: World = ALONE
    encoder: Any = field(default_factory=Encoder)

    def encode(self, examples: Sequence[Example]) -> EncodedRows:
        return EncodedRows.of(examples, self.encoder, self.world)

    def stream(self, examples: Any, **_: object) -> Iterator[Prediction]:
        rows = examples if isinstance(examples, EncodedRows) else self.encode(list(examples))
        if isinstance(rows.share, LlmclsError):
            raise rows.share
        return (Prediction(f"about {text}", 1.0, (1.0,), 1.0) for text in rows.share)


def batches_of(rows: Any, stub: Stub, **options: Any) -> Iterator[Any]:
    return predict_batches(rows, stub, encode=stub.encode, **options)  # type: ignore[arg-type]


def rows_of(texts: Sequence[str | None]) -> Iterator[GoodRow | BadRow]:
    for number, text in enumerate(texts):
        if text is None:
            yield BadRow(f"row {number}", "not UTF-8", "")
        else:
            yield GoodRow({"text": text}, Example(text, source=f"row {number}"))


TEXTS = ["a", None, "b", "c", "?", "d", " ", "e", "f", "?", "?", "?", "g"]


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batches_are_those_of_their_rows(size: int, prompts: bool) -> None:
    stub = Stub()
    batches = list(batches_of(rows_of(TEXTS), stub, size=size, prompts=prompts))
    assert len(batches) == -(-len(TEXTS) // size)
    for batch, start in zip(batches, range(0, len(TEXTS), size), strict=True):
        part = list(enumerate(TEXTS))[start : start + size]
        good = [text for _, text in part if text is not None and text.strip() and text != "?"]
        assert [(values["text"], found.label) for values, found in batch.results] == [(t, f"about {t}") for t in good]
        assert batch.prompts == ([f"<s>{text}" for text in good] if prompts else None)
        reasons = {None: "not UTF-8", "?": "A question cannot be encoded", " ": "the row has no text"}
        assert [(bad.source, bad.problem) for bad in batch.bad] == [
            (f"row {number}", reasons[text]) for number, text in part if text in reasons
        ]
    assert "llmcls-ahead" in stub.encoder.threads


def test_rows_that_are_all_wrong_are_refused_before_anything_is_given_out() -> None:
    found: list[Any] = []
    with pytest.raises(LlmclsError, match="A question cannot be encoded"):
        found.extend(batches_of(rows_of(["?", "?", "a"]), Stub(), size=2))
    assert found == []


def test_what_the_source_raises_comes_behind_the_batches_before_it() -> None:
    def rows() -> Iterator[GoodRow | BadRow]:
        yield from rows_of(["a", "b", "c", "d", "e"])
        raise OSError("the disk is gone")

    found: list[Any] = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(batches_of(rows(), Stub(), size=2))
    assert [values["text"] for batch in found for values, _ in batch.results] == ["a", "b", "c", "d"]
    assert "llmcls-ahead" not in {thread.name for thread in threading.enumerate()}


def test_there_is_no_thread_for_texts_of_the_command_line_and_for_lines_that_arrive() -> None:
    for rows in (Input.of_texts(["a", "b"]).rows(0), ArrivingRows(io.BytesIO(b"a\nb"))):
        stub = Stub()
        batches = list(batches_of(rows, stub, size=8, prompts=True))
        assert [found.label for batch in batches for _, found in batch.results] == ["about a", "about b"]
        assert [batch.prompts for batch in batches] == [["<s>a", "<s>b"]]
        assert stub.encoder.threads == {threading.main_thread().name}


def test_a_share_that_cannot_be_encoded_is_raised_where_it_is_scored() -> None:
    """By then all processes meet, so that none waits for another."""
    shares = [Stub(World("ddp", 2, rank)).encode([Example("a"), Example("?"), Example("c")]) for rank in (0, 1)]
    assert shares[0].share == ["a", "c"] and isinstance(shares[1].share, LlmclsError)
    assert [len(share.rows) for share in shares] == [3, 3]
