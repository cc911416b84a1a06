"""Exit codes, help, and commands that plugins add."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import click
import pytest

from llmcls import cli as boundary
from llmcls import hookimpl
from llmcls.cli import build_cli
from llmcls.errors import LlmclsError


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, (*path, name))


COMMANDS = dict(walk(build_cli()))


def plugin(name: str, command: str) -> ModuleType:
    module = ModuleType(name)

    @hookimpl
    def register_commands(cli: click.Group) -> None:
        @cli.command(command)
        def added() -> None:
            """Say hello."""
            click.echo("hello")

    module.register_commands = register_commands  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help(llmcls: Callable[..., Any], path: tuple[str, ...]) -> None:
    done = llmcls(*path, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: llmcls")
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"--{parameter.name} has no help"


def test_no_summary_is_cut() -> None:
    ours = set(boundary.COMMANDS)
    for path, command in COMMANDS.items():
        if path and path[0] in ours:
            assert not command.get_short_help_str(limit=60).endswith("..."), path


def test_version_and_wrong_usage(llmcls: Callable[..., Any]) -> None:
    assert llmcls("--version").out.startswith("llmcls, version ")
    done = llmcls("trian")
    assert (done.code, done.out) == (2, "") and "Did you mean 'train'?" in done.err
    assert llmcls("train", "--nonsense").code == 2
    assert llmcls().code == 2


def test_a_plugins_command(llmcls: Callable[..., Any], plugin_manager: Any) -> None:
    plugin_manager.register(plugin("greeter", "hello"), name="greeter")
    assert llmcls("hello").out == "hello\n"
    assert llmcls("hello").out == "hello\n", "a second call in one process adds it again"
    assert "hello" in llmcls("--help").out.splitlines()[-1]


@pytest.mark.parametrize("name", ["train", "config"])
def test_a_plugin_cannot_hide_a_command(refuse: Callable[..., str], plugin_manager: Any, name: str) -> None:
    plugin_manager.register(plugin("greeter", name), name="greeter")
    message = refuse("--version")
    assert f"The plugin 'greeter' adds a command '{name}', which llmcls itself has already" in message
    assert "LLMCLS_DISABLE_PLUGINS=greeter" in message


def test_two_plugins_with_one_command(plugin_manager: Any) -> None:
    plugin_manager.register(plugin("first", "hello"), name="first")
    plugin_manager.register(plugin("second", "hello"), name="second")
    with pytest.raises(LlmclsError, match=r"(first|second)' adds a command 'hello', which (first|second) has already"):
        build_cli(plugin_manager)


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (LlmclsError("Do this."), 1, "Error: Do this."),
        (OSError(28, "No space left on device", "out.csv"), 1, "Error: No space left on device: 'out.csv'."),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (click.UsageError("Not so."), 2, "Error: Not so."),
    ],
)
def test_exit_codes(
    llmcls: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("llmcls.cli.models.show_json", fail)
    done = llmcls("models", "list", "--json")
    assert (done.code, done.out) == (code, "")
    assert done.err.strip().splitlines()[-1] == message


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "internal")

    monkeypatch.setattr("llmcls.cli.models.show_json", fail)
    with pytest.raises(FileNotFoundError):
        boundary.main(["models", "list", "--json"])
