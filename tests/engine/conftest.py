"""Tiny random models and hostile defaults: every model starts in train mode with its cache switched off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmcls.engine import state
from llmcls.engine.scorer import GenerateScorer

VOCABULARY = 97


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _always_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use even the shortest shared prefix: the prompts of most tests share a few tokens only."""
    monkeypatch.setattr(state, "WORTH_SHARING", 1)


def build(kind: str = "llama", **config: Any) -> Any:
    """A random float32 model whose scores are spread over several nats."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(settings | config)))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.config.use_cache = False
    return model.train()


def generate_labels(model: Any, prompts: Any, answers: Any, *, pad_token_id: int, batch_size: int = 8) -> torch.Tensor:
    """(rows,) the labels that constrained `generate()` writes."""
    return GenerateScorer(model, answers, pad_token_id=pad_token_id, batch_size=batch_size).score(prompts).predicted


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return build


@pytest.fixture(scope="session")
def llama() -> Any:
    return build()


@pytest.fixture(scope="session")
def shared() -> Path:
    root = os.environ.get("LLMCLS_SHARED") or Path(__file__).resolve().parents[2] / ".." / "shared"
    if not Path(root).is_dir():
        pytest.skip("needs the folder `shared` beside the repository (or LLMCLS_SHARED)")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def nano_path(shared: Path) -> Path:
    path = shared / "models" / "nano-base"
    if not path.is_dir():
        pytest.skip("needs shared/models/nano-base")
    return path


@pytest.fixture(scope="session")
def nano(nano_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(nano_path, dtype=torch.float32).train()
