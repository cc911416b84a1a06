"""Work ahead changes nothing but the time: order, errors and their place, memory, and how it all ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmcls.ahead import _ALIVE, ahead
from llmcls.errors import LlmclsError
from llmcls.streaming import EncodedRows, stream_predictions


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("llmcls-")]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_items_come_in_order_and_the_thread_ends(depth: int, count: int) -> None:
    assert list(ahead(range(count), depth=depth)) == list(range(count))
    assert alive() == []


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_than_depth_items_wait(depth: int) -> None:
    made, may_go_on = 0, threading.Event()

    def items() -> Iterator[int]:
        nonlocal made
        for number in range(100):
            made += 1
            if made > depth + 1:
                may_go_on.set()
            yield number

    walked = ahead(items(), depth=depth)
    assert next(walked) == 0
    assert not may_go_on.wait(0.2) and made == depth + 1, "one that is used, and those that wait"
    assert next(walked) == 1
    assert may_go_on.wait(10)
    assert [*walked] == list(range(2, 100))


def test_the_next_item_is_made_while_the_caller_uses_this_one() -> None:
    using, made = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert using.wait(10)
        made.set()
        yield 1

    walked = ahead(items())
    next(walked)
    using.set()
    assert made.wait(10), "without the caller's asking for it"
    assert list(walked) == [1]


@pytest.mark.parametrize("kind", [LlmclsError, ValueError, KeyboardInterrupt])
def test_errors_come_in_their_place_with_the_threads_traceback(kind: type[BaseException]) -> None:
    def breaking() -> Iterator[int]:
        yield 1
        yield 2
        raise kind("row 3 is broken")

    found: list[int] = []
    with pytest.raises(kind, match="row 3 is broken") as caught:
        found.extend(ahead(breaking()))
    assert found == [1, 2]
    assert "breaking" in {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}
    assert alive() == []


def test_closing_early_ends_the_thread() -> None:
    walked = ahead(iter(range(10**9)), depth=2)
    assert next(walked) == 0
    assert alive() == ["llmcls-ahead"]
    walked.close()  # type: ignore[attr-defined]
    assert alive() == [] and not [worker for worker in _ALIVE if worker.is_alive()]
    for number in ahead(iter(range(10**9))):  # noqa: B007
        break
    assert alive() == [], "a forgotten one, too"


UNFINISHED = """
import os, threading
from llmcls.ahead import ahead
from llmcls import ahead as module
module.PATIENCE = 0.2
unfinished = ahead(iter(range(100)))
next(unfinished)
inner, outer = os.pipe()                        # a source that never delivers
waiting = ahead(iter(lambda: os.read(inner, 1) and 1, 2))
threading.Thread(target=lambda: next(waiting, None), daemon=True).start()
print("end", flush=True)
"""


def test_an_unfinished_one_does_not_keep_the_program_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", UNFINISHED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def encode(examples: Sequence[Any]) -> EncodedRows:
    if "broken" in examples:
        raise LlmclsError("This row cannot be encoded.")
    return EncodedRows(examples, list(examples))


def score(rows: EncodedRows, _begun: int) -> list[Any]:
    return list(rows._prompts())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7, 20])
def test_a_stream_is_its_rows(count: int) -> None:
    assert list(stream_predictions(range(count), size=3, encode=encode, score=score)) == list(range(count))  # type: ignore[arg-type]
    assert alive() == []


def test_a_stream_reads_one_chunk_ahead_from_the_second_on_in_the_callers_thread() -> None:
    taken: list[int] = []
    threads: set[int] = set()

    def rows() -> Iterator[Any]:
        for number in range(30):
            taken.append(number)
            threads.add(threading.get_ident())
            yield number

    stream = stream_predictions(rows(), size=3, encode=encode, score=score)
    read = [len(taken) for _ in stream]
    assert read[:9] == [3, 3, 3, 9, 9, 9, 12, 12, 12] and max(read) == 30
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("at", [1, 4, 7, 8])
@pytest.mark.parametrize("where", ["reading", "encoding"])
def test_what_is_wrong_with_a_chunk_comes_behind_the_chunks_before_it(at: int, where: str) -> None:
    def rows() -> Iterator[Any]:
        for number in range(12):
            if number == at and where == "reading":
                raise LlmclsError("This row cannot be read.")
            yield "broken" if number == at else number

    found: list[Any] = []
    with pytest.raises(LlmclsError, match="cannot be read" if where == "reading" else "cannot be encoded"):
        found.extend(stream_predictions(rows(), size=3, encode=encode, score=score))
    assert found == list(range(at - at % 3))
    assert alive() == []


def test_closing_a_stream_early_ends_its_thread() -> None:
    stream = stream_predictions(iter(range(10**9)), size=3, encode=encode, score=score)  # type: ignore[arg-type]
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert alive()
    stream.close()  # type: ignore[attr-defined]
    assert alive() == []
