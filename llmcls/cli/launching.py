"""Where `llmcls train` trains: in this process, or in several that it starts.

way = Launching("ddp", machines, arguments, settings, quiet=False)
train(..., when_checked=way.choose)        # raises OnSeveralError once all else is known to be good
way.launch()                               # their exit code
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmcls.console import Reporter
from llmcls.settings import Settings


class OnSeveralError(Exception):
    """The training is for several processes, which a launcher starts."""


@dataclass
class Launching:
    """On how many processes to train, and how they are started; it is known once all else is known to be good.

    Attributes:
        launcher: as typed; None: by the visible GPUs.
        machines: the options of `machine_options`.
        arguments: the command's, for the other processes.
        settings: as resolved.
        quiet: say nothing.
    """

    launcher: str | None
    machines: dict[str, Any]
    arguments: list[str]
    settings: Settings
    quiet: bool

    def __post_init__(self) -> None:
        from llmcls.processes.launching import LaunchRequest, refuse_launch

        if self.launcher is None:
            return
        request = LaunchRequest(self.launcher, **self.machines)  # refuses numbers that do not go together
        if self.launcher != "single":
            refuse_launch(request)

    def choose(self) -> None:
        """Return where this process is to train by itself.

        Raises:
            OnSeveralError: where it is not.
        """
        from llmcls.processes.launching import LaunchRequest, visible_gpus

        if self.launcher == "single":
            return
        if self.launcher is None:
            gpus = visible_gpus()
            if gpus < 2:
                return
            Reporter(self.quiet).say(
                f"{gpus} GPUs are visible: --launch ddp --num-processes {gpus} (--launch single: only one)"
            )
            self.launcher = "ddp"
        LaunchRequest(self.launcher, **self.machines).resolve_processes()  # refuses where nothing says how many
        raise OnSeveralError

    def foresee(self) -> tuple[int, str]:
        """How many processes would train, and by which backend."""
        from llmcls.processes.launching import LaunchRequest, backend_of, visible_gpus

        if self.launcher == "single" or (self.launcher is None and visible_gpus() < 2):
            return 1, "single"
        request = LaunchRequest(self.launcher or "ddp", **self.machines)
        return request.resolve_processes(), backend_of(request)

    def launch(self) -> int:
        """Train on several processes and return their exit code."""
        from llmcls.processes.launching import LaunchRequest, launch
        from llmcls.runs.writing import default_path
        from llmcls.training.memory import explain

        arguments = self.arguments
        if self.settings.output_dir is None:  # every attempt goes on with the same run
            arguments = ["--output-dir", str(default_path(self.settings)), *arguments]
        request = LaunchRequest(self.launcher or "ddp", **self.machines)
        reporter = Reporter(self.quiet)
        return launch(request, ["train", *arguments], lambda smaller: reporter.warn(explain(smaller)))
