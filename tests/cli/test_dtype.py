"""`--dtype`: the number format of predictions, whatever a run was trained in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llmcls import Classifier, LlmclsError
from llmcls.figures import to_json
from llmcls.files import read_json, sha256_of
from llmcls.runs.card import card_digest


@pytest.fixture
def trained_elsewhere(run: Path) -> Path:
    """A run that was trained on a GPU: float16 weights and autocast, FlashAttention."""
    file = run / "settings.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["model"] |= {"quantization": "none", "dtype": "float16", "attn_implementation": "flash_attention_2"}
    settings["training"]["mixed_precision"] = "fp16"
    file.write_text(yaml.safe_dump(settings))
    card = read_json(run / "run.json", "File")
    card["seal"]["settings.yaml"] = sha256_of(file)
    card["seal"]["run.json"] = card_digest(card)
    (run / "run.json").write_text(to_json(card))
    return run


def test_a_run_of_another_machine_predicts_here(trained_elsewhere: Path, llmcls: Any) -> None:
    done = llmcls("predict", "--run", trained_elsewhere, "where is it?")
    assert done.code == 0 and "unquantised base weights, float32, no autocast" in done.err
    warned = [line for line in done.err.splitlines() if line.startswith("Warning")]
    assert len(warned) == 2
    assert "held in float16 while it was trained, but CPUs" in warned[0] and "computed in float32" in warned[0]
    assert "flash_attention_2', but FlashAttention does not compute on a CPU; 'sdpa' is used" in warned[1]


def test_the_number_format_is_chosen(trained_elsewhere: Path, tiny_model_dir: Path, llmcls: Any) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        done = llmcls("predict", "--run", trained_elsewhere, "--dtype", dtype, "where is it?")
        assert done.code == 0 and f"base weights, {dtype}, no autocast" in done.err, done
        assert "while it was trained, but" not in done.err
    done = llmcls("predict", "--base-model", tiny_model_dir, "--labels", "a,b", "--dtype", "bfloat16", "where is it?")
    assert done.code == 0 and "4-bit base weights, bfloat16" in done.err
    loaded = Classifier.load(trained_elsewhere, dtype="bfloat16")
    assert next(loaded._model.parameters()).dtype == torch.bfloat16
    with pytest.raises(LlmclsError, match=r"Unknown dtype 'bfloat61'. Did you mean 'bfloat16'"):
        Classifier.load(trained_elsewhere, dtype="bfloat61")


def test_evaluate_takes_it_too(run: Path, tickets: Path, llmcls: Any) -> None:
    done = llmcls("evaluate", "--run", run, "--data", tickets, "--dtype", "bfloat16", "--before")
    assert done.code == 0 and "base weights, bfloat16, no autocast" in done.err, done


def test_it_is_not_given_twice(llmcls: Any, refuse: Any, run: Path) -> None:
    twice = ("--dtype", "float32", "--set", "model.dtype=float16", "text")
    assert llmcls("predict", "--labels", "a,b", *twice).code == 2
    assert "model.dtype cannot be changed now" in refuse("predict", "--run", run, *twice)
