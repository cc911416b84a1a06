"""A pad token that was added to a tokenizer but never to its model."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llmcls.model.loading import find_base_model, load_tokenizer
from llmcls.settings import make_settings

from ..families import save_family
from .test_families import TEXTS, fit, probabilities


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_pad_token_without_an_embedding_gives_way(kind: str, tmp_path: Path) -> None:
    model = save_family(kind, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<|PAD|>"})
    tokenizer.save_pretrained(model)
    assert AutoTokenizer.from_pretrained(model).pad_token_id == rows
    base = find_base_model(make_settings({"model": {"base_model": str(model)}}).model)
    chosen = load_tokenizer(base)
    assert chosen.pad_token == "<pad>" and chosen.eos_token == "</s>"
    head = {"objective": "head", "packing": kind == "llama", "max_steps": 2}
    run, _ = fit(model, tmp_path / "run", training=head, prompt={"template": "text"})
    assert probabilities(run).shape == (len(TEXTS), 2)
