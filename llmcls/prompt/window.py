"""Tokenises only what a row's text can change: prompts around one hole share the tokens of everything else.

    window = open_window(framed, labels, shots, tokenize_whole)     # None where template or tokenizer do not allow it
    window.tokenize(["Where is my parcel?"])[0].ids                 # the tokens of the whole prompt

A window is the text with a little of the prompt at both ends, so that its edges lie where no text moves a token
boundary: for Llama 3 and `text: {{ text }}\\nlabel:` from the space before the text to the newline behind it. Where
these places are is a matter of the tokenizer (normaliser, pre-tokeniser, merges), so they are found by trying texts of
many kinds, and checked again on the rows themselves: each kind of beginning and end that they have, once, against the
whole prompt. A text that touches a control token or turn marker is left to the whole prompt.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import category
from weakref import WeakKeyDictionary

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.labels import LabelSet
from llmcls.prompt.hole import Hole, find_hole, touches, touches_between
from llmcls.prompt.marks import clean
from llmcls.prompt.tokens import FramedText, FramedTokenizer
from llmcls.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORTH_PROBING = 256
"""Rows from which on looking for a window pays: it takes as long as tokenising a few hundred whole prompts."""

_BATCH = 1024  # windows tokenised together: their encodings take 10 times the memory of their tokens
_NEAR = 60  # characters of the prompt in which an edge is looked for one by one
_FAR = 2000  # and in which it is looked for at newlines
_CONTEXT = 40  # characters of the prompt beyond an edge that are tokenised with a text to try it
_ABRIDGED = 1000  # characters of a long text, from each end, that are enough to check its edges
_KEPT = 8  # edges remembered of a tokenizer

# One of each kind that a pre-tokeniser, a normaliser or a merge may tell apart, and runs that they take as one.
_KINDS = (
    *("", "a", "Z", "the", "é", "1", "中", "ا", " ", "  ", "\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000"),
    *("!", "...", "'", "'s", "-", "<", "|", "\u0301", "\u200d", "▁", "\ufffd", "👍"),
)
_MORE_KINDS = (
    *("ß", "İ", "ª", "가", "ᄀ", "ी", "12345", "Ⅷ", "²", "٣", "     ", "\n\n", "\r", "\t\n ", "\u2028", "\x85", "'LL"),
    *("_", ":", ",", "/", ">", "[", "]", "#", "$", "،", "—", "\\", '"', "\u200b", "\ufeff", "Ġ", "\x00"),
    *("👩\u200d👧", "ﬁ", "\ue000"),
)
_PIECES = 250  # entries of the vocabulary that are tried as texts


class Edges(NamedTuple):
    """Where a window lies in a prompt, and the tokens around it.

    Attributes:
        left: what the window has of the prompt before the text.
        right: what it has of the prompt behind the text.
        dropped: how many tokens at its beginning exist only because it stands by itself (SentencePiece's first space).
        before: the prompt's tokens before the window.
        after: the prompt's tokens behind the window.
        controls: how many control tokens the frame has in it.
    """

    left: str
    right: str
    dropped: int
    before: list[int]
    after: list[int]
    controls: int


class PromptTokens(NamedTuple):
    """The tokens of a whole prompt."""

    ids: list[int]


class Window:
    """Tokenises prompts by their texts.

    Args:
        framed: the tokenizer with its frame and template.
        hole: the prompt around the text.
        edges: where the window lies.
        tokenize_whole: the tokens of a text's whole prompt, by the slow and obvious way.

    Attributes:
        broken: whether a text was found whose tokens differ from those of its whole prompt; from then on every text
            is left to the whole prompt.
    """

    def __init__(
        self, framed: FramedTokenizer, hole: Hole, edges: Edges, tokenize_whole: Callable[[str], list[int]]
    ) -> None:
        self.broken = False
        self.edges = edges
        self._framed = framed
        self._whole = tokenize_whole
        room = max(0, framed.longest_marker - 1)
        self._around = hole.before[max(0, len(hole.before) - room) :], hole.after[:room]
        self._checked: set[tuple[str, str]] = set()

    def tokenize(self, texts: Sequence[str | None]) -> list[PromptTokens | None]:
        """The tokens of the prompts of these texts.

        Returns:
            None for those that must be tokenised in their whole prompt: a text with the spelling of a control token
            or turn marker, or whose normalisation has one; a place without text; all of them once the window is broken.
        """
        found: list[PromptTokens | None] = [None] * len(texts)
        if self.broken:
            return found
        left, right = self.edges.left, self.edges.right
        forgeries, around, checked = self._framed.forgeries, self._around, self._checked
        places, windows = [], []
        for place, given in enumerate(texts):
            if not isinstance(given, str):
                continue
            text = clean(given)
            if touches_between(forgeries, around[0], text, around[1]):
                continue
            kind = (_kind_of(text[0]), _kind_of(text[-1])) if text else ("", "")
            if kind not in checked and not self._check(text, kind):
                return found
            places.append(place)
            windows.append(left + text + right)
        for place, ids in zip(places, _tokenize(self._framed.tokenizer, windows), strict=True):
            found[place] = self._complete(ids)
        return found

    def _complete(self, ids: list[int]) -> PromptTokens | None:
        """The prompt around a window's tokens; None where a normaliser made a control token of the text."""
        dropped, before, after, controls = self.edges[2:]
        ours = self._framed.control_ids
        if sum(map(ours.__contains__, ids)) != controls if controls else not ours.isdisjoint(ids):
            return None
        return PromptTokens([*before, *(ids[dropped:] if dropped else ids), *after])

    def _check(self, text: str, kind: tuple[str, str]) -> bool:
        """Compare a text of a new kind with its whole prompt; of a long one its ends, where the seams are."""
        if len(text) > 2 * _ABRIDGED:
            text = text[:_ABRIDGED] + text[-_ABRIDGED:]
            if touches_between(self._framed.forgeries, self._around[0], text, self._around[1]):
                return True  # cutting made a marker; the next text of this kind is checked
        (ids,) = _tokenize(self._framed.tokenizer, [self.edges.left + text + self.edges.right])
        if (tokens := self._complete(ids)) is None:
            return True
        try:
            same = tokens.ids == self._whole(text)
        except LlmclsError:  # encoding the rows as a whole raises it again, for the right one
            same = False
        self._checked.add(kind)
        if not same:
            self._break(text)
        return same

    def _break(self, text: str) -> None:
        self.broken = True
        for known in _known.values():
            known.update((prompt, None) for prompt, edges in known.items() if edges is self.edges)
        shown = text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}"
        warnings.warn(
            f"with this tokenizer, the prompt of template '{self._framed.template.name}' cannot be tokenised in parts "
            f"(the text {shown!r} becomes other tokens), so from now on every prompt is tokenised as a whole, which is "
            "slower and has the same results.",
            LlmclsWarning,
            stacklevel=5,
        )


