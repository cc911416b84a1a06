"""The contract of a form of answer, and where forms are looked up by name.

    register(SingleLabel())                       # at the end of a form's file
    form = form_of(settings)
    encoder = Encoder(tokenizer, frame, template, labels, form, max_length=1024)
    layout = form.lay_out(encoder, objective)     # training
    predictor = form.predict(model, encoder, settings.prediction, formats, decision)
    for prediction in predictor.predict(prompts, Wanted(), progress): ...

A form is stateless. What it makes for one encoder (`Layout`, `Predictor`) holds the state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from llmcls.settings import task

if TYPE_CHECKING:
    import torch

    from llmcls.console import Reporter
    from llmcls.engine.judging import Judged
    from llmcls.engine.objectives import Objective
    from llmcls.engine.packing import Batch
    from llmcls.engine.scores import Progress, Prompts, Scorer
    from llmcls.evaluation.files import Report
    from llmcls.evaluation.thresholds import Thresholds
    from llmcls.labels import LabelSet
    from llmcls.model.hardware import Formats
    from llmcls.prompt.encoding import EncodedPrompt, Encoder
    from llmcls.prompt.spelling import AnswerPlace, Spelled
    from llmcls.records import Example, Prediction
    from llmcls.settings import PredictionSettings, Settings
    from llmcls.settings.task import FormRules

Figure = Literal["probabilities", "margin", "label_mass", "free"]
"""What may be known of a prediction besides the label; `free` is what the model says without constraint."""

Decision = Mapping[str, Any]
"""What a form decided on held-out rows, as JSON; a run keeps it."""


@dataclass(frozen=True)
class Wanted:
    """What of a prediction is to be computed besides the label.

    Attributes:
        label_mass: fill `Prediction.label_mass`, which needs the full vocabulary's softmax.
        probabilities: fill `Prediction.probabilities`.
    """

    label_mass: bool = False
    probabilities: bool = True


@dataclass(frozen=True)
class Shown:
    """What follows a prompt in training, for people to look at.

    Attributes:
        tokens: token ids; for a head the outputs that are the row's labels.
        carrying: the places in `tokens` that carry loss.
        learnt: what is learnt of this row, in a few words.
    """

    tokens: Sequence[int]
    carrying: Collection[int]
    learnt: str

    @classmethod
    def of_answer(cls, tokens: Sequence[int]) -> Shown:
        """An answer every token of which carries loss."""
        carry = "token carries" if len(tokens) == 1 else "tokens carry"
        return cls(tokens, range(len(tokens)), f"{len(tokens)} answer {carry} loss")


@dataclass(frozen=True)
class Answered:
    """What a model answers to some prompts during training.

    Attributes:
        targets: int64, (rows, *target_shape).
        probabilities: of every label, float64 on the CPU, (rows, labels); None where the answers have none.
    """

    targets: torch.Tensor
    probabilities: torch.Tensor | None


class Judge(Protocol):
    """Reads validation rows once, for what the model answers and, where `knows_loss`, for the loss as well."""

    @property
    def probable(self) -> bool:
        """Whether it gives every label's probability."""
        ...

    @property
    def knows_loss(self) -> bool:
        """Whether it gives the objective's loss; else that takes a forward of its own."""
        ...

    def __call__(self, prompts: Prompts, targets: Sequence[Any], progress: Progress | None = None) -> Judged:
        """Read at least one row; a target is what `Form.target` gives."""
        ...


class Layout(Protocol):
    """How the rows of one encoder are laid out for one objective; a target is what `Form.target` gives.

    A row's loss is multiplied by its weight, and so is its part of what the loss is divided by; None: ones.
    """

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of a target as a tensor: () for one label, (labels,) for a flag of each."""
        ...

    @property
    def labels(self) -> int:
        """How many labels there are."""
        ...

    @property
    def some_target(self) -> Any:
        """Any target, for packs that count nothing."""
        ...

    @property
    def some_token(self) -> int:
        """Any token of the vocabulary, for packs that count nothing."""
        ...

    def tokens_behind(self, target: Any) -> int:
        """How many tokens follow the prompt of a row with this target, at most."""
        ...

    def packed(self, prompts: Prompts, targets: Sequence[Any], weights: Sequence[float] | None = None) -> Batch:
        """One token tree, for `llmcls.engine.objectives.packed_loss`."""
        ...

    def padded(
        self, prompts: Prompts, targets: Sequence[Any], pad_token_id: int, weights: Sequence[float] | None = None
    ) -> Batch:
        """Right-padded sequences, for `llmcls.engine.objectives.padded_loss`."""
        ...

    def probable(self, model: Any) -> bool:
        """Whether `predict` gives every label's probability."""
        ...

    def predict(
        self, model: Any, prompts: Prompts, *, pad_token_id: int, batch_size: int, progress: Progress | None = None
    ) -> Answered:
        """What the model as it is would answer, from one reading of each prompt."""
        ...

    def judge(
        self, model: Any, prompts: Prompts, *, probabilities: bool, pack_tokens: int | None = None
    ) -> Judge | None:
        """What reads these prompts, or a process's part of them, once; None where `predict` is the only way.

        Args:
            model: as it is in training.
            prompts: all validation rows, at least one: they decide which method is the cheaper one.
            probabilities: whether every label's probability is needed.
            pack_tokens: tokens per forward; None chooses for the device.
        """
        ...


