"""The run directory: everything a classifier is, sealed and self-describing.

    run = Run.open("runs/tickets")                   # refuses a directory that does not match its seal
    write_card(folder, card, settings, template, shots)

Layout: `run.json` (what it is, with versions and the seal), `settings.yaml`, `template.j2`, `shots.json`, `adapter/`
(PEFT, safetensors) or, with `training.tuning: full`, `model/` (a whole checkpoint), `tokenizer/`, `log.jsonl`.
Evaluation adds `evaluation/` later, outside the seal.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from llmcls.errors import LlmclsError, LlmclsWarning, several
from llmcls.figures import finite, to_json
from llmcls.files import replacing, sha256_of
from llmcls.labels import Label, LabelSet
from llmcls.prompt.shots import Shots
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.runs.migrations import FORMAT, migrate, migrate_settings, readable_formats
from llmcls.runs.remains import clear_remains
from llmcls.runs.writing import CARD, MARK, is_card, unfinished_folder
from llmcls.settings import ModelSettings, Settings, make_settings


@dataclass(frozen=True)
class Run:
    """A finished run directory that matched its seal when it was opened.

    Attributes:
        path: the directory.
        card: the content of `run.json`, in the current format.
        written: the format that its files have.
    """

    path: Path
    card: dict[str, Any]
    written: int = FORMAT

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
                f"'{path}' is not a run directory: it holds no {CARD}. `llmcls runs list` shows what there is."
            ) from None
        except (OSError, ValueError) as error:
            raise LlmclsError(
                f"'{path}' is not an intact run directory: its {CARD} cannot be read ({error})."
            ) from error
        if not is_card(card):
            raise LlmclsError(f"'{path}' is not a run directory: its {CARD} is not one that llmcls wrote.")
        if card["format"] not in readable_formats():
            raise LlmclsError(
                f"'{path}' has run format {card['format']!r}, this llmcls reads up to {FORMAT}; "
                f"use llmcls {card.get('versions', {}).get('llmcls', 'of its time')}."
            )
        problems = [] if card["seal"].pop(CARD, None) == _card_digest(card) else [f"{CARD} has changed"]
        for name, digest in card["seal"].items():
            file = path / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif sha256_of(file) != digest:
                problems.append(f"{name} has changed")
        # What lies beside sealed files would be loaded with them: a chat template, added tokens.
        for folder in ("adapter", "model", "tokenizer"):
            found = {file.relative_to(path).as_posix() for file in (path / folder).rglob("*") if file.is_file()}
            problems += [f"{name} was added" for name in sorted(found - card["seal"].keys())]
        if problems:
            raise LlmclsError(several(problems, f"Run '{path}' does not match its seal; restore it or train again"))
        clear_remains(path)
        return cls(path, migrate(card), card["format"])

    def __repr__(self) -> str:
        return f"<Run '{self.path}': {self.card['base_model'].get('name')}, {len(self.card['labels'])} labels>"

    @cached_property
    def settings(self) -> Settings:
        """The settings as resolved at training."""
        values = yaml.safe_load((self.path / "settings.yaml").read_text(encoding="utf-8"))
        return make_settings(migrate_settings(values, self.written))

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

    @property
    def decision(self) -> Mapping[str, Any] | None:
        """What the form of answer decided on held-out rows, such as thresholds; None where it decides nothing."""
        return self.card["decision"]  # type: ignore[no-any-return]

    @property
    def fingerprint(self) -> str:
        """Tells it from all others: a digest of all that it says and of all its sealed files."""
        return _card_digest(self.card)

    @property
    def origin(self) -> Mapping[str, str] | None:
        """The run whose training it went on with: its `run` directory, `fingerprint`, and which `weights` of it."""
        return self.card.get("started_from")

    def require_base_before(self) -> None:
        """Refuse to call the base model what this run was before its training, where that was another run.

        Raises:
            LlmclsError: when training went on with the LoRA weights of another run.
        """
        if self.origin and self.origin["weights"] == "adapter":
            raise LlmclsError(
                f"Run '{self.path}' went on with the LoRA weights of run '{self.origin['run']}', so that run, not the "
                "base model, is what it was before; leave --before and --samples out, and evaluate that run for itself."
            )

    @property
    def label_separator(self) -> str | None:
        """What stands between the labels of a row; None for a single-label run."""
        return self.settings.data.label_separator if self.settings.form.several else None

    @property
    def lora_path(self) -> Path:
        """The folder of the LoRA weights, as PEFT saves them; only a run that is not `whole` has one."""
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
        """Where the weights to begin with are, and how to hold them: the base model's, or the run's own.

        Whether code may run is never a run's to say: `trust_remote_code` is false here.
        """
        trained = self.settings.model.model_copy(update={"trust_remote_code": False})
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
    (folder / "shots.json").write_text(to_json(stored, indent=1), encoding="utf-8")
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    seal = {name: sha256_of(file) for name, file in files.items() if name.partition("/")[0] not in (*unsealed, MARK)}
    sealed = {"format": FORMAT, **finite(card), "seal": seal}
    seal[CARD] = _card_digest(sealed)
    with replacing(folder / CARD, held=True) as file:  # last, and whole: it is what makes the folder a run
        file.write(to_json(sealed, indent=1))


def list_runs(root: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every run below `root` (two levels), newest first, unverified; one that cannot be read is warned of."""
    found = []
    for path, card in find_runs(root):
        if isinstance(card, str):
            warnings.warn(f"'{path / CARD}' cannot be read: {card}.", LlmclsWarning, stacklevel=2)
        else:
            found.append((path, card))
    return found


def find_runs(root: str | Path) -> list[tuple[Path, dict[str, Any] | str]]:
    """Every folder below `root` (two levels) with a run's card, newest first, or with what is wrong with the card.

    Cards of other programs are left out; faulty ones come last.
    """
    found: list[tuple[Path, dict[str, Any] | str]] = []
    for file in sorted({*Path(root).glob(f"*/{CARD}"), *Path(root).glob(f"*/*/{CARD}")}):
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue  # a run that is just being replaced
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not is_card(content):
                continue
            if content["format"] in readable_formats():
                found.append((file.parent, migrate(content)))
            else:
                found.append((file.parent, f"run format {content['format']!r}, but this llmcls reads up to {FORMAT}"))
        except OSError as error:
            found.append((file.parent, error.strerror or str(error)))
        except (ValueError, RecursionError):
            found.append((file.parent, f"its {CARD} is not JSON in UTF-8"))
        except (KeyError, TypeError, AttributeError) as error:  # whoever has edited it
            found.append((file.parent, f"its {CARD} is odd ({type(error).__name__}: {error})"))
    return sorted(found, key=lambda entry: "" if isinstance(entry[1], str) else str(entry[1]["created"]), reverse=True)


def _card_digest(card: Mapping[str, Any]) -> str:
    """The sha256 of all that `run.json` says, but for this digest itself."""
    seal = {name: digest for name, digest in card["seal"].items() if name != CARD}
    content = json.dumps({**card, "seal": seal}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
