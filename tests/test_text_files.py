"""Files that users write: templates, settings and launcher configurations, in whatever encoding they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmcls import LlmclsError
from llmcls.files import read_text
from llmcls.processes.launching import read_config
from llmcls.prompt.template import PromptTemplate
from llmcls.settings import load_settings

TEMPLATE = "{# Ü #}{{ text }} ü:"
SETTINGS = "prediction: {no_answer: ü}"
LAUNCH = "distributed_type: MULTI_GPU # ü"


def settings(path: Path) -> Any:
    return load_settings([path])


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "it is UTF-16, not UTF-8; save it as UTF-8."),
        ("utf-16-be", "save it as UTF-8."),
        ("utf-16-le", "save it as UTF-8."),
        ("utf-32", "save it as UTF-8."),
        ("latin-1", "is 0xfc), not UTF-8; save it as UTF-8."),
    ],
)
@pytest.mark.parametrize(
    ("read", "content"), [(PromptTemplate.from_file, TEMPLATE), (settings, SETTINGS), (read_config, LAUNCH)]
)
def test_encodings(tmp_path: Path, read: Any, content: str, encoding: str, says: str | None) -> None:
    path, plain = tmp_path / "mine.j2", tmp_path / "plain" / "mine.j2"
    plain.parent.mkdir()
    text = content.replace("Ü", "") if encoding == "latin-1" else content
    path.write_bytes(text.encode(encoding))
    plain.write_text(content, encoding="utf-8")
    if says is None:
        assert read(path) == read(plain)
        return
    with pytest.raises(LlmclsError) as caught:
        read(path)
    message = str(caught.value)
    assert says in message and f"'{path}' cannot be read" in message and "\n" not in message


def test_utf_16_of_plain_letters_is_valid_utf_8(tmp_path: Path) -> None:
    (tmp_path / "mine.j2").write_bytes("{{ text }}".encode("utf-16-le"))
    with pytest.raises(LlmclsError, match=r"holds NULs, as UTF-16 does; save it as UTF-8\.$"):
        PromptTemplate.from_file(tmp_path / "mine.j2")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\r\nb\r\n{{ text }}", "a\nb\n{{ text }}"),
        (b"\xef\xbb\xbfa\r\n{{ text }}\n", "a\n{{ text }}\n"),
        ("a\ufeffb {{ text }}".encode(), "a\ufeffb {{ text }}"),
        (b"  {{ text }}  ", "  {{ text }}  "),
    ],
)
def test_all_else_stays(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "mine.j2").write_bytes(content)
    assert PromptTemplate.from_file(tmp_path / "mine.j2").source == expected


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LlmclsError, match=r"Thing '.*nothing' cannot be read: No such file or directory\.$"):
        read_text(tmp_path / "nothing", "Thing")
