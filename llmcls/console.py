"""Says what is going on: lines, warnings and progress bars, on one console, from rank 0 only.

    with reporter.track("Encoding", total=1200) as advance:
        advance(16)

Bars are drawn on a terminal and in a notebook; messages go to standard error, so that standard output holds results
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from llmcls.processes.world import launched_rank
from llmcls.visible import make_console, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Advance = Callable[[int], None]
NOTEBOOK_COLUMNS = 80  # of a bar; a cell's output is wider than that


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
        """Whether `track` shows anything, so that it is worth finding out how much there is to do."""
        return not self.quiet and (self.console.is_terminal or self.console.is_jupyter)

    @contextmanager
    def track(self, description: str, total: int | None, done: int = 0) -> Iterator[Advance]:
        """A progress bar over `total` units; call the yielded function with each number of units done.

        Args:
            description: what is being done.
            total: None where it is not known.
            done: units that were done in an earlier attempt; they do not count for the speed.
        """
        console = self.console
        if not self.draws_bars:
            yield lambda _units: None
            return
        if console.is_jupyter:  # where rich needs ipywidgets for its own
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
        with Progress(*columns, console=console, transient=True) as progress:
            self._bars.append(progress)
            task = progress.add_task(description, total=total, completed=done, rate="")

            def advance(units: int) -> None:
                progress.update(task, advance=units)
                speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
                progress.update(task, rate=f"{speed:,.0f}/s" if speed else "")

            yield advance

    def close(self) -> None:
        """Take away bars that an error left on the terminal, so that its message stands on a line of its own."""
        for bar in self._bars:
            bar.stop()
        self._bars.clear()
