"""An llmcls plugin with one of everything: a prompt template, a dataset reader, a base-model adapter, a command.

llmcls train --data texts:reviews/ --template question --base-model pythia-410m
llmcls label-counts texts:reviews/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from llmcls import LlmclsError, hookimpl
from llmcls.data.reader import SPLITS, DatasetReader, Row, Table
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt.template import PromptTemplate

QUESTION = """\
{# Asks a question after the text and lists the labels to choose from - a plain prompt. #}
{{ text }}

Question: which of these fits the text above?
{% for label in labels %}
- {{ label.name }}{{ ": " ~ label.description if label.description else "" }}
{% endfor %}
Answer:"""


class TextFolderReader(DatasetReader):
    """Reads text files that are sorted into one folder a label, with or without split folders above them."""

    name = "texts"
    description = "one .txt file a text, one folder a label: texts:reviews/ with reviews/train/positive/1.txt"

    def reads(self, spec: str) -> bool:
        return spec.startswith("texts:")

    def read(self, spec: str) -> dict[str, Table]:
        root = Path(spec.removeprefix("texts:"))
        folders = {split: root / split for split in SPLITS if (root / split).is_dir()} or {"train": root}
        for folder in folders.values():
            if not any(folder.glob("*/*.txt")):
                raise LlmclsError(f"There is no text in '{folder}'; it needs files such as positive/1.txt.")
        return {split: Table(["text", "label"], read_files(folder)) for split, folder in folders.items()}


def read_files(folder: Path) -> Iterator[Row]:
    """The rows of one split; a file that cannot be read is a row with a problem, so that all are reported at once."""
    for path in sorted(folder.glob("*/*.txt")):
        try:
            yield Row({"text": path.read_text(encoding="utf-8"), "label": path.parent.name}, source=str(path))
        except (OSError, UnicodeDecodeError) as error:
            yield Row({}, source=str(path), problem=f"the file cannot be read: {error}")


class Pythia(BaseModelAdapter):
    """EleutherAI's Pythia models, whose vocabulary has a padding token that their tokenizer does not name."""

    name = "pythia"
    description = "Pythia, 70M to 12B, base models"
    checkpoints = {f"pythia-{size}": f"EleutherAI/pythia-{size}" for size in ("70m", "410m", "1b")}  # noqa: RUF012

    def fits(self, checkpoint: str, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") == "gpt_neox" and "pythia" in checkpoint.lower()

    def pad_token(self, tokenizer: Any) -> str:
        return "<|padding|>"  # never <|endoftext|>, which ends answers


@hookimpl
def register_prompt_templates() -> list[PromptTemplate]:
    return [PromptTemplate("question", QUESTION)]


@hookimpl
def register_dataset_readers() -> list[DatasetReader]:
    return [TextFolderReader()]


@hookimpl
def register_base_models() -> list[BaseModelAdapter]:
    return [Pythia()]


@hookimpl
def register_commands(cli: click.Group) -> None:
    @cli.command("label-counts")
    @click.argument("data")
    def label_counts(data: str) -> None:
        """Count the rows of each label in DATA: anything that `llmcls train --data` takes."""
        from llmcls.data.splits import load_data  # heavy, so only here

        splits = load_data(data, validation_size=0, test_size=0)
        for split in filter(splits.__getitem__, SPLITS):
            counts = Counter(row.label for row in splits[split])
            click.echo(f"{split}: " + ", ".join(f"{label} {count}" for label, count in counts.most_common()))
