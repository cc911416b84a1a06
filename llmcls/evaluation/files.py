"""The files an evaluation leaves behind: `metrics.json` for programs, `predictions.csv` for looking at rows.

    write_metrics(report, run / "metrics.json")
    write_predictions(run / "predictions.csv", examples, predictions)

Both are written beside their final place and moved there: a killed process leaves the old file or the new one.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from typing import IO, Any

from llmcls.errors import LlmclsError
from llmcls.evaluation.metrics import EvaluationReport
from llmcls.evaluation.multilabel import MultiLabelReport
from llmcls.figures import escaped, finite, to_json
from llmcls.files import replacing
from llmcls.records import Example, Prediction

Report = EvaluationReport | MultiLabelReport
"""What an evaluation comes to; each kind says of itself which figures tables show."""

KINDS: tuple[type[Report], ...] = (EvaluationReport, MultiLabelReport)

LATER = frozenset({"macro_precision", "macro_recall", "weighted_precision", "weighted_recall"})
"""Fields that files of older versions lack; every kind has them."""

PREDICTION_COLUMNS = ("source", "text", "label", "predicted", "probability", "correct")


def write_metrics(report: Report, path: str | Path, more: Mapping[str, Any] | None = None) -> None:
    """Write the report as JSON: sorted keys, `per_class` by label name, undefined figures as null.

    `never_occurred` is written too, for readers of the file; `read_metrics` derives it again, and leaves `more` aside.

    Args:
        report: the figures.
        path: the file.
        more: what was found out besides, by names that the report has not.

    Raises:
        LlmclsError: when the file cannot be written.
    """
    content = {**dataclasses.asdict(report), **(more or {})}
    content["per_class"] = {entry.pop("label"): entry for entry in content["per_class"]}
    content["never_occurred"] = report.never_occurred
    entries = [f"  {json.dumps(key)}: {_render(content[key])}" for key in sorted(content)]
    with _replacing(Path(path)) as file:
        file.write("{\n" + ",\n".join(entries) + "\n}\n")


def read_metrics(path: str | Path) -> Report:
    """Read what `write_metrics` wrote: an equal report.

    Raises:
        LlmclsError: when the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        kind = next((kind for kind in KINDS if _names(kind) <= content.keys()), KINDS[0])
        fields = {name: content[name] for name in _names(kind)} | {name: content.get(name) for name in LATER}
        labels = fields["labels"] = tuple(content["labels"])
        fields["per_class"] = tuple(kind.ENTRY(label=name, **content["per_class"][name]) for name in labels)
        if "confusion" in fields:
            fields["confusion"] = tuple(map(tuple, content["confusion"]))
        return kind(**fields)
    except OSError as error:
        raise LlmclsError(f"Cannot read the metrics file {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LlmclsError(
            f"{path} is not a metrics file of llmcls ({type(error).__name__}: {error}); evaluate again to write it."
        ) from error


def write_predictions(
    path: str | Path,
    examples: Iterable[Example],
    predictions: Iterable[Prediction],
    prompts: Iterable[str] | None = None,
    *,
    escape_formulas: bool = False,
) -> None:
    """Write one CSV row per example, streaming: source, text, label, predicted, probability, correct.

    `label` and `correct` are empty where the true label is not known, `probability` where it is NaN, and `correct`
    where a threshold kept the row from being answered (`predicted` is then the settings' `no_answer`).

    Args:
        path: the file.
        examples: the rows.
        predictions: one a row.
        prompts: what the model read of each row (`Encoder.read_prompts`), for a last column `prompt`; None: without it.
        escape_formulas: see `write_rows`.

    Raises:
        LlmclsError: when the file cannot be written.
        ValueError: when there are more examples than predictions, or fewer.
    """
    rows: Iterable[tuple[Any, ...]] = starmap(_prediction_row, zip(examples, predictions, strict=True))
    if prompts is None:
        write_rows(path, PREDICTION_COLUMNS, rows, escape_formulas=escape_formulas)
    else:
        shown = ((*row, said) for row, said in zip(rows, prompts, strict=True))
        write_rows(path, (*PREDICTION_COLUMNS, "prompt"), shown, escape_formulas=escape_formulas)


def write_rows(
    path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, escape_formulas: bool = False
) -> None:
    """Write rows of cells under a header as CSV, streaming.

    Args:
        path: the file.
        columns: the header.
        rows: the cells.
        escape_formulas: put an apostrophe before text that a spreadsheet would compute (`llmcls.figures.escaped`).

    Raises:
        LlmclsError: when the file cannot be written.
    """
    with _replacing(Path(path)) as file:
        # QUOTE_NONNUMERIC: else Python before 3.11.9 and 3.12.3 leaves a lone carriage return unquoted, and it ends
        # the row (https://github.com/python/cpython/issues/67044).
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(map(escaped, columns) if escape_formulas else columns)
        writer.writerows(map(escaped, row) if escape_formulas else row for row in rows)


def _prediction_row(example: Example, prediction: Prediction) -> tuple[Any, ...]:
    known = example.label is not None
    return (
        example.source,
        example.text,
        example.label if known else "",
        prediction.label,
        finite(prediction.probability),
        str(example.label == prediction.label).lower() if known and prediction.withheld is None else "",
    )


def _names(kind: type[Report]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - LATER


def _render(value: Any) -> str:
    """JSON with one line for each element that is itself a list or dict: a confusion matrix reads as a matrix."""

    def dump(item: Any) -> str:
        return to_json(item, sort_keys=True)

    if isinstance(value, dict):
        lines = [f"    {dump(key)}: {dump(value[key])}" for key in sorted(value)]
        return "{\n" + ",\n".join(lines) + "\n  }"
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return "[\n" + ",\n".join(f"    {dump(row)}" for row in value) + "\n  ]"
    return dump(value)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """`llmcls.files.replacing`, with the system's refusal as one sentence."""
    try:
        # A lone surrogate (JSON input can hold one) has no UTF-8; show its escape rather than lose the file.
        with replacing(path, errors="backslashreplace") as file:
            yield file
    except OSError as error:
        raise LlmclsError(f"Cannot write {path}: {error.strerror or error}.") from error
