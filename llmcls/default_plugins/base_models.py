"""The built-in base-model adapters: Llama 3, TinyLlama-Chat, and `auto` for everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError
from llmcls.model.adapter import BaseModelAdapter, render_chat_template
from llmcls.model.opening import behind_last
from llmcls.plugin.hookspecs import hookimpl
from llmcls.prompt.frame import Frame, Message
from llmcls.prompt.marks import mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Llama3(BaseModelAdapter):
    """Llama 3, 3.1 and 3.2 text models, base and Instruct: one vocabulary, one chat format.

    The published chat template writes today's date into the system turn; a prompt must not differ from day to day, so
    it is left out here. Source of the format: the Llama 3.2 model card, "Prompt format".
    """

    name = "llama-3"
    description = "Llama 3, 3.1 and 3.2, base and Instruct"
    checkpoints = {  # noqa: RUF012
        "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
        "llama-3.2-1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
        "llama-3.2-3b": "meta-llama/Llama-3.2-3B",
        "llama-3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
        "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
        "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    }

    def fits(self, checkpoint: str, config: Mapping[str, Any]) -> bool:
        """By architecture and vocabulary size."""
        return config.get("model_type") == "llama" and config.get("vocab_size") == 128_256

    def pad_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """Reserved for this by Meta; Llama 3.0 vocabularies call the same id differently."""
        if _speaks_otherwise(tokenizer, _llama3_chat):
            return super().pad_token(tokenizer)
        return str(tokenizer.convert_ids_to_tokens(128_004))

    def turn_end_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """`<|eot_id|>`, also for the base models, whose vocabulary has it."""
        if _speaks_otherwise(tokenizer, _llama3_chat):
            return super().turn_end_token(tokenizer)
        return "<|eot_id|>"

    def frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """Header, two newlines, content, `<|eot_id|>`, for each turn.

        Models that others made of Llama 3 with a chat format of their own have that: DeepSeek-R1-Distill-Llama, Hermes.
        """
        return super().frame(tokenizer) if _speaks_otherwise(tokenizer, _llama3_chat) else self.former_frame(tokenizer)

    def former_frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """The family's own, whatever the chat template says."""
        return Frame(
            bos_token="<|begin_of_text|>",
            end_token="<|end_of_text|>",
            turn_end_token="<|eot_id|>",
            chat=_llama3_chat,
        )


class TinyLlamaChat(BaseModelAdapter):
    """TinyLlama-1.1B-Chat: Zephyr's format, whose turn markers are plain text, not control tokens."""

    name = "tinyllama"
    description = "TinyLlama-1.1B-Chat"
    checkpoints = {"tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"}  # noqa: RUF012

    def fits(self, checkpoint: str, config: Mapping[str, Any]) -> bool:
        """By TinyLlama's shape, or its name with the Llama 2 vocabulary."""
        shape = [config.get(key) for key in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size")]
        named = "tinyllama" in checkpoint.lower() and config.get("vocab_size") == 32_000
        return config.get("model_type") == "llama" and (named or shape == [2048, 22, 4, 32_000])

    def pad_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """`<unk>`: the published pad token is `</s>`, which ends answers; byte fallback never yields `<unk>`."""
        if _speaks_otherwise(tokenizer, _tinyllama_chat):
            return super().pad_token(tokenizer)
        return "<unk>"

    def turn_end_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """`</s>`."""
        if _speaks_otherwise(tokenizer, _tinyllama_chat):
            return super().turn_end_token(tokenizer)
        return "</s>"

    def frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """`<|role|>`, newline, content, `</s>`, newline, for each turn; fine-tunes with another format have that."""
        if _speaks_otherwise(tokenizer, _tinyllama_chat):
            return super().frame(tokenizer)
        return self.former_frame(tokenizer)

    def former_frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """The family's own, whatever the chat template says."""
        return Frame(
            bos_token="<s>",
            end_token="</s>",
            turn_end_token="</s>",
            chat=_tinyllama_chat,
            turn_markers=("<|system|>", "<|user|>", "<|assistant|>"),
        )


@hookimpl
def register_base_models() -> list[BaseModelAdapter]:
    """`auto` comes last in every choice: it fits everything."""
    return [Llama3(), TinyLlamaChat(), BaseModelAdapter()]


def _speaks_otherwise(tokenizer: PreTrainedTokenizerFast, chat: Callable[[Sequence[Message]], str]) -> bool:
    """Whether a tokenizer brings a chat template that leads to an answer in other words than its family's format.

    Only what stands behind the text is compared, white space at its end aside: of the head, the families leave the
    date out, and a system prompt of the template's own.
    """
    if tokenizer is None or not tokenizer.chat_template:
        return False
    asked = [Message("user", mark("x", "data"))]
    try:
        found = render_chat_template(tokenizer, asked)
    except LlmclsError:  # a template that fails says nothing
        return False
    own, theirs = (behind_last(text, asked[0].content).strip() for text in (chat(asked), found))
    return own != theirs


def _llama3_chat(messages: Sequence[Message]) -> str:
    turns = [f"<|start_header_id|>{m.role}<|end_header_id|>\n\n{m.content}<|eot_id|>" for m in messages]
    return f"<|begin_of_text|>{''.join(turns)}<|start_header_id|>assistant<|end_header_id|>\n\n"


def _tinyllama_chat(messages: Sequence[Message]) -> str:
    return "<s>" + "".join(f"<|{m.role}|>\n{m.content}</s>\n" for m in messages) + "<|assistant|>\n"
