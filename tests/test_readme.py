"""Every command and Python block of the README runs, in order, on a small CSV."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

# Models that must be downloaded are stood in for by a tiny one; training is cut short.
STAND_INS = ("llama-3.2-1b-instruct", "llama-3.2-1b", "tinyllama")
SHORT = ["--set", "training.max_steps=2"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def readme(request: pytest.FixtureRequest) -> str:
    return (request.config.rootpath / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as the README assumes it: tickets.csv and mails.csv to train on, new.csv and new.txt to classify."""
    labelled = [(f"My parcel number {n} should have been here on Tuesday", "delivery") for n in range(20)]
    labelled += [(f"You took {n} euros twice", "billing") for n in range(20)]
    rows = "\n".join(f'"{text}",{label}' for text, label in labelled)
    (tmp_path / "tickets.csv").write_text(f"text,label\n{rows}\n", encoding="utf-8")
    several = [(f"Where is parcel {n}? And you took {n} euros twice", '"billing,delivery"') for n in range(10)]
    several += [*labelled[::2], *((f"Thank you {n} times", "") for n in range(10))]
    rows = "\n".join(f'"{text}",{labels}' for text, labels in several)
    (tmp_path / "mails.csv").write_text(f"text,labels\n{rows}\n", encoding="utf-8")
    (tmp_path / "new.csv").write_text("id,text\n1,where is my parcel?\n2,send me an invoice\n", encoding="utf-8")
    (tmp_path / "new.txt").write_text("where is my parcel?\nsend me an invoice\n", encoding="utf-8")
    return tmp_path


def prepare(command: str, tiny: Path) -> str:
    """The command as the test runs it: this interpreter, stand-in models, few steps."""
    for name in STAND_INS:
        command = re.sub(rf"--base-model {re.escape(name)}(?= |$)", f"--base-model {shlex.quote(str(tiny))}", command)
    if "llmcls train" in command:
        command = f"{command} {shlex.join(SHORT)}"
    return re.sub(r"\bllmcls (?=[a-z])", f"{shlex.quote(sys.executable)} -m llmcls ", command)


@pytest.mark.slow
def test_commands(readme: str, desk: Path, tiny_model_dir: Path) -> None:
    commands = [line for block in blocks(readme, "bash") for line in block.splitlines() if line.strip()]
    assert len(commands) >= 12
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {prepare(command, tiny_model_dir)}"],
            cwd=desk,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    header, *rows = (desk / "labelled.csv").read_text(encoding="utf-8").splitlines()
    assert header.replace('"', "") == "id,text,predicted,probability"
    assert len(rows) == 2


@pytest.mark.slow
def test_python(readme: str, desk: Path) -> None:
    (code,) = [block for block in blocks(readme, "python") if "Classifier.load" in block]
    short = code.replace(
        'output_dir="runs/python"', 'output_dir="runs/python", settings={"training": {"max_steps": 2}}'
    )
    assert short != code
    check = f"{short}\nassert classifier.predict_proba(['x']).shape == (1, 2)\n"
    done = subprocess.run([sys.executable, "-c", check], cwd=desk, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_estimator(readme: str, desk: Path) -> None:
    (code,) = [block for block in blocks(readme, "python") if "LLMClassifier" in block]
    done = subprocess.run([sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_plugin_example(readme: str) -> None:
    (code,) = [block for block in blocks(readme, "python") if "hookimpl" in block]
    namespace: dict[str, object] = {}
    exec(code, namespace)
    (template,) = namespace["register_prompt_templates"]()  # type: ignore[operator]
    assert template.name == "triage"


def test_links(readme: str, request: pytest.FixtureRequest) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (request.config.rootpath / target).exists(), target
