"""Says what is going on: lines, warnings and progress bars, on one console, from rank 0 only.

    with reporter.track("Encoding", total=1200) as advance:
        advance(16)

On a terminal and in a notebook a bar is drawn; elsewhere, in a log file, a line is written now and then:

      Encoding: 10,240/43,410, 12 s, 39 s left, 853 rows/s, 1.10 GB

Messages go to standard error, so that standard output holds results alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from llmcls.memory_use import memory_in_use
from llmcls.processes.world import launched_rank
from llmcls.visible import make_console, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Advance = Callable[[int], None]
NOTEBOOK_COLUMNS = 80  # of a bar; a cell's output is wider than that

FIRST_LINE, NEXT_LINES = 10.0, 30.0
"""Seconds after which progress is told where no bar is drawn: what takes less needs no line."""


class Reporter:
    """Where messages and progress go.

    Args:
        quiet: say nothing but warnings.
    """

    def __init__(self, quiet: bool = False) -> None:
        # Every process but the first says nothing, so that nothing is said N times.
        self.silent = launched_rank() != 0
        self.quiet = quiet or self.silent
        self._bars: list[Progress] = []

    # One console for bars and lines: it puts a line above the bar, where another console would break into it.
    @cached_property
    def console(self) -> Console:
        """The rich console on standard error."""
        return make_console(stderr=True, highlight=False)

    def say(self, message: str) -> None:
        """One line of information."""
        if not self.quiet:
            self.console.print(visible(message), markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Something risky, with its remedy; shown even when quiet."""
        if not self.silent:
            self.console.print(visible(f"Warning: {message}"), style="yellow", markup=False, soft_wrap=True)

    @property
    def draws_bars(self) -> bool:
        """Whether `track` draws bars."""
        return not self.quiet and (self.console.is_terminal or self.console.is_jupyter)

    @property
    def shows_progress(self) -> bool:
        """Whether `track` shows anything, bars or lines, so that it is worth finding out how much there is to do."""
        return not self.quiet

    @contextmanager
    def track(
        self, description: str, total: int | None, done: int = 0, *, unit: str = "rows", lines: bool = True
    ) -> Iterator[Advance]:
        """Show progress over `total` units; call the yielded function with each number of units done.

        Args:
            description: what is being done.
            total: None where it is not known.
            done: units that were done in an earlier attempt; they do not count for the speed.
            unit: what is counted.
            lines: whether to write lines where no bar is drawn; False for what says by itself how far it is.
        """
        if self.draws_bars:
            with self._bar(description, total, done) as advance:
                yield advance
        elif self.quiet or not lines:
            yield lambda _units: None
        else:
            pace = Pace(total, done, unit)
            due = time.monotonic() + FIRST_LINE

            def count(units: int) -> None:
                nonlocal due
                pace.add(units)
                if time.monotonic() >= due:
                    self.say(f"  {description}: {pace.count()}, {pace}")
                    due = time.monotonic() + NEXT_LINES

            yield count

    @contextmanager
    def _bar(self, description: str, total: int | None, done: int) -> Iterator[Advance]:
        if self.console.is_jupyter:  # where rich needs ipywidgets for its own
            from tqdm import tqdm  # type: ignore[import-untyped]

            with tqdm(desc=description, total=total, initial=done, leave=False, ncols=NOTEBOOK_COLUMNS) as bar:

                def update(units: int) -> None:
                    bar.update(units)

                yield update
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        outer = self._bars[-1] if self._bars else None  # what is done within is drawn below
        progress = outer or Progress(*columns, console=self.console, transient=True)
        if outer is None:
            self._bars.append(progress)
            progress.start()
        task = progress.add_task(description, total=total, completed=done, rate="")

        def advance(units: int) -> None:
            progress.update(task, advance=units)
            found = next(each for each in progress.tasks if each.id == task)
            speed = found.finished_speed or found.speed
            progress.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        try:
            yield advance
        finally:
            if outer is not None:
                progress.remove_task(task)
            else:
                progress.stop()
                if progress in self._bars:
                    self._bars.remove(progress)

    def close(self) -> None:
        """Take away bars that an error left on the terminal, so that its message stands on a line of its own."""
        for bar in self._bars:
            bar.stop()
        self._bars.clear()


class Pace:
    """How fast something goes, in words: `12 s, 39 s left, 853 rows/s, 1.10 GB`.

    The memory is that of tensors on the GPU at their most, where one is used, else what the process has now.

    Args:
        total: units there are; None where that is not known.
        done: units that were done before.
        unit: what is counted.
        each: units in one of what is added.
    """

    def __init__(self, total: int | None, done: int = 0, unit: str = "rows", each: int = 1) -> None:
        self._total, self._done, self._unit, self._each = total, done, unit, each
        self._before, self._begun = done, time.monotonic()

    def add(self, units: int) -> None:
        """Some more are done."""
        self._done += units

    def count(self) -> str:
        """How many are done, of how many: `10,240/43,410`."""
        return f"{self._done:,}" if self._total is None else f"{self._done:,}/{self._total:,}"

    def __str__(self) -> str:
        spent, done = time.monotonic() - self._begun, self._done - self._before
        parts = [in_words(spent)]
        if self._total is not None and done:
            parts.append(f"{in_words((self._total - self._done) * spent / done)} left")
        if spent and done:
            speed = done * self._each / spent
            parts.append(f"{speed:,.0f} {self._unit}/s" if speed >= 10 else f"{speed:.2g} {self._unit}/s")
        if (memory := memory_in_use()) is not None:
            parts.append(f"{memory / 1e9:.2f} GB")
        return ", ".join(parts)


def in_words(seconds: float) -> str:
    """A duration with the two units that matter.

    >>> in_words(42.3), in_words(754), in_words(7500), in_words(200_000)
    ('42 s', '13 min', '2 h 5 min', '2 d 8 h')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
