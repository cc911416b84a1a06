"""How far answers hang on the wording of the prompt: the same model asked with other templates.

stability = Stability(own, [Asked("chat", predictions, report)])
stability.changed("chat")                                  # 0.125: one row of eight gets another label
stability.write("templates.csv", examples)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcls.evaluation.files import Report, write_rows
from llmcls.records import Example, Prediction


@dataclass(frozen=True)
class Asked:
    """What came of one template.

    Attributes:
        template: its name.
        predictions: one a row.
        report: their comparison with the labels.
    """

    template: str
    predictions: Sequence[Prediction]
    report: Report


@dataclass(frozen=True)
class Stability:
    """What came of the classifier's own template and of others, on the same rows.

    Attributes:
        own: of its own template.
        others: of each other one.
    """

    own: Asked
    others: Sequence[Asked]

    def changed(self, other: Asked) -> float:
        """Share of rows whose label, whatever the thresholds, is another one than with the own template."""
        pairs = list(zip(self.own.predictions, other.predictions, strict=True))
        return sum(one.best != two.best for one, two in pairs) / len(pairs)

    def figures(self) -> dict[str, dict[str, Any]]:
        """By template, the headlines of its report, and `changed`."""
        return {
            other.template: {
                **{name: getattr(other.report, name) for name in other.report.HEADLINES},
                "changed": self.changed(other),
            }
            for other in self.others
        }

    def write(self, path: str | Path, examples: Sequence[Example], *, escape_formulas: bool = False) -> None:
        """Write one CSV row per example: source, text, label, predicted, and `predicted(TEMPLATE)` of each other one.

        Raises:
            LlmclsError: when the file cannot be written.
        """
        columns = ("source", "text", "label", "predicted", *(f"predicted({other.template})" for other in self.others))
        answers = [[found.label for found in asked.predictions] for asked in (self.own, *self.others)]
        rows = zip(examples, *answers, strict=True)
        cells = ((row.source, row.text, row.label or "", *said) for row, *said in rows)
        write_rows(path, columns, cells, escape_formulas=escape_formulas)
