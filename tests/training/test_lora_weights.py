"""What is trained and saved: number formats, quantised modules, the best checkpoint, the same bytes from one seed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file

from llmcls import Classifier, LlmclsError, train
from llmcls.console import Reporter

from .conftest import predict_elsewhere

LAYERS = 2 * 7  # two blocks of four attention and three MLP matrices


def weights(run: Any) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(run.lora_path / "adapter_model.safetensors")
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"training.mixed_precision": "bf16"}, {"model.dtype": "bfloat16"}], ids=str)
def test_4_bit_base_and_float32_adapters(fit: Callable[..., Any], changes: dict[str, Any]) -> None:
    trained = fit({"training.max_steps": 3, **changes})
    matrices = [m for m in trained.trainer.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(matrices) == LAYERS
    for matrix in matrices:
        assert matrix.weight.dtype == torch.uint8 and not matrix.weight.requires_grad
        assert matrix.weight.quant_state.quant_type == "nf4" and matrix.weight.quant_state.nested
    trainable = [p for p in trained.trainer.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trainable} == {torch.float32}
    saved = weights(trained.run)
    assert len(saved) == 2 * LAYERS and {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all("lora_" in name for name in saved)
    assert all(tensor.abs().max() > 0 for tensor in saved.values()), "every adapter matrix has learned"
    assert not list(trained.run.path.rglob("*.bin")), "safetensors only"


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "kind"), [("8bit", bitsandbytes.nn.Linear8bitLt), ("none", torch.nn.Linear)])
def test_other_quantizations(fit: Callable[..., Any], quantization: str, kind: type) -> None:
    trained = fit({"training.max_steps": 8, "model.quantization": quantization})
    inner = [m for m in trained.trainer.model.modules() if hasattr(m, "lora_A")]
    assert [type(m.base_layer) for m in inner] == [kind] * LAYERS
    assert {tensor.dtype for tensor in weights(trained.run).values()} == {torch.float32}
    assert min(trained.losses[-2:]) < trained.losses[0]
    label = Classifier.load(trained.run).predict(["You took 3 euros twice"])
    assert label[0] in trained.run.labels.names


@pytest.mark.slow
def test_one_seed_one_adapter(fit: Callable[..., Any]) -> None:
    changes = {"training.max_steps": 4, "lora.lora_dropout": 0.1}
    first = (fit(changes).run.lora_path / "adapter_model.safetensors").read_bytes()
    again = (fit(changes, name="again").run.lora_path / "adapter_model.safetensors").read_bytes()
    other = (fit({**changes, "seed": 7}, name="other").run.lora_path / "adapter_model.safetensors").read_bytes()
    assert first == again
    assert first != other


@pytest.mark.slow
def test_the_best_checkpoint_is_kept(fit: Callable[..., Any]) -> None:
    changes = {
        "training.max_steps": 2,
        "training.learning_rate": 0.3,  # too much: the second step makes the validation loss worse
        "training.eval_strategy": "steps",
        "training.eval_steps": 1,
        "training.save_strategy": "steps",
        "training.save_steps": 1,
        "training.load_best_model_at_end": True,
    }
    trained = fit(changes)
    evaluated = [entry["eval_loss"] for entry in trained.log if "eval_loss" in entry]
    assert min(evaluated) < evaluated[-1], "otherwise the last checkpoint is the best, and nothing is shown"
    assert trained.trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluated), rel=1e-5)
    held = trained.trainer.model.state_dict()
    for name, tensor in weights(trained.run).items():
        assert torch.equal(tensor, held[name.replace(".weight", ".default.weight")])
    assert not list(trained.run.path.glob("**/checkpoint-*"))


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same(fit: Callable[..., Any], rows: list[dict[str, str]], tmp_path: Path) -> None:
    trained = fit({"training.max_steps": 6, "prompt.template": "few_shot"})
    assert {shot.label for shot in trained.run.shots.examples} == set(trained.run.labels.names)
    assert {(s.text, s.label) for s in trained.run.shots.examples} <= {(r["text"], r["label"]) for r in rows}
    texts = [row["text"] for row in rows[:4]]
    here = Classifier.load(trained.run).predict_proba(texts)
    for there, row in zip(predict_elsewhere(trained.run, texts, tmp_path), here, strict=True):
        assert there == pytest.approx(row.tolist(), abs=2e-6)


@pytest.mark.slow
def test_lora_variants_and_targets(fit: Callable[..., Any]) -> None:
    for changes in (
        {"lora.use_dora": True},
        {"lora.use_rslora": True, "lora.r": 4},
        {"lora.target_modules": ["q_proj", "v_proj"], "lora.bias": "lora_only"},
        {"training.gradient_checkpointing": True},
    ):
        trained = fit({"training.max_steps": 2, **changes})
        found = Counter(name.split(".")[-3] for name in weights(trained.run) if "lora_A" in name)
        assert set(found) <= {"q_proj", "v_proj"} if "lora.target_modules" in changes else sum(found.values()) == LAYERS
        assert Classifier.load(trained.run).predict(["x"])[0] in trained.run.labels.names


@pytest.mark.slow
def test_trackers(fit: Callable[..., Any]) -> None:
    if not (importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX")):
        pytest.skip("tensorboard is not installed")
    trained = fit({"training.max_steps": 2, "training.report_to": ["tensorboard"]})
    events = list((trained.run.path / "tensorboard").rglob("events.*"))
    assert events
    assert any(name.startswith("tensorboard/") for name in trained.run.card["seal"])


def test_impossible_class_weights(rows: list[dict[str, str]], tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = {"model": {"base_model": str(tiny_model_dir)}, "training": {"class_weights": {"bilding": 2.0}}}
    with pytest.raises(LlmclsError, match=r"Unknown label 'bilding'\. Did you mean 'billing'\?"):
        train(rows, settings=settings, output_dir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_with_the_remedy(fit: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(LlmclsError, match=r"The loss became (nan|inf).*lower training\.learning_rate"):
        fit({"training.learning_rate": 1e30, "training.max_steps": 20})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("prediction", "says"),
    [
        ({"threshold": 0.3}, r"prediction\.threshold is for yes or no about every label"),
        ({"min_probability": 0.1, "no_answer": "billing"}, r"no_answer is 'billing', which is a label"),
    ],
)
def test_a_run_that_no_one_could_predict_with_is_not_trained(
    rows: list[dict[str, str]], tiny_model_dir: Path, tmp_path: Path, prediction: dict[str, Any], says: str
) -> None:
    settings = {"model": {"base_model": str(tiny_model_dir)}, "prediction": prediction}
    with pytest.raises(LlmclsError, match=says):
        train(rows, settings=settings, output_dir=tmp_path / "run", reporter=Reporter(quiet=True))
