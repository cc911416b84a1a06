"""How much memory this process has, asked of the system; importing no library.

peak_resident()          # the most bytes it has had resident so far
memory_in_use()          # now: of the GPU where one is used, else resident
"""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

_STATUS = Path("/proc/self/statm")
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def peak_resident() -> int | None:
    """The most memory in bytes that this process has had resident; None where the system does not tell."""
    # Linux tells two peaks. `getrusage` begins with that of the process that started this one, which may be larger.
    status = _STATUS.with_name("status")
    if status.is_file() and (found := _PEAK.search(status.read_text(encoding="utf-8", errors="replace"))):
        return int(found[1]) * 1024
    if not find_spec("resource"):
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # kilobytes but for macOS


def resident() -> int | None:
    """The memory in bytes that this process has resident now, or at most has had where only that is known."""
    if not _STATUS.is_file():
        return peak_resident()
    return int(_STATUS.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine_memory() -> int | None:
    """All the memory of this machine in bytes; None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_in_use() -> int | None:
    """In bytes: the most that tensors have had on the GPU so far where one is used, else what is resident now."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resident()
