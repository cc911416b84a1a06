"""The base-model adapter contract: what llmcls must know of a family of checkpoints.

    class Llama3(BaseModelAdapter):
        name = "llama-3"
        description = "Llama 3, 3.1 and 3.2, base and Instruct"
        checkpoints = {"llama-3.2-1b": "meta-llama/Llama-3.2-1B"}

`BaseModelAdapter` itself works for any causal LM whose tokenizer carries a chat template or none: that is the adapter
`auto`. A subclass overrides what its family does differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pluggy
from jinja2 import TemplateError

from llmcls.errors import LlmclsError
from llmcls.model.opening import find_opening, finished_turn
from llmcls.plugin.blame import ask, failure, is_foreign, named, owner_of, place_of, remedy, wrong_result
from llmcls.plugin.catalog import Catalog
from llmcls.plugin.manager import load_plugins
from llmcls.prompt.frame import Frame, Message
from llmcls.prompt.limits import try_out
from llmcls.prompt.marks import mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Tokens that families reserve for padding, tried in this order when the tokenizer's own pad token ends answers.
_PAD_CANDIDATES = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<PAD>", "<|endoftext|>", "<unk>")
# Hides the function that templates ask for today's date. transformers takes no function of ours as an argument.
_NO_DATE = "{% macro strftime_now(format) %}{% endmacro %}\n"
# The chat templates that are known not to cost too much.
_TRIED: set[str] = set()
_BRACKETED = re.compile(r"<+[^<>\s]+>+|\[[^\[\]\s]+\]")


class ChatTemplateError(LlmclsError):
    """A model's chat template refuses a chat (`raise_exception`); plain prompts can do without it."""


