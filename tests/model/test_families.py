"""Every family that is claimed: trained for three steps, saved, loaded, and asked both ways.

`make test` takes a sample; `make drill` begins with all of them (LLMCLS_FAMILIES=all).
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from llmcls import Classifier, LlmclsError, train
from llmcls.console import Reporter
from llmcls.engine.attention import VERIFIED
from llmcls.runs.run import Run
from llmcls.settings.sections import PredictionSettings

from ..families import MIXTURES, save_family

pytestmark = pytest.mark.slow
SAMPLE = ("gemma3_text", "mixtral", "phimoe", "qwen2_moe")
KINDS = sorted(VERIFIED) if os.environ.get("LLMCLS_FAMILIES") == "all" else SAMPLE
ROWS = [{"text": f"parcel {n} is late", "label": "delivery"} for n in range(6)]
ROWS += [{"text": f"you took {n} euros twice" * (1 + n), "label": "billing"} for n in range(6)]
SHARED = {"qwen2_moe"}  # mixtures with an expert that reads every text, whose layers are linear
TEXTS = [row["text"] for row in ROWS[::2]] + ["", "🙂 " * 20]


class Heard(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    warn = say


def fit(model: Path, out: Path, /, **settings: dict[str, Any]) -> tuple[Run, str]:
    """Three steps on ROWS; the run, and what was said."""
    heard = Heard()
    given: dict[str, dict[str, Any]] = {"model": {"quantization": "none"}, "prompt": {"template": "minimal"}}
    given["training"] = {"max_steps": 3, "learning_rate": 1e-3, "per_device_train_batch_size": 6}
    for section, values in settings.items():
        given.setdefault(section, {}).update(values)
    data = {"train": ROWS, "validation": ROWS[::4]}
    return train(data, base_model=str(model), output_dir=out, settings=given, reporter=heard), "\n".join(heard.said)


def saved(run: Run) -> list[str]:
    """The names of a run's LoRA weights."""
    with safe_open(run.lora_path / "adapter_model.safetensors", "pt") as weights:
        return list(weights.keys())


def probabilities(run: Run, method: str = "exact", **options: Any) -> Any:
    """Every label's probability of TEXTS, by a classifier that is loaded for it."""
    asked = Classifier.load(run, prediction=PredictionSettings(method=method), **options)
    return asked.predict_proba(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_saved_loaded_and_asked_both_ways(kind: str, tmp_path: Path) -> None:
    run, said = fit(save_family(kind, tmp_path / "model"), tmp_path / "run")
    assert "padded" not in said
    losses = [json.loads(line) for line in (run.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in losses if "loss" in entry)
    packed, plain = probabilities(run), probabilities(run, "reference", merge=False)
    np.testing.assert_allclose(packed, plain, atol=2e-5)
    assert (packed.argmax(1) == plain.argmax(1)).all()
    assert np.ptp(packed[:, 0]) > 1e-3, "texts make no difference"
    if kind in MIXTURES:
        assert "LoRA adapts this model's linear layers; experts and router stay as they are" in said
        names = {name.partition(".layers.")[2].partition(".lora")[0] for name in saved(run)}
        assert not [name for name in names if name.endswith((".experts", ".gate", ".router"))]
        assert any(".self_att" in name for name in names)
        assert any("shared_expert" in name for name in names) == (kind in SHARED)


def test_a_mixture_whose_experts_are_named(tmp_path: Path) -> None:
    """The names that experts had as layers: PEFT adapts the stacked weights, for which it has no dropout."""
    model = save_family("mixtral", tmp_path / "model")
    lora = {"target_modules": ["q_proj", "w1", "w2", "w3"]}
    run, said = fit(model, tmp_path / "run", lora=lora)
    assert "lora.lora_dropout is 0 here instead of 0.05" in said and "'down_proj', 'gate_up_proj'" in said
    assert {name.split(".")[5] for name in saved(run)} == {"mlp", "self_attn"}
    np.testing.assert_allclose(probabilities(run), probabilities(run, "reference", merge=False), atol=2e-5)
    apart = Classifier.load(run, merge=False, prediction=PredictionSettings(method="exact"))
    alone = apart.predict_proba(TEXTS)
    with ThreadPoolExecutor(4) as threads:  # PEFT changes the model within every forward
        for together in threads.map(lambda _: apart.predict_proba(TEXTS), range(8)):
            np.testing.assert_allclose(together, alone, atol=2e-5)
    with pytest.raises(LlmclsError, match=r"lora\.use_dora cannot be used with.*experts"):
        fit(model, tmp_path / "dora", lora={**lora, "use_dora": True})
    with pytest.raises(LlmclsError, match=r"lora\.target_modules \('w1',\) cannot be used.*w3"):
        fit(model, tmp_path / "half", lora={"target_modules": ["w1"]})


def test_a_mixture_all_of_which_is_trained_keeps_its_own_settings(tmp_path: Path) -> None:
    """A checkpoint that asks for the router's loss is packed all the same, and keeps its coefficient."""
    model = save_family("mixtral", tmp_path / "model", output_router_logits=True, router_aux_loss_coef=0.25)
    run, said = fit(model, tmp_path / "run", training={"tuning": "full"})
    assert "padded" not in said and "LoRA" not in said
    assert json.loads((run.model_path / "config.json").read_text(encoding="utf-8"))["router_aux_loss_coef"] == 0.25
    np.testing.assert_allclose(probabilities(run), probabilities(run, "reference"), atol=2e-5)
