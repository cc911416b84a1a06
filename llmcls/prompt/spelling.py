"""Answers as tokens: where prompts end and answers begin is decided here alone.

    place = AnswerPlace(tokenizer, labels, shots)
    behind = tokenize_behind(place, ["billing", "delivery"], closing=(place.end_token_id,))
    behind.answers[1], behind.boundary

A label tokenises in its real context, once: Llama 3's BPE merges the space of `label: ` with `positive`. What is said
about the labels (their names, questions, lists) is up to the form of answer (`llmcls.answers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import commonprefix
from typing import NamedTuple, Protocol

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.codes import candidate_codes, choose_codes
from llmcls.prompt.marks import clean, mark
from llmcls.prompt.template import PROBES, PromptTemplate
from llmcls.prompt.tokens import FramedText, FramedTokenizer
from llmcls.records import Example

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
        end_of_text = 0 if text == other else len(text) - len(commonprefix([text[::-1], other[::-1]]))
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
                same = len(commonprefix([bare, tokens.ids]))
                rows.append((same, tokens.ids[same:]))
        return bare, rows


@dataclass(frozen=True)
class Spelled:
    """The tokens of all answers of one form, behind prompts that lack their last `boundary` tokens.

    A form of answer whose answers have more parts extends this class.

    Attributes:
        spellings: what may be said: the answer of each label in order (name or code), then other spellings.
        answer_labels: the label of each of these.
        answers: the tokens of each of these.
        longest: tokens of the longest answer, for which `max_length` leaves room; 0 for a head, which says nothing.
        boundary: the prompt's last tokens, which merge with some answer and so begin all of them.
        room: what the longest answer is, for messages; "" where it is a label.
    """

    spellings: tuple[str, ...]
    answer_labels: tuple[int, ...]
    answers: tuple[Answer, ...]
    longest: int = 0
    boundary: list[int] = field(default_factory=list)
    room: str = ""

    @classmethod
    def as_numbers(cls, labels: LabelSet) -> Spelled:
        """For a classification head, whose vocabulary is the labels: each label's own number."""
        numbers = range(len(labels))
        return cls(labels.names, tuple(numbers), tuple((number,) for number in numbers))


class SpellsAnswers(Protocol):
    """What the encoder needs of a form of answer (`llmcls.answers.form.Form`)."""

    def spell(self, place: AnswerPlace, head: bool) -> Spelled:
        """The tokens of all answers that the form has for the labels of this place."""
        ...


class Behind(NamedTuple):
    """Strings tokenised behind a prompt.

    Attributes:
        answers: the tokens of each, behind prompts that lack their last `boundary` tokens.
        boundary: the prompt's last tokens, which merge with some of the strings.
        kept: how many of the prompt's last tokens, as `AnswerPlace.tokenize` gives them, stay in prompts.
    """

    answers: tuple[Answer, ...]
    boundary: list[int]
    kept: int


def tokenize_behind(place: AnswerPlace, said: Sequence[str], closing: Answer = ()) -> Behind:
    """Tokenise each string in its real context and decide how many prompt tokens merge with some of them.

    Args:
        place: where they stand.
        said: the strings.
        closing: tokens that end each of them.

    Raises:
        LlmclsError: when the template ends in the text itself.
    """
    bare, rows = place.tokenize(said)
    kept = min(same for same, _ in rows)
    return Behind(tuple((*bare[kept:same], *tail, *closing) for same, tail in rows), bare[kept:], kept)


def refuse_equal_answers(spellings: Sequence[str], answers: Sequence[Answer]) -> None:
    """Refuse labels that the model could not tell apart.

    Raises:
        LlmclsError: naming the first two.
    """
    seen: dict[Answer, str] = {}
    for said, answer in zip(spellings, answers, strict=True):
        if answer in seen:
            raise LlmclsError(f"Labels {seen[answer]!r} and {said!r} become the same tokens; rename one of them.")
        seen[answer] = said


def with_codes(place: AnswerPlace) -> LabelSet:
    """The labels with the first codes that are one token each behind this template.

    A label that has a code keeps it, unless it is another label's name now: it was learnt with that code.

    Raises:
        LlmclsError: when there are fewer codes than labels.
    """
    labels, count = place.labels, len(place.labels)
    kept = [label.code for label in labels if label.code and label.code not in labels.spellings]
    candidates = list(dict.fromkeys([*kept, *candidate_codes(place.tokenizer.vocabulary, labels.spellings)]))
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
    others = (code for code in codes if code not in kept)
    return labels.with_codes([label.code if label.code in kept else next(others) for label in labels])


def require_codes_shown(template: PromptTemplate, labels: LabelSet) -> None:
    """Refuse a template that looks the same whatever the codes are: the model could not know what they mean."""
    other = labels.with_codes([f"{label.code}?" if label.code else "" for label in labels])
    shown, changed = (template.render(PROBES[0], known) for known in (labels, other))
    if shown == changed:
        raise LlmclsError(
            f"Template '{template.name}' does not show the labels' codes; print label.code in it, or set "
            "prompt.verbalizer to name."
        )
