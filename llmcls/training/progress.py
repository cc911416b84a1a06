"""What the user sees of a training: a bar or the pace in every line, when it will end, and the validations.

trainer.add_callback(ProgressCallback(reporter))
with the_callback(trainer, ProgressCallback).validating(1000) as advance: advance(16)
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from transformers import TrainerCallback

from llmcls.console import Advance, Pace, Reporter, in_words

MEASURED = 3
"""Steps after which the time of the others is known; the first one, in which much is set up, does not count."""

WORTH_SAYING = 20
"""Seconds that are left, at least, for it to be said."""

SHOWN = {
    "accuracy": "accuracy",
    "subset_accuracy": "subset accuracy",
    "macro_f1": "macro-F1",
}
"""Figures of a validation that its line says, by the names in the log; all of them are in `log.jsonl`."""


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Shows training through llmcls's reporter instead of tqdm.

    Args:
        reporter: where it goes.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._done = self._begun = 0
        self._first_ended = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self._done = self._begun = state.global_step
        self._track = self._reporter.track("Training", total=state.max_steps, done=self._done, lines=False)
        self._advance = self._track.__enter__()
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._pace = Pace(state.max_steps, self._done, each=rows)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar; after some steps, say how long the others will take."""
        self._advance(state.global_step - self._done)
        self._pace.add(state.global_step - self._done)
        self._done = state.global_step
        if (steps := self._done - self._begun) == 1:
            self._first_ended = time.monotonic()
        elif steps == MEASURED:
            each = (time.monotonic() - self._first_ended) / (MEASURED - 1)
            left = state.max_steps - self._done
            if left * each >= WORTH_SAYING and not control.should_training_stop:
                besides = "" if args.eval_strategy == "no" else ", and the validations"
                self._reporter.say(f"  About {in_words(left * each)} to go: {left:,} steps of {each:.2g} s{besides}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """One line per logged loss; with the pace where no bar shows it."""
        logs = logs or {}
        where = f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}"
        if "eval_loss" in logs:
            found = "".join(
                f", {shown} {logs[f'eval_{name}']:.4f}" for name, shown in SHOWN.items() if f"eval_{name}" in logs
            )
            said = f"validation loss {logs['eval_loss']:.4f}{found}"
        elif "loss" in logs:
            said = f"loss {float(logs['loss']):.4f}, accuracy {logs['accuracy']:.4f}"
        else:
            return
        pace = "" if self._reporter.draws_bars else f" ({self._pace})"
        self._reporter.say(f"  {where}: {said}{pace}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self._track.__exit__(None, None, None)

    def validating(self, rows: int) -> AbstractContextManager[Advance]:
        """Show the progress of a validation of so many rows."""
        return self._reporter.track("Validating", total=rows)
