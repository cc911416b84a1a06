"""The one owner of text to tokens: frames a prompt, keeps data from forging the frame, fixes the label boundary.

    encoder = Encoder(tokenizer, frame, template, labels, max_length=1024)
    encoder.encode(examples)[0].input_ids      # the prompt's tokens
    encoder.answers[2]                         # the third label's tokens, end token included

A prompt's tokens followed by an answer's tokens are what the model is trained on and what it is asked at prediction;
there is no second place that decides this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.frame import Frame, Prompt
from llmcls.prompt.marks import Origin, Span, clean, mark, unmark
from llmcls.prompt.shots import Shots
from llmcls.prompt.template import PROBE, PromptTemplate
from llmcls.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TruncationSide = Literal["right", "left"]

# Token boundaries depend on nearby characters only; answers are tokenised behind this much of the prompt's end.
_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as tokens.

    Attributes:
        input_ids: the tokens up to where the answer begins.
        truncated: whether the text was cut to fit.
    """

    input_ids: list[int]
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token of a prompt as `llmcls templates show` prints it."""

    id: int
    text: str
    origin: Origin


class Encoder:
    """Turns examples into token ids for one model, template and label set.

    Args:
        tokenizer: a fast tokenizer (offsets are needed to tell data from frame).
        frame: the model's framing, from its adapter.
        template: the prompt template.
        labels: the label set.
        max_length: tokens of prompt and longest answer together; longer rows have only their text cut.
        truncation_side: which end of the text is cut.
        shots: solved examples for templates that show them.

    Raises:
        LlmclsError: when the template ends in the text itself, two labels become the same tokens, the instruction
            alone exceeds `max_length`, or the tokenizer is not a fast one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        frame: Frame,
        template: PromptTemplate,
        labels: LabelSet,
        *,
        max_length: int,
        truncation_side: TruncationSide = "right",
        shots: Shots | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise LlmclsError(f"{type(tokenizer).__name__} is not a fast tokenizer; llmcls needs one with offsets.")
        self.tokenizer = tokenizer
        self.frame = frame
        self.template = template
        self.labels = labels
        self.max_length = max_length
        self.truncation_side = truncation_side
        self.shots = shots or Shots()
        added = tokenizer.added_tokens_decoder.items()
        self._control_ids = frozenset(token_id for token_id, token in added if token.special)
        controls = [token.content for _, token in added if token.special]
        markers = sorted({*controls, *frame.turn_markers}, key=len, reverse=True)
        self._forgeries = re.compile("|".join(map(re.escape, markers)) or r"(?!)")
        self._fix_boundary()

    @property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of every label behind the prompt, end token included, in the label set's order."""
        return self._answers

    @cached_property
    def end_token_id(self) -> int:
        """The token that ends an answer."""
        return self._token_id(self.frame.turn_end_token if self.is_chat else self.frame.end_token)

    def encode(self, examples: Iterable[Example]) -> list[EncodedPrompt]:
        """Tokenise the prompts of many rows; a row that is too long loses only characters of its text.

        Raises:
            LlmclsError: when the prompt is too long without any text.
        """
        examples = list(examples)
        encoded = []
        for example, ids in zip(examples, self._tokenize([self._frame(row) for row in examples]), strict=True):
            fitting, kept = (example, ids) if len(ids) <= self._budget else self._shorten(example, len(ids))
            encoded.append(EncodedPrompt(self._cut_boundary(kept, fitting), truncated=kept is not ids))
        return encoded

    def view(self, example: Example) -> list[TokenView]:
        """The prompt's tokens with the characters each covers and where they came from."""
        ids = self._ids(example)
        if len(ids) > self._budget:
            example, ids = self._shorten(example, len(ids))
        text, spans = self._frame(example)
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        views, position = [], 0
        for token_id, (start, end) in zip(self._cut_boundary(ids, example), offsets, strict=False):
            shown = text[min(start, position) : end] if end > position else ""
            views.append(TokenView(token_id, shown, _origin(spans, start, end)))
            position = max(position, end)
        return views

    @property
    def _budget(self) -> int:
        return self.max_length - max(map(len, self._answers)) + len(self._boundary)

    def _frame(self, example: Example) -> tuple[str, list[Span]]:
        prompt = self.template.render(example, self.labels, self.shots.without(example))
        return unmark(self._to_string(prompt), self._forgeries)

    def _to_string(self, prompt: Prompt) -> str:
        if not prompt.is_chat:
            # Trailing spaces belong to the answer: " positive" is one token, " " before it would be another.
            return self.frame.bos_token + prompt.completion.rstrip(" ")
        text = self.frame.chat(prompt.messages)
        for message in prompt.messages:
            if message.content not in text:
                raise LlmclsError(
                    f"The model's chat template drops or changes the {message.role} message; "
                    "use the template 'instruction', or one without that role."
                )
        return text

    def _ids(self, example: Example) -> list[int]:
        return self._tokenize([self._frame(example)])[0]

    def _tokenize(self, framed: list[tuple[str, list[Span]]]) -> list[list[int]]:
        if not framed:
            return []
        texts = [text for text, _ in framed]
        batch = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids: list[list[int]] = batch["input_ids"]
        for row, (offsets, (text, spans)) in enumerate(zip(batch["offset_mapping"], framed, strict=True)):
            for token_id, (start, end) in zip(ids[row], offsets, strict=True):
                if token_id in self._control_ids and _origin(spans, start, end) != "frame":
                    # A normaliser made a control token of other characters: take exactly these characters apart.
                    exact = re.compile(f"{re.escape(text[start:end])}|{self._forgeries.pattern}")
                    marked = _mark_again(text, spans)
                    ids[row] = self._tokenize([unmark(marked, exact)])[0]
                    break
        return ids

    def _fix_boundary(self) -> None:
        """Tokenise every answer in its real context and decide how many prompt tokens merge with answers."""
        prompt = self.template.render(PROBE, self.labels, self.shots.examples)
        self.is_chat = prompt.is_chat
        text, spans = unmark(self._to_string(prompt), self._forgeries)
        end_of_text = max((span.end for span in spans if span.origin == "text"), default=0)
        if not text[end_of_text:].strip(" "):
            raise LlmclsError(
                f"Template '{self.template.name}' ends with the text itself, so a label would merge with it; "
                "end it with a line such as 'label:'."
            )
        context = text[max(0, min(end_of_text - 1, len(text) - 1), len(text) - _CONTEXT) :]
        space = "" if self.is_chat or text[-1].isspace() else " "
        answers = [
            unmark(context + space + mark(clean(name), "data"), self._forgeries)[0] for name in self.labels.names
        ]
        encoded = self.tokenizer([context, *answers], add_special_tokens=False, verbose=False)["input_ids"]
        bare, rows = encoded[0], encoded[1:]
        kept = min(_common_prefix(bare, row) for row in rows)
        self._boundary = bare[kept:]
        self._answers = tuple((*row[kept:], self.end_token_id) for row in rows)
        self._refuse_equal_answers()

    def _refuse_equal_answers(self) -> None:
        seen: dict[tuple[int, ...], str] = {}
        for name, answer in zip(self.labels.names, self._answers, strict=True):
            if answer in seen:
                raise LlmclsError(f"Labels {seen[answer]!r} and {name!r} become the same tokens; rename one of them.")
            seen[answer] = name

    def _cut_boundary(self, ids: list[int], example: Example) -> list[int]:
        if not self._boundary:
            return ids
        if ids[-len(self._boundary) :] != self._boundary:
            raise LlmclsError(
                f"The end of template '{self.template.name}' merges with the text of {example.source or 'a row'}; "
                "put more literal text between the text and the label."
            )
        return ids[: -len(self._boundary)]

    def _shorten(self, example: Example, length: int) -> tuple[Example, list[int]]:
        """Cut text (and fields, where the template shows them) until the prompt of `length` tokens fits."""
        values = {"": clean(example.text)}
        if self.template.uses("fields"):
            values |= {key: clean(value) for key, value in example.fields.items()}
        batch = self.tokenizer(
            list(values.values()), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = dict(zip(values, batch["offset_mapping"], strict=True))
        keep = max(map(len, offsets.values()))
        while length > self._budget:
            if keep == 0:
                needed = length + self.max_length - self._budget
                raise LlmclsError(
                    f"The instruction alone needs {needed} tokens, but prompt.max_length is {self.max_length}; raise "
                    f"it to at least {needed + 32}, or use a template that lists fewer labels or shots."
                )
            long = sum(len(found) >= keep for found in offsets.values())
            keep = max(0, keep - max(1, (length - self._budget) // long))
            cut = {key: self._cut(value, offsets[key], keep) for key, value in values.items()}
            shortened = Example(cut.pop(""), example.label, {**example.fields, **cut}, example.source)
            ids = self._ids(shortened)
            length = len(ids)
        return shortened, ids

    def _cut(self, value: str, offsets: Sequence[tuple[int, int]], keep: int) -> str:
        if len(offsets) <= keep:
            return value
        if self.truncation_side == "right":
            return value[: offsets[keep][0]]
        return value[offsets[len(offsets) - keep][0] :] if keep else ""

    def _token_id(self, token: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(token_id, int) or self.tokenizer.convert_ids_to_tokens(token_id) != token:
            raise LlmclsError(f"The tokenizer has no token {token!r}, which the model's adapter ends answers with.")
        return token_id


def _mark_again(text: str, spans: Sequence[Span]) -> str:
    pieces, position = [], 0
    for span in spans:
        pieces += [text[position : span.start], mark(text[span.start : span.end], span.origin)]
        position = span.end
    return "".join([*pieces, text[position:]])


def _origin(spans: Sequence[Span], start: int, end: int) -> Origin:
    return next((span.origin for span in spans if span.start < end and span.end > start), "frame")


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
