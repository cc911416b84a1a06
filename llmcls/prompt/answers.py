"""What may be said behind a prompt, as tokens: where prompts end and answers begin is decided here alone.

    answers = spell_answers(AnswerPlace(tokenizer, labels, shots), labels.spellings, "label")
    answers.positive[2]                        # the third label's tokens, end token included

A label tokenises in its real context, once: Llama 3's BPE merges the space of `label: ` with `positive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.codes import candidate_codes, choose_codes
from llmcls.prompt.marks import clean, mark
from llmcls.prompt.template import PROBES, PromptTemplate
from llmcls.prompt.tokens import FramedText, FramedTokenizer
from llmcls.records import Example
from llmcls.task import AnswerForm

Answer = tuple[int, ...]

# Token boundaries depend on nearby characters only; answers are tokenised behind this much of the prompt's end.
_CONTEXT = 256
_BATCH = 512  # answers that are tokenised together


@dataclass(frozen=True)
class AnswerPlace:
    """Where the answers to one template, label set and set of shots stand."""

    tokenizer: FramedTokenizer
    labels: LabelSet
    shots: Sequence[Example]

    @cached_property
    def is_chat(self) -> bool:
        """Whether the template speaks in roles, so that an answer is a turn."""
        return self.tokenizer.template.render(PROBES[0], self.labels, self.shots).is_chat

    @cached_property
    def end_token_id(self) -> int:
        """The token that ends an answer.

        Raises:
            LlmclsError: when the vocabulary lacks it.
        """
        frame = self.tokenizer.frame
        return self.tokenizer.token_id(frame.turn_end_token if self.is_chat else frame.end_token)

    def tokenize(self, spellings: Sequence[str]) -> tuple[list[int], list[tuple[int, list[int]]]]:
        """The prompt's last tokens; and with each spelling behind them, how many stay the same, and what follows.

        Raises:
            LlmclsError: when the template ends in the text itself.
        """
        tokenizer = self.tokenizer
        probes = tokenizer.tokenize([tokenizer.render(probe, self.labels, self.shots) for probe in PROBES])
        text, other = (probe.text for probe in probes)
        # Filters may turn the text into something else; where two texts stop making a difference is where it ends.
        end_of_text = 0 if text == other else len(text) - _common_prefix(text[::-1], other[::-1])
        if not text[end_of_text:].strip(" "):
            raise LlmclsError(
                f"Template '{tokenizer.template.name}' ends with the text itself, so a label would merge with it; "
                "end it with a line such as 'label:', or train with training.objective=head."
            )
        context = text[max(0, min(end_of_text - 1, len(text) - 1), len(text) - _CONTEXT) :]
        space = "" if self.is_chat or text[-1].isspace() else " "
        bare = tokenizer.tokenize([FramedText(context, [])])[0].ids
        rows = []
        for start in range(0, len(spellings), _BATCH):  # the contexts of 10,000 labels would fill a gigabyte
            batch = [context + space + mark(clean(said), "data") for said in spellings[start : start + _BATCH]]
            for tokens in tokenizer.tokenize([tokenizer.unmark(text) for text in batch]):
                same = _common_prefix(bare, tokens.ids)
                rows.append((same, tokens.ids[same:]))
        return bare, rows


@dataclass(frozen=True)
class Answers:
    """The tokens of answers, behind prompts that lack their last `boundary` tokens.

    Attributes:
        positive: of every spelling, end token included; with the form `yes_no` of every label's question and a yes.
        negative: the same questions with a no; empty unless the form is `yes_no`.
        items: of every label as a later item of a list, comma included; empty unless the form is `list`.
        boundary: the prompt's last tokens, which merge with some answer and so begin all of them.
    """

    positive: tuple[Answer, ...]
    negative: tuple[Answer, ...] = ()
    items: tuple[Answer, ...] = ()
    boundary: list[int] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer; of a list, of all labels."""
        if self.items:
            return sum(max(map(len, pair)) for pair in zip(self.positive, self.items, strict=True)) + 1
        return max(map(len, self.positive + self.negative))


