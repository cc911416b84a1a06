"""What `make quickstart` does, as make says it would: nothing is installed or trained here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmcls.cli import build_cli

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def plan(root: Path, venv: Path, target: str) -> str:
    """The commands that make would run in a new environment."""
    command = ["make", "--dry-run", "--no-print-directory", f"VENV={venv}", target]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def installed(commands: str) -> set[str]:
    return set(re.findall(r"-e (\S+)", commands))


def test_quickstart_installs_llmcls_and_nano_alone(root: Path, tmp_path: Path) -> None:
    commands = plan(root, tmp_path / "new", "quickstart")
    assert installed(commands) == {".", "./plugins/llmcls-nano"}
    assert "--group" not in commands and "deepspeed" not in commands
    everything = {f"./{path.parent.relative_to(root)}" for path in root.glob("plugins/*/pyproject.toml")}
    assert installed(plan(root, tmp_path / "new", "test")) == {".", *everything}


def test_quickstart_ends_by_saying_how_to_call_llmcls(root: Path, tmp_path: Path) -> None:
    venv = tmp_path / "new"
    *_, last = plan(root, venv, "quickstart").partition("printf ")
    said = subprocess.run(["bash", "-c", f"printf {last}"], capture_output=True, text=True, check=True).stdout
    lines = [line.strip() for line in said.splitlines()]
    assert f"source {venv}/bin/activate" in lines
    calls = [shlex.split(line)[1:] for line in lines if "llmcls " in line and line.split()[0].endswith("llmcls")]
    assert [call[0] for call in calls] == ["predict", "train"]
    assert calls[0][:3] == ["predict", "--run", "runs/quickstart"]
    assert "--output-dir runs/quickstart" in plan(root, venv, "quickstart"), "the run that is asked is there by then"
    for name, *_ in calls:
        assert CliRunner().invoke(build_cli(), [name, "--help"]).exit_code == 0
