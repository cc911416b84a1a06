"""A list of labels: the model writes `joy, anger`, and only lists of distinct labels can come out.

predictor = Listed().predict(model, encoder, settings.prediction, formats)
next(predictor.predict(prompts, Wanted())).labels           # in the order of the label set
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llmcls.answers.form import Answered, Figure, ScoringPredictor, Shown, Undecided, Wanted, register
from llmcls.answers.refusals import refuse_failed
from llmcls.answers.several import (
    COUNTED,
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
    from llmcls.engine.lists import ListItems
    from llmcls.engine.objectives import Objective
    from llmcls.engine.packing import Batch
    from llmcls.engine.scores import Progress, Prompts, Scorer
    from llmcls.engine.trie import LabelTrie
    from llmcls.evaluation.multilabel import MultiLabelReport
    from llmcls.labels import LabelSet
    from llmcls.model.hardware import Formats
    from llmcls.prompt.encoding import EncodedPrompt, Encoder
    from llmcls.settings import PredictionSettings

RULES = FormRules(
    name="listed",
    task=TASK,
    methods=("list",),
    several=True,
    defaults={"prompt.template": "multi_label", "training.objective": "sft"},
    limits={
        **LIMITS,
        "training.metric_for_best_model": Limit(
            "training.metric_for_best_model {value} does not go with prediction.method 'list', which gives no "
            f"probabilities and several labels; choose {', '.join(map(repr, COUNTED))}",
            ("loss", *COUNTED),
        ),
        "training.objective": Limit(
            "task multi_label with prediction.method 'list' does not go with training.objective {value}: an answer "
            "that lists the labels is learnt by 'sft' and predicted by 'list', yes or no about every label is learnt "
            "by 'label' or 'head' and predicted by 'exact'",
            ("sft",),
        ),
        "training.class_weights": Limit(
            "training.class_weights weigh yes against no; with prediction.method 'list' leave them out"
        ),
    },
    unknown_method=UNKNOWN_METHOD,
)


@dataclass(frozen=True)
class Items(Spelled):
    """The labels as items of a list; an empty list is the end token.

    Attributes:
        answers: every label's tokens as the first item, without end token.
        later: every label's tokens as a later item, the comma before it included.
        end: the token that closes a list.
    """

    later: tuple[Answer, ...] = ()
    end: int = -1


class Listed(SeveralLabels, Undecided):
    """See `llmcls.answers.form.Form`."""

    rules = RULES
    lacks: Mapping[Figure, str] = dict.fromkeys(
        ("label_mass", "margin", "probabilities"), "a list of labels has no probabilities"
    )

    def check(self, how: PredictionSettings, labels: LabelSet) -> None:
        """A list has no probabilities that a threshold could be held against."""
        if how.threshold is not None:
            raise LlmclsError(
                "prediction.threshold is for yes or no about every label, but this run lists its labels, which have no "
                "probabilities. Leave it out."
            )
        refuse_abstaining(how)
        if how.method not in RULES.methods:
            raise LlmclsError(f"This run was trained to list its labels; use method 'list', not {how.method!r}.")

    def spell(self, place: AnswerPlace, head: bool) -> Items:
        """Every label's name, alone and behind another one."""
        names, end = place.labels.names, place.end_token_id
        if commas := [name for name in names if "," in name]:
            raise LlmclsError(f"Label {commas[0]!r} holds a comma, which would end it in a list; rename it.")
        behind = tokenize_behind(place, names)
        refuse_equal_answers(names, behind.answers)
        later = _later_items(place, behind.kept, behind.answers)
        # All labels, each as the longer of its two items, and the end token.
        longest = sum(max(map(len, pair)) for pair in zip(behind.answers, later, strict=True)) + 1
        return Items(
            names,
            tuple(range(len(names))),
            behind.answers,
            longest,
            behind.boundary,
            room="a list of all labels",
            later=later,
            end=end,
        )

    def show(self, encoder: Encoder, example: Example) -> Shown:
        """The list of the row's labels, every token of which carries loss."""
        said = list_items(encoder).tokens([encoder.labels.position(name) for name in example.names])
        return Shown.of_answer(said)

    def read(self, encoder: Encoder, said: Sequence[int]) -> Collection[str] | None:
        """The labels between the commas, each said once, in any order; no text is a text without labels."""
        names = encoder.labels.names
        if (found := list_items(encoder).read([*said, encoder.end_token_id])) is not None:
            return tuple(names[label] for label in sorted(found))
        text = encoder.read_answer(said)
        items = [item.strip() for item in text.split(",")] if text else []
        named = {encoder.labels.spellings.get(item) for item in items}
        if None in named or len(named) < len(items):
            return None
        return tuple(name for name in names if name in named)

    def lay_out(self, encoder: Encoder, objective: Objective) -> ListLayout:
        """Each row followed by the list of its labels."""
        return ListLayout(list_items(encoder), objective)

    def predict(
        self,
        model: Any,
        encoder: Encoder,
        how: PredictionSettings,
        formats: Formats,
        decision: object = None,
        separator: str = ",",
    ) -> ListPredictor:
        """Generate the lists."""
        from llmcls.engine.lists import ListScorer

        self.check(how, encoder.labels)
        pad_token_id = int(encoder.tokenizer.pad_token_id)
        scorer = ListScorer(model, list_items(encoder), pad_token_id, how.batch_size)
        return ListPredictor(encoder.labels, separator, scorer)