class BaseModelAdapter:
    """Knows one family of base models; also the adapter for any other causal LM.

    Attributes:
        name: unique name; what a run records.
        description: one line for `llmcls models list`.
        checkpoints: short names for `--base-model` and the Hub id or folder each stands for.
        lora_target_modules: LoRA's default target modules, as PEFT takes them.
        tuning: what to train of this family where the user does not say: `lora`, or `full` for all weights.
        quantization: how to store its base weights then: `none`, `8bit` or `4bit`; with `full` none.
        learning_rate: the peak learning rate suggested for LoRA on this family.
        full_learning_rate: the one suggested for training all weights.
        why_suggested: why these suit the family, in words that `train` prints in brackets.
    """

    name: str = "auto"
    description: str = "any causal LM on the Hub or on disk; uses the tokenizer's own chat template"
    checkpoints: Mapping[str, str] = {}
    lora_target_modules: Literal["all-linear"] | Sequence[str] = "all-linear"
    tuning: Literal["lora", "full"] = "lora"
    quantization: Literal["none", "8bit", "4bit"] = "4bit"
    learning_rate: float = 2e-4
    full_learning_rate: float = 2e-5  # a tenth of LoRA's, whose updates begin at nothing
    why_suggested: str = "it needs the least memory"

    def fits(self, checkpoint: str, config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint belongs to this family.

        Args:
            checkpoint: Hub id or path as the user gave it.
            config: the checkpoint's `config.json`.
        """
        return True

    def locate(self, name: str) -> str:
        """Where the checkpoint with the short name `name` is, when it is about to be read: a Hub id or a folder.

        An adapter whose checkpoint comes from elsewhere fetches it here at the first use, after saying so.

        Raises:
            LlmclsError: when it cannot be fetched.
        """
        return self.checkpoints[name]

    def pad_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """The token to pad with: never one that ends an answer.

        Raises:
            LlmclsError: when the vocabulary has no token to spare.
        """
        return next(self.spare_tokens(tokenizer))

    def spare_tokens(self, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Every token that may be padded with, the best one first: none that ends an answer."""
        ends = {tokenizer.eos_token, self.turn_end_token(tokenizer)}
        vocabulary = tokenizer.get_vocab()
        for token in (tokenizer.pad_token, *_PAD_CANDIDATES, tokenizer.unk_token, tokenizer.bos_token):
            if token and token not in ends and token in vocabulary:
                yield str(token)
        for token in sorted(control_tokens(tokenizer)):
            if token not in ends:
                yield token
        # GPT-2 has one special token for everything. Padding is always masked, so any other token will do, but once
        # saved, a pad token is split off wherever its string stands in a text. "Ġgazed" stands in none: text has " ".
        pieces = sorted(set(vocabulary) - ends, key=lambda piece: int(vocabulary[piece]), reverse=True)
        yield from (str(piece) for piece in pieces if piece[0] in "Ġ▁" and len(piece) > 3)
        yield from map(str, pieces)

    def frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """How this family wants its prompts framed (see `llmcls.prompt.frame.Frame`)."""
        if tokenizer.chat_template:
            try:
                return self._chat_frame(tokenizer)
            except ChatTemplateError as error:
                return self._frame_without_chat(tokenizer, error)
        return Frame(
            bos_token=tokenizer.bos_token or "",
            end_token=self._eos(tokenizer),
            turn_end_token=self._eos(tokenizer),
            chat=lambda messages: (tokenizer.bos_token or "") + plain_chat(messages),
            turn_markers=("### System:", "### User:", "### Assistant:"),
            notice=(
                "This base model has no chat template; roles are written as plain '### User:' headings. "
                "The template 'instruction' suits a base model better."
            ),
        )

    def former_frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """The frame that runs were trained with before llmcls knew what models write before an answer."""
        return replace(self.frame(tokenizer), opening="")

    def _chat_frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        one_turn = render_chat_template(tokenizer, [Message("user", mark("x", "data"))])
        bos = tokenizer.bos_token or ""
        if bos and one_turn.count(bos) > 1:
            bos = ""  # SmolLM calls the token that begins every turn so
        # Zephyr's template leaves BOS to the tokenizer.
        missing = "" if one_turn.startswith(bos) or not _adds(tokenizer, bos) else bos
        opening = find_opening(partial(render_chat_template, tokenizer), tokenizer.get_chat_template())
        return Frame(
            bos_token=bos,
            end_token=self._eos(tokenizer),
            turn_end_token=self.turn_end_token(tokenizer),
            chat=lambda messages: missing + render_chat_template(tokenizer, messages),
            turn_markers=tuple(sorted({*find_turn_markers(tokenizer), *_markers_in(tokenizer, opening.text)})),
            notice=opening.notice,
            opening=opening.text,
        )

    def _frame_without_chat(self, tokenizer: PreTrainedTokenizerFast, error: ChatTemplateError) -> Frame:
        """For plain prompts, which a chat template that takes no such chat has nothing to do with."""

        def refuse(_: Sequence[Message]) -> str:
            raise error

        eos = self._eos(tokenizer)
        return Frame(tokenizer.bos_token or "", end_token=eos, turn_end_token=eos, chat=refuse)

    def turn_end_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """The token that ends the assistant's turn: what the chat template writes behind an answer."""
        if not tokenizer.chat_template:
            return self._eos(tokenizer)
        behind = finished_turn(partial(render_chat_template, tokenizer))[1].lstrip()
        # Added tokens that are not declared special count too: some fine-tunes forget to.
        added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        return next((token for token in added if token.strip() and behind.startswith(token)), self._eos(tokenizer))

    def _eos(self, tokenizer: PreTrainedTokenizerFast) -> str:
        if not tokenizer.eos_token:
            raise LlmclsError("The tokenizer has no end-of-sequence token; llmcls cannot teach the model to stop.")
        return str(tokenizer.eos_token)


def find_frame(adapter: BaseModelAdapter, tokenizer: PreTrainedTokenizerFast) -> Frame:
    """The frame that an adapter has for a tokenizer, whose chat format gives text.

    Raises:
        LlmclsError: that names the plugin, when a plugin's adapter fails or gives something else.
    """
    frame: Frame = ask(adapter, "frame", tokenizer, gives=Frame)
    if not is_foreign(adapter):
        return frame
    looked_after = _ChatFormat(adapter, frame.chat)
    return replace(frame, chat=looked_after)


@dataclass(frozen=True)
class _ChatFormat:
    """The chat format of a plugin's adapter."""

    adapter: BaseModelAdapter
    chat: Callable[[Sequence[Message]], str]

    def __call__(self, messages: Sequence[Message]) -> str:
        try:
            text = self.chat(messages)
        except LlmclsError:
            raise
        except Exception as error:  # a stranger's code may raise anything
            what = f"the chat format of base-model adapter '{self.adapter.name}'"
            raise LlmclsError(failure(owner_of(self.adapter), what, error, self.adapter)) from error
        if not isinstance(text, str):
            raise wrong_result(self.adapter, "frame(tokenizer).chat", text, str)
        return text


def find_pad_token(adapter: BaseModelAdapter, tokenizer: PreTrainedTokenizerFast) -> str:
    """The token that an adapter pads with.

    Raises:
        LlmclsError: for a plugin's adapter that fails, or whose token is not in the vocabulary, or ends answers.
    """
    pad: str = ask(adapter, "pad_token", tokenizer, gives=str)
    if is_foreign(adapter):
        frame = find_frame(adapter, tokenizer)
        problem = ""
        if pad not in tokenizer.get_vocab():
            problem = "is not in the vocabulary"
        elif pad in (frame.end_token, frame.turn_end_token):
            problem = "also ends answers: a model that is trained so never learns to stop"
        if problem:
            plugin = owner_of(adapter)
            raise LlmclsError(
                f"{named(plugin)}: base-model adapter '{adapter.name}' pads with {pad!r}, which {problem} "
                f"({place_of(type(adapter).pad_token)}). {remedy(plugin)}"
            )
    return pad


def base_models(manager: pluggy.PluginManager | None = None) -> Catalog[BaseModelAdapter]:
    """Every registered base model by name; those of `manager`, or of all installed plugins."""
    return Catalog(manager or load_plugins(), "register_base_models", "base model", BaseModelAdapter)


def render_chat_template(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    enable_thinking: bool = False,
) -> str:
    """Apply the tokenizer's own chat template, with today's date left out and, by default, without a thinking phase.

    A template that refuses the system role (Gemma's) gets the system text at the head of the first user turn.

    Raises:
        ChatTemplateError: when the chat template refuses these messages.
        LlmclsError: when it fails, or costs too much.
    """
    template = tokenizer.get_chat_template()

    def apply(turns: Sequence[Message]) -> str:
        return str(
            tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in turns],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=enable_thinking,
                chat_template=_NO_DATE + template,
                date_string="",
            )
        )

    if template not in _TRIED:
        try_out(lambda: apply(messages), "The model's chat template")
        _TRIED.add(template)
    try:
        return apply(messages)
    except Exception as error:  # whatever a filter or method in it raises
        if messages[0].role == "system" and len(messages) > 1 and messages[1].role == "user":
            merged = Message("user", f"{messages[0].content}\n\n{messages[1].content}")
            return render_chat_template(tokenizer, [merged, *messages[2:]], add_generation_prompt, enable_thinking)
        # `raise_exception` in a template raises this very class; all else is damage.
        kind = ChatTemplateError if type(error) is TemplateError else LlmclsError
        raise kind(
            f"The model's chat template fails: {' '.join(str(error).split())[:300]}; use the template 'instruction'."
        ) from error


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    """Every token that the tokenizer declares special, with or without a role such as `eos_token`."""
    declared = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return declared | set(map(str, tokenizer.all_special_tokens))


