"""Any number of rows predicted in constant memory: the next chunk is encoded while the model scores this one.

    yield from stream_predictions(examples, size=1024, encode=encode, score=score)

Several processes share every chunk: each encodes and scores its own part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmcls.ahead import ENCODING
from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from llmcls.answers import Predictor, Wanted
    from llmcls.processes.world import World
    from llmcls.prompt.encoding import EncodedPrompt, Encoder
    from llmcls.records import Example, Prediction


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows, and the prompts of those that this process predicts.

    Attributes:
        rows: the rows, of all processes.
        share: the prompts of rows r, r + size, ... in process r; or why a row has none, which is raised where they are
            scored, so that all processes hear of it.
    """

    rows: Sequence[Example]
    share: Sequence[EncodedPrompt] | LlmclsError

    @classmethod
    def of(cls, examples: Sequence[Example], encoder: Encoder, world: World) -> EncodedRows:
        """Encode this process's share; any thread may do so."""
        try:
            with ENCODING:
                return cls(examples, encoder.encode(examples[world.rank :: world.size]))
        except LlmclsError as error:
            return cls(examples, error)

    def score(self, predictor: Predictor, wanted: Wanted, world: World, advance: Any = None) -> Iterable[Prediction]:
        """The predictions of all rows, in their order; every process must call it.

        Raises:
            LlmclsError: for a row that could not be encoded, on all processes.
        """
        if not self.rows:
            return []
        if world.size == 1:
            return predictor.predict(self._prompts(), wanted, advance)
        return world.map(lambda _: list(predictor.predict(self._prompts(), wanted, advance)), range(len(self.rows)))

    def _prompts(self) -> Sequence[EncodedPrompt]:
        if isinstance(self.share, LlmclsError):
            raise self.share
        return self.share


def stream_predictions(
    examples: Iterable[Example],
    *,
    size: int,
    encode: Callable[[Sequence[Example]], EncodedRows],
    score: Callable[[EncodedRows, int], Iterable[Prediction]],
) -> Iterator[Prediction]:
    """Predict examples `size` at a time, in their order.

    The caller's thread reads the examples, which may come from something that only one thread can use (a database's
    cursor). From the second chunk on it reads one chunk ahead, and another thread encodes that; the first predictions
    wait for no more rows than they need. What is wrong with a later chunk is raised behind the predictions before it.

    Args:
        examples: the rows.
        size: rows of a chunk.
        encode: a chunk as tokens.
        score: the predictions of such a chunk; it is told how many examples came before.
    """
    chunks, begun = _Chunks(iter(examples), size), 0
    if chunk := chunks.take():
        yield from score(encode(chunk), begun)
        begun += len(chunk)
    if chunk := chunks.take():
        with ThreadPoolExecutor(1, "llmcls-encode") as pool:
            encoded = encode(chunk)
            while chunk := chunks.take():
                following = pool.submit(encode, chunk)
                yield from score(encoded, begun)
                begun += len(encoded.rows)
                encoded = following.result()
            yield from score(encoded, begun)
    chunks.complain()


class _Chunks:
    """Chunks of what an iterator gives; what it raises is kept until all before it has been used."""

    def __init__(self, items: Iterator[Example], size: int) -> None:
        self._items, self._size = items, size
        self._error: Exception | None = None

    def take(self) -> list[Example]:
        """The next chunk; empty at the end, and where the iterator raised something, whose chunk is lost."""
        if self._error is not None:
            return []
        try:
            return list(islice(self._items, self._size))
        except Exception as error:  # noqa: BLE001  (`complain` raises it)
            self._error = error
            return []

    def complain(self) -> None:
        """Raise what the iterator raised."""
        if self._error is not None:
            raise self._error
