"""What `llmcls evaluate` finds out besides a report: of a few rows, or of other ways to ask.

for finding in look_closer(classifier, examples, predictions, reporter, free=200):
    finding.write(folder / finding.file)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.evaluation.samples import choose_rows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcls.classifier import Classifier
    from llmcls.console import Reporter
    from llmcls.records import Example, Prediction


@dataclass(frozen=True)
class Finding:
    """One thing that was found out.

    Attributes:
        key: what it is called in JSON.
        figures: what is said of it in JSON.
        table: what is shown of it.
        file: the name of its file.
        write: writes the file.
    """

    key: str
    figures: Mapping[str, Any]
    table: RenderableType
    file: str
    write: Callable[[Path], None]


def look_closer(
    classifier: Classifier,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    reporter: Reporter,
    *,
    free: int | None = None,
) -> list[Finding]:
    """Find out what is asked for; every process must call it.

    Args:
        classifier: the run's.
        examples: all rows evaluated.
        predictions: what the classifier says of them.
        reporter: where messages and progress go.
        free: how many rows to answer freely; None: no row.
    """
    findings = []
    if free is not None:
        findings.append(_answer_freely(classifier, examples, predictions, reporter, free))
    return findings


def _answer_freely(
    classifier: Classifier,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    reporter: Reporter,
    count: int,
) -> Finding:
    from llmcls.evaluation.free import compare_free
    from llmcls.evaluation.row_tables import free_table

    settings = classifier.assembly.settings
    chosen = choose_rows(len(examples), count, settings.seed)
    rows = [examples[place] for place in chosen]
    reporter.say(f"Free answers of {len(rows):,} rows")
    answers = classifier.answer_freely(rows, reporter=reporter)
    report = compare_free(rows, answers, [predictions[place] for place in chosen])
    separator = settings.data.label_separator
    return Finding("free", report.figures(), free_table(report), "free.csv", lambda path: report.write(path, separator))
