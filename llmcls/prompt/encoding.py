"""The one owner of text to tokens: frames a prompt, keeps data from forging the frame, fixes the label boundary.

    encoder = Encoder(tokenizer, frame, template, labels, form, max_length=1024)
    encoder.encode(examples)[0].input_ids      # the prompt's tokens
    encoder.answers[2]                         # the third label's tokens, end token included
    LabelTrie(encoder.answers, encoder.answer_labels)

What an answer says is up to the form of answer: `encoder.spelled` has its tokens.

A prompt's tokens followed by an answer's tokens are what the model is trained on and what it is asked at prediction;
there is no second place that decides this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.frame import Frame
from llmcls.prompt.marks import Origin
from llmcls.prompt.shots import Shots
from llmcls.prompt.sizes import in_groups
from llmcls.prompt.spelling import Answer, AnswerPlace, SpellsAnswers, require_codes_shown, with_codes
from llmcls.prompt.template import PromptTemplate
from llmcls.prompt.tokens import FramedText, FramedTokenizer, Tokens
from llmcls.prompt.truncation import Tokenized, TokenizedT, TruncationSide, shorten
from llmcls.prompt.window import WORTH_PROBING, Window, open_window
from llmcls.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Verbalizer = Literal["name", "code"]
_Row = tuple[Example, Sequence[Example]]  # with the shots that its prompt shows
_SEVERAL = 16
"""Rows of a batch that counts: fewer are texts that come one by one."""


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
        form: the form of answer, which spells the answers.
        max_length: tokens of prompt and longest answer together; longer rows have only their text cut.
        positions: how many tokens the base model reads, where that is known; `max_length` is cut to it.
        truncation_side: which end of the text is cut.
        shots: solved examples for templates that show them.
        head: encode for a classification head: labels are numbers, not tokens, so `max_length` is the prompt's alone
            and the template may end in the text.
        verbalizer: `name`: a label is answered by its name or one of its aliases; `code`: by a code of one token,
            chosen here for labels that have none.
        windowed: of many rows, tokenise only what their text can change (`llmcls.prompt.window`); False tokenises
            every prompt as a whole, which has the same results and is the plain reference.

    Attributes:
        labels: the label set, with its codes.
        spelled: the tokens of all answers.

    Raises:
        LlmclsError: when the template ends in the text itself or does not show the codes, two answers become the same
            tokens, there are more labels than codes, the instruction alone exceeds `max_length`, or the tokenizer is
            not a fast one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        frame: Frame,
        template: PromptTemplate,
        labels: LabelSet,
        form: SpellsAnswers,
        *,
        max_length: int,
        positions: int | None = None,
        truncation_side: TruncationSide = "right",
        shots: Shots | None = None,
        verbalizer: Verbalizer = "name",
        head: bool = False,
        windowed: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.frame = frame = replace(frame, opening="") if head else frame
        self.template = template
        self.labels = labels
        self.max_length = min(max_length, positions or max_length)
        self._positions = positions
        self.truncation_side = truncation_side
        self.shots = shots or Shots()
        self.head = head
        self._framed = FramedTokenizer(tokenizer, frame, template)
        if verbalizer == "code" and not head and not all(label.code for label in labels):
            self.labels = with_codes(AnswerPlace(self._framed, labels, self.shots.examples))
        if any(label.code for label in self.labels) and not head:
            require_codes_shown(template, self.labels)
        self._place = AnswerPlace(self._framed, self.labels, self.shots.examples)
        self.spelled = form.spell(self._place, head)
        self._budget = self.max_length - self.spelled.longest + len(self.spelled.boundary)
        self._shot_texts = frozenset(shot.text for shot in self.shots.examples) if template.uses("shots") else ()
        self._window: Window | None = None
        self._rows_until_window = WORTH_PROBING if windowed else 0

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The tokens of every spelling behind the prompt: the labels in order, then other spellings.

        For a head, whose vocabulary is the labels: each label's own number.
        """
        return self.spelled.answers

    @property
    def answer_labels(self) -> tuple[int, ...]:
        """The label of each of `answers`."""
        return self.spelled.answer_labels

    @property
    def spellings(self) -> tuple[str, ...]:
        """What each of `answers` says."""
        return self.spelled.spellings

    @property
    def is_chat(self) -> bool:
        """Whether the template speaks in roles, so that an answer is a turn."""
        return self._place.is_chat

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer."""
        return self._place.end_token_id

    def encode(self, examples: Iterable[Example]) -> list[EncodedPrompt]:
        """Tokenise the prompts of many rows; a row that is too long loses only characters of its text.

        Raises:
            LlmclsError: when the prompt is too long without any text.
        """
        examples = list(examples)
        if len(groups := in_groups(examples)) > 1:
            return [prompt for group in groups for prompt in self.encode(group)]
        rows = [(example, self._shots_for(example)) for example in examples]
        # Texts that come one by one are never kept waiting while a window is looked for.
        if self._rows_until_window > 0 and len(rows) >= _SEVERAL:
            self._rows_until_window -= len(rows)
            if self._rows_until_window <= 0:
                self.open_window()
        encoded = []
        for (example, shots), tokens in zip(rows, self._tokenize(rows), strict=True):
            kept = self._shorten(tokens, example, shots, lambda row: self._tokenize([row])[0])
            # Without BOS, a template of the text alone has nothing to say of an empty text.
            ids = self._cut_boundary(kept.ids, example) or [self.end_token_id]
            encoded.append(EncodedPrompt(ids, truncated=kept is not tokens))
        return encoded

    def open_window(self) -> bool:
        """Find out now what of the prompt the texts can change, rather than when that many rows have come that it pays.

        Returns:
            Whether prompts are tokenised through a window from now on: not where the template does more with the text
            than print it, nor where the tokenizer leaves no place for one.
        """
        self._rows_until_window = 0
        self._window = open_window(self._framed, self.labels, self.shots.examples, self._tokenize_text)
        return self._window is not None

    def read_prompts(self, examples: Iterable[Example]) -> list[str]:
        """The text of each row's prompt as the model reads it: decoded from its tokens, cut to fit, and with the
        frame's control tokens as text.

            encoder.read_prompts([Example("Where is my parcel?")])     # ['<s>Which of these ...\\nlabel:']
        """
        return [self._decode(prompt.input_ids) for prompt in self.encode(examples)]

    def read_answer(self, said: Sequence[int]) -> str:
        """The text of an answer's tokens, stripped; control tokens in it are text.

        Where the end of the prompt merges with answers, an answer begins with it, and it is left out of the text.
        """
        return self._decode(said).removeprefix(self._decode(self.spelled.boundary)).strip()

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def view(self, example: Example) -> list[TokenView]:
        """The prompt's tokens with the characters each covers and where they came from."""
        shots = self._shots_for(example)
        tokens = self._shorten(self._tokenize_whole((example, shots)), example, shots, self._tokenize_whole)
        views, position = [], 0
        for token_id, (start, end) in zip(self._cut_boundary(tokens.ids, example), tokens.offsets, strict=False):
            shown = tokens.text[min(start, position) : end] if end > position else ""
            views.append(TokenView(token_id, shown, tokens.origin(start, end)))
            position = max(position, end)
        return views

    def _tokenize(self, rows: Sequence[_Row]) -> list[Tokenized]:
        """The prompts of rows: through the window where there is one, and they go through it; else as a whole."""
        found: list[Tokenized | None] = [None] * len(rows)
        if window := self._window:
            usual = self.shots.examples
            found = list(window.tokenize([example.text if shots is usual else None for example, shots in rows]))
        left = [place for place, tokens in enumerate(found) if tokens is None]
        framed = [self._frame(*rows[place]) for place in left]
        for place, whole in zip(left, self._framed.tokenize(framed), strict=True):
            found[place] = whole
        return [tokens for tokens in found if tokens is not None]

    def _tokenize_whole(self, row: _Row) -> Tokens:
        return self._framed.tokenize([self._frame(*row)])[0]

    def _tokenize_text(self, text: str) -> list[int]:
        return self._tokenize_whole((Example(text), self.shots.examples)).ids

    def _shots_for(self, example: Example) -> Sequence[Example]:
        return self.shots.without(example) if example.text in self._shot_texts else self.shots.examples

    def _frame(self, example: Example, shots: Sequence[Example]) -> FramedText:
        return self._framed.render(example, self.labels, shots)

    def _cut_boundary(self, ids: list[int], example: Example) -> list[int]:
        boundary = self.spelled.boundary
        if not boundary:
            return ids
        if ids[-len(boundary) :] != boundary:
            raise LlmclsError(
                f"The end of template '{self.template.name}' merges with the text of {example.source or 'a row'}; "
                "put more literal text between the text and the label."
            )
        return ids[: -len(boundary)]

    def _shorten(
        self, tokens: TokenizedT, example: Example, shots: Sequence[Example], tokenize: Callable[[_Row], TokenizedT]
    ) -> TokenizedT:
        if len(tokens.ids) <= self._budget:
            return tokens
        fitting, needed = shorten(
            example,
            lambda cut: tokenize((cut, shots)),
            self.tokenizer,
            length=len(tokens.ids),
            budget=self._budget,
            fields=self.template.uses("fields"),
            side=self.truncation_side,
        )
        if fitting is not None:
            return fitting
        reserved = self.max_length - self._budget
        needed += reserved
        why = f"prompt.max_length is {self.max_length}; raise it to at least {needed + 32}, or"
        if self._positions and needed > self._positions:
            why = f"the base model reads {self._positions} at most; take another one, or"
        what = f"tokens, {reserved} of them for {self.spelled.room}," if self.spelled.room else "tokens,"
        message = f"The instruction alone needs {needed} {what} but {why} use a template that lists fewer labels"
        raise LlmclsError(f"{message} or shots.")
