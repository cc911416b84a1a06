"""Checkpoints that are whole or do not count, and the decision where an unfinished run goes on.

    identity = describe_run(settings, splits.fingerprint, base.fingerprint)
    checkpoint = choose_checkpoint(folder, "auto", identity, world, force=False, reporter=reporter)
    with writing_checkpoint(folder / "trainer" / "checkpoint-100") as checkpoint:
        ...                                                           # a full disk is one sentence
        seal_checkpoint(checkpoint)                                   # after everything of it is on the disk

A checkpoint counts from the moment its `complete.json` exists, which is written last, by renaming, with the size and
SHA-256 of every other file; whatever a killed process or a full disk left behind lacks it or does not match it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmcls.console import Reporter
from llmcls.errors import LlmclsError, several
from llmcls.files import draft_of, flush, replacing, sha256_of
from llmcls.processes.world import World
from llmcls.runs.writing import CARD, IDENTITY, is_write_failure
from llmcls.settings import Settings
from llmcls.training.backends import effective_batch

SEAL = "complete.json"
STATE_FILE = "trainer_state.json"
"""What transformers' `Trainer` knows of a training; `TRAINER_STATE_NAME` there."""


# Settings that may change from one attempt to the next: they do not change what is learned.
_FREE = {
    "data.source",  # its rows are compared, wherever they lie
    "output_dir",
    "prediction",
    "training.per_device_train_batch_size",  # the product is compared: effective_batch
    "training.gradient_accumulation_steps",
    "training.per_device_eval_batch_size",
    "training.dataloader_num_workers",
    "training.gradient_checkpointing",
    "training.halve_batch_on_oom",
    "training.logging_steps",
    "training.pack_tokens",
    "training.report_to",
    "training.save_minutes",
    "training.save_steps",
    "training.save_strategy",
    "training.save_total_limit",
}


def describe_run(settings: Settings, data: str, base_model: str, world: World) -> dict[str, Any]:
    """What must be the same for a run to go on: flat `{dotted setting: value}`, with fingerprints."""
    described = {
        name: value
        for name, value in _flatten(settings.model_dump(mode="json"))
        if name not in _FREE and name.partition(".")[0] not in _FREE
    }
    described["rows of data"] = data
    described["base model's architecture"] = base_model
    described["effective batch"] = effective_batch(settings.training, world.size)
    if world.backend in ("zero1", "zero2", "zero3", "fsdp"):  # each process has stored its own shard
        described["backend"] = f"{world.backend}, {world.size} processes"
    else:
        described["backend"] = "single or ddp"
    return described


def choose_checkpoint(
    folder: Path, wanted: str, identity: Mapping[str, Any], *, force: bool, reporter: Reporter, best: bool = False
) -> Path | None:
    """The checkpoint to go on from, or None to begin anew.

    Args:
        folder: the unfinished run.
        wanted: auto, never, or the path of a checkpoint.
        identity: `describe_run` of this attempt.
        force: go on although settings or data differ; not with another backend, whose files are other ones.
        reporter: hears of checkpoints that are skipped.
        best: the best checkpoint will be kept at the end, so that one must be whole as well.

    Raises:
        LlmclsError: when a named checkpoint is not whole, another backend wrote it, or settings or data differ; every
            difference is listed.
    """
    if wanted == "never":
        return None
    if wanted != "auto":
        checkpoint = Path(wanted)
        if reason := find_fault(checkpoint, best):
            raise LlmclsError(f"Checkpoint '{checkpoint}' cannot be used: {reason}.")
    else:
        found = _newest(folder, reporter, best)
        if found is None:
            return None
        checkpoint = found
    recorded = checkpoint.parent.parent / IDENTITY
    if not recorded.is_file():
        raise LlmclsError(
            f"'{recorded}' is missing, so nobody knows what '{checkpoint}' was trained on; start over with "
            "--resume never."
        )
    then = json.loads(recorded.read_text(encoding="utf-8"))
    then.pop("data.source", None)  # older versions recorded it
    if then.get("training.learning_rate", 0) is None:  # older versions recorded no suggested one
        then["training.learning_rate"] = identity["training.learning_rate"]
    if changed := differences(then, identity):
        if then.get("backend") != identity["backend"]:
            raise LlmclsError(
                f"'{checkpoint}' was written by {then.get('backend')}, which {identity['backend']} cannot read; start "
                "it as it was, or start over with --resume never."
            )
        if not force:
            raise LlmclsError(
                several(changed, f"'{checkpoint}' was written with other settings or data")
                + "\nGive the old ones again, start over with --resume never, or go on all the same with --force."
            )
        reporter.warn(f"going on although this differs: {'; '.join(changed)}.")
    return checkpoint


