"""Texts are cut to what the model reads, whatever its configuration calls that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from llmcls import Classifier, LlmclsError
from llmcls.model.positions import positions_of
from llmcls.settings import make_settings

from ..families import save_family

LONG = "a very long text " * 40


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096, "n_ctx": 7}, 4096),
        ({"n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"max_seq_len": 2048, "attn_config": {"alibi": True}}, 2048),
        ({"max_position_embeddings": 32, "text_config": {"n_positions": 64}}, 64),
        ({"text_config": {"model_type": "x"}, "max_position_embeddings": 32}, 32),
        ({"llm_config": {"text_config": {"context_length": 9}}}, 9),
        ({"max_position_embeddings": -1, "n_positions": True, "seq_length": "many"}, None),
        ({"text_config": None, "max_position_embeddings": None}, None),
        ({}, None),
    ],
)
def test_what_a_configuration_says(config: dict[str, Any], expected: int | None) -> None:
    assert positions_of(config) == expected


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "codegen", "gpt_bigcode", "mpt", "gemma3", "gpt_neo", "openai-gpt"])
def test_every_name_that_transformers_has_is_known(kind: str) -> None:
    assert positions_of(AutoConfig.for_model(kind).to_dict()) is not None


def test_a_text_longer_than_the_model_is_cut(tmp_path: Path) -> None:
    """GPT-2 has no embedding for a place beyond `n_positions`: its forward fails there."""
    model = save_family("gpt2", tmp_path, max_position_embeddings=64, n_positions=64)
    settings = make_settings({"model": {"quantization": "none"}, "prompt": {"template": "minimal"}})
    classifier = Classifier.zero_shot(str(model), ["late", "paid"], settings=settings)
    (prompt,) = classifier.encoder.encode(classifier._read([LONG]))
    assert prompt.truncated and len(prompt.input_ids) + max(map(len, classifier.encoder.answers)) <= 64
    assert classifier.predict([LONG])[0] in ("late", "paid")
    with pytest.raises(LlmclsError, match="the base model reads 64 at most"):
        Classifier.zero_shot(str(model), ["late", "paid"], template="instruction", settings=settings).predict(["x"])
