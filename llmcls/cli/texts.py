"""Texts on the command line and on the standard input: which words are texts, and whether any arrive.

llmcls predict --run R "-5 degrees today" "--help me"      # texts, although they begin like options
echo "where is my parcel?" | llmcls predict --run R        # texts_arrive()
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

_OPTION = re.compile(r"--?[a-zA-Z][\w-]*(=.*)?", re.DOTALL)
"""What an option looks like: no option of ours begins with a digit or a mark, or holds a space before its value."""


class TextsCommand(click.Command):
    """A command whose arguments are texts: words that cannot be an option are texts, whatever they begin with."""

    def make_parser(self, ctx: click.Context) -> Any:
        """As click's, for the words with the texts behind all options."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_texts(args: list[str]) -> Any:
            try:
                return parse(list(self._texts_last(args)))
            except click.NoSuchOption as error:
                said = f"{error.message} A text that begins like an option goes after --, behind all options."
                raise click.NoSuchOption(error.option_name, said, error.possibilities, ctx) from error

        parser.parse_args = parse_texts  # type: ignore[method-assign]
        return parser

    def _texts_last(self, args: Sequence[str]) -> Iterator[str]:
        valued = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not (option.is_flag or option.count)
            for name in option.opts
        }
        texts: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                texts += words
            elif word in valued:
                yield word
                if (value := next(words, None)) is None:
                    return  # click says that it is missing
                yield value
            elif _OPTION.fullmatch(word):
                yield word
            else:
                texts.append(word)
        yield from ("--", *texts)


def texts_arrive() -> bool:
    """Whether the standard input is a pipe or a file, which may hold texts: neither a terminal nor /dev/null."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except OSError:  # a stream in memory
        return True
    return not stat.S_ISCHR(mode)
