"""The one exception llmcls raises on purpose, and the wording helpers every message shares.

    raise LlmclsError(unknown("template", "chta", ["chat", "instruction"]))
    # Unknown template 'chta'. Did you mean 'chat'? Available: chat, instruction.

Raise it anywhere; only `llmcls.cli` turns it into a message and exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class LlmclsError(Exception):
    """A problem the user can fix. The message says the value, the rule and the fix, in one sentence."""


class LlmclsWarning(UserWarning):
    """Something risky that goes on; the message carries the remedy."""


def unknown(kind: str, name: str, available: Iterable[str]) -> str:
    """Say that `name` is no known `kind`, with the closest match and the full list."""
    choices = sorted(available)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Unknown {kind} '{name}'.{hint} Available: {', '.join(choices) or 'none'}."


def shorten(names: Sequence[str], shown: int = 10) -> str:
    """Names in quotes, the first ones where there are many: `'a', 'b' and 998 more`."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + rest


def several(problems: Sequence[str], heading: str, shown: int = 20) -> str:
    """Join many problems under one heading, so that all of them are reported at once."""
    if len(problems) == 1:
        return f"{heading}: {problems[0]}"
    lines = [f"{heading}: {len(problems)} problems"]
    lines += [f"  - {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  - ... and {len(problems) - shown} more")
    return "\n".join(lines)
