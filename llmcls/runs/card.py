"""Reads and checks what a run says of itself: `run.json`, by its shape, and its seal, file by file.

    card = read_card(Path("runs/tickets"))              # a checked `run.json`, of whatever format
    problems = broken_seal(Path("runs/tickets"), card)  # a sentence for each file that is not as it was sealed

The seal is a checksum, not a signature: it tells that nothing was changed by accident, and not who made the run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, StrictInt, ValidationError

from llmcls.errors import LlmclsError
from llmcls.files import read_json, sha256_of
from llmcls.runs.migrations import FORMAT, readable_formats
from llmcls.runs.writing import CARD, is_card

ALWAYS_SEALED = ("settings.yaml", "template.j2", "shots.json")
"""What every run is made of besides its weights and tokenizer."""

LOADED_FOLDERS = ("adapter", "model", "tokenizer")
"""Folders that libraries load as they are: a chat template or added tokens in them would be loaded, too."""


def _whole(text: str) -> str:
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("half a character is not text")
    return text


_Words = Annotated[str, AfterValidator(_whole)]


class _Label(BaseModel):
    name: _Words
    description: _Words
    aliases: list[_Words] = []
    code: _Words = ""


class _Base(BaseModel):
    name: str
    adapter: str
    fingerprint: str
    opening: _Words | None = None


class _Data(BaseModel):
    source: str | None
    fingerprint: str
    text_columns: list[str]
    label_column: str | list[str] | None


class _Origin(BaseModel):
    run: str
    fingerprint: str
    weights: str


class _Cost(BaseModel):
    seconds: float


class _Card(BaseModel):
    """What llmcls reads of a card; it may say more."""

    format: StrictInt
    created: str
    labels: list[_Label]
    template: str
    base_model: _Base
    data: _Data
    training: dict[str, Any]
    seal: dict[str, str]
    decision: dict[str, Any] | None = None
    thresholds: dict[str, Any] | None = None
    started_from: _Origin | None = None
    cost: _Cost | None = None
    versions: dict[str, str] = {}


def is_readable(card: Mapping[str, Any]) -> bool:
    """Whether a card has a format that this llmcls knows."""
    return type(card["format"]) is int and card["format"] in readable_formats()


def wrong_shape(card: Mapping[str, Any]) -> str | None:
    """What of a card is missing or of a wrong type, in a few words; None where all of it can be used."""
    try:
        _Card.model_validate(card)
    except ValidationError as error:
        details = error.errors(include_url=False)
        shown = [f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in details[:3]]
        more = f" and {len(details) - 3} more" if len(details) > 3 else ""
        return f"{'; '.join(shown)}{more}"
    return None


def read_card(path: Path) -> dict[str, Any]:
    """The card of a run directory, checked but for its seal.

    Raises:
        LlmclsError: when there is none, it is not llmcls's, of a newer format, or damaged.
    """
    if not (path / CARD).exists():
        raise LlmclsError(
            f"'{path}' is not a run directory: it holds no {CARD}. `llmcls runs list` shows what there is."
        )
    try:
        card = read_json(path / CARD, "File")
    except LlmclsError as error:
        raise LlmclsError(
            f"'{path}' is not an intact run directory: its {CARD} cannot be read ({why_unread(error)}); restore it."
        ) from error
    if not is_card(card):
        raise LlmclsError(f"'{path}' is not a run directory: its {CARD} is not one that llmcls wrote.")
    if not is_readable(card):
        versions = card.get("versions")
        named = versions.get("llmcls") if isinstance(versions, dict) else None
        raise LlmclsError(
            f"'{path}' has run format {card['format']!r:.40}, this llmcls reads up to {FORMAT}; "
            f"use llmcls {named or 'of its time'}."
        )
    if wrong := wrong_shape(card):
        raise LlmclsError(f"'{path}' is not an intact run directory: its {CARD} is damaged ({wrong}); restore it.")
    return dict(card)


def why_unread(error: LlmclsError) -> str:
    """The reason alone of what `read_json` raises."""
    return str(error).partition(" cannot be read: ")[2].removesuffix("; restore it.").rstrip(".")


def card_digest(card: Mapping[str, Any]) -> str:
    """The sha256 of all that `run.json` says, but for this digest itself."""
    seal = {name: digest for name, digest in card["seal"].items() if name != CARD}
    content = json.dumps({**card, "seal": seal}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def broken_seal(path: Path, card: Mapping[str, Any]) -> list[str]:
    """What is not as it was sealed, a few words for each file.

    Names in the seal that lead out of the run, and links in it, are never followed.
    """
    seal: dict[str, str] = {name: digest for name, digest in card["seal"].items() if name != CARD}
    problems = [] if card["seal"].get(CARD) == card_digest(card) else [f"{CARD} has changed"]
    problems += [f"{name} is not sealed" for name in ALWAYS_SEALED if name not in seal]
    for name, digest in seal.items():
        if _leads_out(name):
            problems.append(f"{name!r} is not a file of the run, but the seal names it")
        elif link := _link(path, name):
            problems.append(f"{link} is a link")
        elif problem := _compare(path / name, digest):
            problems.append(f"{name} {problem}")
    added = [name for folder in LOADED_FOLDERS for name in _found(path, folder) if name not in seal]
    return list(dict.fromkeys([*problems, *(f"{name} was added" for name in sorted(added))]))


def _leads_out(name: str) -> bool:
    parts = PurePosixPath(name).parts
    # "a\\..\\b" and "C:x" mean something on one system only; no run has such names.
    strange = "\\" in name or "\0" in name or bool(PureWindowsPath(name).drive)
    return strange or not parts or ".." in parts or PurePosixPath(name).is_absolute()


def _link(path: Path, name: str) -> str | None:
    """The first part of a file's place in the run that is a link."""
    parts = PurePosixPath(name).parts
    places = ("/".join(parts[: end + 1]) for end in range(len(parts)))
    return next((place for place in places if (path / place).is_symlink()), None)


def _compare(file: Path, digest: str) -> str | None:
    if not file.is_file():
        return "is missing"
    try:
        return None if sha256_of(file) == digest else "has changed"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _found(path: Path, folder: str) -> Iterator[str]:
    """Files and links below a folder of the run; a link is not followed."""
    place = path / folder
    for entry in [place] if place.is_symlink() else place.rglob("*"):
        if entry.is_symlink() or not entry.is_dir():
            yield entry.relative_to(path).as_posix()
