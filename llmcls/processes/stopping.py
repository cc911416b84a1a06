"""How a run ends early: asked to by a signal, or because another process of it, or their launcher, is gone.

with StopSignals(reporter.say) as stop:  # SIGTERM, SIGINT: then a checkpoint and StoppedError
    ...
    if stop.received: ...
    with stop.leaving_at_once("Stopped; the same command goes on."): ...
with failing_once():                     # one process's error is shown, the others leave quickly and quietly
    train(...)
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
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

GRACE_SECONDS = 100
"""For the last step and its checkpoint: torchrun's own 30 are short for a large model, and Slurm is asked for 120."""

SYMPTOM_SECONDS = 4
"""How long a RuntimeError waits: "connection reset by peer" is what the others see when one process has died, and the
launcher, or that one's own error, says it better."""


class StoppedError(LlmclsError):
    """A signal ended the training; a checkpoint was written. The message says how to go on."""


class _Interruption(BaseException):
    """Leaves what may be left at once; not an `Exception`, so that no library takes it for a failure of its own."""


class StopSignals:
    """Notes SIGTERM and SIGINT while the block runs; a second SIGINT interrupts at once.

    Where nothing is lost by leaving (`leaving_at_once`), the first signal ends the block. Only the main thread may
    handle signals, so in another one nothing is noted. Processes under a launcher get one Ctrl-C several times (from
    the terminal and from the launcher), so there the second means nothing.

    Args:
        say: hears at once that a signal has come, while it is only noted.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.received: signal.Signals | None = None
        self._say = say
        self._leaves = self._ignored = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def leaving_at_once(self, message: str, come: bool = False) -> Iterator[None]:
        """A block that a signal ends where it is, because the same command does what was left.

        Args:
            message: says what there is and how to go on.
            come: a signal has come to another process of the run.

        Raises:
            StoppedError: with the message, when a signal came before the block or in it.
        """
        if come and self.received is None:
            self.received = signal.SIGTERM
        try:
            self._leaves = True
            self._leave()
            yield
            self._leaves = False
            self._leave()  # a destructor may have dropped the exception
        except _Interruption:
            raise StoppedError(message) from None
        except RuntimeError as error:
            if self.received is None:
                raise
            raise StoppedError(message) from error  # another process has left, and the exchange with it failed
        finally:
            self._leaves = False

    def ignore(self) -> None:
        """From here on nothing is left to stop; a second Ctrl-C still interrupts."""
        self._ignored = True

    def _leave(self) -> None:
        if self.received is not None:
            raise _Interruption

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = self.received == number
        if _attempt_folder() is None and again and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self._leaves:
            raise _Interruption
        if self._say is not None and not again and not self._ignored:
            # By a thread: what the handler interrupts may be writing to the same stream, which takes no second writer.
            # Not by `threading`, whose own lock may be held where the signal came.
            _thread.start_new_thread(self._say, (_stopping_line(self.received),))


def _stopping_line(received: signal.Signals) -> str:
    name = "Ctrl-C" if received == signal.SIGINT else received.name
    second = "; a second Ctrl-C ends at once, without one" * (name == "Ctrl-C" and _attempt_folder() is None)
    return f"{name}: stopping after this step, with a checkpoint{second}"


@contextmanager
def failing_once() -> Iterator[None]:
    """Under torchrun: only the first process that fails raises, so that its error is shown once; others leave.

    They leave, too, when one of them was killed, and stop as by SIGTERM when their launcher was killed.
    """
    folder = _attempt_folder()
    if folder is None:
        yield
        return
    failed, own, over = folder / "llmcls-failed", folder / f"llmcls-process-{os.getpid()}", threading.Event()
    own.touch()
    threading.Thread(target=_watch, args=(folder, failed, os.getppid(), over), daemon=True).start()
    try:
        yield
    except StoppedError:
        raise
    except BaseException as error:
        if isinstance(error, RuntimeError):
            time.sleep(SYMPTOM_SECONDS)
        over.set()
        try:
            failed.open("x").close()
        except FileExistsError:
            os._exit(1)
        raise
    finally:
        over.set()
        own.unlink(missing_ok=True)


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


def _watch(folder: Path, failed: Path, launcher: int, over: threading.Event) -> None:
    """End this process when others are gone: in a collective it would wait for them, where signals do not reach it."""
    while not over.wait(1):
        if failed.exists() or _has_lost_peer(folder):
            os._exit(1)
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
            if not over.wait(GRACE_SECONDS):
                os._exit(1)


def _has_lost_peer(folder: Path) -> bool:
    """Whether a process of this machine was killed: it could not take its file away."""
    for file in folder.glob("llmcls-process-*"):
        try:
            os.kill(int(file.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            return file.exists()  # it may have ended well just now
        except PermissionError:
            continue
    return False


def _attempt_folder() -> Path | None:
    """The folder that torchrun makes for the processes of one attempt on one machine, and deletes after it."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parent.parent if file else None