@dataclass(frozen=True)
class ListLayout:
    """See `llmcls.answers.form.Layout`; labels are listed in the order of the label set.

    Attributes:
        items: the labels as items.
        objective: what is to be learned.
    """

    items: ListItems
    objective: Objective

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return len(self.items.first)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """A flag of each label."""
        return (len(self.items.first),)

    @property
    def some_target(self) -> list[int]:
        """No label."""
        return [0] * len(self.items.first)

    @property
    def some_token(self) -> int:
        """The token that closes a list."""
        return self.items.end

    def tokens_behind(self, target: Sequence[int]) -> int:
        """The list's tokens."""
        return len(self.items.tokens(positions_of(target)))

    def packed(
        self, prompts: Prompts, targets: Sequence[Sequence[int]], weights: Sequence[float] | None = None
    ) -> Batch:
        """See `packed_batch`."""
        from llmcls.engine.objectives import packed_batch

        numbers, trie = self._answers(targets)
        return packed_batch(prompts, numbers, trie, self.objective, weights)

    def padded(
        self,
        prompts: Prompts,
        targets: Sequence[Sequence[int]],
        pad_token_id: int,
        weights: Sequence[float] | None = None,
    ) -> Batch:
        """See `padded_batch`."""
        from llmcls.engine.objectives import padded_batch

        numbers, trie = self._answers(targets)
        return padded_batch(prompts, numbers, trie, self.objective, weights, pad_token_id=pad_token_id)

    def probable(self, model: Any) -> bool:
        """A list has no probabilities."""
        return False

    def predict(
        self, model: Any, prompts: Prompts, *, pad_token_id: int, batch_size: int, progress: Progress | None = None
    ) -> Answered:
        """1 for the labels that constrained `generate()` lists."""
        import torch

        from llmcls.engine.lists import ListScorer

        found = ListScorer(model, self.items, pad_token_id, batch_size).score(prompts, progress=progress)
        refuse_failed(torch.tensor([said is None for said in found]))
        flags = torch.tensor([[int(label in (said or ())) for label in range(*self.target_shape)] for said in found])
        return Answered(flags, None)

    def judge(self, model: Any, prompts: Prompts, *, probabilities: bool, pack_tokens: int | None = None) -> None:
        """None: lists are written token by token, and their loss is over the whole vocabulary."""

    def _answers(self, targets: Sequence[Sequence[int]]) -> tuple[list[int], LabelTrie]:
        """The objective knows answers by their number: those of these rows, and the number of each row's."""
        from llmcls.engine.trie import LabelTrie

        said = [self.items.tokens(positions_of(target)) for target in targets]
        answers = sorted(set(said))
        return [answers.index(tokens) for tokens in said], LabelTrie(answers)


@dataclass(frozen=True)
class ListPredictor(ScoringPredictor):
    """See `llmcls.answers.form.Predictor`.

    Attributes:
        labels: the label set.
        separator: joins the labels of a prediction.
        scorer: lists the labels of prompts.
    """

    labels: LabelSet
    separator: str
    scorer: Scorer[list[tuple[int, ...] | None]]
    thresholds = None

    def predict(
        self, prompts: Sequence[EncodedPrompt], wanted: Wanted, progress: Progress | None = None
    ) -> Iterator[Prediction]:
        """The labels of each prompt, in the order of the label set; every probability is NaN."""
        names, unknown = self.labels.names, float("nan")
        said = self.scorer.score([prompt.input_ids for prompt in prompts], progress=progress)
        chosen = [tuple(names[label] for label in sorted(labels or ())) for labels in said]
        return predictions_of(
            prompts,
            chosen,
            [unknown] * len(chosen),
            [[unknown] * len(names)] * len(chosen),
            self.separator,
            [labels is None for labels in said],
        )

    def report(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> MultiLabelReport:
        """Compare predictions with the examples' labels."""
        return report_several(examples, predictions, self.labels, None)


def list_items(encoder: Encoder) -> ListItems:
    """The labels as an encoder of this form writes them."""
    from llmcls.engine.lists import ListItems

    spelled = encoder.spelled
    assert isinstance(spelled, Items)  # what `Listed.spell` returns
    return ListItems(spelled.answers, spelled.later, spelled.end)


def _later_items(place: AnswerPlace, kept: int, alone: Sequence[Answer]) -> tuple[Answer, ...]:
    """Every label's tokens behind another one and a comma.

    Args:
        place: where the answers stand.
        kept: where answers begin in the prompt's last tokens.
        alone: every label's tokens as the only item.
    """
    names = place.labels.names
    # A ring: each label behind the one before it, and before it.
    ring = [(names[at - 1], name) for at, name in enumerate(names)]
    pairs = [pair for before, name in ring for pair in ((before, name), (name, before))]
    bare, rows = place.tokenize([", ".join(pair) for pair in pairs])
    spoken = [(*bare[kept:same], *tail) for same, tail in rows]
    items = [tokens[len(alone[at - 1]) :] for at, tokens in enumerate(spoken[::2])]
    for at, (name, (behind, before)) in enumerate(zip(names, _by_two(spoken), strict=True)):
        if behind != (*alone[at - 1], *items[at]) or before != (*alone[at], *items[at - 1]):
            raise LlmclsError(f"The tokens of label {name!r} hang on what stands beside it in a list; rename it.")
    return tuple(items)


def _by_two(values: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    return list(pairwise(values))[::2]


register(Listed())
