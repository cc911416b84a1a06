"""Which rows a run is evaluated on: its own data, or other data that is given.

examples, name = read_rows(run, Labelled("new.csv"), reporter)         # name: what results are filed under
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcls.data.reader import FileFormat
from llmcls.errors import LlmclsError, unknown

if TYPE_CHECKING:
    from llmcls.console import Reporter
    from llmcls.data.splits import DataSplits
    from llmcls.records import Example
    from llmcls.runs.run import Run


@dataclass(frozen=True)
class Labelled:
    """Labelled rows as the command line names them.

    Attributes:
        data: where they are; None: the run's own data.
        text_columns: the columns of other data that hold the text; those of the run when empty.
        label_column: the column of other data that holds the label; that of the run when None.
        split: which split; None: test, or the only one.
        form: how files of other data are written.
    """

    data: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | tuple[str, ...] | None = None
    split: str | None = None
    form: FileFormat = field(default_factory=FileFormat)


def read_rows(run: Run, given: Labelled, reporter: Reporter) -> tuple[list[Example], str]:
    """The rows to evaluate, and what to call them: a split of the run's own data, or the name of other data.

    Raises:
        LlmclsError: for an unknown split, data that cannot be read, and rows that cannot be compared.
    """
    from llmcls.data.inputs import load_labelled
    from llmcls.data.reader import SPLITS
    from llmcls.data.sources import open_tables, warn_of_unused
    from llmcls.data.split_names import standard_name

    data, split = given.data, given.split
    if split is not None and standard_name(split) not in SPLITS:
        raise LlmclsError(unknown("split", split, SPLITS))
    if data is None:
        return _read_own(run, standard_name(split or "test"), reporter)
    # What is only kept from the run's own data may have no use in others; what is said of these must have one.
    warn_of_unused(data, None, given.form.beside(FileFormat.of(run.settings.data)))
    tables = open_tables(data, form=given.form)
    chosen = None if len(tables) == 1 else split or "test"
    notes: list[str] = []
    examples = load_labelled(
        data,
        labels=run.labels,
        text_columns=given.text_columns or run.card["data"]["text_columns"],
        label_column=given.label_column or run.card["data"]["label_column"],
        label_separator=run.label_separator,
        split=chosen,
        form=given.form,
        order=run.settings.data.labels,
        drop_others=run.settings.data.drops_other_labels,
        notes=notes,
        tables=tables,
    )
    for note in notes:
        reporter.say(note)
    # Never 'test' alone: `llmcls runs list` would show it as the run's accuracy on its own test split.
    name = re.sub(r"[^\w.-]+", "-", data).strip("-.") or "data"
    return examples, f"{name}-{chosen or 'data'}" if chosen or name in SPLITS else name


def _read_own(run: Run, split: str, reporter: Reporter) -> tuple[list[Example], str]:
    splits = _load_own(run)
    if splits.fingerprint != run.card["data"]["fingerprint"]:
        reporter.warn(f"'{run.settings.data.source}' has changed since this run was trained on it.")
    if split == "test" and not splits.test and splits.validation:
        reporter.warn("there is no test split; evaluating on validation, which training may have looked at.")
        split = "validation"
    if not splits[split]:
        raise LlmclsError(
            f"'{run.settings.data.source}' has no {split} rows; say with --data what to evaluate the run on."
        )
    if split in splits.left_out:
        reporter.say(splits.left_out[split])
    return list(splits[split]), split


def _load_own(run: Run) -> DataSplits:
    """The data that the run was trained on, read again.

    Raises:
        LlmclsError: when it came from Python, has moved, or cannot be read.
    """
    from llmcls.data.splits import load_training_data

    settings = run.settings
    if settings.data.source is None:
        raise LlmclsError("This run was trained on data from Python; say with --data what to evaluate it on.")
    data = settings.data
    changes: dict[str, Any] = {"labels": run.labels.names}
    if data.keep_labels:
        # Zeros and ones are named by all labels that were given; by the names kept, where none were.
        if data.labels:
            changes = {"keep_labels": run.labels.names}
        else:
            changes["keep_labels"] = ()
            for name in ("label_aliases", "label_descriptions"):  # those of labels that were not kept went with them
                told = getattr(data, name)
                changes[name] = {label: told[label] for label in told if label in run.labels.names}
        changes["other_labels"] = "drop" if data.drops_other_labels else "error"
    known = settings.model_copy(update={"data": data.model_copy(update=changes)})
    try:
        return load_training_data(known)
    except LlmclsError as error:
        raise LlmclsError(
            f"The data that '{run.path}' was trained on cannot be read; give other data with --data. {error}"
        ) from error


def read_rows_of_baseline(run: Run) -> DataSplits:
    """The rows that a baseline is trained, and its thresholds tuned on."""
    if run.settings.data.source is None:
        raise LlmclsError("--baseline needs the training rows, but this run was trained on data from Python.")
    return _load_own(run)
