"""Work ahead: a thread of its own makes the next item while the caller uses the one before.

    for batch in ahead(batches):          # reads, parses and encodes batch k + 1 while the model scores batch k
        score(batch)

Order, items and errors are those of the iterable itself: an exception in the thread is raised where its item would have
been, with the thread's traceback. At most `depth` items are made before they are asked for, so memory does not grow.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Lock, Semaphore, Thread
from typing import Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")

ENCODING = Lock()
"""Held while an encoder is in use: one thread encodes ahead, and the caller may encode something else meanwhile."""

PATIENCE = 2.0
"""Seconds that closing waits for the item that is being made. Encoding a batch takes less; a source that never delivers
(a pipe without a writer) must not hold up Ctrl-C."""


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    item: T


@dataclass(frozen=True, slots=True)
class _Ended:
    error: BaseException | None = None


def ahead(items: Iterable[T], *, depth: int = 1) -> Iterator[T]:
    """The items, made by a thread that stays at most `depth` of them ahead.

    The thread begins with the first item that is asked for. It ends with the last item, when the iterator is closed or
    forgotten, and at the latest with the program.

    Args:
        items: is walked by the thread alone.
        depth: items that may wait for the caller, besides the one that it uses; at least 1.

    Raises:
        BaseException: what walking the items raises, in its place.
    """
    worker = _Worker(items, depth)
    worker.start()
    try:
        yield from worker.received()
    finally:
        worker.end()


class _Worker(Thread, Generic[T]):
    """Makes items; a daemon, so that a source that never delivers cannot keep the program from ending."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        super().__init__(name="llmcls-ahead", daemon=True)
        self._items = items
        self._room = Semaphore(depth)
        self._made: Queue[_Made[T] | _Ended] = Queue()
        self._stopped = Event()
        _ALIVE.add(self)

    def run(self) -> None:
        error: BaseException | None = None
        try:
            items = iter(self._items)
            while self._may_go_on():
                try:
                    self._made.put(_Made(next(items)))
                except StopIteration:
                    break
        except BaseException as caught:  # noqa: BLE001  (the caller gets it)
            error = caught
        finally:
            del self._items
        self._made.put(_Ended(error))

    def received(self) -> Iterator[T]:
        """The items, as they are made."""
        while True:
            match self._next():
                case _Made(item):
                    # Now, not when the caller comes back: the next item is made while it uses this one.
                    self._room.release()
                    yield item
                case _Ended(error):
                    if error is not None:
                        raise error
                    return

    def end(self) -> None:
        """Make nothing more, and wait until the thread has ended."""
        self._stopped.set()
        self._room.release()
        self.join(PATIENCE)

    def _may_go_on(self) -> bool:
        self._room.acquire()
        return not self._stopped.is_set()

    def _next(self) -> _Made[T] | _Ended:
        while True:
            try:
                # One second at a time: Windows delivers no Ctrl-C to a thread that waits for a lock.
                return self._made.get(timeout=1.0)
            except Empty:
                continue


_ALIVE: WeakSet[_Worker[Any]] = WeakSet()


@atexit.register
def _end_all() -> None:
    """Python ends a daemon thread wherever it is, which the tokenizers' own code does not survive."""
    for worker in list(_ALIVE):
        if worker.is_alive():
            worker.end()
