"""Runs that were begun and are not finished: how far each has come, and the command that goes on with it.

for begun in find_begun("runs"):
    begun.path, begun.step, begun.steps, begun.command      # runs/tickets, 120, 400, "llmcls train --config ..."

Nothing is opened to be believed: what a killed process left may be torn, so whatever cannot be read is left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from llmcls.errors import LlmclsError
from llmcls.files import LockedError, find_json, locked, replacing
from llmcls.runs.writing import IDENTITY, find_card, has_identity, lock_file, unfinished_folder
from llmcls.settings import Settings

BEGUN_WITH = "settings.yaml"
"""The settings that an unfinished run was begun with, for whoever has forgotten the command."""

LONGEST_READ = 1024 * 1024
"""Bytes of such settings that are read: a list of runs is to be quick, whatever lies there."""

_SUFFIX = unfinished_folder(Path("x")).name.removeprefix("x")
_CHECKPOINT = "trainer/checkpoint-*"
_SEAL, _STATE = "complete.json", "trainer_state.json"  # names of `llmcls.training.checkpoints`, which is above


@dataclass(frozen=True)
class Begun:
    """An unfinished run.

    Attributes:
        path: the run directory that it will be.
        folder: where it is until then.
        touched: when its last checkpoint was written, or else when it was begun, in UTC.
        base_model, data: as its settings name them; None where that is not known.
        step, steps: of the newest whole checkpoint, 0 before there is one, and of the whole training, where known.
        command: goes on with it; None where only the caller of `train` can, who has the rows.
        trained_by: the process that trains it right now.
    """

    path: Path
    folder: Path
    touched: datetime
    base_model: str | None
    data: str | None
    step: int
    steps: int | None
    command: str | None
    trained_by: str | None


def find_begun(root: str | Path) -> list[Begun]:
    """The unfinished runs below `root` (two levels), the one touched last first."""
    folders = {file.parent for level in ("*", "*/*") for file in Path(root).glob(f"{level}{_SUFFIX}/{IDENTITY}")}
    own = [folder for folder in sorted(folders) if not any(p.startswith(".") for p in folder.relative_to(root).parts)]
    found = [begun for folder in own if has_identity(folder) for begun in _look_at(folder)]
    return sorted(found, key=lambda begun: begun.touched, reverse=True)


def is_begun(folder: Path) -> bool:
    """Whether a folder is an unfinished run, also one that lacks nothing but its name."""
    return folder.name.endswith(_SUFFIX) and has_identity(folder)


def record_settings(folder: Path, settings: Settings) -> None:
    """Keep what an unfinished run was begun with, so that `find_begun` can say how it goes on.

    Code that the base model brings is not allowed by a file in a folder: the command says that.

    Args:
        folder: the unfinished run.
        settings: all of them, with the run to go on from as the base model where there is one.
    """
    values = settings.model_dump(mode="json")
    values["model"]["trust_remote_code"] = False
    with replacing(folder / BEGUN_WITH, held=True) as file:
        file.write(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _look_at(folder: Path) -> Iterator[Begun]:
    with suppress(OSError):  # it may become a run, or be deleted, meanwhile
        identity = find_json(folder / IDENTITY)
        path = folder.with_name(folder.name.removesuffix(_SUFFIX))
        checkpoints = [place for place in folder.glob(_CHECKPOINT) if (place / _SEAL).is_file()]
        newest = max(checkpoints, key=_step, default=None)
        state = find_json(newest / _STATE) if newest else None
        steps = state.get("max_steps") if isinstance(state, dict) else None
        settings = _settings(folder)
        data = _text(settings.get("data"), "source")
        yield Begun(
            path,
            folder,
            datetime.fromtimestamp(((newest / _SEAL) if newest else folder / IDENTITY).stat().st_mtime, UTC),
            _text(settings.get("model"), "base_model") or _text(identity, "model.base_model"),
            data,
            _step(newest) if newest else 0,
            steps if isinstance(steps, int) else None,
            _command(path, folder, identity, settings) if data is not None else None,
            _trained_by(path),
        )


def _command(path: Path, folder: Path, identity: Any, settings: Mapping[str, Any]) -> str:
    """What goes on with it: on as many processes as have begun it, where it was begun on several."""
    words = ["llmcls", "train", "--config", str(folder / BEGUN_WITH), "--output-dir", str(path)]
    if find_card(path) is not None:
        words.append("--overwrite")
    if identity.get("model.trust_remote_code") is True:
        words.append("--trust-remote-code")
    named = re.match(r"(\w+), (\d+) processes$", str(identity.get("backend")))
    backend, processes = (named[1], int(named[2])) if named else ("ddp", _processes(identity, settings))
    if named or processes > 1:
        words += ["--launch", backend, "--num-processes", str(processes)]
    return shlex.join(words)


def _processes(identity: Any, settings: Mapping[str, Any]) -> int:
    """On how many processes the rows of a step were made up; one and several by DDP are of the same kind."""
    training = settings.get("training")
    given = training if isinstance(training, Mapping) else {}
    rows = [given.get(name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")]
    whole = [number for number in (identity.get("effective batch"), *rows) if isinstance(number, int) and number > 0]
    return max(whole[0] // (whole[1] * whole[2]), 1) if len(whole) == 3 else 1


def _settings(folder: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
        file = folder / BEGUN_WITH
        if file.stat().st_size <= LONGEST_READ:
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
            return loaded if isinstance(loaded, dict) else {}
    return {}


def _trained_by(path: Path) -> str | None:
    """The process that holds the run's lock; nothing is written where there is none."""
    if not lock_file(path).exists():
        return None
    try:
        with locked(lock_file(path)):
            return None
    except LockedError as holder:
        return str(holder)
    except (LlmclsError, OSError):
        return None


def _text(values: Any, key: str) -> str | None:
    found = values.get(key) if isinstance(values, Mapping) else None
    return found if isinstance(found, str) else None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() and number.isascii() else 0
