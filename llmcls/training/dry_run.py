"""A training up to its first weight: what it would do, found out within seconds, and nothing written.

    outlook = dry_run("tickets.csv", base_model="llama-3.2-1b")
    print("\\n".join(outlook.lines()))

Settings, data, names and prompts are checked as a training checks them, so that what is refused there is refused here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmcls.console import Reporter
from llmcls.model.calm import calm_libraries
from llmcls.training.job import resolve_job
from llmcls.training.outlook import Outlook, take_stock
from llmcls.training.train import prepare_rows, read_material


def dry_run(data: object = None, *, processes: int | None = None, backend: str | None = None, **given: Any) -> Outlook:
    """Read, check and encode the data, and say what training would do; no weight is loaded, and nothing is written.

    Args:
        data: see `llmcls.train`.
        processes: how many would train; None: as a launcher has started.
        backend: by which they would work together; None: as the launcher's environment says.
        given: what else `llmcls.train` takes.

    Raises:
        LlmclsError: for whatever training would refuse before it loads the weights.
    """
    job = resolve_job(data, **{"overwrite": False, "resume": "auto", "force": False, "reporter": Reporter(), **given})
    if processes is not None:
        job = replace(job, processes=processes)
    if backend is not None:
        job = replace(job, backend=backend)
    job, material = read_material(job)
    with calm_libraries():
        return take_stock(job, material, prepare_rows(job, material, announced=False))
