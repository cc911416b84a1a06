"""Processes of one launcher: who speaks, who leaves, and who notices that another is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from llmcls.processes.stopping import failing_once

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of one attempt, as torchrun makes it."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0" / "error.json"))
    return tmp_path


def run(*bodies) -> list[int]:
    """Exit codes of forked processes that run the bodies within `failing_once`."""

    def guarded(body) -> None:
        with failing_once():
            body()

    processes = [FORK.Process(target=guarded, args=(body,)) for body in bodies]
    for process in processes:
        process.start()
    try:
        _until(lambda: sum(process.is_alive() for process in processes) == 0)  # asking reaps
    finally:
        for process in processes:
            process.kill()
    return [process.exitcode for process in processes]


def wait() -> None:
    time.sleep(60)


def fail() -> None:
    raise ValueError("the only one heard")


def lose() -> None:
    raise RuntimeError("Connection reset by peer")


def kill() -> None:
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("attempt")
def test_one_error_is_heard_and_the_others_leave(capfd):
    assert run(wait, fail, lose) == [1, 1, 1]
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1 and "the only one heard" in shown and "reset by peer" not in shown


@pytest.mark.usefixtures("attempt")
def test_who_waits_for_a_killed_one_leaves_without_a_word(capfd):
    assert run(wait, kill, lose) == [1, -signal.SIGKILL, 1]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("attempt")
def test_an_error_of_ones_own_is_told_after_all(capfd):
    assert run(lose) == [1]
    assert "Connection reset by peer" in capfd.readouterr().err


def test_who_is_done_is_not_missed(attempt):
    assert run(lambda: None, lambda: time.sleep(3)) == [0, 0]
    assert not list(attempt.glob("llmcls-*"))


@pytest.mark.usefixtures("attempt")
def test_processes_stop_as_by_sigterm_when_their_launcher_was_killed(tmp_path):
    heard = tmp_path / "heard"

    def worker() -> None:
        def note(*_: object) -> None:
            heard.touch()
            os._exit(0)

        signal.signal(signal.SIGTERM, note)
        with failing_once():
            (tmp_path / "ready").touch()
            wait()

    def launcher() -> None:
        FORK.Process(target=worker).start()
        wait()

    process = FORK.Process(target=launcher)
    process.start()
    _until((tmp_path / "ready").exists)
    process.kill()
    _until(heard.exists)


def test_without_a_launcher_nothing_is_watched(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    with pytest.raises(ValueError, match="only one"), failing_once():
        fail()


def _until(condition) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen within 30 s")
