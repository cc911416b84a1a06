"""A short sample of the kill drill, and the kills that have a moment of their own."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from . import drill

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> drill.Bench:
    bench = drill.Bench(tmp_path_factory.mktemp("drill"))
    bench.prepare()
    return bench


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OMP_NUM_THREADS", "1"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)


def test_two_processes_killed_in_the_second_epoch_end_bitwise_alike(bench: drill.Bench, tmp_path: Path) -> None:
    """An epoch has 3 steps: what is read after step 4 is in the order of the second one, then of the third."""
    kind = "ddp"
    bench.undisturbed(kind)
    kill = drill.Kill(signal.SIGKILL, touches=1, where="checkpoint-6")
    assert -signal.SIGKILL in bench.attempt(kind, tmp_path / "run", kill)
    assert [path.name for path in (tmp_path / "run.unfinished" / "trainer").glob("*-4")] == ["checkpoint-4"]
    assert bench.attempt(kind, tmp_path / "run") == [0, 0], drill._said(bench, kind)
    assert drill.difference(bench.expected[kind], drill.outcome(tmp_path / "run")) is None


def test_a_few_random_kills_change_nothing(bench: drill.Bench) -> None:
    tally, chance = drill.Tally(), random.Random(3)
    for kind, kills in (("single", 4), ("predict", 3)):
        bench.undisturbed(kind)
        for _ in drill.drill(bench, kind, chance, tally, kills):
            pass
    assert tally.first is None
    assert sum(tally.kills.values()) >= 3 and sum(tally.rounds.values()) == 2, str(tally)
    tally = drill.Tally()
    bench.expected["predict"] = {"predictions": b"other bytes"}
    list(drill.drill(bench, "predict", chance, tally, 0))
    assert tally.first is not None and "other bytes" in tally.first, "a drill that sees nothing shows nothing"