def spell_answers(place: AnswerPlace, spellings: Sequence[str], form: AnswerForm) -> Answers:
    """Tokenise every answer in its real context and decide how many prompt tokens merge with answers.

    Raises:
        LlmclsError: when the template ends in the text itself, two answers become the same tokens, or the labels do
            not fit into lists.
    """
    ends = [": yes", ": no"] if form == "yes_no" else [""]
    bare, rows = place.tokenize([f"{said}{end}" for end in ends for said in spellings])
    kept = min(same for same, _ in rows)
    closing = () if form == "yes_no" else (place.end_token_id,)
    answers = tuple((*bare[kept:same], *tail, *closing) for same, tail in rows)
    positive, negative = answers[: len(spellings)], answers[len(spellings) :]
    _refuse_equal_answers(spellings, positive)
    items: tuple[Answer, ...] = ()
    if form == "list":
        items = _list_items(place, kept, [answer[:-1] for answer in positive])
    return Answers(positive, negative, items, bare[kept:])


def head_answers(count: int, form: AnswerForm) -> Answers:
    """A head's vocabulary is the labels: each label's own number, and one number more, the no of all."""
    numbers = tuple((label,) for label in range(count))
    return Answers(numbers, ((count,),) * count if form == "yes_no" else ())


def with_codes(place: AnswerPlace) -> LabelSet:
    """The labels with the first codes that are one token each behind this template.

    Raises:
        LlmclsError: when there are fewer codes than labels.
    """
    labels, count = place.labels, len(place.labels)
    candidates = candidate_codes(place.tokenizer.vocabulary, labels.spellings)
    if len(candidates) >= count:  # what stands before the answer may show codes
        place = replace(place, labels=labels.with_codes(candidates[:count]))

    def tokenize(codes: Sequence[str]) -> list[list[int] | None]:
        bare, rows = place.tokenize(codes)
        return [tail if same == len(bare) else None for same, tail in rows]

    codes = choose_codes(count, candidates, tokenize)
    if len(codes) < count:
        raise LlmclsError(
            f"There are {count} labels, but behind template '{place.tokenizer.template.name}' this tokenizer has only "
            f"{len(codes)} codes of one token; set prompt.verbalizer to name."
        )
    return labels.with_codes(codes)


def require_codes_shown(template: PromptTemplate, labels: LabelSet) -> None:
    """Refuse a template that looks the same whatever the codes are: the model could not know what they mean."""
    other = labels.with_codes([f"{label.code}?" if label.code else "" for label in labels])
    shown, changed = (template.render(PROBES[0], known) for known in (labels, other))
    if shown == changed:
        raise LlmclsError(
            f"Template '{template.name}' does not show the labels' codes; print label.code in it, or set "
            "prompt.verbalizer to name."
        )


def _list_items(place: AnswerPlace, kept: int, alone: Sequence[Answer]) -> tuple[Answer, ...]:
    """Every label's tokens behind another one and a comma.

    Args:
        place: where the answers stand.
        kept: where answers begin in the prompt's last tokens.
        alone: every label's tokens as the only item.
    """
    names = place.labels.names
    if commas := [name for name in names if "," in name]:
        raise LlmclsError(f"Label {commas[0]!r} holds a comma, which would end it in a list; rename it.")
    # Each label behind the one before it, and before it.
    pairs = [pair for at, name in enumerate(names) for pair in ((names[at - 1], name), (name, names[at - 1]))]
    bare, rows = place.tokenize([", ".join(pair) for pair in pairs])
    spoken = [(*bare[kept:same], *tail) for same, tail in rows]
    items = [tokens[len(alone[at - 1]) :] for at, tokens in enumerate(spoken[::2])]
    for at, name in enumerate(names):
        before, after = spoken[2 * at : 2 * at + 2]
        if before != (*alone[at - 1], *items[at]) or after != (*alone[at], *items[at - 1]):
            raise LlmclsError(f"The tokens of label {name!r} hang on what stands beside it in a list; rename it.")
    return tuple(items)


def _refuse_equal_answers(spellings: Sequence[str], answers: Sequence[Answer]) -> None:
    seen: dict[Answer, str] = {}
    for said, answer in zip(spellings, answers, strict=True):
        if answer in seen:
            raise LlmclsError(f"Labels {seen[answer]!r} and {said!r} become the same tokens; rename one of them.")
        seen[answer] = said


def _common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
