"""One label a text: the model answers with the label's exact string, and the most probable label counts.

predictor = SingleLabel().predict(model, encoder, settings.prediction, formats)
next(predictor.predict(prompts, Wanted())).probabilities        # of all labels; they sum to 1
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcls.answers.form import Answered, Figure, ScoringPredictor, Shown, Undecided, Wanted, register
from llmcls.answers.refusals import refuse_failed
from llmcls.errors import LlmclsError
from llmcls.prompt.spelling import AnswerPlace, Spelled, refuse_equal_answers, tokenize_behind
from llmcls.records import Example, Prediction
from llmcls.settings.task import FormRules, Limit

if TYPE_CHECKING:
    from llmcls.engine.judging import LabelJudge
    from llmcls.engine.objectives import Objective
    from llmcls.engine.packing import Batch
    from llmcls.engine.scores import LabelScores, Progress, Prompts, Scorer
    from llmcls.engine.trie import LabelTrie
    from llmcls.evaluation.metrics import EvaluationReport
    from llmcls.labels import LabelSet
    from llmcls.model.hardware import Formats
    from llmcls.prompt.encoding import EncodedPrompt, Encoder
    from llmcls.settings import PredictionSettings

RULES = FormRules(
    name="single_label",
    task="single_label",
    methods=("auto", "exact", "greedy", "best-first", "generate", "reference"),
    limits={
        "training.metric_for_best_model": Limit(
            "training.metric_for_best_model {value} is for task multi_label; choose 'accuracy', 'precision', 'recall', "
            "'macro_f1', 'balanced_accuracy' or 'roc_auc'",
            ("loss", "accuracy", "precision", "recall", "macro_f1", "balanced_accuracy", "roc_auc"),
        )
    },
)


class SingleLabel(Undecided):
    """See `llmcls.answers.form.Form`."""

    rules = RULES
    lacks: Mapping[Figure, str] = {}

    def check(self, how: PredictionSettings, labels: LabelSet) -> None:
        """A threshold for each label decides nothing here."""
        if how.threshold is not None:
            raise LlmclsError(
                "prediction.threshold is for yes or no about every label (task multi_label); here the most probable "
                "answer is predicted, whatever its probability. Leave it out."
            )
        if how.method not in RULES.methods:
            raise LlmclsError(f"Method '{how.method}' is for the task multi_label; a single label is found by 'exact'.")
        how.check(labels.spellings)

    def spell(self, place: AnswerPlace, head: bool) -> Spelled:
        """Every label's code, or its name and aliases, each closed by the end token."""
        labels = place.labels
        if head:
            return Spelled.as_numbers(labels)
        aliases = [(alias, at) for at, label in enumerate(labels) if not label.code for alias in label.aliases]
        spellings = (*(label.answer for label in labels), *(alias for alias, _ in aliases))
        behind = tokenize_behind(place, spellings, closing=(place.end_token_id,))
        refuse_equal_answers(spellings, behind.answers)
        return Spelled(
            spellings,
            (*range(len(labels)), *(at for _, at in aliases)),
            behind.answers,
            longest=max(map(len, behind.answers)),
            boundary=behind.boundary,
        )

    def show(self, encoder: Encoder, example: Example) -> Shown:
        """The label's answer, every token of which carries loss."""
        label = self.target(example, encoder.labels)
        if encoder.head:
            return Shown([label], [0], f"a head learns the right one of {len(encoder.labels)} labels")
        return Shown.of_answer(encoder.answers[label])

    def read(self, encoder: Encoder, said: Sequence[int]) -> Collection[str] | None:
        """The label of which the text is a spelling."""
        text, names, end = encoder.read_answer(said), encoder.labels.names, encoder.end_token_id
        for tokens, spelling, label in zip(encoder.answers, encoder.spellings, encoder.answer_labels, strict=True):
            # A label that holds a control token is taught without it, so its tokens say more than its text.
            if text == spelling or (*said, end) == tokens:
                return (names[label],)
        return None

    def target(self, example: Example, labels: LabelSet) -> int:
        """The label's index."""
        return labels.position(example.names[0])

    def balance(self, counts: Sequence[int], rows: int) -> tuple[float, ...]:
        """n / (k * count), scikit-learn's formula."""
        return tuple(rows / (len(counts) * count) for count in counts)

    def lay_out(self, encoder: Encoder, objective: Objective) -> SingleLabelLayout:
        """Each row followed by the path of its label."""
        from llmcls.engine.trie import LabelTrie

        return SingleLabelLayout(LabelTrie(encoder.answers, encoder.answer_labels), objective)

    def measure(self, true: Sequence[int], predicted: Sequence[int], probabilities: Any = None) -> dict[str, float]:
        """See `label_metrics`."""
        from llmcls.evaluation.metrics import label_metrics

        return label_metrics(true, predicted, probabilities)

    def predict(
        self,
        model: Any,
        encoder: Encoder,
        how: PredictionSettings,
        formats: Formats,
        decision: object = None,
        separator: str = ",",
    ) -> SingleLabelPredictor:
        """Score the labels by the method of `how`."""
        from llmcls.engine.scorer import make_scorer
        from llmcls.engine.scores import tie_tolerance
        from llmcls.engine.trie import LabelTrie

        self.check(how, encoder.labels)
        tolerance = tie_tolerance(formats.dtype, formats.quantization)
        scorer = make_scorer(
            model,
            LabelTrie(encoder.answers, encoder.answer_labels),
            method=how.method,
            pad_token_id=int(encoder.tokenizer.pad_token_id),
            pack_tokens=how.pack_tokens,
            batch_size=how.batch_size,
            resolution=tolerance,
        )
        return SingleLabelPredictor(encoder.labels, how, tolerance, scorer)

    def baseline(
        self, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example], labels: LabelSet
    ) -> EvaluationReport:
        """One multinomial model."""
        from llmcls.evaluation.baseline import evaluate_baseline

        return evaluate_baseline(train, test, labels)


