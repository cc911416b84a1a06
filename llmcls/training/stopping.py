"""How a run ends early: asked to by a signal, or because another process of it has failed.

with StopSignals() as stop:              # SIGTERM, SIGINT: then a checkpoint and StoppedError
    ...
    if stop.received: ...
with failing_once():                     # one process's error is shown, the others leave quickly and quietly
    train(...)
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from llmcls.errors import LlmclsError

EXIT_CODE = 75
"""Exit code of a run that was stopped and can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""

START_AGAIN = 76
"""Exit code, between us and `llmcls train --launch` only, of a run to be started again with other settings."""

STATUS = "LLMCLS_LAUNCH_STATUS"
"""Names a file in which a process tells `llmcls train --launch` its exit code: torchrun forgets it after a signal."""


class StoppedError(LlmclsError):
    """A signal ended the training; a checkpoint was written. The message says how to go on."""


class StopSignals:
    """Notes SIGTERM and SIGINT while the block runs; a second SIGINT interrupts at once.

    Only the main thread may handle signals, so in another one nothing is noted. Processes under a launcher get one
    Ctrl-C several times (from the terminal and from the launcher), so there the second means nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if _attempt_folder() is None and self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


@contextmanager
def failing_once() -> Iterator[None]:
    """Under torchrun: only the first process that fails raises, so that its error is shown once; others leave."""
    folder = _attempt_folder()
    if folder is None:
        yield
        return
    marker, mine = folder / "llmcls-failed", threading.Event()
    threading.Thread(target=_leave_with_peer, args=(marker, mine), daemon=True).start()
    try:
        yield
    except StoppedError:
        raise
    except BaseException:
        mine.set()
        try:
            marker.open("x").close()
        except FileExistsError:
            os._exit(1)
        raise


def tell_status(code: int, settings: dict[str, int]) -> bool:
    """Leave exit code and settings where `llmcls train --launch` looks for them.

    Returns:
        False when nobody looks: another launcher was used, or the other machines' launchers would not know.
    """
    file = os.environ.get(STATUS)
    if file is None or (code == START_AGAIN and os.environ.get("GROUP_WORLD_SIZE", "1") != "1"):
        return False
    Path(file).write_text(json.dumps({"code": code, "settings": settings}), encoding="utf-8")
    return True


def _leave_with_peer(marker: Path, mine: threading.Event) -> None:
    """A process that waits in a collective for a dead one would wait for minutes: signals do not reach it there."""
    while not mine.wait(1):
        if marker.exists():
            os._exit(1)


def _attempt_folder() -> Path | None:
    """The folder that torchrun makes for the processes of one attempt on one machine, and deletes after it."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parent.parent if file else None
