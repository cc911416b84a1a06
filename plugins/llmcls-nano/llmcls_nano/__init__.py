"""The embedded base model `nano` and the demo data `demo:`, as a plugin of llmcls.

    llmcls train --data demo: --base-model nano

Both lie inside this package: nothing is downloaded. Importing it costs next to nothing; `llmcls --help` does so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls import LlmclsError, hookimpl
from llmcls.data.reader import SPLITS, DatasetReader, Row, Table
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt.frame import Frame, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MODEL_FOLDER = Path(__file__).parent / "model"
DEMO_FOLDER = Path(__file__).parent / "demo"
DEMO_SPEC = "demo:"


class Nano(BaseModelAdapter):
    """The 6.45M-parameter Llama of this package; `model/RECIPE.md` says how it was made.

    Chat turns are `<|system|>`, `<|user|>` or `<|assistant|>`, the content, and `<|end|>`; the markers are control
    tokens and take no white space around them.
    """

    name = "nano"
    description = "6.45M-parameter Llama inside the package llmcls-nano: for trying llmcls, not for real work"
    checkpoints = {"nano": str(MODEL_FOLDER)}  # noqa: RUF012
    tuning = "full"
    quantization = "none"
    learning_rate = 2e-3  # small models take, and need, larger steps than the usual 2e-4
    full_learning_rate = 1e-3
    why_suggested = "so small a model fits anywhere, and learns better with all its weights"

    def fits(self, checkpoint: str, config: Mapping[str, Any]) -> bool:
        """By shape: six layers of 256 over a vocabulary of 8,192."""
        shape = [config.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")]
        return shape == ["llama", 256, 6, 8192]

    def pad_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """A token of its own, which neither pretraining nor any answer uses."""
        return "<pad>"

    def turn_end_token(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """`<|end|>`; an answer to a plain prompt ends with `</s>`."""
        return "<|end|>"

    def frame(self, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """`<s>` once; a chat as the class says."""
        return Frame(bos_token="<s>", end_token="</s>", turn_end_token="<|end|>", chat=_chat)


class DemoReader(DatasetReader):
    """Reads the customer messages that `llmcls_nano.generate_demo` wrote: columns `text` and `label`."""

    name = "demo"
    description = "demo: - 1,500 customer messages with six labels, inside the package llmcls-nano"

    def reads(self, spec: str) -> bool:
        """Whatever begins with `demo:`, so that a misspelt `demo:x` is not taken for a file."""
        return spec.startswith(DEMO_SPEC)

    def read(self, spec: str) -> Mapping[str, Table]:
        """The splits train, validation and test.

        Raises:
            LlmclsError: when something stands behind the colon; there is one demo data set.
        """
        if spec != DEMO_SPEC:
            raise LlmclsError(f"There is one demo data set, but '{spec}' asks for another; write '{DEMO_SPEC}'.")
        return {split: Table(("text", "label"), tuple(_demo_rows(split))) for split in SPLITS}


@hookimpl
def register_base_models() -> list[BaseModelAdapter]:
    """`nano`."""
    return [Nano()]


@hookimpl
def register_dataset_readers() -> list[DatasetReader]:
    """`demo:`."""
    return [DemoReader()]


def _chat(messages: Sequence[Message]) -> str:
    return "<s>" + "".join(f"<|{m.role}|>{m.content}<|end|>" for m in messages) + "<|assistant|>"


def _demo_rows(split: str) -> Iterator[Row]:
    with (DEMO_FOLDER / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for values in reader:
            yield Row(values, f"{DEMO_SPEC}{split}.csv:{reader.line_num}")
