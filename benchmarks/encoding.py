"""Rows a second that become prompts on one core: each prompt tokenised as a whole, and through its window.

    python benchmarks/encoding.py --rows 3080

Texts and label names are those of banking77, the templates the shipped ones: "instruction" and "chat" list all 77
labels, "text" is for a classification head. Processor time of this process alone, so that other work on the machine
counts little; both ways in turn, the best of `--repeats`. "Search" is what finding the window costs, once for a prompt.
Every prompt of both ways is compared. `--tokenizers` takes folders of other tokenizers as well.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core; read when the first batch is tokenised

from transformers import AutoTokenizer
from workloads import MODELS, SHARED, WORKLOADS, load_tokenizer

from llmcls.answers import form_named
from llmcls.cli.shared import start
from llmcls.files import shipped
from llmcls.labels import LabelSet
from llmcls.model.adapter import base_models
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example

ADAPTERS = {"llama-3.2": "llama-3", "tinyllama": "tinyllama", "nano": "nano"}
TEMPLATES = ("instruction", "chat", "text")
CHUNK = 1024  # rows that prediction encodes together


def load_rows(count: int) -> tuple[list[Example], LabelSet]:
    """The first test texts of banking77, and its labels."""
    folder, (text_column,), label_column = WORKLOADS["banking77"]
    with (SHARED / folder / "test.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    labels = LabelSet.from_names(sorted({record[label_column] for record in records}))
    return [Example(record[text_column]) for record in records[:count]], labels


def encode(encoder: Encoder, rows: list[Example]) -> tuple[float, list[Any]]:
    """Processor seconds, and the prompts."""
    begun = time.process_time()
    prompts = [prompt for at in range(0, len(rows), CHUNK) for prompt in encoder.encode(rows[at : at + CHUNK])]
    return time.process_time() - begun, prompts


def measure_one(tokenizer: Any, adapter: Any, template: str, options: argparse.Namespace) -> str:
    """The table's cells for one tokenizer and template."""
    rows, labels = load_rows(options.rows)
    source = PromptTemplate.from_file(shipped("templates") / f"{template}.j2")
    tokenizer.pad_token = adapter.pad_token(tokenizer)
    encoders = [
        Encoder(
            *(tokenizer, adapter.frame(tokenizer), source, labels, form_named("single_label")),
            max_length=options.max_length,
            head=template == "text",
            windowed=windowed,
        )
        for windowed in (False, True)
    ]
    begun = time.process_time()
    if not encoders[1].open_window():
        raise SystemExit(f"{template}: this tokenizer has no window")
    search = time.process_time() - begun
    seconds = [float("inf")] * 2
    for _ in range(options.repeats):
        found = []
        for place, encoder in enumerate(encoders):
            spent, prompts = encode(encoder, rows)
            seconds[place] = min(seconds[place], spent)
            found.append(prompts)
        if found[0] != found[1]:
            raise SystemExit(f"{template}: the two ways give different prompts")
    slow, fast = (len(rows) / value for value in seconds)
    return f"{slow:,.0f} | {fast:,.0f} | {fast / slow:.1f} | {search:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", nargs="+", default=list(MODELS), help="names of workloads.py, or folders")
    parser.add_argument("--templates", nargs="+", default=TEMPLATES, choices=TEMPLATES)
    parser.add_argument("--rows", type=int, default=3080, help="of banking77's 3,080 test rows")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    start(quiet=True)
    print("| tokenizer | template | whole, rows/s | window, rows/s | ratio | search, s |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.tokenizers:
        tokenizer = (
            load_tokenizer(name) if name in MODELS else AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        )
        adapter = base_models()[ADAPTERS.get(name, "auto")]
        for template in options.templates:
            cells = measure_one(tokenizer, adapter, template, options)
            print(f"| {Path(name).name} | {template} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
