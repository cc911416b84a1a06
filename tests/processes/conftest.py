"""A tiny model, a few rows, and real processes that always come to an end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from llmcls.testing import build_tiny_model

TIMEOUT = 240
ROWS = 53  # 47 for training: the last batch of an epoch is never full


@dataclass(frozen=True)
class Place:
    """Model, rows and settings on the disk."""

    folder: Path

    @property
    def settings(self) -> dict:
        """Deterministic, no dropout: packed rows share it, so it would differ with the number of processes."""
        return {
            "data": {"source": str(self.folder / "rows.csv")},
            "model": {"base_model": str(self.folder / "tiny"), "quantization": "none"},
            "lora": {"lora_dropout": 0.0},
            "training": {
                "objective": "sft",  # its loss falls far in eight steps, so that two wrong curves cannot look alike
                "max_steps": 8,
                "per_device_train_batch_size": 8,
                "logging_steps": 1,
                "eval_strategy": "epoch",
                "learning_rate": 5e-3,
            },
        }

    def losses(self, run: Path) -> list[float]:
        """Training and validation losses in order, from a finished run."""
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        return [entry.get("loss", entry.get("eval_loss")) for entry in entries if "train_loss" not in entry]

    def logged(self, run: Path, *names: str) -> list[float]:
        """These figures in order, from a finished run."""
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        return [entry[name] for entry in entries for name in names if name in entry]

    def probabilities(self, run: Path) -> list[float]:
        """What the saved run, loaded anew, thinks of some rows: all labels' probabilities."""
        from llmcls import Classifier
        from llmcls.records import Example

        texts = [Example(f"row {number}: the sky is {word}") for number in range(4) for word in ("red", "blue")]
        return [value for found in Classifier.load(run).classify(texts) for value in found.probabilities]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("launch")
    build_tiny_model(folder / "tiny")
    chance = random.Random(0)
    rows = ["text,label"]
    for number in range(ROWS):
        label = chance.choice(["red", "blue", "green"])
        rows.append(f"{number}: the sky is {label} {'x' * chance.randint(0, 40)},{label}")
    (folder / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    place = Place(folder)
    (folder / "settings.yaml").write_text(yaml.safe_dump(place.settings), encoding="utf-8")
    return place


@dataclass
class Finished:
    """A process that has ended."""

    code: int
    output: str


Start = Callable[..., Finished]


@pytest.fixture(scope="session")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where DeepSpeed keeps what it compiles: not with the user's, where a killed test leaves its lock for ever."""
    return tmp_path_factory.mktemp("torch_extensions")


@pytest.fixture
def start(root: Path, extensions: Path) -> Iterator[Start]:
    """Run `python -m MODULE ARGUMENTS` and wait; `on` maps a piece of output to what is done when it appears.

    Workers of a launcher have sessions of their own, so the whole tree of processes is ended, by their numbers.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, on: dict[str, Callable[[subprocess.Popen[str]], None]] | None = None, **environment: str
    ) -> Finished:
        return run([sys.executable, *arguments], on, **environment)

    def run(
        command: list[str], on: dict[str, Callable[[subprocess.Popen[str]], None]] | None = None, **environment: str
    ) -> Finished:
        process = spawn(command, **environment)
        watchdog = threading.Timer(TIMEOUT, end_tree, [process])
        watchdog.start()
        waiting, lines = dict(on or {}), []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            for piece in [piece for piece in waiting if piece in line]:
                waiting.pop(piece)(process)
        process.wait()
        expired = not watchdog.is_alive()
        watchdog.cancel()
        output = "".join(lines)
        assert not expired, f"not done after {TIMEOUT} s:\n{output}"
        return Finished(process.returncode, output)

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return spawn([sys.executable, *arguments], **environment)

    def spawn(command: list[str], **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "LLMCLS_"))}
        if all(process.poll() is not None for process in processes):
            for lock in extensions.rglob("lock"):
                lock.unlink()  # of a compilation that was killed: torch would wait for its end
        process = subprocess.Popen(
            command,
            env=clean
            | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
            | {"CUDA_VISIBLE_DEVICES": "", "TORCH_EXTENSIONS_DIR": str(extensions)}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    start.begin, start.run, start.end_tree = begin, run, end_tree  # type: ignore[attr-defined]
    yield start
    for process in processes:
        end_tree(process)


def end_tree(process: subprocess.Popen[str]) -> None:
    """Kill a process and everything it has started."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
