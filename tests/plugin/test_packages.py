"""What is not there says which package to install, or that it is switched off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llmcls import Classifier, LlmclsError
from llmcls.data.sources import open_tables
from llmcls.figures import to_json
from llmcls.files import read_json
from llmcls.model.loading import find_checkpoint
from llmcls.plugin.manager import load_plugins
from llmcls.plugin.packages import missing_plugins, packaged
from llmcls.runs.card import card_digest
from llmcls.settings import ModelSettings

FORMATS = Path(__file__).parents[1] / "runs" / "formats" / "2"


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No plugin is installed but the built-in ones."""
    monkeypatch.setattr("llmcls.plugin.manager.distributions", lambda: iter(()))
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


@pytest.mark.usefixtures("uninstalled")
@pytest.mark.parametrize(("name", "package"), [("nano", "llmcls-nano"), ("smollm2-360m", "llmcls-smollm2")])
def test_a_base_model_of_a_package_that_is_not_installed(name: str, package: str) -> None:
    says = (
        rf"^The base model '{name}' comes with the package {package}, which is not installed; pip install {package}\.$"
    )
    with pytest.raises(LlmclsError, match=says):
        find_checkpoint(ModelSettings(base_model=name))
    with pytest.raises(LlmclsError, match=r"Unknown base model 'nanno'"):
        find_checkpoint(ModelSettings(base_model="nanno"))


@pytest.mark.usefixtures("uninstalled")
def test_adapter_and_data(tmp_path: Path) -> None:
    with pytest.raises(
        LlmclsError, match=r"^model\.adapter: The base-model adapter 'smollm2' .* pip install llmcls-smol"
    ):
        find_checkpoint(ModelSettings(base_model=str(tmp_path), adapter="smollm2"))
    with pytest.raises(LlmclsError, match=r"^The data set 'demo:' comes with .* pip install llmcls-nano\.$"):
        open_tables("demo:")


@pytest.mark.usefixtures("plugin_manager")
def test_what_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(packaged("base model", "nano")).endswith("is switched off; take '*' out of LLMCLS_DISABLE_PLUGINS.")
    monkeypatch.setenv("LLMCLS_DISABLE_PLUGINS", "nano")
    assert str(packaged("base model", "nano")).endswith("is switched off; take 'nano' out of LLMCLS_DISABLE_PLUGINS.")


@pytest.mark.usefixtures("uninstalled")
def test_plugins_that_were_there() -> None:
    assert missing_plugins({"base_models": "llmcls 0.1.0", "by-hand": " "}) is None
    said = missing_plugins({"a": "a-dist 1.0", "b": "b-dist 2.0", "c": "b-dist 2.0"})
    assert said == "a-dist 1.0 and b-dist 2.0, which are not installed; pip install a-dist b-dist."


def test_a_run_whose_adapter_is_gone_is_not_asked_in_another_format(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FORMATS / "single_label", tmp_path / "run"))
    card = read_json(run / "run.json", "File")
    for plugins, hint in (
        (
            {"mine": "my-models 3.1"},
            "it was trained with my-models 3.1, which is not installed; pip install my-models.",
        ),
        ({}, "Unknown base-model adapter 'gone'. Available: "),
        (7, "Unknown base-model adapter 'gone'."),
    ):
        card["base_model"]["adapter"], card["plugins"] = "gone", plugins
        card["seal"].pop("run.json", None)
        card["seal"]["run.json"] = card_digest(card)
        (run / "run.json").write_text(to_json(card))
        with pytest.raises(LlmclsError, match="needs the base-model adapter 'gone', which no plugin here has") as told:
            Classifier.load(run)
        assert hint in str(told.value)
