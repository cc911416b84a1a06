"""The one owner of text to tokens: frames a prompt, keeps data from forging the frame, fixes the label boundary.

    encoder = Encoder(tokenizer, frame, template, labels, max_length=1024)
    encoder.encode(examples)[0].input_ids      # the prompt's tokens
    encoder.answers[2]                         # the third label's tokens, end token included
    LabelTrie(encoder.answers, encoder.answer_labels)

Where a text may have several labels, every label is asked about behind the prompt, and `answers[2]` are the tokens of
the third label's question answered with yes, `denials[2]` those of the same question answered with no; or an answer is
a list of labels, of which `items` are the parts.

A prompt's tokens followed by an answer's tokens are what the model is trained on and what it is asked at prediction;
there is no second place that decides this.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.codes import candidate_codes, choose_codes
from llmcls.prompt.frame import Frame, Prompt
from llmcls.prompt.marks import REPLACEMENT, Origin, Span, clean, mark, unmark
from llmcls.prompt.shots import Shots
from llmcls.prompt.template import PROBES, PromptTemplate
from llmcls.records import Example
from llmcls.task import AnswerForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TruncationSide = Literal["right", "left"]
Verbalizer = Literal["name", "code"]

# Token boundaries depend on nearby characters only; answers are tokenised behind this much of the prompt's end.
_CONTEXT = 256
_BATCH = 512  # answers that are tokenised together
_SLACK = 3  # tokens that a cut row may stay below the limit; finding the last one would cost more tokenisations


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


class _Tokens(NamedTuple):
    """A framed prompt, its tokens, and the characters `[start, end)` that each token stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    text: str
    spans: list[Span]


