"""Tables of what is found out besides a report, for the terminal: texts cut, labels and answers shown literally.

console.print(free_table(report))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcls.evaluation.free import FreeReport
from llmcls.evaluation.stability import Stability
from llmcls.evaluation.tables import as_literal, bare_table, with_note
from llmcls.records import Example, Prediction

TEXT_WIDTH = 32  # characters of a text; two lines of them beside three labels fit 80 columns
FREE_EXAMPLES = 5
SAMPLES_SHOWN = 20


def free_table(report: FreeReport) -> RenderableType:
    """The figures of free answers, and a few of the answers, invalid ones first."""
    table = bare_table(f"Free answers, {len(report.rows):,} rows")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in (
        ("exact match", report.exact_match),
        ("invalid answers (not a label)", report.invalid),
        ("accuracy of constrained answers", report.constrained_accuracy),
    ):
        table.add_row(name, f"{value:.4f}")
    rows = [
        (row.example.text, row.example.label or "", row.free, row.constrained) for row in report.examples(FREE_EXAMPLES)
    ]
    return Group(table, _rows("", ("text", "label", "free", "constrained"), rows))


def samples_table(
    examples: Sequence[Example], before: Sequence[Prediction], after: Sequence[Prediction], heading: str = "base model"
) -> RenderableType:
    """The answers of a few rows before and after training; of more than 20 rows the first."""
    rows = [
        (row.text, row.label or "", old.label, new.label) for row, old, new in zip(examples, before, after, strict=True)
    ]
    shown = _rows(f"Samples, {len(rows):,} rows", ("text", "label", heading, "this run"), rows[:SAMPLES_SHOWN])
    return with_note(shown, f"the first {SAMPLES_SHOWN} of {len(rows):,}") if len(rows) > SAMPLES_SHOWN else shown


def templates_table(stability: Stability) -> RenderableType:
    """The headlines of each template, and the share of rows whose label is another one than with the own template."""
    own = stability.own
    names = {field: name for field, name, _ in own.report.FIGURES}
    table = bare_table(f"Templates, {own.report.rows:,} rows")
    table.add_column("template", overflow="fold")
    for field in own.report.HEADLINES:
        table.add_column(names[field], justify="right")
    table.add_column("labels changed", justify="right")
    for asked in (own, *stability.others):
        name = f"{asked.template} (this run's own)" if asked is own else asked.template
        figures = [f"{getattr(asked.report, field):.4f}" for field in own.report.HEADLINES]
        table.add_row(as_literal(name), *figures, "–" if asked is own else f"{stability.changed(asked):.2%}")
    return table


def _rows(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = bare_table(title)
    if not title:
        table.title = None
    for heading in headings:
        table.add_column(as_literal(heading), overflow="fold")
    for text, *answers in rows:
        table.add_row(_cut(text), *(as_literal(answer) if answer else Text("(nothing)", "dim") for answer in answers))
    return table


def _cut(text: str) -> Text:
    """A text on one line, as far as it fits."""
    line = " ".join(text.split())
    return as_literal(line if len(line) <= TEXT_WIDTH else f"{line[: TEXT_WIDTH - 1]}…")
