"""What a prompt is made of, and how a model wants it framed.

frame = adapter.frame(tokenizer)
frame.chat([Message("user", "Hello")])   # '<|begin_of_text|><|start_header_id|>user...'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered template: either turns of a chat, or one plain text that the answer continues."""

    messages: tuple[Message, ...] = ()
    completion: str = ""

    @property
    def is_chat(self) -> bool:
        """Whether the template spoke in roles."""
        return bool(self.messages)


@dataclass(frozen=True, slots=True)
class Frame:
    """How one model wants its prompts framed; an adapter makes it for a tokenizer.

    Attributes:
        bos_token: put once before a plain prompt; "" where the model has none.
        end_token: ends an answer to a plain prompt.
        turn_end_token: ends the assistant's turn, and so an answer in a chat.
        chat: renders messages up to where the assistant's turn begins, begin-of-sequence token included. It must
            carry every message's content through unchanged.
        turn_markers: turn markers that are plain text to the tokenizer, such as TinyLlama's `<|user|>`; they are
            taken apart wherever they occur in data. Control tokens need not be listed.
        notice: something the user should know about this frame, or "".
        opening: what a model writes in its turn before an answer, such as `<|channel|>final<|message|>` or the end of
            a thinking phase that `chat` opens; answers are asked for behind it. A classification head, which answers
            nothing, reads no opening.
    """

    bos_token: str
    end_token: str
    turn_end_token: str
    chat: Callable[[Sequence[Message]], str]
    turn_markers: tuple[str, ...] = ()
    notice: str = ""
    opening: str = ""
