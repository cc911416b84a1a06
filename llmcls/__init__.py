"""llmcls: fine-tune any decoder-only LLM into a text classifier that can only answer with a valid label.

from llmcls import Classifier, train

run = train(data="tickets.csv", base_model="meta-llama/Llama-3.2-1B")
Classifier.load(run.path).predict(["Where is my parcel?"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from llmcls.classifier import Classifier
    from llmcls.estimator import LLMClassifier
    from llmcls.training.train import train

__version__ = "0.1.0"

__all__ = ["Classifier", "LLMClassifier", "LlmclsError", "LlmclsWarning", "hookimpl", "train"]

_LAZY = {
    "Classifier": "llmcls.classifier",
    "LLMClassifier": "llmcls.estimator",
    "train": "llmcls.training.train",
}
_MODULES = ("answers", "prompt", "records", "settings")
"""Modules that `import llmcls` is enough for."""


def __getattr__(name: str) -> Any:
    # `import llmcls` must not import torch: it costs seconds, and `llmcls --help` needs none of it.
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"llmcls.{name}")
    raise AttributeError(f"module 'llmcls' has no attribute {name!r}")
