"""Codes for labels: strings of letters that are one token each where the answer begins, A, B, C ... first.

codes = choose_codes(300, candidate_codes(tokenizer.get_vocab(), labels.spellings), tokenise)

A code costs no label token (`LabelTrie.fed` is empty), whatever the labels are called. Where a tokenizer keeps the
space before a letter apart, as byte-level ones without merges do, all codes share that token, the only one fed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence

# Byte-level vocabularies write a leading space as U+0120, SentencePiece's as U+2581.
_LETTERS = re.compile("[\u0120\u2581]?([A-Za-z]{1,4})")
_BATCH = 512


def candidate_codes(vocabulary: Iterable[str], taken: Container[str]) -> list[str]:
    """What may be a code: up to four letters, capitals before others, short before long, then by the alphabet.

    Args:
        vocabulary: the tokenizer's pieces.
        taken: the labels' own spellings; a label 'B' whose code is 'A' would lead astray.
    """
    found = {match[1] for piece in vocabulary if (match := _LETTERS.fullmatch(piece)) and match[1] not in taken}
    return sorted(found, key=lambda code: (not code.isupper(), len(code), code))


def choose_codes(
    count: int, candidates: Sequence[str], tokenize: Callable[[Sequence[str]], Sequence[Sequence[int] | None]]
) -> list[str]:
    """The first candidates that differ in their last token only; fewer than `count` where there are no more.

    Args:
        count: how many are wanted.
        candidates: in the order of preference.
        tokenize: the tokens of each candidate where the answer begins; None where it merges with the prompt.
    """
    chosen: dict[int, str] = {}
    stem: Sequence[int] | None = None
    for start in range(0, len(candidates), _BATCH):
        if len(chosen) >= count:
            break
        batch = candidates[start : start + _BATCH]
        for code, tokens in zip(batch, tokenize(batch), strict=True):
            if tokens is None:
                continue
            stem = tokens[:-1] if stem is None else stem  # nothing, or a space of its own
            if tokens[:-1] == stem:
                chosen.setdefault(tokens[-1], code)
    return list(chosen.values())[:count]
