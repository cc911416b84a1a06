"""A report as HTML, which a notebook shows in place of its long `repr`.

    report._repr_html_()         # what Jupyter asks for; as_html(report) by hand

Tables as `llmcls evaluate` prints them: the figures, then each label. Names are escaped: a label is text, whatever it
says.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llmcls.visible import visible

if TYPE_CHECKING:
    from llmcls.evaluation.files import Report

SHOWN = 100
"""Labels; of more, those with the lowest F1."""


def as_html(report: Report) -> str:
    """The overall figures and those of each label, as two tables."""
    figures = [
        (name, f"{value:.4f}") for field, name, _ in report.FIGURES if (value := getattr(report, field)) is not None
    ]
    overall = _table(("figure", f"{report.rows:,} rows"), figures)
    # A label of which nothing is known (None) is not a bad one: last.
    entries: list[Any] = list(report.per_class)
    if len(entries) > SHOWN:
        entries = sorted(entries, key=lambda entry: 2.0 if entry.f1 is None else entry.f1)[:SHOWN]
    more = report.ENTRY_COLUMNS
    heading = ("label", "precision", "recall", "F1", "support", *(name for _, name in more))
    rows = [
        (
            entry.label,
            *map(_number, (entry.precision, entry.recall, entry.f1)),
            f"{entry.support:,}",
            *(_number(getattr(entry, field)) for field, _ in more),
        )
        for entry in entries
    ]
    left_out = len(rows) < len(report.labels)
    cut = f"<p>the {SHOWN} of {len(report.labels):,} labels with the lowest F1</p>" if left_out else ""
    return f"<div>{overall}{_table(heading, rows)}{cut}</div>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row("th", heading), *(_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _row(kind: str, cells: Sequence[str]) -> str:
    """The first cell is a name, the others are figures."""
    sides = ("left", *["right"] * (len(cells) - 1))
    shown = (html.escape(visible(cell, lines=False)) for cell in cells)
    drawn = (f'<{kind} style="text-align: {side}">{cell}</{kind}>' for side, cell in zip(sides, shown, strict=True))
    return f"<tr>{''.join(drawn)}</tr>"
