"""Yes or no about every label: each label is a question behind the text, and its probability is that of its yes.

predictor = YesNo().predict(model, encoder, settings.prediction, formats, {"values": [0.4, 0.6], ...})
next(predictor.predict(prompts, Wanted())).labels           # those whose yes reaches the label's threshold
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from llmcls.answers.form import Answered, Decision, Figure, ScoringPredictor, Shown, Wanted, register
from llmcls.answers.refusals import refuse_failed
from llmcls.answers.several import (
    LACKS,
    LIMITS,
    TASK,
    UNKNOWN_METHOD,
    SeveralLabels,
    positions_of,
    predictions_of,
    refuse_abstaining,
    report_several,
)
from llmcls.errors import LlmclsError
from llmcls.prompt.spelling import Answer, AnswerPlace, Spelled, refuse_equal_answers, tokenize_behind
from llmcls.records import Example, Prediction
from llmcls.settings.task import FormRules, Limit

if TYPE_CHECKING:
    import torch

    from llmcls.console import Reporter
    from llmcls.engine.judging import YesNoJudge
    from llmcls.engine.objectives import Objective
    from llmcls.engine.packing import Batch
    from llmcls.engine.scores import Progress, Prompts, Scorer
    from llmcls.engine.yesno import QuestionTrie
    from llmcls.evaluation.multilabel import MultiLabelReport
    from llmcls.evaluation.thresholds import Thresholds
    from llmcls.labels import LabelSet
    from llmcls.model.hardware import Formats
    from llmcls.prompt.encoding import EncodedPrompt, Encoder
    from llmcls.settings import PredictionSettings

RULES = FormRules(
    name="yes_no",
    task=TASK,
    methods=("auto", "exact", "reference"),
    several=True,
    defaults={"prompt.template": "multi_label", "training.objective": "label"},
    limits={
        **LIMITS,
        "training.objective": Limit(
            "task multi_label with prediction.method {method} does not go with training.objective {value}: yes or no "
            "about every label is learnt by 'label' or 'head' and predicted by 'exact', an answer that lists the "
            "labels is learnt by 'sft' and predicted by 'list'",
            ("label", "head"),
        ),
    },
    unknown_method=UNKNOWN_METHOD,
)


@dataclass(frozen=True)
class Questions(Spelled):
    """The questions about all labels.

    Attributes:
        answers: the tokens of every label's question answered with yes; to a head, each label's own number.
        denials: the same questions answered with no; to a head one number more, the no of all labels.
    """

    denials: tuple[Answer, ...] = ()


class YesNo(SeveralLabels):
    """See `llmcls.answers.form.Form`."""

    rules = RULES
    lacks: Mapping[Figure, str] = {
        **LACKS,
        "free": "yes or no is asked about every label, and there is no answer that names the labels",
    }

    def check(self, how: PredictionSettings, labels: LabelSet) -> None:
        """Every label is looked at, and none is withheld."""
        refuse_abstaining(how)
        if how.method not in RULES.methods:
            raise LlmclsError(
                f"Method '{how.method}' does not answer yes or no for every label; use 'exact' or 'reference'."
            )

    def spell(self, place: AnswerPlace, head: bool) -> Questions:
        """`NAME: yes` and `NAME: no` for every label."""
        names = place.labels.names
        if head:
            numbers = Spelled.as_numbers(place.labels)
            return Questions(names, numbers.answer_labels, numbers.answers, denials=((len(names),),) * len(names))
        behind = tokenize_behind(place, [f"{name}: {said}" for said in ("yes", "no") for name in names])
        yes, no = behind.answers[: len(names)], behind.answers[len(names) :]
        refuse_equal_answers(names, yes)
        longest = max(map(len, behind.answers))
        return Questions(names, tuple(range(len(names))), yes, longest, behind.boundary, denials=no)

    def show(self, encoder: Encoder, example: Example) -> Shown:
        """The question about the row's first label with its yes, or about the first of all with its no."""
        labels = [encoder.labels.position(name) for name in example.names]
        if encoder.head:
            count = len(encoder.labels)
            return Shown(labels, range(len(labels)), f"a head learns yes or no about each of {count} labels")
        spelled, at = _questions(encoder), labels[0] if labels else 0
        yes, no = spelled.answers[at], spelled.denials[at]
        decided = next(place for place, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
        learnt = f"one of {len(encoder.labels)} questions is shown, whose last token carries loss"
        return Shown((yes if labels else no)[: decided + 1], (decided,), learnt)

    def read(self, encoder: Encoder, said: Sequence[int]) -> None:
        """Nothing: the form lacks free answers."""

    def lay_out(self, encoder: Encoder, objective: Objective) -> YesNoLayout:
        """Each row followed by all questions."""
        return YesNoLayout(_question_trie(encoder), objective)

    def decide(self, model: Any, encoder: Encoder, rows: Sequence[dict[str, Any]], reporter: Reporter) -> Decision:
        """Thresholds with the best F1 on the rows; 0.5 without rows."""
        from llmcls.evaluation.thresholds import Thresholds, tune_thresholds

        if not rows:
            return asdict(Thresholds.untuned(len(encoder.labels)))
        scorer = _silent_scorer(model, _question_trie(encoder))
        with reporter.track("Tuning thresholds", total=len(rows)) as advance:
            scores = scorer.score([row["input_ids"] for row in rows], progress=advance)
        refuse_failed(scores.isnan().any(1))
        return asdict(tune_thresholds(scores.double().exp().numpy(), [row["label"] for row in rows]))

    def carry_over(self, decision: Decision | None, before: LabelSet, after: LabelSet) -> Decision | None:
        """The thresholds of labels that stay, and 0.5 for new ones."""
        from llmcls.evaluation.thresholds import UNTUNED

        if not decision:
            return decision
        tuned = dict(zip(before.names, decision["values"], strict=True))
        return {**decision, "values": [tuned.get(name, UNTUNED) for name in after.names]}

    def predict(
        self,
        model: Any,
        encoder: Encoder,
        how: PredictionSettings,
        formats: Formats,
        decision: Decision | None = None,
        separator: str = ",",
    ) -> YesNoPredictor:
        """Ask about every label; the thresholds are those of `how`, else those decided, else 0.5."""
        from llmcls.engine.yesno import make_yes_no_scorer
        from llmcls.evaluation.thresholds import Thresholds

        self.check(how, encoder.labels)
        if how.threshold is not None:
            thresholds = Thresholds.untuned(len(encoder.labels), how.threshold)
        elif decision:
            thresholds = Thresholds(tuple(decision["values"]), decision["pooled"], decision["rows"])
        else:
            thresholds = Thresholds.untuned(len(encoder.labels))
        scorer = make_yes_no_scorer(model, _question_trie(encoder), method=how.method, pack_tokens=how.pack_tokens)
        return YesNoPredictor(encoder.labels, separator, thresholds, scorer)


@dataclass(frozen=True)
class YesNoLayout:
    """See `llmcls.answers.form.Layout`.

    Attributes:
        questions: the labels' questions.
        objective: what is to be learned.
    """

    questions: QuestionTrie
    objective: Objective

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return len(self.questions)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """A flag of each label."""
        return (len(self.questions),)

    @property
    def some_target(self) -> list[int]:
        """No label."""
        return [0] * len(self.questions)

    @property
    def some_token(self) -> int:
        """The first token of the first question."""
        return self.questions.trie.answers[0][0]

    def tokens_behind(self, target: Sequence[int]) -> int:
        """All questions."""
        return len(self.questions.plan.branch.tokens)

    def packed(
        self, prompts: Prompts, targets: Sequence[Sequence[int]], weights: Sequence[float] | None = None
    ) -> Batch:
        """See `packed_yes_no_batch`."""
        from llmcls.engine.yesno import packed_yes_no_batch

        labels = list(map(positions_of, targets))
        return packed_yes_no_batch(prompts, labels, self.questions, self.objective, weights)

    def padded(
        self,
        prompts: Prompts,
        targets: Sequence[Sequence[int]],
        pad_token_id: int,
        weights: Sequence[float] | None = None,
    ) -> Batch:
        """See `padded_yes_no_batch`."""
        from llmcls.engine.yesno import padded_yes_no_batch

        labels = list(map(positions_of, targets))
        return padded_yes_no_batch(prompts, labels, self.questions, self.objective, weights, pad_token_id=pad_token_id)

    def probable(self, model: Any) -> bool:
        """Every label's yes has a probability."""
        return True

    def predict(
        self, model: Any, prompts: Prompts, *, pad_token_id: int, batch_size: int, progress: Progress | None = None
    ) -> Answered:
        """1 where the label's yes is at least as probable as its no."""
        from llmcls.evaluation.thresholds import UNTUNED

        found = _silent_scorer(model, self.questions).score(prompts, progress=progress).exp()
        refuse_failed(found.isnan().any(1))
        return Answered((found >= UNTUNED).long(), found.double())

    def judge(
        self, model: Any, prompts: Prompts, *, probabilities: bool, pack_tokens: int | None = None
    ) -> YesNoJudge | None:
        """From the answers to all questions, where the model can be packed."""
        from llmcls.engine.attention import supports_packing
        from llmcls.engine.judging import YesNoJudge

        if supports_packing(model):
            return None
        return YesNoJudge.plan(model, self.questions, self.objective, pack_tokens=pack_tokens)


@dataclass(frozen=True)
class YesNoPredictor(ScoringPredictor):
    """See `llmcls.answers.form.Predictor`.

    Attributes:
        labels: the label set.
        separator: joins the labels of a prediction.
        thresholds: from which probability on each label is predicted.
        scorer: answers yes or no about every label.
    """

    labels: LabelSet
    separator: str
    thresholds: Thresholds
    scorer: Scorer[torch.Tensor]

    def untuned(self) -> Self:
        """The same with thresholds of 0.5."""
        return replace(self, thresholds=type(self.thresholds).untuned(len(self.labels)))

    def predict(
        self, prompts: Sequence[EncodedPrompt], wanted: Wanted, progress: Progress | None = None
    ) -> Iterator[Prediction]:
        """The labels of each prompt, in the order of the label set."""
        import torch

        from llmcls.engine.rereading import reread

        names, ids = self.labels.names, [prompt.input_ids for prompt in prompts]
        scores = self.scorer.score(ids, progress=progress)
        if (failed := scores.isnan().any(1)).any():
            parts, places = reread(self.scorer.score, ids, scores, lambda part: part.isnan().any(1))
            scores = torch.cat(parts)[places]
            failed = scores.isnan().any(1)
        rows = scores.double().exp().tolist()
        chosen = [self.thresholds.choose(names, row) for row in rows]
        # Each label is decided on its own, so the probability of exactly these labels is the product; as a sum of
        # logarithms, which 10,000 labels do not underflow.
        sure = [
            math.exp(
                math.fsum(
                    math.log(max(p if name in labels else 1 - p, sys.float_info.min))
                    for name, p in zip(names, row, strict=True)
                )
            )
            for row, labels in zip(rows, map(frozenset, chosen), strict=True)
        ]
        return predictions_of(prompts, chosen, sure, rows, self.separator, failed.tolist())

    def report(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> MultiLabelReport:
        """Compare predictions with the examples' labels."""
        return report_several(examples, predictions, self.labels, self.thresholds)


def _questions(encoder: Encoder) -> Questions:
    spelled = encoder.spelled
    assert isinstance(spelled, Questions)  # what `YesNo.spell` returns
    return spelled


def _question_trie(encoder: Encoder) -> QuestionTrie:
    from llmcls.engine.yesno import QuestionTrie

    spelled = _questions(encoder)
    return QuestionTrie.between(spelled.answers, spelled.denials)


def _silent_scorer(model: Any, questions: QuestionTrie) -> Scorer[torch.Tensor]:
    """For use in training, which has warned already where the model cannot be packed."""
    from llmcls.engine.attention import supports_packing
    from llmcls.engine.yesno import make_yes_no_scorer

    return make_yes_no_scorer(model, questions, method="reference" if supports_packing(model) else "exact")


register(YesNo())
