"""The files in `examples/` carry the published hyper-parameters, and run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcls import Classifier, train
from llmcls.settings import load_settings

ROWS = {
    "quickstart": [{"text": f"{t} {n}", "label": t} for t in ("billing", "delivery") for n in range(12)],
    "arxiv": [
        {"title": f"On {topic} {n}", "abstract": f"We study {topic}.", "label_name": label}
        for topic, label in (
            ("parsing", "cs.CL"),
            ("images", "cs.CV"),
            ("gradients", "cs.LG"),
            ("quarks", "hep-ph"),
            ("qubits", "quant-ph"),
        )
        for n in range(6)
    ],
    "tweet-sentiment": [
        {"text": f"{mood} day number {n}", "label": label}
        for mood, label in (("bad", "negative"), ("some", "neutral"), ("great", "positive"))
        for n in range(8)
    ],
    "imdb-head": [
        {"text": f"{word} film number {n}, I think.", "label": label}
        for word, label in (("A dull", "negative"), ("A fine", "positive"))
        for n in range(10)
    ],
    "ag-news-head": [
        {"text": f"{topic} {n}", "label": label}
        for topic, label in (("Summit", "World"), ("Match", "Sports"), ("Shares", "Business"), ("Chips", "Sci/Tech"))
        for n in range(8)
    ],
}
# What a small machine without a GPU or tensorboard must change; everything else stays as the file says.
SMALL = {
    "model.base_model": "nano",
    "model.dtype": "auto",
    "training.max_steps": 2,
    "training.mixed_precision": "no",
    "training.report_to": [],
}


def test_hyper_parameters_are_the_published_ones(root: Path) -> None:
    arxiv = load_settings([root / "examples" / "arxiv.yaml"])
    assert (arxiv.lora.r, arxiv.lora.lora_alpha, arxiv.lora.lora_dropout) == (2, 2, 0.0)
    assert (arxiv.training.learning_rate, arxiv.training.weight_decay, arxiv.training.warmup_steps) == (
        2e-4,
        1e-3,
        0.03,
    )
    assert (arxiv.training.per_device_train_batch_size, arxiv.training.gradient_accumulation_steps) == (8, 2)
    assert (arxiv.training.num_train_epochs, arxiv.prompt.max_length, arxiv.seed) == (1, 512, 762920)
    tweets = load_settings([root / "examples" / "tweet-sentiment.yaml"])
    assert (tweets.lora.r, tweets.lora.lora_alpha, tweets.lora.lora_dropout) == (16, 32, 0.1)
    assert tweets.lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (tweets.training.lr_scheduler_type, tweets.training.num_train_epochs) == ("constant_with_warmup", 3)
    assert tweets.prompt.template == "chat"
    imdb = load_settings([root / "examples" / "imdb-head.yaml"])
    assert (imdb.training.objective, imdb.training.tuning, imdb.model.quantization) == ("head", "full", "none")
    assert imdb.training.lr_scheduler_type == "linear" and imdb.training.warmup_steps > 0
    news = load_settings([root / "examples" / "ag-news-head.yaml"])
    assert (news.training.objective, news.training.tuning, news.model.quantization) == ("head", "lora", "4bit")
    assert news.data.max_per_class == {"train": 2000, "validation": 500, "test": 500}
    assert news.training.class_weights == "balanced" and news.training.load_best_model_at_end
    assert news.training.metric_for_best_model == "balanced_accuracy"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ROWS))
def test_example_runs(root: Path, tmp_path: Path, name: str) -> None:
    settings = load_settings([root / "examples" / f"{name}.yaml"], (), SMALL)
    run = train(ROWS[name], settings=settings, output_dir=tmp_path / "run")
    assert run.settings.lora == settings.lora and run.settings.training.objective == settings.training.objective
    assert Classifier.load(run).predict([ROWS[name][0].get("text", "")])[0] in run.labels.names
    assert len(run.labels) == len({tuple(row.values())[-1] for row in ROWS[name]})


def test_every_example_is_tested(root: Path) -> None:
    assert {path.stem for path in (root / "examples").glob("*.yaml")} == set(ROWS)