class Encoder:
    """Turns examples into token ids for one model, template and label set.

    Args:
        tokenizer: a fast tokenizer (offsets are needed to tell data from frame).
        frame: the model's framing, from its adapter.
        template: the prompt template.
        labels: the label set.
        max_length: tokens of prompt and longest answer together; longer rows have only their text cut.
        positions: how many tokens the base model reads, where that is known; `max_length` is cut to it.
        truncation_side: which end of the text is cut.
        form: whether an answer is one label, yes or no about each of them, or a comma-separated list of them.
        shots: solved examples for templates that show them.
        head: encode for a classification head: labels are numbers, not tokens, so `max_length` is the prompt's alone
            and the template may end in the text.
        verbalizer: `name`: a label is answered by its name or one of its aliases; `code`: by a code of one token,
            chosen here unless the labels have codes.

    Attributes:
        labels: the label set, with its codes.
        spellings: what may be said: the answer of each label in order (name or code), then all aliases.
        answer_labels: the label of each of them.

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
        *,
        max_length: int,
        positions: int | None = None,
        truncation_side: TruncationSide = "right",
        form: AnswerForm = "label",
        shots: Shots | None = None,
        verbalizer: Verbalizer = "name",
        head: bool = False,
    ) -> None:
        if not tokenizer.is_fast:
            raise LlmclsError(f"{type(tokenizer).__name__} is not a fast tokenizer; llmcls needs one with offsets.")
        self.tokenizer = tokenizer
        self.frame = frame
        self.template = template
        self.labels = labels
        self.max_length = min(max_length, positions or max_length)
        self._positions = positions
        self.truncation_side = truncation_side
        self.form = form
        self.shots = shots or Shots()
        self.head = head
        controls = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content in frame.turn_markers
        }
        # Where a piece of ordinary text serves as padding (GPT-2), that id in a text is no forgery.
        self._control_ids = frozenset(
            token_id for content, token_id in controls.items() if content in str(tokenizer.decode([token_id]))
        )
        markers = sorted({*controls, *frame.turn_markers}, key=len, reverse=True)
        self._forgeries = re.compile("|".join(map(re.escape, markers)) or r"(?!)")
        if verbalizer == "code" and not head and not any(label.code for label in labels):
            self.labels = self._with_codes()
        if any(label.code for label in self.labels) and not head:
            self._require_codes_shown()
        # Of several labels each is asked about, or listed, by its name.
        spelled = enumerate(self.labels) if form == "label" and not head else ()
        aliases = [(alias, at) for at, label in spelled if not label.code for alias in label.aliases]
        self.spellings = (*(label.answer for label in self.labels), *(alias for alias, _ in aliases))
        self.answer_labels = (*range(len(self.labels)), *(at for _, at in aliases))
        self._fix_boundary()

    @property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of every spelling behind the prompt, end token included: the labels in order, then the aliases.

        For a head, whose vocabulary is the labels: each label's own number.
        With the form `yes_no`: of every label's question and a yes, without end token.
        """
        return self._answers

    @property
    def denials(self) -> tuple[tuple[int, ...], ...]:
        """As `answers`, with a no; empty unless the form is `yes_no`. To a head one number more is the no of all."""
        return self._denials

    @property
    def items(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of every label as a later item of a list, comma included; empty unless the form is `list`.

        A list is an answer without its end token, later items, and the end token; an empty one is the end token.
        """
        return self._items

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
        rows = [(example, self.shots.without(example)) for example in examples]
        encoded = []
        for (example, shots), tokens in zip(rows, self._tokenize([self._frame(*row) for row in rows]), strict=True):
            kept = tokens if len(tokens.ids) <= self._budget else self._shorten(example, shots, len(tokens.ids))
            # Without BOS, a template of the text alone has nothing to say of an empty text.
            ids = self._cut_boundary(kept.ids, example) or [self.end_token_id]
            encoded.append(EncodedPrompt(ids, truncated=kept is not tokens))
        return encoded

    def view(self, example: Example) -> list[TokenView]:
        """The prompt's tokens with the characters each covers and where they came from."""
        shots = self.shots.without(example)
        tokens = self._tokenize([self._frame(example, shots)])[0]
        if len(tokens.ids) > self._budget:
            tokens = self._shorten(example, shots, len(tokens.ids))
        views, position = [], 0
        for token_id, (start, end) in zip(self._cut_boundary(tokens.ids, example), tokens.offsets, strict=False):
            shown = tokens.text[min(start, position) : end] if end > position else ""
            views.append(TokenView(token_id, shown, _origin(tokens, start, end)))
            position = max(position, end)
        return views

    @property
    def _budget(self) -> int:
        longest = 0 if self.head else max(map(len, self._answers + self._denials))
        if self.form == "list":
            longest = sum(max(map(len, pair)) for pair in zip(self._answers, self._items, strict=True)) + 1
        return self.max_length - longest + len(self._boundary)

    def _frame(self, example: Example, shots: Sequence[Example]) -> tuple[str, list[Span]]:
        prompt = self.template.render(example, self.labels, shots)
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

    def _tokenize(self, framed: Sequence[tuple[str, list[Span]]]) -> list[_Tokens]:
        if not framed:
            return []
        texts = [text for text, _ in framed]
        batch = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        rows = zip(batch["input_ids"], batch["offset_mapping"], framed, strict=True)
        return [self._without_forgeries(_Tokens(ids, offsets, *row)) for ids, offsets, row in rows]

    def _without_forgeries(self, tokens: _Tokens) -> _Tokens:
        """Take apart what a normaliser made a control token of (`＜/s＞`): one of its characters becomes U+FFFD."""
        forged = {
            first
            for token_id, (start, end) in zip(tokens.ids, tokens.offsets, strict=True)
            if token_id in self._control_ids and (first := _first_of_data(tokens, start, end)) is not None
        }
        if not forged:
            return tokens
        text = "".join(REPLACEMENT if place in forged else character for place, character in enumerate(tokens.text))
        return self._tokenize([(text, tokens.spans)])[0]

    def _fix_boundary(self) -> None:
        """Tokenise every answer in its real context and decide how many prompt tokens merge with answers."""
        self._denials: tuple[tuple[int, ...], ...] = ()
        self._items: tuple[tuple[int, ...], ...] = ()
        if self.head:
            self.is_chat = self.template.render(PROBES[0], self.labels, self.shots.examples).is_chat
            self._boundary: list[int] = []
            self._answers: tuple[tuple[int, ...], ...] = tuple((label,) for label in range(len(self.labels)))
            if self.form == "yes_no":
                self._denials = ((len(self.labels),),) * len(self.labels)
            return
        ends = [": yes", ": no"] if self.form == "yes_no" else [""]
        bare, rows = self._in_context([f"{said}{end}" for end in ends for said in self.spellings])
        kept = min(same for same, _ in rows)
        self._boundary = bare[kept:]
        closing = () if self.form == "yes_no" else (self.end_token_id,)
        answers = tuple((*bare[kept:same], *tail, *closing) for same, tail in rows)
        self._answers, self._denials = answers[: len(self.spellings)], answers[len(self.spellings) :]
        self._refuse_equal_answers()
        if self.form == "list":
            self._items = self._list_items(kept)

    def _list_items(self, kept: int) -> tuple[tuple[int, ...], ...]:
        """Every label's tokens behind another one and a comma; answers begin `kept` tokens behind the context's."""
        names = self.labels.names
        if commas := [name for name in names if "," in name]:
            raise LlmclsError(f"Label {commas[0]!r} holds a comma, which would end it in a list; rename it.")
        # Each label behind the one before it, and before it.
        pairs = [pair for at, name in enumerate(names) for pair in ((names[at - 1], name), (name, names[at - 1]))]
        bare, rows = self._in_context([", ".join(pair) for pair in pairs])
        spoken = [(*bare[kept:same], *tail) for same, tail in rows]
        alone = [answer[:-1] for answer in self._answers]
        items = [tokens[len(alone[at - 1]) :] for at, tokens in enumerate(spoken[::2])]
        for at, name in enumerate(names):
            before, after = spoken[2 * at : 2 * at + 2]
            if before != (*alone[at - 1], *items[at]) or after != (*alone[at], *items[at - 1]):
                raise LlmclsError(f"The tokens of label {name!r} hang on what stands beside it in a list; rename it.")
        return tuple(items)

    def _in_context(self, spellings: Sequence[str]) -> tuple[list[int], list[tuple[int, list[int]]]]:
        """The prompt's last tokens; and with each spelling behind them, how many stay the same, and what follows."""
        self.is_chat = self.template.render(PROBES[0], self.labels, self.shots.examples).is_chat
        probes = self._tokenize([self._frame(probe, self.shots.examples) for probe in PROBES])
        text, other = (probe.text for probe in probes)
        # Filters may turn the text into something else; where two texts stop making a difference is where it ends.
        end_of_text = 0 if text == other else len(text) - _common_prefix(text[::-1], other[::-1])
        if not text[end_of_text:].strip(" "):
            raise LlmclsError(
                f"Template '{self.template.name}' ends with the text itself, so a label would merge with it; "
                "end it with a line such as 'label:', or train with training.objective=head."
            )
        context = text[max(0, min(end_of_text - 1, len(text) - 1), len(text) - _CONTEXT) :]
        space = "" if self.is_chat or text[-1].isspace() else " "
        bare = self._tokenize([(context, [])])[0].ids
        rows = []
        for start in range(0, len(spellings), _BATCH):  # the contexts of 10,000 labels would fill a gigabyte
            batch = [context + space + mark(clean(said), "data") for said in spellings[start : start + _BATCH]]
            for tokens in self._tokenize([unmark(text, self._forgeries) for text in batch]):
                same = _common_prefix(bare, tokens.ids)
                rows.append((same, tokens.ids[same:]))
        return bare, rows

    def _with_codes(self) -> LabelSet:
        """The labels with the first codes that are one token each behind this template."""
        count, given = len(self.labels), self.labels
        candidates = candidate_codes(self.tokenizer.get_vocab(), given.spellings)
        if len(candidates) >= count:
            self.labels = given.with_codes(candidates[:count])  # what stands before the answer may show codes

        def tokenize(codes: Sequence[str]) -> list[list[int] | None]:
            bare, rows = self._in_context(codes)
            return [tail if same == len(bare) else None for same, tail in rows]

        codes = choose_codes(count, candidates, tokenize)
        if len(codes) < count:
            raise LlmclsError(
                f"There are {count} labels, but behind template '{self.template.name}' this tokenizer has only "
                f"{len(codes)} codes of one token; set prompt.verbalizer to name."
            )
        return given.with_codes(codes)

    def _require_codes_shown(self) -> None:
        """Refuse a template that looks the same whatever the codes are: the model could not know what they mean."""
        other = self.labels.with_codes([f"{label.code}?" if label.code else "" for label in self.labels])
        shown, changed = (self.template.render(PROBES[0], labels) for labels in (self.labels, other))
        if shown == changed:
            raise LlmclsError(
                f"Template '{self.template.name}' does not show the labels' codes; print label.code in it, or set "
                "prompt.verbalizer to name."
            )

    def _refuse_equal_answers(self) -> None:
        seen: dict[tuple[int, ...], str] = {}
        for said, answer in zip(self.spellings, self._answers, strict=True):
            if answer in seen:
                raise LlmclsError(f"Labels {seen[answer]!r} and {said!r} become the same tokens; rename one of them.")
            seen[answer] = said

    def _cut_boundary(self, ids: list[int], example: Example) -> list[int]:
        if not self._boundary:
            return ids
        if ids[-len(self._boundary) :] != self._boundary:
            raise LlmclsError(
                f"The end of template '{self.template.name}' merges with the text of {example.source or 'a row'}; "
                "put more literal text between the text and the label."
            )
        return ids[: -len(self._boundary)]

    def _shorten(self, example: Example, shots: Sequence[Example], length: int) -> _Tokens:
        """Cut text (and fields, where the template shows them) until the prompt of `length` tokens fits.

        The longest values are cut first, all to the same number of tokens. How many that is follows from the excess
        where a token cut is a token less; where it is not (a column that is not shown, a filter), it is searched for.
        """
        fields = example.fields if self.template.uses("fields") else {}
        values = [clean(value) for value in (example.text, *fields.values())]
        batch = self.tokenizer(values, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        lengths = [len(offsets) for offsets in batch["offset_mapping"]]
        fitting, fits, too_long, predictable = None, -1, max(lengths), True
        while too_long - fits > 1 and (fitting is None or self._budget - len(fitting.ids) > _SLACK):
            keep = _level([min(known, too_long) for known in lengths], length - self._budget)
            if not (predictable and fits < keep < too_long):
                keep = (fits + too_long) // 2
            cut = [self._cut(value, found, keep) for value, found in zip(values, batch["offset_mapping"], strict=True)]
            shortened = Example(cut[0], example.label, dict(zip(fields, cut[1:], strict=True)), example.source)
            tokens = self._tokenize([self._frame(shortened, shots)])[0]
            if len(tokens.ids) <= self._budget:
                fitting, fits = tokens, keep
            else:
                predictable = predictable and 2 * (length - len(tokens.ids)) >= length - self._budget
                too_long, length = keep, len(tokens.ids)
        if fitting is None:
            needed = length + self.max_length - self._budget
            why = f"prompt.max_length is {self.max_length}; raise it to at least {needed + 32}, or"
            if self._positions and needed > self._positions:
                why = f"the base model reads {self._positions} at most; take another one, or"
            message = f"The instruction alone needs {needed} tokens, but {why} use a template that lists fewer labels"
            raise LlmclsError(f"{message} or shots.")
        return fitting

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


def _level(lengths: Sequence[int], excess: int) -> int:
    """The largest length to cut the longest values to, so that together they lose `excess` or more."""
    descending = sorted(lengths, reverse=True)
    total = 0
    for count, (length, shorter) in enumerate(pairwise([*descending, 0]), 1):
        total += length
        if total - count * shorter >= excess:
            return (total - excess) // count
    return 0


def _origin(tokens: _Tokens, start: int, end: int) -> Origin:
    return next((span.origin for span in _touched(tokens, start, end)), "frame")


def _first_of_data(tokens: _Tokens, start: int, end: int) -> int | None:
    places = (
        place
        for span in _touched(tokens, start, end)
        for place in range(max(start, span.start), min(end, span.end))
        if tokens.text[place] != REPLACEMENT and not tokens.text[place].isspace()
    )
    return next(places, None)


def _touched(tokens: _Tokens, start: int, end: int) -> Iterator[Span]:
    """The spans of data in a token's characters, white space around them aside: some tokens swallow it (Phi-3's)."""
    piece = tokens.text[start:end]
    if stripped := piece.strip():
        start += piece.index(stripped)
        end = start + len(stripped)
    first = bisect_right(tokens.spans, start, key=lambda span: span.end)
    return takewhile(lambda span: span.start < end, islice(tokens.spans, first, None))


def _common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
