"""What a classifier does where a text has exactly one label: score the answers, and answer with the most probable.

scorer = SingleLabelScorer.make(model, encoder, settings.prediction, formats)
scorer.predict(prompts, Wanted(label_mass=False, probabilities=True))                   # Prediction, one each
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llmcls.errors import LlmclsError
from llmcls.evaluation.metrics import EvaluationReport, compute_report
from llmcls.records import Example, Prediction

if TYPE_CHECKING:
    from llmcls.engine.scorer import Scorer
    from llmcls.labels import LabelSet
    from llmcls.model.hardware import Formats
    from llmcls.prompt.encoding import EncodedPrompt, Encoder
    from llmcls.settings import PredictionSettings


class Wanted(NamedTuple):
    """What of a prediction is to be computed besides the label."""

    label_mass: bool
    probabilities: bool


@dataclass(frozen=True)
class SingleLabelScorer:
    """Finds the label of each prompt.

    Attributes:
        labels: the label set.
        how: how it is found, and when none is given.
        formats: number formats of the model, which say how near two labels are a tie.
        scorer: scores prompts.
    """

    labels: LabelSet
    how: PredictionSettings
    formats: Formats
    scorer: Scorer

    @classmethod
    def make(cls, model: Any, encoder: Encoder, how: PredictionSettings, formats: Formats) -> SingleLabelScorer:
        """For an encoder of the form `label`.

        Raises:
            LlmclsError: for the method `list`, which is for several labels.
        """
        from llmcls.engine.scorer import make_scorer
        from llmcls.engine.scores import tie_tolerance
        from llmcls.engine.trie import LabelTrie

        if how.method == "list":
            raise LlmclsError("Method 'list' is for the task multi_label; a single label is found by 'exact'.")
        scorer = make_scorer(
            model,
            LabelTrie(encoder.answers, encoder.answer_labels),
            method=how.method,
            pad_token_id=int(encoder.tokenizer.pad_token_id),
            pack_tokens=how.pack_tokens,
            batch_size=how.batch_size,
            resolution=tie_tolerance(formats.dtype, formats.quantization),
        )
        return cls(encoder.labels, how, formats, scorer)

    def predict(self, prompts: Sequence[EncodedPrompt], wanted: Wanted, progress: Any = None) -> Iterator[Prediction]:
        """The label of each prompt, or `no_answer` below a threshold."""
        import torch

        from llmcls.engine.choice import AutoScorer
        from llmcls.engine.scores import tie_tolerance

        scorer = self.scorer
        if wanted.probabilities and isinstance(scorer, AutoScorer):
            scorer = scorer.exact
        scores = scorer.score([p.input_ids for p in prompts], want_global=wanted.label_mass, progress=progress)
        best = scores.local.double().gather(1, scores.predicted[:, None])[:, 0].exp().tolist()
        masses = [None] * len(prompts) if scores.label_mass is None else scores.label_mass.double().exp().tolist()
        ties = (scores.margin.abs() < tie_tolerance(self.formats.dtype, self.formats.quantization)).tolist()
        rows = zip(
            prompts, scores.predicted.tolist(), best, scores.margin.tolist(), masses, ties, scores.local, strict=True
        )
        for prompt, position, probability, margin, mass, tie, local in rows:
            name = self.labels.names[position]
            # Of 1,000 rows and 10,000 labels only one row at a time: as Python numbers they take 300 MB.
            probabilities = tuple(local.to(torch.float64).exp().tolist()) if wanted.probabilities else ()
            withheld = name if self._abstains(probability, mass) else None
            yield Prediction(
                name if withheld is None else self.how.no_answer,
                probability,
                probabilities,
                margin,
                mass,
                truncated=prompt.truncated,
                tie=tie,
                withheld=withheld,
            )

    def report(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> EvaluationReport:
        """Compare predictions with the examples' labels."""
        probabilities = [prediction.probabilities for prediction in predictions]
        return compute_report(
            [example.label or "" for example in examples],
            [prediction.best for prediction in predictions],
            self.labels,
            probabilities=probabilities if _complete(probabilities) else None,
            truncated=sum(prediction.truncated for prediction in predictions),
            answered=[p.withheld is None for p in predictions] if self.how.may_abstain else None,
        )

    def _abstains(self, probability: float, label_mass: float | None) -> bool:
        how = self.how
        return probability < how.min_probability or (label_mass is not None and label_mass < how.min_label_mass)


def _complete(probabilities: Sequence[Sequence[float]]) -> bool:
    return all(value == value for row in probabilities for value in row)  # NaN differs from itself
