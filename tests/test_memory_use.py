"""How much memory this process has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmcls.memory_use import peak_resident, resident

ROOT = Path(__file__).resolve().parents[1]


def test_the_peak_is_at_least_what_is_resident() -> None:
    peak, now = peak_resident(), resident()
    assert peak is not None and now is not None and peak >= now * 0.99 > 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a peak down to what a process starts")
def test_the_peak_of_whoever_started_this_process_does_not_count() -> None:
    large = (
        "import subprocess, sys; held = bytearray(300_000_000); held[::4096] = b'x' * len(held[::4096]); "
        "print(subprocess.run([sys.executable, '-c', 'from llmcls.memory_use import peak_resident; "
        "print(peak_resident())'], capture_output=True, text=True, close_fds=True, preexec_fn=lambda: None).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 200_000_000