def find_turn_markers(tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """The lines a chat template writes between contents, control tokens taken out: `<|user|>`, `[INST]`, `USER:`.

    Lines that are a plain word (`user` between ChatML's control tokens) are no markers: only with the control tokens
    around them do they mean anything. Nor is what stands above the line before the first content: a system prompt
    of the model's own, which is ordinary text. Parts in brackets (`<<SYS>>` of `[INST] <<SYS>>`), and added tokens
    of the chat template that are not declared special, are markers by themselves.
    """
    probes = [mark(letter, "data") for letter in "suaw"]
    turns = [Message(role, probe) for role, probe in zip(("user", "assistant", "user"), probes[1:], strict=True)]
    rendered = [render_chat_template(tokenizer, turns)]
    rendered.append(render_chat_template(tokenizer, [Message("system", probes[0]), *turns]))
    controls = control_tokens(tokenizer)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} - controls
    known = [*rendered, tokenizer.get_chat_template()]
    markers = {token for token in added if token.strip() and any(token in text for text in known)}
    for text in rendered:
        for token in controls:
            text = text.replace(token, "\n")
        before, *rest = re.split("|".join(map(re.escape, probes)), text)
        lines = [*before.splitlines()[-1:], *before.strip().splitlines()[-1:], *"\n".join(rest).splitlines()]
        markers |= _parts_of(lines)
    return tuple(sorted(marker for marker in markers if _is_marker(marker)))


def _markers_in(tokenizer: PreTrainedTokenizerFast, written: str) -> set[str]:
    for token in control_tokens(tokenizer):
        written = written.replace(token, "\n")
    return set(filter(_is_marker, _parts_of(written.splitlines())))


def _parts_of(lines: Sequence[str]) -> set[str]:
    return {part for line in lines for part in (line.strip(), *_BRACKETED.findall(line))}


def _is_marker(part: str) -> bool:
    return len(part) > 2 and not part.replace(" ", "").isalnum()


def plain_chat(messages: Sequence[Message]) -> str:
    """Roles as plain headings, for models that know no chat format."""
    turns = [f"### {message.role.capitalize()}:\n{message.content}\n\n" for message in messages]
    return "".join(turns) + "### Assistant:\n"


def _adds(tokenizer: PreTrainedTokenizerFast, bos: str) -> bool:
    return bos in tokenizer.convert_ids_to_tokens(tokenizer("x").input_ids)