def record_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Store what `choose_checkpoint` will compare with."""
    with replacing(folder / IDENTITY, held=True) as file:
        file.write(json.dumps(identity, indent=1, ensure_ascii=False))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each entry that differs."""
    return [
        f"{name}: was {then.get(name)!r}, is {now.get(name)!r}"
        for name in [*then, *(name for name in now if name not in then)]
        if then.get(name) != now.get(name)
    ]


def seal_checkpoint(checkpoint: Path) -> None:
    """Declare a checkpoint whole: flush its files to the disk, then write their sizes and digests."""
    files = {}
    for file in _files(checkpoint):
        with file.open("rb") as stream:
            flush(stream)
        files[file.relative_to(checkpoint).as_posix()] = _fingerprint(file)
    with replacing(checkpoint / SEAL, held=True) as written:
        written.write(json.dumps(files, indent=1))


@contextmanager
def writing_checkpoint(checkpoint: Path) -> Iterator[Path]:
    """Say in one sentence why a checkpoint could not be written; what was begun of it goes, older ones stay.

    Raises:
        LlmclsError: when the disk is full, a quota used up, or the folder has become read-only.
    """
    try:
        yield checkpoint
    except Exception as error:
        if not is_write_failure(error):
            raise
        shutil.rmtree(checkpoint, ignore_errors=True)
        said = str(error) if "os error" in str(error) else "writing failed"  # torch names its own source file
        reason = (isinstance(error, OSError) and error.strerror) or said
        free = shutil.disk_usage(checkpoint.parent).free / 1e6
        older = next((path for path in _checkpoints(checkpoint.parent) if (path / SEAL).is_file()), None)
        goes_on = f"goes on from '{older.name}'" if older else "begins anew"
        raise LlmclsError(
            f"'{checkpoint}' cannot be written: {reason}, with {free:.0f} MB free there; make room, and the same "
            f"command with the same --output-dir {goes_on}."
        ) from error


def find_fault(checkpoint: Path, best: bool = False) -> str | None:
    """Why a checkpoint must not be used, or None when it is whole; with `best` also the best one before it."""
    seal = checkpoint / SEAL
    if not checkpoint.is_dir():
        return "there is no such folder"
    if not seal.is_file():
        return "its writing was not finished"
    try:
        recorded = json.loads(seal.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return f"its {SEAL} is damaged"
    for name, fingerprint in recorded.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if _fingerprint(file) != fingerprint:
            return f"{name} has changed"
    if best and (chosen := json.loads((checkpoint / STATE_FILE).read_text("utf-8")).get("best_model_checkpoint")):
        beside = checkpoint.parent / Path(chosen).name
        if beside.name != checkpoint.name and (reason := find_fault(beside)):
            return f"the best checkpoint so far, {beside.name}, cannot be used: {reason}"
    return None


def remove_old(folder: Path, keep: int | None, best: str | None) -> None:
    """Delete all but the `keep` newest whole checkpoints, never the best one."""
    whole = [checkpoint for checkpoint in _checkpoints(folder) if (checkpoint / SEAL).is_file()]
    for checkpoint in whole[keep:] if keep else []:
        if best is None or checkpoint.resolve() != Path(best).resolve():
            (checkpoint / SEAL).unlink()  # from here on it does not count, whenever the process dies
            shutil.rmtree(checkpoint)


def remove_leftovers(checkpoint: Path) -> None:
    """Delete what the killed attempt wrote after the checkpoint that training goes on from."""
    for other in _checkpoints(checkpoint.parent):
        if _step(other) > _step(checkpoint):
            (other / SEAL).unlink(missing_ok=True)
            shutil.rmtree(other)
    folder = checkpoint.parent.parent
    for part in ("adapter", "model", "tokenizer"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for file in (folder / CARD, draft_of(folder / CARD)):  # or the draft would be sealed, and then renamed
        file.unlink(missing_ok=True)
    if (events := folder / "tensorboard").is_dir() and not (folder / "trainer" / "runs").exists():
        events.rename(folder / "trainer" / "runs")  # where the tracker goes on, and whence they are moved at the end


def _newest(folder: Path, reporter: Reporter, best: bool) -> Path | None:
    for checkpoint in _checkpoints(folder / "trainer"):
        reason = find_fault(checkpoint, best)
        if reason is None:
            return checkpoint
        reporter.warn(f"'{checkpoint}' is skipped: {reason}.")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first, by step."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdigit()]
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _files(checkpoint: Path) -> Iterator[Path]:
    yield from sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != SEAL)


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # A mapping keyed by labels or splits is one value; sections are not.
        if isinstance(value, Mapping) and not prefix:
            yield from _flatten(value, f"{key}.")
        else:
            yield f"{prefix}{key}", value