def _kind_of(character: str) -> str:
    """Tokenizers tell white space apart one by one, and all else by Unicode's categories."""
    return character if character.isspace() else category(character)


def open_window(
    framed: FramedTokenizer,
    labels: LabelSet,
    shots: Sequence[Example],
    tokenize_whole: Callable[[str], list[int]],
) -> Window | None:
    """Find where the window of a prompt lies; a second time with the same tokenizer and prompt costs a rendering.

    Args:
        framed: the tokenizer with its frame and template.
        labels: the label set that the template shows.
        shots: the solved examples that it shows.
        tokenize_whole: the tokens of a text's whole prompt, by the slow and obvious way.

    Returns:
        None where the template does more with the text than print it, or the tokenizer has no such place.
    """
    with _lock:  # one thread may encode ahead of another
        hole = find_hole(framed, labels, shots)
        if hole is None:
            return None
        key = (hole, framed.forgeries.pattern, framed.control_ids)
        known = _known.setdefault(framed.tokenizer, {})
        if key not in known:
            for oldest in list(known)[: len(known) + 1 - _KEPT]:
                del known[oldest]
            known[key] = _find_edges(framed, hole)
        edges = known[key]
    return None if edges is None else Window(framed, hole, edges, tokenize_whole)


_lock = threading.Lock()
_known: WeakKeyDictionary[PreTrainedTokenizerFast, dict[Any, Edges | None]] = WeakKeyDictionary()


def _find_edges(framed: FramedTokenizer, hole: Hole) -> Edges | None:
    tries = _Tries(framed, hole)
    for start, dropped in islice(tries.starts(), 6):
        for end in islice(tries.ends(start), 4):
            if tries.agree(start, dropped, end):
                return _confirm(framed, hole, start, dropped, end)
    return None


