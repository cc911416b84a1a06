"""The command line: one file a command, and the one place where errors become messages and exit codes.

    llmcls train --data tickets.csv
    llmcls predict --run runs/tickets --input new.csv

Exit codes: 0 done, 1 a problem the user can fix (`LlmclsError`, a full disk), 2 wrong usage, 75 training was
stopped by a signal and can go on, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import IO, Any, cast

import click
import pluggy

from llmcls import __version__
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.plugin.blame import blaming, plugin_at_fault
from llmcls.plugin.manager import DISABLE_VARIABLE, load_plugins
from llmcls.processes.collector import put_off_collection
from llmcls.visible import VisibleStream, visible

# Each is in a module of its name. In the order in which they are listed: the way of the work first, then looking things
# up. What `--help` says of them stands here, so that it need not import them.
COMMANDS = {
    "train": "Train a classifier on labelled texts.",
    "predict": "Classify texts.",
    "evaluate": "Measure a run on labelled texts.",
    "runs": "List and show trained runs.",
    "labels": "Show what a label set costs.",
    "templates": "List prompt templates, show real prompts.",
    "models": "List base models.",
    "readers": "List dataset readers.",
    "plugins": "List loaded plugins with versions and hooks.",
    "config": "Show settings, and start files of them.",
    "launch": "Show how several processes are started.",
}
# What a disk says that a program cannot change; any other OSError is a mistake of ours and shows its traceback.
DISK_PROBLEMS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# And of a name that can be none of a file.
DISK_PROBLEMS |= {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}


class _Imported(dict[str, click.Command]):
    """Commands by name; one of llmcls's own is imported when it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        found = super().__getitem__(name)
        if isinstance(found, _Later):
            self[name] = found = importlib.import_module(f"{__name__}.{name}").command
        return found

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def outlines(self) -> Iterator[click.Command]:
        """Each command, or what stands for it as long as it is not imported: its name and short help."""
        return map(super().__getitem__, self)


class _Later(click.Command):
    """What is known of a command that is not imported yet."""


class Commands(click.Group):
    """A group that lists its commands in the order they were added and takes every name once only."""

    owner = "llmcls itself"

    def __init__(self, **attributes: Any) -> None:
        self._owners: dict[str, str] = {}
        super().__init__(**attributes)
        self.commands: _Imported = _Imported()

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command.

        Raises:
            LlmclsError: when there is one of that name; both owners are named.
        """
        name = name or cmd.name or ""
        if name in self.commands:
            raise LlmclsError(
                f"The plugin '{self.owner}' adds a command '{name}', which {self._owners[name]} has already: rename "
                f"it, or leave the plugin out with {DISABLE_VARIABLE}={self.owner}."
            )
        self._owners[name] = self.owner
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; options that count once are refused when given twice, of which click would drop the first."""
        name, found, rest = super().resolve_command(ctx, args)
        if found is not None and not ctx.resilient_parsing:  # shell completion looks at half-written lines
            from llmcls.cli.shared import refuse_repeats

            refuse_repeats(found, ctx, name, rest)
        return name, found, rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, as added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, importing no command."""
        shown = [command for command in self.commands.outlines() if not command.hidden]
        room = formatter.width - 6 - max(len(command.name or "") for command in shown)
        with formatter.section("Commands"):
            formatter.write_dl([(command.name or "", command.get_short_help_str(room)) for command in shown])


def build_cli(manager: pluggy.PluginManager | None = None) -> click.Group:
    """The command line with llmcls's own commands and those of the plugins in `manager` (None: all installed).

    Raises:
        LlmclsError: when a plugin cannot be loaded, or adds a command whose name is taken.
    """
    cli = Commands(
        name="llmcls",
        help="Fine-tune any decoder-only LLM into a text classifier that can only answer with a valid label.\n\n"
        "Start with:  llmcls train --data demo:",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        params=[],
    )
    click.version_option(__version__, prog_name="llmcls")(cli)
    for name, short_help in COMMANDS.items():
        cli.add_command(_Later(name, short_help=short_help))
    for plugin in (manager or load_plugins()).hook.register_commands.get_hookimpls():
        cli.owner = plugin.plugin_name
        with blaming(plugin.plugin_name, "register_commands", plugin.function):
            plugin.function(*[cli for argument in plugin.argnames if argument == "cli"])
    return cli


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    put_off_collection()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a label the terminal cannot show must not end the program
    try:
        code = build_cli().main(arguments, prog_name="llmcls", standalone_mode=False)
        sys.stdout.flush()  # a full disk shows here, not after the exit code
        sys.exit(code if isinstance(code, int) else 0)
    except LlmclsError as error:
        click.echo(visible(f"Error: {error}"), err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show(cast("IO[str]", VisibleStream(sys.stderr)))
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `llmcls predict ... | head`: nothing to say, and 1 as click itself has it
        _drop_output()
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_PROBLEMS:
            raise
        place = f": '{str(error.filename)[:300]}'" if error.filename else ""
        click.echo(visible(f"Error: {error.strerror}{place}."), err=True)
        _drop_output()
        sys.exit(1)
    except Exception as error:
        if (said := plugin_at_fault(error)) is None:
            raise
        click.echo(visible(f"Error: {said}"), err=True)
        sys.exit(1)


def _drop_output() -> None:
    """Give up what standard output still holds, so that the interpreter does not fail to write it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show llmcls's own warnings; the libraries' deprecation notices are not the user's business."""
    if issubclass(category, LlmclsWarning):
        from llmcls.console import Reporter

        Reporter().warn(str(message))
