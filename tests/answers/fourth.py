"""A fourth form of answer, as anyone could write one: the text is rated, and the answer is a number of stars.

It lives in this file alone. The model answers with `*`, `**`, ... for the labels in their order.
"""

from __future__ import annotations

from typing import Any

from llmcls.answers.form import register
from llmcls.answers.single_label import SingleLabel
from llmcls.prompt.spelling import AnswerPlace, Spelled, tokenize_behind
from llmcls.settings.task import FormRules, Limit


class Stars(SingleLabel):
    rules = FormRules(
        name="stars",
        task="rating",
        methods=("exact", "auto"),
        defaults={"prompt.template": "minimal", "training.objective": "sft"},
        limits={"prompt.verbalizer": Limit("prompt.verbalizer {value} is not for ratings; leave it out")},
    )
    lacks = {"label_mass": "a rating has no label mass"}  # noqa: RUF012

    def spell(self, place: AnswerPlace, head: bool) -> Spelled:
        if head:
            return Spelled.as_numbers(place.labels)
        said = tuple("*" * stars for stars in range(1, len(place.labels) + 1))
        behind = tokenize_behind(place, said, closing=(place.end_token_id,))
        longest = max(map(len, behind.answers))
        return Spelled(said, tuple(range(len(said))), behind.answers, longest, behind.boundary)

    def decide(self, model: Any, encoder: Any, rows: Any, reporter: Any) -> dict[str, Any]:
        return {"rows": len(rows)}


def join() -> None:
    register(Stars())
