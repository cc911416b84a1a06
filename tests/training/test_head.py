"""Objective `head` and full fine-tuning from data to a run and back: what is saved is what was trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llmcls import Classifier, LlmclsError
from llmcls.engine.scorer import make_scorer
from llmcls.records import Example
from llmcls.settings import Settings, make_settings

from .conftest import ROWS, predict_elsewhere

Fit = Callable[..., Any]
HEAD = {"training.objective": "head", "prompt.template": "text"}
FULL = {"training.tuning": "full", "model.quantization": "none"}
TEXTS = [row["text"] for row in ROWS[::3]] + ["", "parcel " * 9]


def probabilities(trained: Any) -> np.ndarray[Any, Any]:
    """What the model says that the trainer still holds."""
    encoder = Classifier.load(trained.run).encoder
    prompts = [row.input_ids for row in encoder.encode([Example(text) for text in TEXTS])]
    scorer = make_scorer(trained.trainer.model, encoder.answers, pad_token_id=0)
    return scorer.score(prompts).local.double().exp().numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        HEAD,
        {**HEAD, "model.dtype": "bfloat16", "training.class_weights": "balanced"},
        {**HEAD, **FULL},
        {**HEAD, **FULL, "model.dtype": "bfloat16"},
        FULL,
        {**FULL, "training.objective": "label"},
        {"lora.use_dora": True},
        {"lora.use_rslora": True, "lora.target_modules": ["q_proj", "v_proj"], **HEAD},
        {"lora.target_modules": "all-linear", **HEAD, "model.quantization": "8bit"},
        {**HEAD, "model.attn_implementation": "eager", "training.eval_strategy": "epoch"},  # cannot be packed
    ],
    ids=str,
)
def test_a_run_predicts_what_its_trainer_would(fit: Fit, changes: dict[str, Any]) -> None:
    trained = fit({"training.max_steps": 6, "lora.lora_dropout": 0.1, **changes})
    loaded = Classifier.load(trained.run)
    found = loaded.predict_proba(TEXTS)
    coarse = "8bit" in changes.values() or "bfloat16" in changes.values()
    assert found == pytest.approx(probabilities(trained), abs=2e-2 if coarse else 1e-5)
    with loaded.untrained() as before:
        assert np.abs(before.predict_proba(TEXTS) - found).max() > 0.02, "training has changed nothing"
    assert loaded.predict_proba(TEXTS) == pytest.approx(found, abs=1e-6)
    assert not list(trained.run.path.rglob("*.bin")), "safetensors only"


@pytest.mark.slow
def test_the_head_is_float32_beside_4_bit_weights_and_saved_with_the_adapter(fit: Fit, tiny_model_dir: Path) -> None:
    trained = fit({**HEAD, "training.max_steps": 8, "model.dtype": "bfloat16"})
    model = trained.trainer.model
    assert sum(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules()) == 14
    score = model.get_base_model().score
    assert type(score.original_module) is torch.nn.Linear and score.original_module.weight.dtype == torch.float32
    trainable = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert set(trainable.values()) == {torch.float32} and sum("score" in name for name in trainable) == 1
    saved = load_file(trained.run.lora_path / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert saved.dtype == torch.float32 and torch.equal(saved, score.weight)
    assert not torch.equal(saved, score.original_module.weight)
    # Anyone's tools load it: a plain class for the base, PEFT for the rest.
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=3)
    restored = PeftModel.from_pretrained(plain, trained.run.lora_path).eval()
    loaded = Classifier.load(trained.run, quantization="none")
    (prompt,) = loaded.encoder.encode([Example("You took 3 euros twice")])
    with torch.no_grad():
        expected = restored(input_ids=torch.tensor([prompt.input_ids])).logits.softmax(1)
    assert loaded.predict_proba(["You took 3 euros twice"])[0] == pytest.approx(expected[0].tolist(), abs=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["head", "label"])
def test_a_full_run_is_a_plain_checkpoint_and_needs_no_base_model(
    fit: Fit, tiny_model_dir: Path, tmp_path: Path, objective: str
) -> None:
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    changes = {**FULL, "model.base_model": str(base), "training.max_steps": 6, "training.objective": objective}
    trained = fit(changes)
    run = trained.run
    assert run.whole and not run.lora_path.exists()
    assert any(name.startswith("model/") for name in run.card["seal"])
    expected = probabilities(trained)
    with Classifier.load(run).untrained() as before:
        first = before.predict_proba(TEXTS)
    shutil.rmtree(base)
    loaded = Classifier.load(run)
    assert loaded.predict_proba(TEXTS) == pytest.approx(expected, abs=1e-5)
    in_4_bits = Classifier.load(run, quantization="4bit").predict_proba(TEXTS)
    assert in_4_bits == pytest.approx(expected, abs=0.2) and np.abs(in_4_bits - expected).max() > 1e-4
    with pytest.raises(LlmclsError, match="needs its base model"), loaded.untrained():
        pass
    with loaded.untrained(str(tiny_model_dir)) as before:
        assert before.predict_proba(TEXTS) == pytest.approx(first, abs=1e-6), "the same head as before training"
    if objective == "label":
        zero_shot = Classifier.zero_shot(
            str(tiny_model_dir), run.labels, settings=Settings(model={"quantization": "none"})
        )
        assert zero_shot.predict_proba(TEXTS) == pytest.approx(first, abs=1e-5)
    kind = AutoModelForSequenceClassification if objective == "head" else AutoModelForCausalLM
    model, report = kind.from_pretrained(run.model_path, output_loading_info=True)
    assert not any(report.values()), "every weight is there and none too many"
    if objective == "head":
        assert model.config.id2label == dict(enumerate(run.labels.names))
        prompts = [row.input_ids for row in loaded.encoder.encode([Example(text) for text in TEXTS])]
        with torch.no_grad():
            rows = [model.eval()(input_ids=torch.tensor([prompt])).logits.softmax(1)[0].tolist() for prompt in prompts]
        assert np.array(rows) == pytest.approx(expected, abs=1e-5)
    (run.model_path / "extra.safetensors").touch()
    with pytest.raises(LlmclsError, match=r"extra\.safetensors was added"):
        Classifier.load(run.path)


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same(fit: Fit, tmp_path: Path) -> None:
    trained = fit({**HEAD, "training.max_steps": 6})
    expected = probabilities(trained)[: len(TEXTS) - 2]
    for there, row in zip(predict_elsewhere(trained.run, TEXTS[:-2], tmp_path), expected, strict=True):
        assert there == pytest.approx(row.tolist(), abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [{}, FULL], ids=["lora", "full"])
def test_packing_and_accumulation_change_no_loss(fit: Fit, tuning: dict[str, Any]) -> None:
    size, accumulate = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
    changes = {**HEAD, **tuning, "training.max_steps": 5, "training.class_weights": "balanced", size: 8}
    packed = fit(changes)
    padded = fit({**changes, "training.packing": False}, name="padded")
    parts = fit({**changes, size: 2, accumulate: 4}, name="parts")
    assert padded.losses == pytest.approx(packed.losses, rel=1e-4)
    assert parts.losses == pytest.approx(packed.losses, rel=1e-4)
    assert packed.losses[-1] < packed.losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [{}, FULL], ids=["lora", "full"])
def test_the_best_checkpoint_is_kept_and_one_seed_gives_one_run(fit: Fit, tuning: dict[str, Any]) -> None:
    steps = {f"training.{name}_strategy": "steps" for name in ("eval", "save")}
    changes = {**HEAD, **tuning, **steps, "training.max_steps": 6, "training.learning_rate": 0.2}
    changes |= {"training.eval_steps": 1, "training.save_steps": 1, "training.load_best_model_at_end": True}
    trained = fit(changes)
    evaluated = [entry["eval_loss"] for entry in trained.log if "eval_loss" in entry]
    assert min(evaluated) < evaluated[-1], "otherwise the last checkpoint is the best, and nothing is shown"
    assert trained.trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluated), rel=1e-5)
    found = Classifier.load(trained.run).predict_proba(TEXTS)
    assert found == pytest.approx(probabilities(trained), abs=1e-5)
    again = fit(changes, name="again")
    assert Classifier.load(again.run).predict_proba(TEXTS) == pytest.approx(found, abs=0)


@pytest.mark.slow
def test_the_head_of_a_published_classifier_makes_way(fit: Fit, tiny_model_dir: Path, tmp_path: Path) -> None:
    published = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=5)
    base = shutil.copytree(tiny_model_dir, tmp_path / "classifier")
    published.save_pretrained(base)
    trained = fit({**HEAD, "model.base_model": str(base), "training.max_steps": 2})
    assert Classifier.load(trained.run).predict_proba(TEXTS) == pytest.approx(probabilities(trained), abs=1e-5)
    assert trained.trainer.model.get_base_model().score.weight.shape[0] == 3


def test_learning_rates(fit: Fit) -> None:
    rates = {"training.learning_rate": None, "training.max_steps": 1}
    assert fit({**rates, **FULL}).trainer.args.learning_rate == 2e-5
    assert fit(rates, name="lora").trainer.args.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"training": {"tuning": "full"}, "model": {"quantization": "4bit"}},
            "4bit freezes; set model.quantization to",
        ),
        ({"training": {"objective": "head", "loss_normalization": "token"}}, "'head' has one term per row"),
        ({"training": {"objective": "head"}, "prediction": {"method": "generate"}}, "needs a model that writes"),
    ],
)
def test_impossible_settings(values: dict[str, Any], says: str) -> None:
    with pytest.raises(LlmclsError, match=says):
        make_settings(values)


def test_what_makes_no_sense_is_said(fit: Fit, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = fit({**HEAD, **FULL, "training.max_steps": 1})  # the fixture sets lora.lora_dropout
    assert "the lora.* settings have no effect" in capsys.readouterr().err
    loaded = Classifier.load(trained.run)
    with pytest.raises(LlmclsError, match="their mass is always 1"):
        loaded.classify([Example("x")], label_mass=True)
    with pytest.raises(LlmclsError, match="knows nothing before it is trained"):
        Classifier.zero_shot(
            str(tiny_model_dir), ["a", "b"], settings=make_settings({"training": {"objective": "head"}})
        )
