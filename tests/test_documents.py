"""The documents keep what they say: links lead somewhere, and what the tables name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmcls.settings import fields

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
SYSTEMS = (ROOT / "docs" / "published-systems.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SYSTEMS.partition("## Tried")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| published")
]


def anchor(heading: str) -> str:
    """How GitHub calls a heading in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_links(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, place = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{document.name}: {target}"
        if place:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in map(anchor, headings), f"{document.name}: {target}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_published_feature_has_its_test(row: list[str]) -> None:
    published, how, test = row
    assert published and how and test
    for reference in re.findall(r"`(tests/[^`]+)`", test):
        path, _, name = reference.partition("::")
        code = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in code, reference
    assert test == "none yet" or "`tests/" in test
    for key in re.findall(r"`((?:data|model|prompt|lora|training|prediction)\.[a-z0-9_]+)[`:]", how):
        assert key in {name for name, *_ in fields()}, key
