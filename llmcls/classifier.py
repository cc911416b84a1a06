"""A trained (or zero-shot) classifier: texts in, valid labels and true probabilities out.

classifier = Classifier.load("runs/tickets")
classifier.predict(["Where is my parcel?"])            # ['delivery']
classifier.predict_proba(["Where is my parcel?"])      # array, rows sum to 1, columns as classifier.classes_
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.answers import Form, Predictor, Wanted
from llmcls.answers.form import Decision
from llmcls.answers.refusals import refuse_failures, refuse_free, refuse_label_mass, refuse_without_probabilities
from llmcls.console import Reporter
from llmcls.data.given import examples_from, labelled_from
from llmcls.labels import LabelSet
from llmcls.model.loading import BaseModel
from llmcls.model.lora import can_leave_lora_out, without_lora
from llmcls.processes.world import ALONE, World
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.template import PROBES
from llmcls.records import Example, Prediction
from llmcls.runs.assembly import Assembly, choose_labels, find_template, relabel
from llmcls.runs.loading import Loaded, load_base_before, load_run, load_zero_shot
from llmcls.runs.run import Run
from llmcls.settings import PredictionSettings, Settings
from llmcls.streaming import EncodedRows, stream_predictions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llmcls.evaluation.files import Report
    from llmcls.evaluation.free import FreeAnswer
    from llmcls.evaluation.thresholds import Thresholds
    from llmcls.model.hardware import Formats

_CHUNK = 1024


@dataclass(frozen=True)
class Classifier:
    """A model, an encoder and a predictor that belong together; make one with `load` or `zero_shot`.

    One classifier may predict in several threads at once, and so may those that share its weights (`with_labels`,
    `with_template`, `untuned`, `untrained`): each call gets what it would get alone, to rounding, and after `warm_up`
    to the last bit. Methods that call `generate()`, `reference` and `answer_freely` take turns, batch by batch.

    Attributes:
        assembly: form of answer, base model and encoder, and the settings that they come from.
        formats: device and number formats.
        prediction: how labels are found, and when none is given.
        run: the run it was loaded from, or None.
        world: the processes that predict together; all must then make the same calls.
    """

    assembly: Assembly
    formats: Formats
    prediction: PredictionSettings
    run: Run | None
    _model: Any
    _predictor: Predictor
    world: World = ALONE
    _decision: Decision | None = None

    @classmethod
    def load(
        cls,
        run: Run | str | Path,
        *,
        template: str | None = None,
        base_model: str | None = None,
        quantization: str | None = None,
        dtype: str | None = None,
        prediction: PredictionSettings | None = None,
        trust_remote_code: bool = False,
        merge: bool = True,
    ) -> Classifier:
        """Load a run directory.

        Args:
            run: the directory.
            template: another template than it was trained with.
            base_model: where its base model is now, if not where it was; refused for a run that holds all weights.
            quantization: how to hold the base weights; as in training when None.
            dtype: the type of weights that are not quantised, and of computation: `float32`, `bfloat16` or `float16`;
                when None as in training, or what this machine has instead.
            prediction: how labels are scored; as in the run's settings when None.
            trust_remote_code: whether code that its base model brings may run, whatever the run says of that.
            merge: add LoRA weights to the base weights, where these are not quantised (`llmcls.model.lora.merged`): a
                text costs less then, with the same labels, and probabilities that differ by rounding. False keeps
                them apart, so that `untrained` shares the base weights and need not load them a second time.

        Raises:
            LlmclsError: when the run does not match its seal, the base model is another one, or it needs its code.
        """
        run = run if isinstance(run, Run) else Run.open(run)
        where: dict[str, Any] = {"template": template, "base_model": base_model, "quantization": quantization}
        loaded = load_run(run, **where, dtype=dtype, trust_remote_code=trust_remote_code, merge=merge)
        how = prediction or loaded.assembly.settings.prediction
        return cls._make(loaded, how, run, run.decision)

    @classmethod
    def zero_shot(
        cls,
        base_model: str,
        labels: Sequence[str] | LabelSet | None = None,
        *,
        template: str | None = None,
        settings: Settings | None = None,
        trust_remote_code: bool | None = None,
    ) -> Classifier:
        """A base model as it is, constrained to the labels; the template is that of the settings when None.

        A checkpoint for `AutoModelForSequenceClassification` predicts by its head, from the text alone where no
        template is named. Its labels are those of its `id2label`; `labels` may bring them into another order.
        `trust_remote_code` says whether code that it brings may run; None: as the settings say, which is no.

        Raises:
            LlmclsError: for an unknown base model or template, labels that are not a label set or not the head's, and
                `training.objective` head in the settings for a base model that has no head.
        """
        chosen = settings or Settings()
        if trust_remote_code is not None:
            trusted = chosen.model.model_copy(update={"trust_remote_code": trust_remote_code})
            chosen = chosen.model_copy(update={"model": trusted})
        loaded = load_zero_shot(base_model, labels, template=template, settings=chosen)
        return cls._make(loaded, loaded.assembly.settings.prediction)

    @classmethod
    def _make(
        cls, loaded: Loaded, how: PredictionSettings, run: Run | None = None, decision: Decision | None = None
    ) -> Classifier:
        from llmcls.engine.decoder import settle  # with torch, which the model has brought

        settle(loaded.model)
        assembly, formats = loaded.assembly, loaded.formats
        separator = assembly.settings.data.label_separator
        predictor = assembly.form.predict(loaded.model, assembly.encoder, how, formats, decision, separator)
        return cls(assembly, formats, how, run, loaded.model, predictor, _decision=decision)

    def _like_this(self, assembly: Assembly, decision: Decision | None, model: Any = None) -> Classifier:
        """The same ways of predicting, with other prompts or weights."""
        loaded = Loaded(assembly, self.formats, model or self._model)
        made = self._make(loaded, self.prediction, self.run, decision)
        return replace(made, world=self.world)

    def __repr__(self) -> str:
        what = f"of {self.run!r}" if self.run else f"{self.base.name}, zero-shot, {len(self.labels)} labels"
        return f"<Classifier {what}>"

    @property
    def encoder(self) -> Encoder:
        """Turns examples into prompts; holds template and labels."""
        return self.assembly.encoder

    @property
    def base(self) -> BaseModel:
        """The base model."""
        return self.assembly.base

    @property
    def form(self) -> Form:
        """The form of answer."""
        return self.assembly.form

    @property
    def labels(self) -> LabelSet:
        """The label set."""
        return self.encoder.labels

    @property
    def classes_(self) -> tuple[str, ...]:
        """The label names, in the order of `predict_proba`'s columns."""
        return self.labels.names

    @property
    def thresholds(self) -> Thresholds | None:
        """From which probability on each label is predicted, where all are asked about with yes or no; else None."""
        return self._predictor.thresholds

    @property
    def added_labels(self) -> tuple[str, ...]:
        """Labels that its run was not trained with (`with_labels`); none for a base model as it is."""
        return tuple(name for name in self.classes_ if self.run and name not in self.run.labels.names)

    @property
    def removed_labels(self) -> tuple[str, ...]:
        """Labels that its run was trained with and that are not answers here (`with_labels`)."""
        own = set(self.classes_)
        return tuple(name for name in self.run.labels.names if name not in own) if self.run else ()

    def with_labels(self, labels: Sequence[str] | LabelSet) -> Classifier:
        """The same model with other labels, without training: some added, removed or renamed.

            wider = Classifier.load("runs/tickets").with_labels(["billing", "delivery", "complaint"])
            wider.predict(["I am not amused"]), wider.added_labels           # (['complaint'], ('complaint',))

        Prompt, answers and probabilities follow. A label given by name that is known keeps its description, aliases,
        code and threshold; of a `LabelSet`, descriptions and aliases are taken as they are. Solved examples of labels
        that are gone are not shown any more. The weights are shared, and this classifier stays as it is.

        Raises:
            LlmclsError: for a classification head, labels that are not a label set or cannot be spelled, one that is
                `prediction.no_answer`, and a template with solved examples of which none is left.
        """
        chosen = choose_labels(self.labels, labels, head=self.encoder.head)
        assembly = relabel(self.assembly, chosen)
        return self._like_this(assembly, self.form.carry_over(self._decision, self.labels, assembly.encoder.labels))

    def untuned(self) -> Classifier:
        """The same, without what was decided on held-out rows for the trained model, such as thresholds."""
        return replace(self, _predictor=self._predictor.untuned(), _decision=None)

    def with_template(self, template: str) -> Classifier:
        """The same model, asked with another prompt; what was decided on held-out rows for the run's own is kept.

            classifier.with_template("chat").predict(["Where is my parcel?"])

        Args:
            template: a registered template's name, or the path of a `.j2` file.

        Raises:
            LlmclsError: for an unknown template, or one that does not suit the labels or the model.
        """
        return self._like_this(self.assembly.with_template(find_template(template)), self._decision)

    @property
    def tie_tolerance(self) -> float:
        """The margin, in nats, below which a prediction counts as a tie."""
        from llmcls.engine.scores import tie_tolerance

        return tie_tolerance(self.formats.dtype, self.formats.quantization)

    def predict(self, texts: Any) -> list[Any]:
        """The most probable label of each text, or `prediction.no_answer` where a threshold is missed.

        With the task multi_label: a tuple of the text's labels, in the order of `classes_`. `texts` may also be rows,
        dicts or a DataFrame, with the columns that the run's texts were in.

        Raises:
            LlmclsError: for texts whose scores are NaN or infinite; it says which.
        """
        predictions = self.stream(self._read(texts), probabilities=False)
        return [prediction.label if prediction.labels is None else prediction.labels for prediction in predictions]

    def predict_proba(self, texts: Any) -> npt.NDArray[np.float64]:
        """Probabilities, shape (texts, labels): rows sum to 1, columns in the order of `classes_`.

        With the task multi_label each is that of the label alone, and rows do not sum to 1.

        Raises:
            LlmclsError: with `prediction.method` list, which finds labels without probabilities.
        """
        import numpy

        refuse_without_probabilities(self.form)
        rows = [prediction.probabilities for prediction in self.classify(self._read(texts))]
        return numpy.asarray(rows, dtype=numpy.float64).reshape(len(rows), len(self.labels))

    def classify(
        self,
        examples: Iterable[Example],
        *,
        label_mass: bool = False,
        probabilities: bool = True,
        reporter: Reporter | None = None,
    ) -> list[Prediction]:
        """Predict examples, with all that is known of each prediction.

        Args:
            examples: the rows; a template may use their `fields`.
            label_mass: also compute `Prediction.label_mass`, which needs the full vocabulary's softmax.
            probabilities: fill `Prediction.probabilities`; without them, method `auto` may search for the best label.
            reporter: where progress goes.

        Raises:
            LlmclsError: for a label mass of a classification head, which can say nothing but labels, and for examples
                whose scores are NaN or infinite.
        """
        examples = list(examples)
        with (reporter or Reporter(quiet=True)).track("Predicting", total=len(examples)) as advance:
            return list(self.stream(examples, label_mass=label_mass, probabilities=probabilities, advance=advance))

    def stream(
        self,
        examples: Iterable[Example] | EncodedRows,
        *,
        label_mass: bool = False,
        probabilities: bool = True,
        advance: Any = None,
        mark_failures: bool = False,
    ) -> Iterator[Prediction]:
        """Predict examples in constant memory and in input order; arguments as in `classify`.

        From the second chunk on they are read a chunk ahead, which a thread encodes while the model scores the one
        before. What `encode` gave is one chunk. With `mark_failures`, an example whose scores are NaN or infinite has a
        `Prediction` that is `failed`; else all of them in a chunk are an error.
        """
        wanted = Wanted(label_mass or self.prediction.min_label_mass > 0, probabilities)
        if wanted.label_mass:
            refuse_label_mass(self.form, self.encoder.head)

        def score(rows: EncodedRows, begun: int = 0) -> Iterable[Prediction]:
            found = rows.score(self._predictor, wanted, self.world, advance)
            return found if mark_failures else refuse_failures(found, rows.rows, begun)

        if isinstance(examples, EncodedRows):
            yield from score(examples)
            return
        size = _CHUNK * self.world.size
        yield from stream_predictions(examples, size=size, encode=self.encode, score=score)

    def encode(self, examples: Sequence[Example]) -> EncodedRows:
        """Rows as tokens, for `stream`; another thread may do this while the model is busy with the rows before."""
        return EncodedRows.of(examples, self.encoder, self.world)

    def answer_freely(self, examples: Iterable[Example], *, reporter: Reporter | None = None) -> list[FreeAnswer]:
        """What the model answers where nothing holds it to its labels: `generate()`, the most probable token each time.

            answers = classifier.answer_freely([Example("Where is my parcel?")])
            answers[0].text, answers[0].labels         # ('delivery', ('delivery',)), or ('I think', None)

        It may say 8 tokens, or as many as its longest answer has. `llmcls.evaluation.free` compares.

        Args:
            examples: the rows; a template may use their `fields`.
            reporter: where progress goes.

        Raises:
            LlmclsError: for a classification head, and for forms of answer that do not name the labels.
        """
        examples = list(examples)
        refuse_free(self.form, self.encoder.head)
        with (reporter or Reporter(quiet=True)).track("Answering freely", total=len(examples)) as advance:
            if self.world.size == 1:
                return self._answer(examples, advance)
            return self.world.map(lambda share: self._answer(share, advance), examples)

    def warm_up(self) -> None:
        """Compute what all prompts share, from rows that are always the same ones, and keep nothing else from now on.

        Else the calls before would decide where the shared prefix is cut, and so the last bits of a score; after it a
        text in the same batch has the same score, wherever an interrupted prediction was taken up again.

        Raises:
            LlmclsError: for what would be wrong with every row, such as an instruction that is too long.
        """
        # Three rows: an instruction of 16 tokens is then worth keeping (`llmcls.engine.state.WORTH_SHARING`).
        self._predictor.warm_up(self.encoder.encode([*PROBES, PROBES[0]]))

    def evaluate(self, examples: Any, *, reporter: Reporter | None = None) -> Report:
        """Predict labelled examples and compare.

        Args:
            examples: `Example`s, or rows with columns of the run's names: dicts, a DataFrame or a `datasets.Dataset`.
            reporter: where progress goes.

        Raises:
            LlmclsError: when an example has no label, or the rows lack the columns.
        """
        data, known = self.run.card["data"] if self.run else {}, self.assembly.settings.data
        examples = labelled_from(
            examples,
            self.labels,
            text_columns=data.get("text_columns") or (),
            label_column=data.get("label_column"),
            label_separator=known.label_separator if self.form.rules.several else None,
            drop_others=known.drops_other_labels,
        )
        return self.report(examples, self.classify(examples, reporter=reporter))

    def report(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Compare predictions with the examples' labels."""
        return self._predictor.report(examples, predictions)

    @contextmanager
    def untrained(self, base_model: str | None = None) -> Iterator[Classifier]:
        """Gives the classifier that this one was before training.

            with classifier.untrained() as before:
                before.predict(texts)

        It shares this one's weights, without the LoRA weights, and this one stays as it is, for other threads, too.
        Where LoRA weights were merged into the base weights (`load`), or all weights or biases (`lora.bias`) were
        trained, the base model is loaded beside them, until the block ends. A classification head is as it was when
        training began: random, or the base model's own.

        Args:
            base_model: where the base model is now, if not where it was.

        Raises:
            LlmclsError: when the base model is needed, and gone or another one; when it was another run.
        """
        if self.run is not None:
            self.run.require_base_before()
        if self.run is None:
            yield self
        elif can_leave_lora_out(self._model):
            yield self._like_this(self.assembly, self._decision, without_lora(self._model))
        else:
            loaded = load_base_before(self.run, Loaded(self.assembly, self.formats, self._model), base_model)
            yield replace(self._make(loaded, self.prediction, self.run, self._decision), world=self.world)

    def _read(self, texts: Any) -> list[Example]:
        return examples_from(texts, self.run.card["data"]["text_columns"] if self.run else ())

    def _answer(self, examples: Sequence[Example], advance: Any) -> list[FreeAnswer]:
        from llmcls.evaluation.free import answer_freely

        return answer_freely(
            self._model,
            self.encoder,
            examples,
            lambda tokens: self.form.read(self.encoder, tokens),
            positions=self.base.positions,
            batch_size=self.prediction.batch_size,
            progress=advance,
        )
