"""A plugin that misbehaves is named, with its package, file and line, and the way to do without it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcls import LlmclsError
from llmcls.cli import build_cli, main
from llmcls.data.inputs import load_examples
from llmcls.data.sources import open_tables
from llmcls.model.adapter import base_models, find_frame, find_pad_token
from llmcls.model.loading import find_base_model
from llmcls.plugin.manager import load_plugins
from llmcls.prompt.frame import Message
from llmcls.prompt.template import prompt_templates
from llmcls.settings import ModelSettings
from llmcls.testing import build_tiny_tokenizer

HEAD = "from llmcls import hookimpl\nfrom llmcls.prompt.template import PromptTemplate\n"
TEMPLATES = HEAD + "@hookimpl\ndef register_prompt_templates():\n    return "
READER = """
from llmcls import hookimpl
from llmcls.data.reader import DatasetReader, Row, Table

class Ini(DatasetReader):
    name, description = "ini", "ini:"
    def reads(self, spec):
        return spec.startswith("ini:")
    def read(self, spec):
        return READ

@hookimpl
def register_dataset_readers():
    return [Ini()]
"""
ADAPTER = """
from llmcls import hookimpl
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt.frame import Frame

class Odd(BaseModelAdapter):
    name, description, checkpoints = "odd", "an odd family", {"odd-1b": "odd/odd-1b"}
    def fits(self, checkpoint, config):
        return False
    CODE

@hookimpl
def register_base_models():
    return [Odd()]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Install a plugin 'bad' of the package bad-dist 1.2 with this source; returns its file."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("llmcls.plugin.manager.distributions", lambda: distributions(path=[str(tmp_path)]))

    def install(source: str) -> Path:
        folder = tmp_path / "bad_dist-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-dist\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text("[llmcls]\nbad = bad_plugin\n")
        (tmp_path / "bad_plugin.py").write_text(source)
        load_plugins.cache_clear()
        return tmp_path / "bad_plugin.py"

    yield install
    load_plugins.cache_clear()
    sys.modules.pop("bad_plugin", None)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(LlmclsError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith("Repair or uninstall it, or set LLMCLS_DISABLE_PLUGINS=bad.")
    assert "'bad'" in said
    return said


@pytest.mark.parametrize(
    ("returned", "says", "line"),
    [
        ("1 / 0", "fails in register_prompt_templates(): ZeroDivisionError: division by zero", 5),
        ("[PromptTemplate]", "as a template, which is a class; register an instance of it, PromptTemplate()", 3),
        ("['{{ text }}']", "as a template, which is not a llmcls.prompt.template.PromptTemplate", 3),
        ("[None]", "registers None as a template, which is not a", 3),
        ("PromptTemplate('a', '{{ text }}:')", "must return a list, not PromptTemplate(", 3),
        ("[PromptTemplate(7, '{{ text }}:')]", "which has no name", 3),
    ],
)
def test_a_hook(install: Any, returned: str, says: str, line: int) -> None:
    file = install(TEMPLATES + returned)
    said = refused(prompt_templates)
    assert says in said and f"({file}, line {line})" in said
    assert "bad-dist 1.2" in said or "must return a list" in said


def test_what_the_contract_refuses_names_the_plugin(install: Any) -> None:
    install(TEMPLATES + "[PromptTemplate('a', '{% if %}')]")
    said = refused(prompt_templates)
    assert said.startswith("Plugin 'bad' of bad-dist 1.2, register_prompt_templates(): Template 'a', line 1:")


@pytest.mark.parametrize(
    ("read", "says"),
    [
        ("[][0]", r"fails in Ini\.read_as\(\): IndexError: list index out of range \(FILE, line 10\)"),
        ("None", r"Ini\.read_as\(\) returns None \(NoneType\), not a Mapping"),
        (
            "{'train': [{}]}",
            r"dataset reader 'ini' returns \[\{\}\] \(list\) as split 'train', not a Table \(FILE, line 9\)",
        ),
        ("{'train': Table('text', [])}", "names the columns 'text', not a list of strings"),
        ("{'train': Table(['text'], 3)}", "has int as rows of split 'train', which are not iterable"),
        (
            "{'train': Table(['text'], [{'text': 'a'}])}",
            r"gives \{'text': 'a'\} \(dict\) as row 1 .*, not a .*reader\.Row",
        ),
        (
            "{'train': Table(['text'], iter([Row({'text': 'a'}, 's'), Row(7, 's')]))}",
            r"gives 7 \(int\) as row 2 .*mapping",
        ),
        (
            "{'train': Table(['text'], (Row({'text': 1 / n}, 's') for n in (1, 0)))}",
            r"behind row 1 .*ZeroDivisionError",
        ),
    ],
)
def test_a_reader(install: Any, read: str, says: str) -> None:
    file = install(READER.replace("READ", read))
    said = refused(lambda: list(load_examples("ini:x", text_columns=("text",)).rows()))
    assert re.search(says.replace("FILE", re.escape(str(file))), said), said
    assert "of bad-dist 1.2" in said


def test_a_right_reader_s_rows_stay_what_they_are(install: Any) -> None:
    install(READER.replace("READ", "{'train': Table(['text'], [Row({'text': 'a'}, 's')] * 3)}"))
    rows = open_tables("ini:x")["train"].rows
    assert len(rows) == 3 and [row.values for row in rows] == [row.values for row in rows] == [{"text": "a"}] * 3
    load_plugins.cache_clear()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def pad_token(self, t): return 3", r"Odd\.pad_token\(\) returns 3 \(int\), not a str"),
        (
            "def pad_token(self, t): return '</s>'",
            r"'odd' pads with '</s>', which also ends answers: .* never learns to stop",
        ),
        ("def pad_token(self, t): return '<no>'", "pads with '<no>', which is not in the vocabulary"),
        ("def frame(self, t): return None", r"Odd\.frame\(\) returns None \(NoneType\), not a Frame"),
        (
            "def frame(self, t): return Frame('', '</s>', '</s>', lambda m: m)",
            r"frame\(tokenizer\)\.chat\(\) returns \[",
        ),
        (
            "def frame(self, t): return Frame('', '</s>', '</s>', lambda m: m[9])",
            "the chat format of .*'odd': IndexError",
        ),
    ],
)
def test_an_adapter(install: Any, code: str, says: str) -> None:
    install(ADAPTER.replace("CODE", code))
    adapter, tokenizer = base_models()["odd"], build_tiny_tokenizer()

    def use() -> None:
        find_pad_token(adapter, tokenizer)
        find_frame(adapter, tokenizer).chat([Message("user", "x")])

    assert re.search(says, said := refused(use)), said


