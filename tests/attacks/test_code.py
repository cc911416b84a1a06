"""Code that a model or run brings is run where the person at the keyboard allows it, and nowhere else."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from llmcls import Classifier, LLMClassifier, LlmclsError, train
from llmcls.model.foreign import lora_config

from .conftest import Result, change_json, reseal

CODE = """
import os
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(os.environ["LLMCLS_MARK"]).touch()


class StrangeConfig(LlamaConfig):
    model_type = "strange"


class StrangeModel(LlamaForCausalLM):
    config_class = StrangeConfig
"""
CLASSES = {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.StrangeModel"}


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is there once foreign code has run, whose copies of it are kept here, and not in the user's cache."""
    monkeypatch.setenv("LLMCLS_MARK", str(tmp_path / "mark"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    before = set(sys.modules)
    yield tmp_path / "mark"
    for name in [name for name in set(sys.modules) - before if "transformers_modules" in name]:
        del sys.modules[name]
    sys.modules.pop("transformers_modules", None)


def add_code(folder: Path, model_type: str = "strange") -> Path:
    """Let a checkpoint bring classes of its own."""
    (folder / "strange.py").write_text(CODE, encoding="utf-8")
    change_json(folder / "config.json", {"auto_map": CLASSES, "model_type": model_type})
    return folder


def trust_itself(run: Path) -> Path:
    """Let a run say of itself that its code may run."""
    settings = yaml.safe_load((run / "settings.yaml").read_text(encoding="utf-8"))
    settings["model"]["trust_remote_code"] = True
    (run / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return reseal(run)


# llama: transformers knows this class itself; what the run was trained with is code of its own nevertheless.
@pytest.mark.parametrize("model_type", ["strange", "llama"])
def test_a_run_cannot_allow_its_own_code(
    model_type: str,
    whole: Path,
    mark: Path,
    commands: Callable[[Path], list[tuple[object, ...]]],
    refuse: Callable[..., str],
    tickets: Path,
) -> None:
    add_code(whole / "model", model_type)
    trust_itself(whole)
    further = ("train", "--data", tickets, "--base-model", whole, "--output-dir", whole.parent / "further", "--quiet")
    for command in [*commands(whole), further]:
        message = refuse(*command, stdin=b"yes\nyes\n")
        assert "brings Python code of its own" in message and "--trust-remote-code" in message
        assert not mark.exists(), command
    with pytest.raises(LlmclsError, match="brings Python code of its own"):
        Classifier.load(whole)
    assert not mark.exists()


def test_the_person_at_the_keyboard_can(whole: Path, mark: Path, llmcls: Callable[..., Result]) -> None:
    add_code(whole / "model")
    trust_itself(whole)
    done = llmcls("predict", "--run", whole, "--trust-remote-code", "a text")
    assert (done.code, mark.exists()) == (0, True), done
    assert type(Classifier.load(whole, trust_remote_code=True)._model).__name__ == "StrangeModel"


def test_tokenizers_bring_no_code_either_nor_ask_for_it(
    lora: Path, mark: Path, commands: Callable[[Path], list[tuple[object, ...]]], refuse: Callable[..., str]
) -> None:
    (lora / "tokenizer" / "strange.py").write_text(CODE, encoding="utf-8")
    classes = {"AutoTokenizer": [None, "strange.StrangeModel"]}
    changes = {"auto_map": classes, "tokenizer_class": "StrangeTokenizer"}
    change_json(lora / "tokenizer" / "tokenizer_config.json", changes)
    reseal(lora)
    for command in commands(lora):  # what is piped in is texts, and no answers
        assert "brings Python code of its own" in refuse(*command, stdin=b"yes\ny\n")
        assert not mark.exists()


def test_a_base_model_with_code_is_refused_until_it_is_allowed(
    tiny_model_dir: Path, tmp_path: Path, mark: Path, tickets: Path, refuse: Callable[..., str]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in tiny_model_dir.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    add_code(base)
    named = ("--base-model", base)
    for command in (
        ("predict", *named, "--labels", "a,b", "a text"),
        ("train", *named, "--data", tickets, "--output-dir", tmp_path / "run"),
        ("labels", "inspect", *named, "--labels", "a,b"),
        ("templates", "show", "instruction", *named, "--data", tickets),
    ):
        assert "brings Python code of its own" in refuse(*command, stdin=b"yes\n")
    with pytest.raises(LlmclsError, match="own"):
        Classifier.zero_shot(str(base), ["a", "b"])
    with pytest.raises(LlmclsError, match="own"):
        LLMClassifier(str(base), max_steps=1).fit(["a", "b", "c", "d"], ["x", "y", "x", "y"])
    assert not mark.exists()

    given = {"training": {"max_steps": 1}, "model": {"quantization": "none"}}
    rows = [{"text": text, "label": label} for text, label in zip("abcdef", "xyxyxy", strict=True)]
    run = train(rows, base_model=str(base), output_dir=tmp_path / "run", trust_remote_code=True, settings=given)
    assert mark.exists() and run.settings.model.trust_remote_code
    with pytest.raises(LlmclsError, match=f"The base model of run '{run.path}' brings"):
        Classifier.load(run)
    assert Classifier.load(run, trust_remote_code=True).predict(["a"])[0] in "xy"


def test_pefts_settings_of_a_run_are_reduced_to_those_that_are_known(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[..., str]
) -> None:
    file = lora / "adapter" / "adapter_config.json"
    honest = lora_config(lora / "adapter")
    change_json(
        file, {"base_model_name_or_path": "evil/model", "revision": "x", "auto_mapping": {"parent_library": "x"}}
    )
    assert lora_config(lora / "adapter").to_dict() == honest.to_dict()

    (tmp_path / "evil_core.py").write_text(CODE.replace('"LLMCLS_MARK"', '"NEVER_SET"'), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    change_json(file, {"megatron_core": "evil_core", "megatron_config": {"hidden_size": 8}})
    reseal(lora)
    assert "megatron_config', 'megatron_core'" in refuse("predict", "--run", lora, "a text")
    assert "evil_core" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"peft_type": None}, "peft_type None"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern {'q_proj': 3}"),
        ({"rank_pattern": {"(a+)+$": 3}}, "rank_pattern {'(a+)+$': 3}"),
        ({"alpha_pattern": {".*\\.gate_up_proj": True}}, "alpha_pattern {"),
        ({"target_parameters": "down_proj"}, "target_parameters 'down_proj'"),
        ({"r": "4"}, "r '4'"),
        ({"r": True}, "r True"),
        ({"target_modules": "(a+)+$"}, "target_modules '(a+)+$'"),
        ({"target_modules": [1]}, "target_modules [1]"),
    ],
)
def test_pefts_settings_that_llmcls_does_not_write_are_refused(
    lora: Path, changes: dict[str, object], wrong: str
) -> None:
    change_json(lora / "adapter" / "adapter_config.json", changes)
    with pytest.raises(LlmclsError) as caught:
        lora_config(lora / "adapter")
    assert wrong in str(caught.value)


def test_weights_are_safetensors_or_refused(lora: Path, whole: Path, refuse: Callable[..., str]) -> None:
    import torch

    for run, file in ((lora, "adapter/adapter_model"), (whole, "model/model")):
        (run / f"{file}.safetensors").unlink()
        pickled = {"lora": "adapter_model.bin", "whole": "pytorch_model.bin"}[run.name]
        torch.save({"a": torch.zeros(1)}, (run / file).parent / pickled)
        assert "no weights as safetensors" in refuse("predict", "--run", reseal(run), "a text")
    index = whole / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../outside.safetensors"}}), encoding="utf-8")
    assert "'../../outside.safetensors' as a file of weights" in refuse("predict", "--run", reseal(whole), "a text")


def test_no_weights_come_from_elsewhere(whole: Path, lora: Path, refuse: Callable[..., str]) -> None:
    (whole / "model" / "adapter_config.json").write_bytes((lora / "adapter" / "adapter_config.json").read_bytes())
    assert "holds LoRA weights (adapter_config.json)" in refuse("predict", "--run", reseal(whole), "a text")


def test_every_call_that_could_run_code_says_whether_it_may(root: Path) -> None:
    files = [*(root / "llmcls").rglob("*.py"), *(root / "plugins").rglob("*.py"), *(root / "benchmarks").rglob("*.py")]
    silent = []
    for file in files:
        if "tests" in file.relative_to(root).parts:
            continue
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr not in ("from_pretrained", "from_config", "load_custom_generate", "pipeline"):
                continue
            said = {keyword.arg for keyword in call.keywords}
            spread = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
            adapter = ast.unparse(call.func.value) == "PeftModel" and "config" in said  # it loads no classes by name
            if not adapter and "trust_remote_code" not in said and "base.hub_arguments" not in spread:
                silent.append(f"{file.relative_to(root)}:{call.lineno}")
    assert not silent, "Say trust_remote_code: where it is not said, transformers asks on standard input."
    assert not [file for file in files if "trust_remote_code=True," in file.read_text(encoding="utf-8")]
