"""Puts garbage collection off while a command starts: importing torch and transformers makes no garbage, and looking
for it among their 700,000 objects takes longer than many a command itself.

put_off_collection()         # the command line does, and nobody else
resume_collection()          # before weights are loaded; does nothing in a program that has put nothing off
"""

from __future__ import annotations

import atexit
import gc

STARTING = 2_000_000
"""New objects after which Python looks for garbage while a command starts: more than it imports. A command that reads
much data without ever loading a model gets there, and its memory stays bounded."""

_usual: list[tuple[int, int, int]] = []


def put_off_collection() -> None:
    """Look for garbage rarely until `resume_collection`, and not at all when the interpreter ends."""
    if not _usual:
        _usual.append(gc.get_threshold())
        gc.set_threshold(STARTING)
        atexit.register(gc.freeze)


def resume_collection() -> None:
    """Look for garbage as usual again, but never among what has been imported by now."""
    if _usual:
        gc.freeze()
        gc.set_threshold(*_usual.pop())