def test_an_adapter_that_cannot_find_its_checkpoint(install: Any) -> None:
    install(ADAPTER.replace("CODE", "def locate(self, name): raise TimeoutError('no answer')"))
    said = refused(lambda: find_base_model(ModelSettings(base_model="odd-1b")))
    assert "fails in Odd.locate(): TimeoutError: no answer" in said


def test_a_command_that_fails_is_the_plugin_s(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install(
        "from llmcls import hookimpl\n@hookimpl\ndef register_commands(cli):\n    @cli.command('odd')\n"
        "    def odd():\n        '''Odd.'''\n        {}['x']\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["odd"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("Error: Plugin 'bad' of bad-dist 1.2 fails: KeyError: 'x' (") and "line 7, odd)" in said


@pytest.mark.parametrize("source", ["\n1 / 0", "\ndef broken(:"])
def test_a_plugin_that_does_not_import(install: Any, source: str) -> None:
    file = install(source)
    said = refused(load_plugins)
    assert f"({file}, line 2). Repair" in said and "does not import: " in said


def test_an_error_that_names_the_remedy_says_it_once(install: Any) -> None:
    install(
        "from llmcls import hookimpl\n@hookimpl\ndef register_commands(cli):\n    cli.command('train')(lambda: 0)\n"
    )
    with pytest.raises(LlmclsError, match=r"adds a command 'train', .* leave the plugin out with") as told:
        build_cli()
    assert str(told.value).count("LLMCLS_DISABLE_PLUGINS") == 1


def test_an_error_of_llmcls_is_not_blamed_on_a_plugin(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(TEMPLATES + "[]")
    reader = SimpleNamespace(reads=None)
    monkeypatch.setattr("llmcls.data.sources.dataset_readers", lambda: {"x": reader})
    with pytest.raises(LlmclsError, match=r"^A plugin fails in SimpleNamespace\.reads"):
        open_tables("x:")  # an object of no plugin is not given one
    monkeypatch.setattr("llmcls.cli.plugins.describe_plugins", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["plugins"])
