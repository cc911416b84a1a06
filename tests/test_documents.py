"""The documents keep what they say: links lead somewhere, and what the tables name exists."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from llmcls.engine.attention import VERIFIED
from llmcls.settings import fields
from llmcls.testing import build_tiny_tokenizer, check_base_model

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


def test_the_base_models_that_are_claimed_are_those_that_are_tested() -> None:
    text = (ROOT / "docs" / "base-models.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (?!kind|---)[^|]+\| ([a-z0-9_, ]+) \|$", text, re.MULTILINE)
    named = [name for names in table for name in names.split(", ")]
    assert sorted(named) == sorted(VERIFIED)


def test_the_adapter_in_the_documentation_keeps_its_contract() -> None:
    code = (
        (ROOT / "docs" / "base-models.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    )
    plugin = ModuleType("parrots")
    exec(code, vars(plugin))
    adapter = plugin.register_base_models()[0]
    assert adapter.fits("polly/parrot-chat-1b", {})
    check_base_model(adapter, build_tiny_tokenizer(others=["<unk>"]))
