"""The run directory: sealed, atomic, self-describing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls import Classifier, LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.shots import Shots
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.runs.run import Run, find_runs, write_card
from llmcls.runs.writing import explaining_writes, writing
from llmcls.settings import Settings
from llmcls.testing import build_tiny_model, build_tiny_tokenizer

CARD = {
    "created": "2030-01-01T00:00:00+00:00",
    "labels": [{"name": "a", "description": "the first"}, {"name": "ü 🙂", "description": ""}],
    "template": "odd",
    "base_model": {"name": "nano", "adapter": "nano", "fingerprint": "0"},
    "data": {"source": None, "fingerprint": "0", "text_columns": ["text"], "label_column": "label"},
    "training": {},
    "versions": {"llmcls": "0"},
}
TEMPLATE = PromptTemplate("odd", "{# odd #}text: {{ text }}\r\nlabel:")


def write_run(path: Path, overwrite: bool = False, **changes: Any) -> Run:
    shots = Shots((Example("one\r\ntwo 🙂", "a"),), (Example("", "ü 🙂"),))
    with writing(path, overwrite) as folder:
        (folder / "adapter").mkdir()
        (folder / "tokenizer").mkdir()
        (folder / "adapter" / "weights").write_bytes(bytes(range(256)))
        (folder / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
        write_card(folder, {**CARD, **changes}, Settings(seed=7), TEMPLATE, shots)
    return Run.open(path)


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_everything_comes_back(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert run.settings == Settings(seed=7)
    assert run.labels == LabelSet.from_names(["a", "ü 🙂"], {"a": "the first"})
    assert (run.template.name, run.template.source) == ("odd", TEMPLATE.source), "carriage returns included"
    assert [(s.text, s.label) for s in run.shots.examples] == [("one\r\ntwo 🙂", "a")]
    assert [(s.text, s.label) for s in run.shots.spares] == [("", "ü 🙂")]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_every_file_is_sealed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    names = list(content(run.path))
    assert {"run.json", "settings.yaml", "template.j2", "shots.json", "adapter/weights"} < set(names)
    for name in names:
        file = run.path / name
        before = file.read_bytes()
        for place in {0, len(before) // 2, len(before) - 1}:
            file.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
            with pytest.raises(LlmclsError, match=name.replace(".", r"\.")):
                Run.open(run.path)
        file.unlink()
        with pytest.raises(LlmclsError, match=name.replace(".", r"\.")):
            Run.open(run.path)
        file.write_bytes(before)
    Run.open(run.path)


def test_the_card_is_sealed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    card = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    card["labels"].reverse()
    (run.path / "run.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(LlmclsError, match=r"run\.json has changed"):
        Run.open(run.path)


def test_all_problems_are_named_together_and_files_beside_the_sealed_ones_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "metrics.json").touch()
    Run.open(run.path)
    (run.path / "tokenizer" / "chat_template.jinja").write_text("surprise", encoding="utf-8")
    (run.path / "adapter" / "weights").unlink()
    (run.path / "settings.yaml").write_text("seed: 8", encoding="utf-8")
    with pytest.raises(LlmclsError) as caught:
        Run.open(run.path)
    for part in ("3 problems", "chat_template.jinja was added", "weights is missing", "settings.yaml has changed"):
        assert part in str(caught.value)


def test_a_newer_format_says_which_version_reads_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    text = (run.path / "run.json").read_text(encoding="utf-8")
    (run.path / "run.json").write_text(text.replace('"format": 2', '"format": 9'), encoding="utf-8")
    with pytest.raises(LlmclsError, match=r"has run format 9.*use llmcls 0"):
        Run.open(run.path)


def test_an_error_leaves_the_old_run_and_the_remains(tmp_path: Path) -> None:
    before = content(write_run(tmp_path / "run").path)
    for error in (OSError(28, "No space left on device"), ZeroDivisionError()):
        with pytest.raises((LlmclsError, ZeroDivisionError), match=r"^$|Writing the run failed.*No space"):
            _fail_while_writing(tmp_path / "run", error)
    # What does not write is not blamed on the disk.
    with pytest.raises(ConnectionRefusedError), writing(tmp_path / "run", overwrite=True):
        raise ConnectionRefusedError(111, "Connection refused")
    assert content(tmp_path / "run") == before
    assert content(write_run(tmp_path / "run", overwrite=True, created="2031").path) != before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def _fail_while_writing(path: Path, error: Exception) -> None:
    with writing(path, overwrite=True) as folder, explaining_writes(folder):
        (folder / "log.jsonl").touch()
        raise error


def test_what_is_in_the_way(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "folder" / "thesis").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(LlmclsError, match="exists already"), writing(tmp_path / "run"):
        pass
    for name in ("folder", "file"):
        with pytest.raises(LlmclsError, match="not a run directory"), writing(tmp_path / name, overwrite=True):
            pass
    with pytest.raises(LlmclsError, match="cannot be created"), writing(tmp_path / "file" / "run"):
        pass


def test_the_list_is_newest_first(tmp_path: Path) -> None:
    for name, created in (("b", "2030"), ("group/c", "2031"), ("a", "2029"), (".hidden/x", "2040")):
        write_run(tmp_path / name, created=created)
    assert [path.relative_to(tmp_path).as_posix() for path, _ in find_runs(tmp_path)] == ["group/c", "b", "a"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two folders in one step")
def test_a_kill_at_any_step_of_writing_leaves_the_old_run_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    old = write_run(path).card
    outcomes = []
    finished = False
    for step in range(1, 120):
        child = os.fork()
        if child == 0:  # a copy of this process is quicker than a new one by seconds
            try:
                _write_and_die(path, step)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        outcomes.append(Run.open(path).card["created"])
        if not os.WIFSIGNALED(status):
            finished = True
            break
        if outcomes[-1] != old["created"]:
            shutil.rmtree(path)
            write_run(path)
    assert finished and len(outcomes) > 8
    assert set(outcomes) == {"2031", old["created"]} and outcomes[0] == old["created"]


def _write_and_die(path: Path, step: int) -> None:
    """Write a new run over the one at `path`; kill this process before the given file operation."""
    left = step

    def kill_when_due(event: str, _: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "ctypes.dlopen", "shutil.rmtree"):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill_when_due)
    write_run(path, overwrite=True, created="2031")


@pytest.mark.slow
def test_a_kill_during_training_leaves_the_old_run(fit: Callable[..., Any], tmp_path: Path) -> None:
    trained = fit({"training.max_steps": 1})
    before = content(trained.run.path)
    (tmp_path / "data.csv").write_text("text,label\n" + "x 1,a\ny 2,b\n" * 20, encoding="utf-8")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "llmcls", "train", "--data", str(tmp_path / "data.csv"), "--overwrite",
            "--base-model", trained.run.settings.model.base_model, "--output-dir", str(trained.run.path),
            "--set", "training.max_steps=1000000", "--set", "training.logging_steps=1",
        ],
        stderr=subprocess.PIPE, text=True, env=dict(os.environ), start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        deadline = time.monotonic() + 120
        while "step 3/" not in (line := process.stderr.readline()):
            assert line and time.monotonic() < deadline, "training has not begun"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert content(trained.run.path) == before
    assert (tmp_path / "run.unfinished").is_dir()
    assert Run.open(trained.run.path).card == trained.run.card


def test_the_card_is_complete(fit: Callable[..., Any], tiny_model_dir: Path) -> None:
    run = fit({"training.max_steps": 1}).run
    card = run.card
    assert card["base_model"]["name"] == str(tiny_model_dir)
    assert card["data"]["rows"] == {"train": 14, "validation": 5, "test": 0}
    assert (card["data"]["text_columns"], card["data"]["label_column"]) == (["text"], "label")
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes", "llmcls", "python"} <= set(card["versions"])
    assert {"base_models", "nano"} <= set(card["plugins"])
    assert card["training"]["train_loss"] > 0 and len(card["data"]["fingerprint"]) == 64
    places = str(run.path)
    for name, data in content(run.path).items():
        assert places.encode() not in data or name == "settings.yaml", f"{name} names the folder it was written in"
        assert b".unfinished" not in data, name


@pytest.mark.slow
def test_the_base_model_is_recognised_by_its_weights(
    fit: Callable[..., Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny_model_dir, own)
    run = fit({"training.max_steps": 1, "model.base_model": str(own)}).run
    expected = Classifier.load(run).predict_proba(["hello"])
    own.rename(tmp_path / "moved")
    with pytest.raises(LlmclsError, match="if that has moved, say where it is with --base-model"):
        Classifier.load(run)
    found = Classifier.load(run, base_model=str(tmp_path / "moved")).predict_proba(["hello"])
    assert found.tolist() == expected.tolist()
    _save_in_shards(tmp_path / "moved", tmp_path / "shards")
    found = Classifier.load(run, base_model=str(tmp_path / "shards")).predict_proba(["hello"])
    assert found == pytest.approx(expected, abs=1e-6)
    other = build_tiny_model(tmp_path / "other", build_tiny_tokenizer(), seed=1)  # the same architecture
    for wrong in (str(other), "nano"):
        with pytest.raises(LlmclsError, match="has other weights; give the right base model with --base-model"):
            Classifier.load(run, base_model=wrong)


def _save_in_shards(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(source).save_pretrained(target, max_shard_size="20KB")
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    assert len(list(target.glob("*.safetensors"))) > 1