@dataclass(frozen=True)
class SingleLabelLayout:
    """See `llmcls.answers.form.Layout`; a target is the label's index.

    Attributes:
        trie: the labels' answers.
        objective: what is to be learned.
    """

    trie: LabelTrie
    objective: Objective
    target_shape = ()
    some_target = 0

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return len(self.trie)

    @property
    def some_token(self) -> int:
        """The first token of the first label's answer."""
        return self.trie.answers[0][0]

    def tokens_behind(self, target: int) -> int:
        """The answer's tokens."""
        return len(self.trie.answers[target])

    def packed(self, prompts: Prompts, targets: Sequence[int], weights: Sequence[float] | None = None) -> Batch:
        """See `packed_batch`."""
        from llmcls.engine.objectives import packed_batch

        return packed_batch(prompts, targets, self.trie, self.objective, weights)

    def padded(
        self,
        prompts: Prompts,
        targets: Sequence[int],
        pad_token_id: int,
        weights: Sequence[float] | None = None,
    ) -> Batch:
        """See `padded_batch`."""
        from llmcls.engine.objectives import padded_batch

        return padded_batch(prompts, targets, self.trie, self.objective, weights, pad_token_id=pad_token_id)

    def probable(self, model: Any) -> bool:
        """Not by `generate`, which looks at the labels on its way only."""
        return _method(model) != "generate"

    def predict(
        self, model: Any, prompts: Prompts, *, pad_token_id: int, batch_size: int, progress: Progress | None = None
    ) -> Answered:
        """What constrained prediction answers; training has warned already where the model cannot be packed."""
        from llmcls.engine.scorer import make_scorer

        scorer = make_scorer(model, self.trie, method=_method(model), pad_token_id=pad_token_id, batch_size=batch_size)
        scores = scorer.score(prompts, progress=progress)
        refuse_failed(scores.failing)
        return Answered(scores.predicted, scores.local.double().exp() if self.probable(model) else None)

    def judge(
        self, model: Any, prompts: Prompts, *, probabilities: bool, pack_tokens: int | None = None
    ) -> LabelJudge | None:
        """By `exact` or `best-first`, whichever costs less, where the model can be packed."""
        from llmcls.engine.judging import LabelJudge

        if _method(model) != "exact":
            return None
        return LabelJudge.plan(
            model, self.trie, self.objective, prompts, probabilities=probabilities, pack_tokens=pack_tokens
        )


@dataclass(frozen=True)
class SingleLabelPredictor(ScoringPredictor):
    """See `llmcls.answers.form.Predictor`.

    Attributes:
        labels: the label set.
        how: how the label is found, and when none is given.
        tie_tolerance: the margin, in nats, below which two labels are a tie.
        scorer: scores prompts.
    """

    labels: LabelSet
    how: PredictionSettings
    tie_tolerance: float
    scorer: Scorer[LabelScores]
    thresholds = None

    def predict(
        self, prompts: Sequence[EncodedPrompt], wanted: Wanted, progress: Progress | None = None
    ) -> Iterator[Prediction]:
        """The label of each prompt, or `no_answer` below a threshold."""
        import torch

        from llmcls.engine.rereading import reread
        from llmcls.engine.scores import LabelScores

        def score(ids: Prompts, progress: Progress | None = None) -> LabelScores:
            return self.scorer.score(ids, wanted.label_mass, progress, all_labels=wanted.probabilities)

        ids = [prompt.input_ids for prompt in prompts]
        scores = score(ids, progress)
        if scores.failing.any():
            parts, places = reread(score, ids, scores, lambda part: part.failing)
            scores = LabelScores.concatenate(parts).take(places)
        best = scores.local.double().gather(1, scores.predicted[:, None])[:, 0].exp().tolist()
        masses = [None] * len(prompts) if scores.label_mass is None else scores.label_mass.double().exp().tolist()
        ties = (scores.margin.abs() < self.tie_tolerance).tolist()
        rows = zip(
            prompts,
            scores.failing.tolist(),
            scores.predicted.tolist(),
            best,
            scores.margin.tolist(),
            masses,
            ties,
            scores.local,
            strict=True,
        )
        for prompt, failed, position, probability, margin, mass, tie, local in rows:
            if failed:
                yield Prediction.failure(truncated=prompt.truncated)
                continue
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
        from llmcls.evaluation.metrics import compute_report

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


def _method(model: Any) -> str:
    """How rows are predicted during training."""
    from llmcls.engine.attention import supports_packing
    from llmcls.engine.decoder import has_head

    if supports_packing(model) is None:
        return "exact"
    return "reference" if has_head(model) else "generate"


def _complete(probabilities: Sequence[Sequence[float]]) -> bool:
    return all(value == value for row in probabilities for value in row)  # NaN differs from itself


register(SingleLabel())