class _Tries:
    """Texts of many kinds, and which edges of a window all of them leave alone."""

    def __init__(self, framed: FramedTokenizer, hole: Hole) -> None:
        self._hole = hole
        self._tokenizer = framed.tokenizer
        size = len(framed.tokenizer)
        pieces = [clean(str(framed.tokenizer.decode([i]))) for i in range(0, size, max(1, size // _PIECES))]
        some = [text for kind in (*_KINDS, *_MORE_KINDS) for text in (kind, f"{kind}word", f"word{kind}")]
        every = [*some, *(a + b for a in _KINDS for b in _KINDS), *pieces, *map(" ".join, pairwise(pieces))]
        self._some = [text for text in dict.fromkeys(some) if not touches(framed, hole, text)]
        self._every = [text for text in dict.fromkeys(every) if not touches(framed, hole, text)]
        self._after = hole.after[: _NEAR + _CONTEXT]

    def starts(self) -> Iterator[tuple[int, int]]:
        """Where in the prompt before the text a window may begin, and how many of its tokens are dropped then."""
        before = self._hole.before
        near = range(len(before), max(-1, len(before) - _NEAR), -1)
        lines = [at for at in range(len(before) - 1, max(0, len(before) - _FAR), -1) if before[at] == "\n"][:4]
        wholes: dict[int, list[list[int]]] = {}
        for start in dict.fromkeys((*near, *lines)):
            begin = max(0, min(start, near[-1]) - _CONTEXT)
            if begin not in wholes:
                wholes[begin] = self._ids([before[begin:] + text + self._after for text in self._some])
            (head,) = self._ids([before[begin:start]])
            windows = self._ids([before[start:] + text + self._after for text in self._some])
            for dropped in (0, 1):
                if all(w == head + ids[dropped:] for w, ids in zip(wholes[begin], windows, strict=True)):
                    yield start, dropped
                    break
        yield 0, 0

    def ends(self, start: int) -> Iterator[int]:
        """Where in the prompt behind the text a window that begins at `start` may end."""
        left = self._hole.before[start:]
        wholes = self._ids([left + text + self._after for text in self._some])
        for end in range(min(_NEAR, len(self._after)) + 1):
            windows = self._ids([left + text + self._after[:end] for text in self._some])
            rest = wholes[0][len(windows[0]) :]
            if all(w == ids + rest for w, ids in zip(wholes, windows, strict=True)):
                yield end
        yield len(self._hole.after)

    def agree(self, start: int, dropped: int, end: int) -> bool:
        """Whether these edges hold for every text."""
        before, after = self._hole
        if start == 0 and end == len(after):
            return True  # the window is the whole prompt
        begin = max(0, start - _CONTEXT)
        behind = after[: end + _CONTEXT]
        # A window of a page is tried with fewer texts, which take as long.
        texts = self._every if len(before) - start + end < _FAR // 4 else self._some
        (head,) = self._ids([before[begin:start]])
        wholes = self._ids([before[begin:] + text + behind for text in texts])
        windows = self._ids([before[start:] + text + after[:end] for text in texts])
        rest = wholes[0][len(head) + len(windows[0]) - dropped :]
        return all(w == head + ids[dropped:] + rest for w, ids in zip(wholes, windows, strict=True))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return list(_tokenize(self._tokenizer, texts))


def _confirm(framed: FramedTokenizer, hole: Hole, start: int, dropped: int, end: int) -> Edges | None:
    """Take the tokens around the window from a whole prompt, and see that some more of them have the same."""
    left, right = hole.before[start:], hole.after[:end]
    texts = [text for text in ("x", *_KINDS[::2]) if not touches(framed, hole, text)]
    wholes = [tokens.ids for tokens in framed.tokenize([FramedText(hole.before + t + hole.after, []) for t in texts])]
    windows = list(_tokenize(framed.tokenizer, [left + text + right for text in texts]))
    (before,) = _tokenize(framed.tokenizer, [hole.before[:start]])
    after = wholes[0][len(before) + len(windows[0]) - dropped :]
    controls = sum(token_id in framed.control_ids for token_id in windows[0])
    if any(w != before + ids[dropped:] + after for w, ids in zip(wholes, windows, strict=True)):
        return None
    return Edges(left, right, dropped, before, after, controls)


def _tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Iterator[list[int]]:
    """Tokens without offsets, straight from the library below transformers, which lets other threads run meanwhile."""
    backend = tokenizer.backend_tokenizer
    # Whatever was set for a batch before; left alone otherwise, for another thread may be using it.
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    for start in range(0, len(texts), _BATCH):
        for encoding in backend.encode_batch_fast(list(texts[start : start + _BATCH]), add_special_tokens=False):
            yield encoding.ids
