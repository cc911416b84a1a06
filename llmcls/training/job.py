"""What a training is asked for, resolved: settings, data, the run directory, and the run that it goes on from.

job = resolve_job("tickets.csv", base_model="nano", output_dir="runs/tickets")
job.settings, job.path, job.start
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.console import Reporter
from llmcls.errors import LlmclsError
from llmcls.model.loading import locate
from llmcls.processes.world import launched_size, requested_backend
from llmcls.runs.writing import default_path
from llmcls.settings import Settings, given_settings, make_settings
from llmcls.training.going_on import Start, find_start
from llmcls.training.preparation import locate_source

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Job:
    """One attempt at a training.

    Attributes:
        settings: as resolved; where nothing was given for them, as the base model's adapter suggests once it is known.
        explicit: the settings of each section that were given.
        path: the run directory to write.
        data: what to train on; see `train`.
        start: the run that it goes on from, if any.
        overwrite, resume, force: see `train`.
        reporter: where progress goes.
        when_checked: see `train`.
        origins: where settings were given, by their dotted names; see `train`.
        processes: how many take part.
        backend: by which they work together.
    """

    settings: Settings
    explicit: Mapping[str, Collection[str]]
    path: Path
    data: object
    start: Start | None
    overwrite: bool
    resume: str
    force: bool
    reporter: Reporter
    when_checked: Callable[[], None] | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    processes: int = field(default_factory=launched_size)
    backend: str = field(default_factory=requested_backend)


def resolve_job(
    data: object = None,
    *,
    base_model: str | None = None,
    template: str | None = None,
    text_columns: tuple[str, ...] = (),
    label_column: str | Sequence[str] | None = None,
    output_dir: str | Path | None = None,
    trust_remote_code: bool | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    **others: Any,
) -> Job:
    """Put arguments and settings together.

    Args:
        data, base_model, template, text_columns, label_column, output_dir, trust_remote_code, settings: see `train`.
        others: further attributes of the job.

    Raises:
        LlmclsError: for impossible settings, and where there is no data.
    """
    explicit = given_settings(settings or {})
    given: dict[str, Any] = settings.model_dump() if isinstance(settings, Settings) else _deep_copy(settings or {})
    for section, key, value in (
        ("data", "source", str(data) if isinstance(data, (str, Path)) else None),
        ("data", "text_columns", text_columns or None),
        ("data", "label_column", label_column),
        ("model", "base_model", base_model),
        ("model", "trust_remote_code", trust_remote_code),
        ("prompt", "template", template),
    ):
        if value is not None:
            given.setdefault(section, {})[key] = value
    if trust_remote_code is not None:
        explicit.setdefault("model", set()).add("trust_remote_code")
    if data is not None and not isinstance(data, (str, Path)):
        given.setdefault("data", {})["source"] = None  # what the settings name is not what it was trained on
    if output_dir is not None:
        given["output_dir"] = str(output_dir)
    resolved = make_settings(given)
    if (start := find_start(resolved.model.base_model)) is not None:
        resolved = start.settle(resolved, explicit, Path(resolved.output_dir) if resolved.output_dir else None)
    if data is None and resolved.data.source is None:
        raise LlmclsError("There is no data to train on; give --data, or data.source in the settings.")
    source = data if data is not None else resolved.data.source
    resolved = resolved.model_copy(update={"model": locate(resolved.model), "data": locate_source(resolved.data)})
    return Job(resolved, explicit, Path(resolved.output_dir or default_path(resolved)), source, start, **others)


def _deep_copy(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}
