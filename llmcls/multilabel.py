"""What a classifier does where a text may have several labels: ask about every one, or have them listed.

scorer = MultiLabelScorer.make(model, encoder, settings.prediction, thresholds, separator="|")
scorer.predict(prompts)                   # Prediction with `labels`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError
from llmcls.evaluation.multilabel import MultiLabelReport, compute_multilabel_report
from llmcls.records import Example, Prediction
from llmcls.thresholds import Thresholds

if TYPE_CHECKING:
    from llmcls.engine.lists import ListGenerator
    from llmcls.engine.yesno import YesNoScorer
    from llmcls.labels import LabelSet
    from llmcls.prompt.encoding import EncodedPrompt, Encoder
    from llmcls.settings import PredictionSettings


@dataclass(frozen=True)
class MultiLabelScorer:
    """Finds any number of labels for each prompt.

    Attributes:
        labels: the label set.
        separator: joins the labels of a prediction.
        thresholds: from which probability on each label is predicted; None where labels are listed.
        scorer: answers yes or no about every label; None where labels are listed.
        generator: lists labels, else None.
    """

    labels: LabelSet
    separator: str
    thresholds: Thresholds | None
    scorer: YesNoScorer | None = None
    generator: ListGenerator | None = None

    @classmethod
    def make(
        cls, model: Any, encoder: Encoder, how: PredictionSettings, tuned: Thresholds | None, separator: str
    ) -> MultiLabelScorer:
        """For an encoder of the form `yes_no` or `list`; without tuned thresholds they are 0.5.

        Raises:
            LlmclsError: when `how` does not fit that form.
        """
        from llmcls.engine.lists import ListGenerator, list_items
        from llmcls.engine.yesno import QuestionTrie, make_yes_no_scorer

        if how.may_abstain:
            raise LlmclsError(
                "prediction.min_probability and min_label_mass are for single labels: a text with several labels may "
                "as well have none; leave them out."
            )
        if encoder.form == "list":
            if how.method != "list":
                raise LlmclsError(f"This run was trained to list its labels; use method 'list', not {how.method!r}.")
            generator = ListGenerator(model, list_items(encoder), int(encoder.tokenizer.pad_token_id), how.batch_size)
            return cls(encoder.labels, separator, None, generator=generator)
        thresholds = tuned or Thresholds.untuned(len(encoder.labels))
        if how.threshold is not None:
            thresholds = Thresholds.untuned(len(encoder.labels), how.threshold)
        questions = QuestionTrie.between(encoder.answers, encoder.denials)
        scorer = make_yes_no_scorer(model, questions, method=how.method, pack_tokens=how.pack_tokens)
        return cls(encoder.labels, separator, thresholds, scorer=scorer)

    def untuned(self) -> MultiLabelScorer:
        """The same with thresholds of 0.5: those tuned for a trained model say nothing about another one."""
        return self if self.thresholds is None else replace(self, thresholds=Thresholds.untuned(len(self.labels)))

    def predict(self, prompts: Sequence[EncodedPrompt], progress: Any = None) -> Iterator[Prediction]:
        """The labels of each prompt, in the order of the label set."""
        ids, names, unknown = [prompt.input_ids for prompt in prompts], self.labels.names, float("nan")
        if self.scorer is not None and self.thresholds is not None:
            rows = self.scorer.score(ids, progress=progress).double().exp().tolist()
            chosen = [self.thresholds.choose(names, row) for row in rows]
            sure = [
                min((row[self.labels.position(name)] for name in labels), default=1 - max(row))
                for row, labels in zip(rows, chosen, strict=True)
            ]
        else:
            said = [] if self.generator is None else self.generator.generate(ids, progress=progress)
            chosen = [tuple(names[label] for label in sorted(labels)) for labels in said]
            rows, sure = [[unknown] * len(names)] * len(ids), [unknown] * len(ids)
        for prompt, labels, least, row in zip(prompts, chosen, sure, rows, strict=True):
            joined = self.separator.join(labels)
            yield Prediction(joined, least, tuple(row), unknown, truncated=prompt.truncated, labels=labels)

    def report(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> MultiLabelReport:
        """Compare predictions with the examples' labels."""
        return compute_multilabel_report(
            [example.names for example in examples],
            [prediction.labels or () for prediction in predictions],
            self.labels,
            [prediction.probabilities for prediction in predictions] if self.thresholds else None,
            self.thresholds,
            truncated=sum(prediction.truncated for prediction in predictions),
        )
