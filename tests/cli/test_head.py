"""A run with a classification head, and one that holds all its weights, by command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_a_full_run_with_a_head(
    llmcls: Callable[..., Any], refuse: Callable[..., str], tiny_model_dir: Path, tickets: Path, here: Path
) -> None:
    run = here / "head"
    options = ("--template", "text", "--quantization", "none", "--output-dir", run, "--set", "training.max_steps=2")
    full = ("--set", "training.objective=head", "--set", "training.tuning=full")
    done = llmcls("train", "--data", tickets, "--base-model", tiny_model_dir, *options, *full)
    assert done.code == 0 and "LoRA parameters" not in done.err
    found = llmcls("evaluate", "--run", run, "--before", "-q")
    assert found.code == 0 and "Untrained head and this run" in found.out
    shown = llmcls("templates", "show", "--run", run)
    assert shown.code == 0 and "a head learns the right one of 2 labels" in shown.out
    assert shown.out.rstrip().endswith(("billing│", "delivery│"))
    assert "to a classification head labels are numbers" in refuse("labels", "inspect", "--run", run)
    for method in ("greedy", "best-first", "reference"):
        assert llmcls("predict", "--run", run, "--method", method, "hello").code == 0
    assert "leave --label-mass out" in refuse("predict", "--run", run, "--label-mass", "hello")
    assert "needs a model that writes" in refuse("predict", "--run", run, "--method", "generate", "hello")
    assert "holds all of its model" in refuse("predict", "--run", run, "--base-model", "nano", "hello")
    zero_shot = ("--labels", "a,b", "--set", "training.objective=head")
    assert "knows nothing before it is trained" in refuse("predict", *zero_shot, "hello")
