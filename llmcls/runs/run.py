"""The run directory: everything a classifier is, sealed and self-describing.

    run = Run.open("runs/tickets")                   # refuses a directory that does not match its seal
    write_card(folder, card, settings, template, shots)

Layout: `run.json` (what it is, with versions and the seal), `settings.yaml`, `template.j2`, `shots.json`, `adapter/`
(PEFT, safetensors) or, with `training.tuning: full`, `model/` (a whole checkpoint), `tokenizer/`, `log.jsonl`.
Evaluation adds `evaluation/` later, outside the seal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from llmcls.data.paths import path_exists
from llmcls.errors import LlmclsError, several
from llmcls.figures import finite, to_json
from llmcls.files import read_bytes, read_json, read_text, replacing, sha256_of
from llmcls.labels import Label, LabelSet
from llmcls.prompt.shots import Shots
from llmcls.prompt.template import LONGEST_SOURCE, PromptTemplate
from llmcls.records import Example
from llmcls.runs.card import broken_seal, card_digest, is_readable, read_card, why_unread, wrong_shape
from llmcls.runs.migrations import FORMAT, migrate, migrate_settings
from llmcls.runs.remains import clear_remains
from llmcls.runs.writing import CARD, MARK, is_card, unfinished_folder
from llmcls.settings import ModelSettings, Settings, make_settings
from llmcls.settings.yaml_text import LONGEST_YAML, load_plain


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
        if not path_exists(str(path)):
            unfinished = (
                f" Its training has not finished ('{unfinished_folder(path)}')."
                if path_exists(str(unfinished_folder(path)))
                else ""
            )
            near, shown = Path("runs") / path, str(path)[:300]
            meant = f" Did you mean '{near}'?" if not path.is_absolute() and path_exists(str(near)) else ""
            raise LlmclsError(
                f"There is no run directory '{shown}'.{meant}{unfinished} `llmcls runs list` shows what there is."
            )
        if not path.is_dir():
            raise LlmclsError(f"'{path}' is a file, not a run directory. `llmcls runs list` shows what there is.")
        card = read_card(path)
        if problems := broken_seal(path, card):
            raise LlmclsError(several(problems, f"Run '{path}' does not match its seal; restore it or train again"))
        card["seal"].pop(CARD)
        clear_remains(path)
        return cls(path, migrate(card), card["format"])

    def __repr__(self) -> str:
        return f"<Run '{self.path}': {self.card['base_model'].get('name')}, {len(self.card['labels'])} labels>"

    @cached_property
    def settings(self) -> Settings:
        """The settings as resolved at training.

        Raises:
            LlmclsError: when they cannot be read, or be used.
        """
        whose = f"Settings of run '{self.path}'"
        values = load_plain(read_text(self.path / "settings.yaml", whose, LONGEST_YAML), whose)
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise LlmclsError(f"{whose} hold no sections such as 'training:'; restore the run.")
        if not isinstance(values.get("data", {}), dict):
            raise LlmclsError(f"{whose} hold a section 'data' that is not a mapping; restore the run.")
        try:
            return make_settings(migrate_settings(values, self.written))
        except LlmclsError as error:
            raise LlmclsError(f"{whose} cannot be used by this llmcls. {error}") from error

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
        source = read_bytes(self.path / "template.j2", "Template file", LONGEST_SOURCE)
        try:
            return PromptTemplate(self.card["template"], source.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise LlmclsError(
                f"Template file '{self.path / 'template.j2'}' cannot be read: it is not UTF-8; restore the run."
            ) from error

    @cached_property
    def shots(self) -> Shots:
        """The few-shot examples it was trained with."""
        stored = read_json(self.path / "shots.json", "File")
        try:
            parts = [[(shot["text"], shot["label"]) for shot in stored[part]] for part in ("examples", "spares")]
        except (LookupError, TypeError):
            parts = [[(None, None)]]
        if not all(isinstance(value, str) for part in parts for shot in part for value in shot):
            raise LlmclsError(
                f"File '{self.path / 'shots.json'}' holds no solved examples as llmcls writes them; restore it."
            )
        return Shots(*(tuple(Example(text, label) for text, label in part) for part in parts))

    @property
    def decision(self) -> Mapping[str, Any] | None:
        """What the form of answer decided on held-out rows, such as thresholds; None where it decides nothing."""
        return self.card["decision"]  # type: ignore[no-any-return]

    @property
    def fingerprint(self) -> str:
        """Tells it from all others: a digest of all that it says and of all its sealed files."""
        return card_digest(self.card)

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
    seal[CARD] = card_digest(sealed)
    with replacing(folder / CARD, held=True) as file:  # last, and whole: it is what makes the folder a run
        file.write(to_json(sealed, indent=1))


def find_runs(root: str | Path) -> list[tuple[Path, dict[str, Any] | str]]:
    """Every folder below `root` (two levels) with a run's card, newest first, or with what is wrong with the card.

    Cards of other programs are left out; faulty ones come last.
    """
    found: list[tuple[Path, dict[str, Any] | str]] = []
    for file in sorted({*Path(root).glob(f"*/{CARD}"), *Path(root).glob(f"*/*/{CARD}")}):
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue  # a run that is just being replaced
        try:
            card = read_json(file, "File")
        except LlmclsError as error:
            found.append((file.parent, f"its {CARD} is damaged ({why_unread(error)})"))
            continue
        if not is_card(card):
            continue  # another program's
        if not is_readable(card):
            found.append((file.parent, f"run format {card['format']!r:.40}, but this llmcls reads up to {FORMAT}"))
        elif wrong := wrong_shape(card):
            found.append((file.parent, f"its {CARD} is damaged ({wrong})"))
        else:
            found.append((file.parent, migrate(card)))
    return sorted(found, key=lambda entry: "" if isinstance(entry[1], str) else str(entry[1]["created"]), reverse=True)
