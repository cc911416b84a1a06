"""The files in `examples/` say what was published, mark what was chosen, and run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmcls.settings import load_settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

HUB_ARXIV: dict[str, Any] = {
    "data.source": "hub:real-jiakai/arxiver-with-category",
    "data.text_columns": ["title", "abstract"],
    "data.label_column": "primary_category",
    "data.labels": [],
    "data.test_size": 0.1,
    "data.validation_size": 0.1,
    "seed": 42,
}
# Every published value, as it was published: by recipe and setting.
PUBLISHED: dict[str, dict[str, Any]] = {
    "arxiv": {
        "data.text_columns": ["title", "abstract"],
        "data.label_column": "label_name",
        "data.labels": ["cs.CL", "cs.CV", "cs.LG", "hep-ph", "quant-ph"],
        "model.base_model": "meta-llama/Llama-3.2-1B",
        "model.quantization": "4bit",
        "model.bnb_4bit_quant_type": "nf4",
        "model.bnb_4bit_use_double_quant": True,
        "model.bnb_4bit_compute_dtype": "bfloat16",
        "prompt.template": "instruction",
        "prompt.max_length": 512,
        "lora.r": 2,
        "lora.lora_alpha": 2,
        "lora.lora_dropout": 0.0,
        "training.objective": "sft",
        "training.num_train_epochs": 1,
        "training.per_device_train_batch_size": 8,
        "training.per_device_eval_batch_size": 8,
        "training.gradient_accumulation_steps": 2,
        "training.learning_rate": 2e-4,
        "training.weight_decay": 1e-3,
        "training.warmup_steps": 0.03,
        "training.mixed_precision": "fp16",
        "training.tf32": True,
        "training.logging_steps": 10,
        "training.eval_strategy": "epoch",
        "training.save_strategy": "epoch",
        "training.save_total_limit": 2,
        "training.report_to": ["tensorboard"],
    },
    "arxiv-top5": {**HUB_ARXIV, "data.keep_labels": {"top": 5}},
    "arxiv-all": {**HUB_ARXIV, "data.keep_labels": {"min_rows": 3}},
    "tweet-sentiment": {
        "data.labels": ["negative", "neutral", "positive"],
        "model.base_model": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "model.quantization": "4bit",
        "model.bnb_4bit_quant_type": "nf4",
        "model.bnb_4bit_compute_dtype": "float16",
        "prompt.template": "chat",
        "lora.r": 16,
        "lora.lora_alpha": 32,
        "lora.lora_dropout": 0.1,
        "lora.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "training.objective": "sft",
        "training.num_train_epochs": 3,
        "training.per_device_train_batch_size": 8,
        "training.gradient_accumulation_steps": 4,
        "training.learning_rate": 2e-4,
        "training.lr_scheduler_type": "constant_with_warmup",
    },
    "imdb-head": {
        "data.validation_size": 0.2,
        "model.base_model": "meta-llama/Llama-3.2-1B",
        "model.quantization": "none",
        "prompt.template": "text",
        "prompt.max_length": 512,
        "training.objective": "head",
        "training.tuning": "full",
        "training.num_train_epochs": 10,
        "training.per_device_train_batch_size": 8,
        "training.learning_rate": 3e-5,
        "training.optim": "adamw_torch",
        "training.lr_scheduler_type": "linear",
        "training.warmup_steps": 0.4,
        "training.eval_strategy": "epoch",
    },
    "imdb-head-further": {
        "model.quantization": "none",
        "prompt.template": "text",
        "prompt.max_length": 128,
        "training.objective": "head",
        "training.tuning": "full",
        "training.num_train_epochs": 3,
        "training.per_device_train_batch_size": 16,
        "training.learning_rate": 2e-5,
        "training.weight_decay": 0.01,
    },
    "ag-news-head": {
        "data.max_per_class": {"train": 2000, "validation": 500, "test": 500},
        "model.base_model": "meta-llama/Meta-Llama-3-8B",
        "model.quantization": "4bit",
        "model.bnb_4bit_quant_type": "nf4",
        "model.bnb_4bit_use_double_quant": True,
        "model.bnb_4bit_compute_dtype": "bfloat16",
        "prompt.template": "text",
        "prompt.max_length": 512,
        "lora.r": 16,
        "lora.lora_alpha": 8,
        "lora.lora_dropout": 0.05,
        "lora.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "lora.bias": "none",
        "training.objective": "head",
        "training.class_weights": "inverse",
        "training.num_train_epochs": 1,
        "training.per_device_train_batch_size": 8,
        "training.per_device_eval_batch_size": 8,
        "training.learning_rate": 1e-4,
        "training.weight_decay": 0.01,
        "training.logging_steps": 1,
        "training.eval_strategy": "epoch",
        "training.save_strategy": "epoch",
        "training.load_best_model_at_end": True,
    },
}
# Each made-up row has the columns, and one of the labels, that its recipe names.
WORDS = {
    "arxiv": {"cs.CL": "parsing", "cs.CV": "images", "cs.LG": "gradients", "hep-ph": "quarks", "quant-ph": "qubits"},
    "tweet-sentiment": {"negative": "bad", "neutral": "some", "positive": "great"},
    "imdb-head": {"negative": "dull", "positive": "fine"},
    "ag-news-head": {"World": "summit", "Sports": "match", "Business": "shares", "Sci/Tech": "chips"},
}
ON_A_LAPTOP = ("--base-model", "nano", "--quantization", "none", "--set", "training.max_steps=3")


def leaves(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of a file, by dotted name."""
    for section, content in tree.items():
        if isinstance(content, dict):
            yield from ((f"{section}.{name}", value) for name, value in content.items())
        else:
            yield section, content


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_what_was_published_is_followed_and_all_else_is_marked(recipe: str) -> None:
    path = EXAMPLES / f"{recipe}.yaml"
    text = path.read_text(encoding="utf-8")
    written = dict(leaves(yaml.safe_load(text)))
    published = PUBLISHED[recipe]
    assert {name: written.get(name) for name in published} == published
    for name in written.keys() - published.keys():
        (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{name.rpartition('.')[2]}:")]
        assert "# chosen" in line, f"{recipe}: {name} has not been published"
    assert any(line.startswith("# Published: ") for line in text.splitlines()[:3])
    load_settings([path])


def test_every_recipe_is_compared() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == {*PUBLISHED, "quickstart", "smollm2"}


def write_rows(path: Path, recipe: str, copies: int) -> None:
    """A CSV file with so many different rows of each label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "abstract", "label_name"] if recipe == "arxiv" else ["text", "label"])
        for number in range(copies):
            for label, word in WORDS[recipe].items():
                texts = [f"On {word} {number}", f"We study {word}."] if recipe == "arxiv" else [f"{word} {number}"]
                writer.writerow([*texts, label])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", WORDS)
def test_recipe_runs_on_a_laptop(recipe: str, llmcls: Callable[..., Any], tmp_path: Path) -> None:
    data, run = tmp_path / "rows.csv", tmp_path / "run"
    write_rows(data, recipe, 12)
    done = llmcls(
        "train", "--config", EXAMPLES / f"{recipe}.yaml", "--data", data, "--output-dir", run, *ON_A_LAPTOP
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (recipe == "arxiv") == ("no GPU, so training.mixed_precision fp16 and training.tf32 true have" in done.err)
    done = llmcls("evaluate", "--run", run, "--before", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert sorted(report["labels"]) == sorted(WORDS[recipe]) and set(report["before"]) >= {"accuracy", "macro_f1"}
    if recipe == "imdb-head":  # a trained classifier goes on to another task, with four labels instead of two
        news, further = tmp_path / "news.csv", tmp_path / "further"
        write_rows(news, "ag-news-head", 8)
        done = llmcls(
            "train", "--config", EXAMPLES / "imdb-head-further.yaml", "--base-model", run, "--data", news,
            "--output-dir", further, "--set", "training.max_steps=2",
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "head" in done.err


@pytest.mark.parametrize("builder", ["arxiv-top5", "arxiv-all"])
def test_builders_lie_over_a_recipe(builder: str) -> None:
    settings = load_settings([EXAMPLES / "arxiv.yaml", EXAMPLES / f"{builder}.yaml"])
    assert settings.data.labels == () and settings.data.label_column == "primary_category"
    assert settings.lora.r == 2 and settings.data.source == HUB_ARXIV["data.source"]
