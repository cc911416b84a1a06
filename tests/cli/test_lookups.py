"""The commands that look things up: templates, runs, models, readers, plugins, config."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmcls.evaluation.files import write_metrics
from llmcls.evaluation.metrics import compute_report
from llmcls.labels import LabelSet
from llmcls.prompt.template import prompt_templates
from llmcls.settings import Settings, load_settings


@pytest.mark.parametrize("name", sorted(prompt_templates()))
def test_every_template_is_shown(llmcls: Callable[..., Any], tickets: Path, name: str) -> None:
    head = ("--set", "training.objective=head") if name == "text" else ()  # no other leaves the label out
    done = llmcls("templates", "show", name, "--data", tickets, "--row", "1", *head)
    assert (done.code, done.err) == (0, "")
    assert f"Template '{name}' for nano, row 1 (tickets.csv:" in done.out
    printed = llmcls("templates", "show", name, "--data", tickets, "--row", "1", "--json", *head)
    tokens = json.loads(printed.out)["tokens"]
    text = "".join(token["text"] for token in tokens if token["from"] == "text")
    assert text.strip() and f"⟦{text.strip()[0]}" in done.out.replace("⟦ ", "⟦")
    assert [token["loss"] for token in tokens] == [token["from"] == "answer" for token in tokens]
    assert f"{sum(token['shared'] for token in tokens)} of them shared" in done.out
    answer = "".join(token["text"] for token in tokens if token["loss"])
    assert any(label in answer for label in ("billing", "delivery"))
    assert head or answer.endswith(("</s>", "<|end|>"))


def test_templates_of_a_run(
    llmcls: Callable[..., Any], refuse: Callable[..., str], run: Path, tiny_model_dir: Path
) -> None:
    done = llmcls("templates", "show", "--run", run)
    assert done.code == 0 and "Template 'instruction'" in done.out and "⟨answer⟩" in done.out
    assert "Template 'chat'" in llmcls("templates", "show", "chat", "--run", run, "--base-model", tiny_model_dir).out
    assert "there are 22 training rows" in refuse("templates", "show", "--run", run, "--row", "22")
    assert llmcls("templates", "show").code == 2
    assert llmcls("templates", "show", "--run", run, "--set", "lora.r=2").code == 2
    assert "Unknown template 'chta'" in refuse("templates", "show", "chta")


def test_unicode_answer_tokens_are_readable(llmcls: Callable[..., Any], tiny_model_dir: Path, here: Path) -> None:
    (here / "faces.csv").write_text("text,label\nx,🙂 smile\ny,😡\n", encoding="utf-8")
    done = llmcls("templates", "show", "instruction", "--base-model", tiny_model_dir, "--data", "faces.csv", "--json")
    tokens = json.loads(done.out)["tokens"]
    assert "".join(token["text"] for token in tokens if token["loss"]) == " 🙂 smile</s>"


@pytest.mark.parametrize("what", ["templates", "models", "readers"])
def test_lists(llmcls: Callable[..., Any], what: str) -> None:
    shown, found = llmcls(what, "list"), json.loads(llmcls(what, "list", "--json").out)
    assert shown.code == 0 and found
    assert all(name in shown.out for name in found)


def test_plugins(llmcls: Callable[..., Any]) -> None:
    shown, found = llmcls("plugins"), json.loads(llmcls("plugins", "--json").out)
    assert shown.code == 0
    for plugin in found:
        assert plugin["name"] in shown.out and plugin["module"] in shown.out
        assert f"{plugin['distribution']} {plugin['version']}" in shown.out


def test_runs(llmcls: Callable[..., Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = run.parent.relative_to(tmp_path)
    run = root / run.name
    shown = llmcls("runs", "list", root)
    assert shown.code == 0 and "runs/tickets" in shown.out
    (entry,) = json.loads(llmcls("runs", "list", root, "--json").out)
    assert (entry["run"], entry["labels"], entry["accuracy"]) == (str(run), 2, None)
    (run / "evaluation" / "test").mkdir(parents=True)
    labels = LabelSet.from_names(["billing", "delivery"])
    report = compute_report(["billing"] * 3 + ["delivery"], ["billing"] * 4, labels)
    write_metrics(report, run / "evaluation" / "test" / "metrics.json")
    assert "0.750" in llmcls("runs", "list", root).out
    shown = llmcls("runs", "show", run)
    for part in ("seal intact", "billing, delivery", "train 22", "training.max_steps: 2", "transformers", "0.7500"):
        assert part in shown.out
    assert "{'" not in shown.out and "['" not in shown.out
    card = json.loads(llmcls("runs", "show", run, "--json").out)
    assert card["settings"]["training"]["max_steps"] == 2
    (tmp_path / "empty").mkdir()
    assert llmcls("runs", "list", tmp_path / "empty").out.startswith("No runs below")
    assert "There is no folder" in llmcls("runs", "list", tmp_path / "nowhere").err


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({}, (None, None)),
        ({"test": 3}, (0.75, "test")),
        ({"validation": 2}, (0.5, "validation")),
        ({"validation": 4, "test": 1}, (0.25, "test")),
        ({"train": 4, "other.csv": 4}, (None, None)),
        ({"validation": 2, "test": None}, (0.5, "validation")),  # a damaged file
    ],
)
def test_the_accuracy_in_the_list_says_of_which_split(
    llmcls: Callable[..., Any], run: Path, measured: dict[str, int | None], expected: Any
) -> None:
    labels = LabelSet.from_names(["billing", "delivery"])
    for split, right in measured.items():
        file = run / "evaluation" / split / "metrics.json"
        file.parent.mkdir(parents=True)
        if right is None:
            file.write_text("{", encoding="utf-8")
        else:
            truth = ["billing"] * right + ["delivery"] * (4 - right)
            write_metrics(compute_report(truth, ["billing"] * 4, labels), file)
    (entry,) = json.loads(llmcls("runs", "list", run.parent, "--json").out)
    assert (entry["accuracy"], entry["split"]) == expected
    if expected[0] is not None:
        shown = " ".join(llmcls("runs", "list", run.parent).out.split())
        assert f"{expected[0]:.3f}" in shown and f"{expected[1]} " in shown.partition("accuracy:")[0]


def test_a_broken_neighbour_does_not_hide_the_runs(
    llmcls: Callable[..., Any], refuse: Callable[..., str], run: Path
) -> None:
    broken = run.parent / "broken"
    broken.mkdir()
    for content in (b"{", b"\xff", b""):
        (broken / "run.json").write_bytes(content)
        done = llmcls("runs", "list", run.parent, "--json")
        assert [bool(entry["fault"]) for entry in json.loads(done.out)] == [False, True]
        shown = " ".join(llmcls("runs", "list", run.parent).out.split())
        assert "broken cannot be read: its run.json is damaged (" in shown
        assert "run.json cannot be read" in refuse("runs", "show", broken)
    for content in (b"{}", b"[]", b'{"format": "of another program"}'):
        (broken / "run.json").write_bytes(content)
        done = llmcls("runs", "list", run.parent, "--json")
        assert len(json.loads(done.out)) == 1 and done.err == ""
        assert "is not one that llmcls wrote" in refuse("runs", "show", broken)


def test_config_round_trip(llmcls: Callable[..., Any], refuse: Callable[..., str], here: Path) -> None:
    assert llmcls("config", "init", "run.yaml").code == 0
    assert load_settings(["run.yaml"]) == Settings()
    assert (here / "run.yaml").read_text(encoding="utf-8") == llmcls("config", "init").out
    assert "exists already" in refuse("config", "init", "run.yaml")
    assert "cannot be written" in refuse("config", "init", "no/such/run.yaml")
    options = ("config", "show", "--config", "run.yaml", "--set", "lora.r=2", "--set", "training.mixed_precision=no")
    shown = yaml.safe_load(llmcls(*options).out)
    assert shown == json.loads(llmcls(*options, "--json").out)
    (here / "again.yaml").write_text(llmcls(*options).out, encoding="utf-8")
    assert load_settings(["again.yaml"]).lora.r == 2
    schema = json.loads(llmcls("config", "schema").out)
    assert set(schema["properties"]) == set(Settings.model_fields)


def test_config_shows_what_the_base_model_suggests(llmcls: Callable[..., Any]) -> None:
    first, _, rest = llmcls("config", "show", "--set", "lora.r=3").out.partition("\n")
    assert first == "# Chosen for nano: training.tuning lora, model.quantization none, training.learning_rate 0.002"
    shown = yaml.safe_load(rest)
    assert (shown["training"]["tuning"], shown["model"]["quantization"]) == ("lora", "none")
    shown = json.loads(llmcls("config", "show", "--json").out)
    assert (shown["training"]["tuning"], shown["training"]["learning_rate"]) == ("full", 1e-3)
    unknown = llmcls("config", "show", "--set", "model.base_model=owner/name").out
    assert unknown.startswith("task:") and "learning_rate: null" in unknown
