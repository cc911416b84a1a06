"""What stands between a chat's generation prompt and an answer: a model's own answers often do not begin right there.

    opening = find_opening(render, tokenizer.get_chat_template())
    opening.text                       # '<|channel|>final<|message|>', '\\n</think>\\n\\n', ' ', or ''

A reasoning model's generation prompt opens a thinking phase (`<think>`), harmony has channels, Mistral writes a space:
a label that is scored right behind the generation prompt would be compared with the beginning of a thought. The chat
template itself says where answers stand, since it also writes turns that are finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import NamedTuple

from llmcls.errors import LlmclsError
from llmcls.prompt.frame import Message
from llmcls.prompt.marks import mark

Render = Callable[[Sequence[Message], bool, bool], str]
"""Messages, whether to add the generation prompt, and whether the model may think, to the chat as text."""

_TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|◁[^◁▷\s]+▷")
_THINKING = re.compile(r"think|thought|reason", re.IGNORECASE)
# Each way of writing an opening tag, and the closing tag that belongs to it. `<|think|>` comes before `<think>`.
_CLOSINGS = (
    (re.compile(r"(?<=[|_])(START|BEGIN)(?=_)"), "END"),
    (re.compile(r"(?<=[|_])(start|begin)(?=_)"), "end"),
    (re.compile(r"(?<=_)(START|BEGIN)(?=[|>\]])"), "END"),
    (re.compile(r"(?<=_)(start|begin)(?=[|>\]])"), "end"),
    (re.compile(r"^(<\||[<\[◁])"), r"\1/"),
)
_CLOSES = re.compile(r"^(?:<\||[<\[◁])/|[|_](?:END|end)[_|>\]]")
_PROBES = {"user": mark("u", "data"), "system": mark("s", "data"), "assistant": mark("a", "data")}
_CHATS = (("user",), ("system", "user"))


class Opening(NamedTuple):
    """What a model writes before an answer.

    Attributes:
        text: what stands between the generation prompt and an answer.
        notice: what the user should know where that could not be found out for certain, or "".
    """

    text: str
    notice: str = ""


def find_opening(render: Render, source: str) -> Opening:
    """Compare the generation prompt with a finished turn of the assistant, as the chat template writes both.

    - The finished turn begins with the generation prompt: the rest of what stands before the content is the opening.
    - What is written so far opens a thinking phase and does not close it: the opening closes it, as empty.
    - The generation prompt goes on where the finished turn has its content, with what switching thinking off adds:
      that is where answers of this kind stand, and there is nothing to add.
    - Everything else is left as the generation prompt has it, with a notice.

    Args:
        render: the model's chat format.
        source: the source of the chat template, which names the tags that it knows.

    Raises:
        LlmclsError: when the chat template fails.
    """
    found = [_of_chat(render, source, roles) for roles in _CHATS]
    if len({opening.text for opening in found}) > 1:
        return Opening("", _doubt(found[0].text, found[1].text))
    return next((opening for opening in found if opening.notice), found[0])


def behind_last(rendered: str, probe: str) -> str:
    """What stands behind the last occurrence of a content."""
    return rendered.rpartition(probe)[2]


def finished_turn(render: Render, roles: Sequence[str] = ("user",)) -> tuple[str, str]:
    """What a chat template writes between the last content of `roles` and an answer, and behind the answer.

    A template that takes no chat which ends with the assistant is asked for one that goes on.

    Raises:
        LlmclsError: when it takes neither.
    """
    turns = [Message(role, _PROBES[role]) for role in (*roles, "assistant")]
    answer = turns[-1].content
    try:
        before, _, behind = render(turns, False, False).rpartition(answer)
    except LlmclsError:
        before, _, behind = render([*turns, Message("user", mark("v", "data"))], True, False).rpartition(answer)
    return behind_last(before, turns[-2].content), behind


def _of_chat(render: Render, source: str, roles: Sequence[str]) -> Opening:
    turns = [Message(role, _PROBES[role]) for role in roles]

    def prompt(may_think: bool) -> str:
        return behind_last(render(turns, True, may_think), turns[-1].content)

    prompted, (finished, _) = prompt(False), finished_turn(render, roles)
    shared = _shared(prompted, finished)
    more, rest = prompted[shared:], finished[shared:]
    if not more:
        return Opening(rest + _close_thinking(prompted + rest, source))
    if closing := _close_thinking(prompted, source):
        # Some finished turns have the tags of an empty thought, and go on with what closes it.
        return Opening(rest if _thinks_in(rest) else closing + rest.lstrip())
    if _thinks_in(more):
        return Opening(rest)  # a thinking phase that is over, which finished turns may lack
    if not rest and prompted != prompt(True):
        return Opening("")
    return Opening("", _doubt(prompted, finished))


def _shared(one: str, other: str) -> int:
    """How many characters both begin with, no tag cut in two: `<|START_THINKING|>` and `<|START_RESPONSE|>`."""
    length = len(commonprefix([one, other]))
    cut = [tag.start() for text in (one, other) for tag in _TAG.finditer(text) if tag.start() < length < tag.end()]
    return min([length, *cut])


def _thinks_in(text: str) -> bool:
    return any(_THINKING.search(tag) for tag in _TAG.findall(text))


def _close_thinking(text: str, source: str) -> str:
    """What closes a thinking phase that `text` has opened and left open, without a thought; "" where there is none."""
    tags = [found for found in _TAG.finditer(text) if _THINKING.search(found[0])]
    if not tags or _CLOSES.search(tags[-1][0]):
        return ""
    tag, behind = tags[-1][0], text[tags[-1].end() :]
    closings = [pattern.sub(by, tag, count=1) for pattern, by in _CLOSINGS if pattern.search(tag)]
    # Not every tag has one: `<|think|>` alone asks for thinking. What looks like markup is closed like markup.
    closing = next((one for one in closings if one in source or re.fullmatch(r"</[\w:-]+>|\[/\w+\]", one)), None)
    if closing is None or closing in behind:
        return ""
    if not behind:
        return closing
    # An empty thought is an empty line, as the templates write it that write one: `<think>\n\n</think>\n\n`.
    return "\n" * max(0, 2 - behind.count("\n")) + closing + "\n\n"


def _doubt(prompted: str, finished: str) -> str:
    return (
        f"The model's chat template begins an answer with {_shown(prompted)}, but finished answers with "
        f"{_shown(finished)}, so where its own answers stand is not certain; labels are asked for behind the first. "
        "See what the model reads with `llmcls templates show`; where that is wrong, use the template 'instruction', "
        "or a base-model adapter of your own, whose frame says `opening`."
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"...{text[-60:]}")
