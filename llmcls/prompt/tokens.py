"""Framed prompts as tokens that know where they came from; data cannot forge a control token.

framed = FramedTokenizer(tokenizer, frame, template)
framed.tokenize([framed.render(example, labels, shots)])[0].ids
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.frame import Frame, Prompt
from llmcls.prompt.marks import REPLACEMENT, Origin, Span, unmark
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class FramedText(NamedTuple):
    """A prompt inside the model's frame, and the spans of it that are data."""

    text: str
    spans: list[Span]


class Tokens(NamedTuple):
    """A framed prompt, its tokens, and the characters `[start, end)` that each token stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    text: str
    spans: list[Span]

    def origin(self, start: int, end: int) -> Origin:
        """Where the characters `[start, end)` came from."""
        return next((span.origin for span in _touched(self, start, end)), "frame")


class FramedTokenizer:
    """Renders examples into the model's frame and tokenises the result.

    Args:
        tokenizer: a fast tokenizer (offsets are needed to tell data from frame).
        frame: the model's framing, from its adapter.
        template: the prompt template.

    Attributes:
        control_ids: tokens that frame turns or end answers; none of them comes out of data.
        forgeries: matches their spellings in data.
        longest_marker: characters of the longest of these spellings, 0 without any.

    Raises:
        LlmclsError: when the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, frame: Frame, template: PromptTemplate) -> None:
        if not tokenizer.is_fast:
            raise LlmclsError(f"{type(tokenizer).__name__} is not a fast tokenizer; llmcls needs one with offsets.")
        self.tokenizer = tokenizer
        self.frame = frame
        self.template = template
        controls = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content in frame.turn_markers
        }
        # Where a piece of ordinary text serves as padding (GPT-2), that id in a text is no forgery.
        self.control_ids = frozenset(
            token_id for content, token_id in controls.items() if content in str(tokenizer.decode([token_id]))
        )
        markers = sorted({*controls, *frame.turn_markers}, key=len, reverse=True)
        self.longest_marker = max(map(len, markers), default=0)
        self.forgeries = re.compile("|".join(map(re.escape, markers)) or r"(?!)")

    def render(self, example: Example, labels: LabelSet, shots: Sequence[Example]) -> FramedText:
        """The prompt of one example, framed."""
        prompt = self.template.render(example, labels, shots)
        return self.unmark(self._to_string(prompt))

    @property
    def vocabulary(self) -> set[str]:
        """All of the tokenizer's pieces."""
        return set(self.tokenizer.get_vocab())

    def token_id(self, token: str) -> int:
        """The id of one token of the frame.

        Raises:
            LlmclsError: when the vocabulary lacks it.
        """
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(token_id, int) or self.tokenizer.convert_ids_to_tokens(token_id) != token:
            raise LlmclsError(f"The tokenizer has no token {token!r}, which the model's adapter ends answers with.")
        return token_id

    def unmark(self, marked: str) -> FramedText:
        """A text with marked data, without the marks and without control tokens in the data."""
        return FramedText(*unmark(marked, self.forgeries))

    def tokenize(self, framed: Sequence[FramedText]) -> list[Tokens]:
        """Tokens of framed prompts, none of them a control token out of data."""
        if not framed:
            return []
        texts = [text for text, _ in framed]
        batch = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        rows = zip(batch["input_ids"], batch["offset_mapping"], framed, strict=True)
        return [self._without_forgeries(Tokens(ids, offsets, *row)) for ids, offsets, row in rows]

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
        return text + self.frame.opening

    def _without_forgeries(self, tokens: Tokens) -> Tokens:
        """Take apart what a normaliser made a control token of (`＜/s＞`): one of its characters becomes U+FFFD."""
        forged = {
            first
            for token_id, (start, end) in zip(tokens.ids, tokens.offsets, strict=True)
            if token_id in self.control_ids and (first := _first_of_data(tokens, start, end)) is not None
        }
        if not forged:
            return tokens
        text = "".join(REPLACEMENT if place in forged else character for place, character in enumerate(tokens.text))
        return self.tokenize([FramedText(text, tokens.spans)])[0]


def _first_of_data(tokens: Tokens, start: int, end: int) -> int | None:
    places = (
        place
        for span in _touched(tokens, start, end)
        for place in range(max(start, span.start), min(end, span.end))
        if tokens.text[place] != REPLACEMENT and not tokens.text[place].isspace()
    )
    return next(places, None)


def _touched(tokens: Tokens, start: int, end: int) -> Iterator[Span]:
    """The spans of data in a token's characters, white space around them aside: some tokens swallow it (Phi-3's)."""
    piece = tokens.text[start:end]
    if stripped := piece.strip():
        start += piece.index(stripped)
        end = start + len(stripped)
    first = bisect_right(tokens.spans, start, key=lambda span: span.end)
    return takewhile(lambda span: span.start < end, islice(tokens.spans, first, None))
