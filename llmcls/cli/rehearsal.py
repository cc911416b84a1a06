"""`llmcls train --dry-run`: what training would do.

rehearse(settings, {"overwrite": False, "force": False, "origins": {}}, way, reporter, as_json=False)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.cli.shared import echo, show_json
from llmcls.runs.writing import has_identity, unfinished_folder

if TYPE_CHECKING:
    from llmcls.cli.launching import Launching
    from llmcls.console import Reporter
    from llmcls.settings import Settings


def rehearse(
    settings: Settings, given: Mapping[str, Any], way: Launching | None, reporter: Reporter, as_json: bool
) -> None:
    """Print the facts of a training that does not take place.

    Args:
        settings: as resolved.
        given: what else `llmcls.train` takes.
        way: on how many processes it would take place; None: on those that a launcher has started.
        reporter: where progress goes.
        as_json: print the facts as JSON.
    """
    from llmcls.training.dry_run import dry_run

    processes, backend = (None, None) if way is None else way.foresee()
    with redirect_stdout(sys.stderr):  # standard output is for the facts
        outlook = dry_run(settings=settings, reporter=reporter, processes=processes, backend=backend, **given)
    if reporter.silent:
        return
    for doubt in outlook.doubts():
        reporter.warn(doubt)
    if settings.output_dir is not None and has_identity(folder := unfinished_folder(Path(settings.output_dir))):
        reporter.say(
            f"An unfinished training is in '{folder}': the same command without --dry-run goes on with it, if settings "
            "and data are those that it was begun with (--resume never begins anew)."
        )
    if as_json:
        show_json(outlook.figures())
        return
    for line in outlook.lines():
        echo(line)
    reporter.say("A dry run: no weight was loaded, and nothing was written.")