class Predictor(Protocol):
    """A model, an encoder and a way of predicting that belong together."""

    @property
    def thresholds(self) -> Thresholds | None:
        """From which probability on each label is predicted; None where the most probable answer counts."""
        ...

    def predict(
        self, prompts: Sequence[EncodedPrompt], wanted: Wanted, progress: Progress | None = None
    ) -> Iterator[Prediction]:
        """The prediction of each prompt, in order; `Prediction.failure` where the scores are NaN or infinite."""
        ...

    def warm_up(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Keep what these prompts share, and from now on nothing else; see `llmcls.engine.scores.Scorer`."""
        ...

    def untuned(self) -> Predictor:
        """The same, without what was decided on held-out rows for one trained model."""
        ...

    def report(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Compare predictions with the examples' labels."""
        ...


class Form(Protocol):
    """One form of answer."""

    @property
    def rules(self) -> FormRules:
        """Its name, its task, and what it means for the settings."""
        ...

    @property
    def lacks(self) -> Mapping[Figure, str]:
        """The figures that its predictions do not have, each with the reason."""
        ...

    def check(self, how: PredictionSettings, labels: LabelSet) -> None:
        """Refuse a way of predicting that does not go with these answers.

        Raises:
            LlmclsError: with what to set instead.
        """
        ...

    def spell(self, place: AnswerPlace, head: bool) -> Spelled:
        """The tokens of all answers behind a prompt; for a classification head the labels' numbers.

        Raises:
            LlmclsError: for labels that have no such answers.
        """
        ...

    def show(self, encoder: Encoder, example: Example) -> Shown:
        """What a labelled row teaches."""
        ...

    def read(self, encoder: Encoder, said: Sequence[int]) -> Collection[str] | None:
        """The labels that freely generated tokens name, without the end token; None where they name none.

        Not called where the form lacks `free`.
        """
        ...

    def target(self, example: Example, labels: LabelSet) -> Any:
        """What a training row keeps of its labels: a label's index, or 0 or 1 for every label."""
        ...

    def balance(self, counts: Sequence[int], rows: int) -> tuple[float, ...]:
        """The weights of `training.class_weights: balanced`, from the rows that have each label and all rows."""
        ...

    def lay_out(self, encoder: Encoder, objective: Objective) -> Layout:
        """How rows are laid out in training."""
        ...

    def measure(self, true: Sequence[Any], predicted: Sequence[Any], probabilities: Any = None) -> dict[str, float]:
        """The figures of the validation split during training.

        Args:
            true, predicted: targets, one a row.
            probabilities: array-like (rows, labels); None leaves out what needs it.
        """
        ...

    def decide(self, model: Any, encoder: Encoder, rows: Sequence[dict[str, Any]], reporter: Reporter) -> Decision:
        """What held-out rows (`input_ids`, `label`) decide about a trained model; no rows: the usual decision.

        It is empty where there is nothing to decide. Every process must call it, with the same rows.
        """
        ...

    def carry_over(self, decision: Decision | None, before: LabelSet, after: LabelSet) -> Decision | None:
        """What was decided for the labels before, for those after; labels that are new have the usual decision."""
        ...

    def predict(
        self,
        model: Any,
        encoder: Encoder,
        how: PredictionSettings,
        formats: Formats,
        decision: Decision | None = None,
        separator: str = ",",
    ) -> Predictor:
        """Make what predicts.

        Args:
            model: the model, possibly with LoRA weights.
            encoder: made with this form.
            how: how labels are found, and when none is given.
            formats: the model's number formats, which say how near two labels are a tie.
            decision: what was decided for this model; None for a model that was not trained for the task.
            separator: joins the labels of a text that may have several.

        Raises:
            LlmclsError: when `how` does not fit the form or the model.
        """
        ...

    def baseline(
        self, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example], labels: LabelSet
    ) -> Report:
        """TF-IDF and logistic regression, trained on `train` and evaluated on `test`."""
        ...


class ScoringPredictor:
    """The part of `Predictor` that does not depend on what the scores are.

    Attributes:
        scorer: scores prompts.
    """

    scorer: Scorer[Any]

    def warm_up(self, prompts: Sequence[EncodedPrompt]) -> None:
        """See `Scorer.warm_up`."""
        self.scorer.warm_up([prompt.input_ids for prompt in prompts])

    def untuned(self) -> Self:
        """The same: nothing is tuned."""
        return self


class Undecided:
    """The part of `Form` of those that have nothing to decide on held-out rows."""

    def decide(self, model: Any, encoder: Encoder, rows: Sequence[dict[str, Any]], reporter: Reporter) -> Decision:
        """Nothing: what the model says counts."""
        return {}

    def carry_over(self, decision: Decision | None, before: LabelSet, after: LabelSet) -> Decision | None:
        """Nothing depends on the labels."""
        return decision


_FORMS: dict[str, Form] = {}


def register(form: Form) -> None:
    """Make a form known by its name, here and to the settings.

    Raises:
        LlmclsError: when another form has its name, or one of its methods within the task.
    """
    task.register(form.rules)
    _FORMS[form.rules.name] = form


def unregister(name: str) -> None:
    """Forget a form; for tests."""
    task.unregister(name)
    del _FORMS[name]


def form_named(name: str) -> Form:
    """The form of a name, as `FormRules` has it."""
    return _FORMS[name]


def form_of(settings: Settings) -> Form:
    """The form that the task and the method of these settings choose."""
    return _FORMS[settings.form.name]
