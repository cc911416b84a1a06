"""The command line: one file a command, and the one place where errors become messages and exit codes.

    llmcls train --data tickets.csv
    llmcls predict --run runs/tickets --input new.csv

Exit codes: 0 done, 1 a problem the user can fix (`LlmclsError`), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from llmcls import __version__
from llmcls.cli import config, evaluate, models, plugins, predict, readers, runs, templates, train
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.plugin.manager import load_plugins
from llmcls.progress import Reporter


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="llmcls")
def cli() -> None:
    """Fine-tune any decoder-only LLM into a text classifier that can only answer with a valid label.

    Start with:  llmcls train --data demo:
    """


for module in (train, predict, evaluate, runs, templates, models, readers, plugins, config):
    cli.add_command(module.command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    warnings.showwarning = _show_warning
    try:
        load_plugins().hook.register_commands(cli=cli)
        code = cli.main(arguments, prog_name="llmcls", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except LlmclsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `llmcls predict ... | head`
        sys.stderr.close()
        sys.exit(0)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show llmcls's own warnings; the libraries' deprecation notices are not the user's business."""
    if issubclass(category, LlmclsWarning):
        Reporter().warn(str(message))
