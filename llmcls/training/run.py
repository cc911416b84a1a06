"""The run directory: everything a classifier is, sealed, self-describing, written atomically.

    with writing("runs/tickets") as folder: ...      # appears under its name only when complete
    run = Run.open("runs/tickets")                   # refuses a directory that does not match its seal

Layout: `run.json` (what it is, with versions and the seal), `settings.yaml`, `template.j2`, `shots.json`, `adapter/`
(PEFT, safetensors) or, with `training.tuning: full`, `model/` (a whole checkpoint), `tokenizer/`, `log.jsonl`.
Evaluation adds `evaluation/` later, outside the seal.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from llmcls.errors import LlmclsError, LlmclsWarning, several
from llmcls.labels import Label, LabelSet
from llmcls.prompt.shots import Shots
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.settings import ModelSettings, Settings, make_settings
from llmcls.thresholds import Thresholds

FORMAT = 1
CARD = "run.json"


@dataclass(frozen=True)
class Run:
    """A finished run directory that matched its seal when it was opened.

    Attributes:
        path: the directory.
        card: the content of `run.json`.
    """

    path: Path
    card: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open and verify a run directory.

        Raises:
            LlmclsError: when it is no run, unfinished, of a newer format, or any sealed file is missing or changed;
                every such file is named.
        """
        path = Path(path)
        if not path.exists():
            unfinished = (
                f" Its training has not finished ('{unfinished_folder(path)}')."
                if unfinished_folder(path).exists()
                else ""
            )
            raise LlmclsError(
                f"There is no run directory '{path}'.{unfinished} `llmcls runs list` shows what there is."
            )
        try:
            card = json.loads((path / CARD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LlmclsError(
                f"'{path}' is no run directory: it holds no {CARD}. `llmcls runs list` shows what there is."
            ) from None
        except (OSError, ValueError) as error:
            raise LlmclsError(f"'{path}' is no intact run directory: its {CARD} cannot be read ({error}).") from error
        if not _is_card(card):
            raise LlmclsError(f"'{path}' is no run directory: its {CARD} is not one that llmcls wrote.")
        if card["format"] != FORMAT:
            raise LlmclsError(
                f"'{path}' has run format {card.get('format')!r}, this llmcls reads {FORMAT}; "
                f"use llmcls {card.get('versions', {}).get('llmcls', 'of its time')}."
            )
        problems = [] if card["seal"].pop(CARD, None) == _card_digest(card) else [f"{CARD} has changed"]
        for name, digest in card["seal"].items():
            file = path / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif file_sha256(file) != digest:
                problems.append(f"{name} has changed")
        # What lies beside sealed files would be loaded with them: a chat template, added tokens.
        for folder in ("adapter", "model", "tokenizer"):
            found = {file.relative_to(path).as_posix() for file in (path / folder).rglob("*") if file.is_file()}
            problems += [f"{name} was added" for name in sorted(found - card["seal"].keys())]
        if problems:
            raise LlmclsError(several(problems, f"Run '{path}' does not match its seal; restore it or train again"))
        return cls(path, card)

    @cached_property
    def settings(self) -> Settings:
        """The settings as resolved at training."""
        return make_settings(yaml.safe_load((self.path / "settings.yaml").read_text(encoding="utf-8")))

    @cached_property
    def labels(self) -> LabelSet:
        """The labels, in order, with their aliases and codes."""
        return LabelSet(
            Label(entry["name"], entry["description"], tuple(entry.get("aliases", ())), entry.get("code", ""))
            for entry in self.card["labels"]
        )

    @cached_property
    def template(self) -> PromptTemplate:
        """The template it was trained with, from its own copy of the source."""
        # Bytes, here and in write_card: reading as text would turn "\r\n" into "\n", and the prompt into another one.
        return PromptTemplate(self.card["template"], (self.path / "template.j2").read_bytes().decode("utf-8"))

    @cached_property
    def shots(self) -> Shots:
        """The few-shot examples it was trained with."""
        stored = json.loads((self.path / "shots.json").read_text(encoding="utf-8"))
        return Shots(*(tuple(Example(**shot) for shot in stored[part]) for part in ("examples", "spares")))

    @cached_property
    def thresholds(self) -> Thresholds:
        """From which probability on each label of a multi-label run is predicted."""
        stored = self.card["thresholds"]
        return Thresholds(tuple(stored["values"]), stored["pooled"], stored["rows"])

    @property
    def label_separator(self) -> str | None:
        """What stands between the labels of a row; None for a single-label run."""
        return self.settings.data.label_separator if self.settings.task == "multi_label" else None

    @property
    def adapter_path(self) -> Path:
        """The PEFT adapter's folder; only a run that is not `whole` has one."""
        return self.path / "adapter"

    @property
    def model_path(self) -> Path:
        """The folder of the whole checkpoint; only a `whole` run has one."""
        return self.path / "model"

    @property
    def whole(self) -> bool:
        """Whether it holds all of its model, and so does not need the base model."""
        return self.settings.training.tuning == "full"

    @property
    def has_head(self) -> bool:
        """Whether its model has a classification head."""
        return self.settings.training.objective == "head"

    @property
    def model_settings(self) -> ModelSettings:
        """Where the weights to begin with are, and how to hold them: the base model's, or the run's own."""
        trained = self.settings.model
        if not self.whole:
            return trained
        adapter = self.card["base_model"]["adapter"]
        return trained.model_copy(update={"base_model": str(self.model_path), "adapter": adapter, "revision": None})

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's folder."""
        return self.path / "tokenizer"


def write_card(
    folder: Path,
    card: dict[str, Any],
    settings: Settings,
    template: PromptTemplate,
    shots: Shots,
    unsealed: Collection[str] = (),
) -> None:
    """Write settings, template and shots, then seal every file of the folder in `run.json`, but for those `unsealed`.

    Args:
        folder: the unfinished run.
        card: what `run.json` says besides.
        settings: as resolved.
        template: the prompt's.
        shots: its solved examples.
        unsealed: names at the top of the folder that will be deleted.
    """
    dumped = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (folder / "settings.yaml").write_text(dumped, encoding="utf-8")
    (folder / "template.j2").write_bytes(template.source.encode("utf-8"))
    stored = {
        part: [{"text": shot.text, "label": shot.label} for shot in chosen]  # all that templates see of a shot
        for part, chosen in (("examples", shots.examples), ("spares", shots.spares))
    }
    (folder / "shots.json").write_text(json.dumps(stored, ensure_ascii=False, indent=1), encoding="utf-8")
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    seal = {name: file_sha256(file) for name, file in files.items() if name.partition("/")[0] not in unsealed}
    sealed = {"format": FORMAT, **card, "seal": seal}
    seal[CARD] = _card_digest(sealed)
    (folder / CARD).write_text(json.dumps(sealed, ensure_ascii=False, indent=1), encoding="utf-8")


def default_path(settings: Settings) -> Path:
    """Where a run goes that was given no name: by its data, its base model and the time."""
    source = Path((settings.data.source or "data").rstrip("/:")).stem or "data"
    model = Path(settings.model.base_model).name
    return Path("runs") / f"{source}-{model}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def writing(path: str | Path, overwrite: bool = False, keep: bool = False) -> Iterator[Path]:
    """Yield a sibling folder to write into; it takes the name `path` only when the block ends without error.

    A process that is killed leaves `path` as it was. What an error leaves behind stays in `path.unfinished`, and is
    deleted at the next attempt unless `keep` is set.

    Raises:
        LlmclsError: when `path` exists and `overwrite` is not set, or the place cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite)
    folder = unfinished_folder(path)
    try:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_place(path, error) from error
    try:
        yield folder
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise LlmclsError(f"Writing the run failed: {error}. What was written is in '{folder}'.") from error
    _flush(folder)
    if path.exists() and _exchange(folder, path):
        shutil.rmtree(folder)
    elif path.exists():
        replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        path.rename(replaced / path.name)
        folder.rename(path)
        shutil.rmtree(replaced)
    else:
        folder.rename(path)


def no_place(path: Path, error: OSError) -> LlmclsError:
    """The error for a run directory that the system does not let be made."""
    return LlmclsError(f"Run directory '{path}' cannot be created: {error.strerror}. Choose --output-dir.")


def check_free(path: str | Path, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        LlmclsError: when `path` exists, unless it is a run and `overwrite` is set.
    """
    path = Path(path)
    if not path.exists():
        return
    if not overwrite:
        raise LlmclsError(f"'{path}' exists already; choose another --output-dir, or replace it with --overwrite.")
    if not (path / CARD).is_file():
        raise LlmclsError(f"'{path}' is no run directory, so --overwrite will not delete it; choose another.")


def list_runs(root: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every run below `root` (two levels), newest first, unverified; one that cannot be read is warned of."""
    found = []
    for file in {*Path(root).glob(f"*/{CARD}"), *Path(root).glob(f"*/*/{CARD}")}:
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue  # a run that is just being replaced
        try:
            card = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            warnings.warn(f"'{file}' cannot be read: {error}.", LlmclsWarning, stacklevel=2)
            continue
        if _is_card(card):
            found.append((file.parent, card))
    return sorted(found, key=lambda entry: entry[1]["created"], reverse=True)


def _is_card(content: object) -> bool:
    """Whether a `run.json` is llmcls's: other programs use the name as well."""
    return isinstance(content, dict) and content.keys() >= {"format", "created", "base_model", "labels", "seal"}


def _card_digest(card: Mapping[str, Any]) -> str:
    """The sha256 of all that `run.json` says, but for this digest itself."""
    seal = {name: digest for name, digest in card["seal"].items() if name != CARD}
    content = json.dumps({**card, "seal": seal}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def unfinished_folder(path: Path) -> Path:
    """Where a run is written until it is finished."""
    return path.with_name(f"{path.name}.unfinished")


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap names in one step, where the system can; else nothing is done.

    Two renames would leave a moment in which neither the old run nor the new one has its name.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _flush(folder: Path) -> None:
    """Flush a folder's files to the disk, so that a rename never outlives its content."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
