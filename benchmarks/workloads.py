"""What the speed benchmarks share: real texts, labels and vocabularies, models to run them on, interleaved timing.

    workload = load_workload("banking77", tokenizer, rows=64)
    seconds, results = measure({"ours": ours, "theirs": theirs}, repeats=3)

Needs the folder `shared` beside the repository (or LLMCLS_SHARED), with `data/` and `tokenizers/`.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llmcls.answers import form_named
from llmcls.engine import LabelTrie
from llmcls.engine.tree import shared_prefix_length
from llmcls.labels import LabelSet
from llmcls.model.loading import find_base_model
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.frame import Frame
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.settings import ModelSettings

SHARED = Path(os.environ.get("LLMCLS_SHARED") or Path(__file__).resolve().parents[1] / ".." / "shared").resolve()
WORKLOADS = {
    "banking77": ("data/banking77", ["text"], "label"),
    "tweets": ("data/tweet_sentiment", ["text"], "label"),
    "arxiv": ("data/arxiv_top5", ["title", "abstract"], "label_name"),
}
INSTRUCTION = "Classify the text into one of these labels: {{ labels | map(attribute='name') | join(', ') }}.\nText: "
"""As a template; `load_workload` writes the same."""
MODELS = ("tinyllama", "llama-3.2", "nano")
"""Two real vocabularies on a random Llama, and the small model that comes with llmcls."""


@dataclass(frozen=True)
class Workload:
    """Rows to classify, as text for those who tokenise themselves and as tokens for the others.

    Attributes:
        labels: the labels' names.
        texts: whole prompts, which end in "Label:"; a label follows behind a space.
        prompts: the tokens of `texts`.
        answers: per label, its tokens behind a prompt, end token included.
        rows: the texts alone, without the instruction; empty where nobody asks for them.
    """

    labels: list[str]
    texts: list[str]
    prompts: list[list[int]]
    answers: list[list[int]]
    rows: Sequence[str] = ()

    @cached_property
    def trie(self) -> LabelTrie:
        """The answers' trie."""
        return LabelTrie(self.answers)

    @cached_property
    def shared(self) -> int:
        """Tokens that all prompts begin with."""
        return shared_prefix_length(self.prompts)

    @property
    def end(self) -> int:
        """The end token."""
        return self.answers[0][-1]

    def head(self, rows: int) -> Workload:
        """Its first rows."""
        return Workload(self.labels, self.texts[:rows], self.prompts[:rows], self.answers, self.rows[:rows])

    def encoder(self, tokenizer: Any) -> Encoder:
        """llmcls's own encoder of these prompts and answers; as a user's, it is made once for all texts.

        Raises:
            ValueError: when it makes other tokens than `prompts` and `answers`: then the contestants differ in them.
        """
        template = PromptTemplate("benchmark", INSTRUCTION + "{{ text }}\nLabel:")
        end = tokenizer.eos_token
        bos = tokenizer.bos_token or "" if self.prompts[0][0] == tokenizer.bos_token_id else ""
        frame = Frame(bos, end, end, chat=lambda _: "")
        encoder = Encoder(
            tokenizer, frame, template, LabelSet.from_names(self.labels), form_named("single_label"), max_length=4096
        )
        made = [prompt.input_ids for prompt in encoder.encode([Example(text) for text in self.rows])]
        if made != self.prompts or [list(answer) for answer in encoder.answers] != self.answers:
            raise ValueError(f"llmcls makes other tokens of {sum(map(list.__ne__, made, self.prompts))} prompts.")
        return encoder


def load_workload(name: str, tokenizer: Any, rows: int) -> Workload:
    """Rows from all over the test split."""
    folder, text_columns, label_column = WORKLOADS[name]
    with (SHARED / folder / "test.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    labels = sorted({record[label_column] for record in records})
    step = len(records) // rows
    rows_of_text = [" ".join(record[column] for column in text_columns) for record in records[: rows * step : step]]
    instruction = f"Classify the text into one of these labels: {', '.join(labels)}.\nText: "
    texts = [f"{instruction}{text}\nLabel:" for text in rows_of_text]
    before = tokenizer.encode("Label:")
    answers = [[*tokenizer.encode(f"Label: {label}")[len(before) :], tokenizer.eos_token_id] for label in labels]
    return Workload(labels, texts, [tokenizer.encode(text) for text in texts], answers, rows_of_text)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of one of `MODELS`."""
    if name == "nano":
        return AutoTokenizer.from_pretrained(
            find_base_model(ModelSettings(base_model="nano")).checkpoint, trust_remote_code=False
        )
    return AutoTokenizer.from_pretrained(SHARED / "tokenizers" / name, trust_remote_code=False)


def load_model(name: str, tokenizer: Any, layers: int) -> Any:
    """One of `MODELS` in float32."""
    if name == "nano":
        checkpoint = find_base_model(ModelSettings(base_model="nano")).checkpoint
        return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, trust_remote_code=False).eval()
    return random_llama(len(tokenizer), layers)


def random_llama(vocabulary: int, layers: int = 12) -> Any:
    """A random float32 Llama: 42M parameters in 12 layers, and the embeddings of so many tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM(config).eval()


def floor(model: Any, workload: Workload, pack: int) -> None:
    """What reading costs at least: the bare decoder over the shared prefix once and the rows' own tokens.

    Without padding, in packs, with causal attention inside a pack only: no labels, no head, no attention between prefix
    and rows.
    """
    stream = torch.tensor([token for prompt in workload.prompts for token in prompt[workload.shared :]])
    model.model(torch.tensor([workload.prompts[0][: workload.shared]]), use_cache=False)
    for part in stream.split(pack):
        model.model(part[None], use_cache=False)


def measure(methods: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Fastest seconds and last result of each method, interleaved, so that a slow moment slows all of them."""
    best = dict.fromkeys(methods, float("inf"))
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, call in methods.items():
            start = time.perf_counter()
            results[name] = call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best, results
