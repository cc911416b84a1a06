"""Evaluation reports as rich tables for the terminal, made for 80 columns.

    console.print(summary_table(report), class_table(report), confusion_table(report))
    console.print(comparison_table(before, after))

All but `confusion_table` take the report of a multi-label evaluation as well.
Label names are shown literally, whatever markup, control characters or wide characters they hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmcls.errors import LlmclsError
from llmcls.evaluation.files import Report
from llmcls.evaluation.metrics import EvaluationReport
from llmcls.visible import visible

MATRIX_LABELS = 12  # a matrix of more labels does not fit 80 columns
CLASS_ROWS = 100
MATRIX_NAME_WIDTH = 14
PAIR_ROWS = 15
ABSENT_SHOWN = 10


def summary_table(report: Report, title: str = "Evaluation") -> RenderableType:
    """The overall figures, one a line; below it the labels of which nothing is known."""
    table = bare_table(title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for field, name, _ in report.FIGURES:
        if (value := getattr(report, field)) is not None:
            table.add_row(name, f"{value:.4f}")
    table.add_section()
    table.add_row("rows", f"{report.rows:,}")
    table.add_row("rows with truncated text", f"{report.truncated:,}")
    table.add_row("labels", f"{len(report.labels):,}")
    absent = report.never_occurred
    if not absent:
        return table
    table.add_row("labels that never occur", f"{len(absent):,}")
    more = f" and {len(absent) - ABSENT_SHOWN} more" if len(absent) > ABSENT_SHOWN else ""
    names = Text(", ").join(map(as_literal, absent[:ABSENT_SHOWN]))
    return with_note(table, Text.assemble("never occur in these rows: ", names, more))


def class_table(report: Report, shown: int = CLASS_ROWS) -> RenderableType:
    """Precision, recall, F1 and support of each label; of more than `shown` labels those with the lowest F1.

    Below stand the averages over all labels. A multi-label report adds the average precision and the threshold of each.
    """
    table = bare_table("By label")
    _add_label_column(table, "label")
    for heading in ("precision", "recall", "F1", "support", *(heading for _, heading in report.ENTRY_COLUMNS)):
        table.add_column(heading, justify="right", no_wrap=True)
    entries: Sequence[int] = range(len(report.labels))
    note = ""
    if len(entries) > shown:
        # A label of which nothing is known (None) is not a bad one: last.
        f1 = [entry.f1 for entry in report.per_class]
        entries = sorted(entries, key=lambda i: 2.0 if (value := f1[i]) is None else value)[:shown]
        note = f"the {shown} of {len(report.labels):,} labels with the lowest F1"
    for i in entries:
        entry = report.per_class[i]
        figures = (_number(entry.precision, 3), _number(entry.recall, 3), _number(entry.f1, 3))
        more = [_number(getattr(entry, field), 3) for field, _ in report.ENTRY_COLUMNS]
        cells = [*figures, f"{entry.support:,}", *more]
        table.add_row(as_literal(entry.label), *cells, style="" if entry.support else "dim")
    table.add_section()
    for average in report.AVERAGES:
        means = [getattr(report, f"{average}_{figure}") for figure in ("precision", "recall", "f1")]
        if any(mean is not None for mean in means[:2]):  # a file of an older version lacks these
            support = f"{sum(entry.support for entry in report.per_class):,}"
            cells = [*(_number(mean, 3) for mean in means), support, *[""] * len(report.ENTRY_COLUMNS)]
            table.add_row(Text(f"{average} average", "italic"), *cells)
    return with_note(table, note)


def confusion_table(report: EvaluationReport) -> RenderableType:
    """The confusion matrix; where it is too wide for 80 columns, the most confused pairs instead."""
    width = max(len(str(count)) for row in report.confusion for count in row)
    # 80 less the outer margins (2), the row numbers (3) and the column of names with its margin.
    available = 80 - 2 - 3 - (MATRIX_NAME_WIDTH + 1)
    fits = len(report.labels) <= MATRIX_LABELS and len(report.labels) * (max(width, 2) + 1) <= available
    return _matrix(report) if fits else _pairs(report)


def comparison_table(before: Report, after: Report, headings: tuple[str, str] = ("before", "after")) -> RenderableType:
    """Two reports on the same rows side by side, with the difference; green is better, red is worse.

    Below the overall figures stands the F1 of each label; of more than 12 labels, those that changed most.

    Raises:
        LlmclsError: when the reports are not about the same rows and labels, as far as the counts tell.
    """
    for what, first, second in (
        ("labels", before.labels, after.labels),
        ("rows of each label", _supports(before), _supports(after)),
    ):
        if first != second:
            raise LlmclsError(
                f"The reports '{headings[0]}' and '{headings[1]}' differ in their {what}, so their figures cannot be "
                "compared; evaluate both on the same rows."
            )
    table = bare_table(f"{headings[0][:1].upper()}{headings[0][1:]} and {headings[1]}, {after.rows:,} rows")
    _add_label_column(table, "figure")
    for column in (*headings, "change"):
        table.add_column(Text(column), justify="right", no_wrap=True)
    for field, name, better in after.FIGURES:
        first, second = getattr(before, field), getattr(after, field)
        if first is not None or second is not None:
            table.add_row(name, _number(first, 4), _number(second, 4), _change(first, second, 4, better))
    f1 = list(zip(_f1(before), _f1(after), strict=True))
    entries: Sequence[int] = range(len(f1))
    note = ""
    if len(f1) > MATRIX_LABELS:
        change = [-1.0 if one is None or two is None else abs(two - one) for one, two in f1]
        entries = sorted(entries, key=lambda i: -change[i])[:MATRIX_LABELS]
        note = f"F1 of the {MATRIX_LABELS} of {len(f1):,} labels that changed most"
    table.add_section()
    table.add_row(Text("F1 by label", "bold"))
    for i in entries:
        one, two = f1[i]
        table.add_row(as_literal(after.labels[i]), _number(one, 4), _number(two, 4), _change(one, two, 4, 1))
    return with_note(table, note)


def _matrix(report: EvaluationReport) -> RenderableType:
    table = bare_table("Confusion matrix")
    table.padding = (0, 0, 0, 1)
    table.add_column("", justify="right", no_wrap=True, style="bold")
    _add_label_column(table, "true label", MATRIX_NAME_WIDTH)
    for number in range(1, len(report.labels) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for i, row in enumerate(report.confusion):
        cells = [
            Text("·", "dim") if count == 0 else Text(str(count), "bold green" if i == j else "red")
            for j, count in enumerate(row)
        ]
        table.add_row(str(i + 1), as_literal(report.labels[i]), *cells)
    return with_note(table, "rows: true label; columns: predicted label, by its number")


def _pairs(report: EvaluationReport) -> RenderableType:
    table = bare_table("Most confused labels")
    errors = [
        (count, i, j) for i, row in enumerate(report.confusion) for j, count in enumerate(row) if count and i != j
    ]
    errors.sort(key=lambda error: (-error[0], error[1:]))
    _add_label_column(table, "true label")
    _add_label_column(table, "predicted as")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("of true", justify="right", no_wrap=True)
    for count, i, j in errors[:PAIR_ROWS]:
        share = f"{count / report.per_class[i].support:.0%}"
        table.add_row(as_literal(report.labels[i]), as_literal(report.labels[j]), f"{count:,}", share)
    shown, wrong = sum(error[0] for error in errors[:PAIR_ROWS]), sum(error[0] for error in errors)
    return with_note(table, f"{shown:,} of the {wrong:,} rows that are wrong" if wrong else "no row is wrong")


def bare_table(title: str) -> Table:
    """A table without columns yet, in the style of all."""
    return Table(title=as_literal(title, "bold"), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)


def with_note(table: Table, note: str | Text) -> RenderableType:
    """Not as the table's caption, which would be wrapped to the width of the table."""
    if not note:
        return table
    return Group(table, Padding(Text.assemble(note, style="italic"), (0, 1, 1, 1)))


def _add_label_column(table: Table, heading: str, min_width: int = 16) -> None:
    """Long names go on in the next line: a name cut short may look like another one."""
    table.add_column(Text(heading), overflow="fold", min_width=min_width)


def as_literal(name: str, style: str = "") -> Text:
    """A name as it is: `Text` reads no markup, and what would steer the terminal is shown as its escape."""
    return Text(visible(name, lines=False), style)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _change(before: float | None, after: float | None, digits: int, better: int) -> Text:
    """The signed difference of the figures as shown, so that the line adds up."""
    if before is None or after is None:
        return Text("–")
    change = round(round(after, digits) - round(before, digits), digits)
    gain = change * better
    return Text(f"{change:+.{digits}f}" if change else "=", "green" if gain > 0 else "red" if gain < 0 else "")


def _f1(report: Report) -> list[float | None]:
    return [entry.f1 for entry in report.per_class]


def _supports(report: Report) -> tuple[int, ...]:
    return tuple(entry.support for entry in report.per_class)
