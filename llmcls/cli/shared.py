"""What several commands share: options, settings from options, calm libraries, result output."""

from __future__ import annotations

import csv
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from llmcls.cli.quiet import silence_libraries
from llmcls.console import Reporter
from llmcls.data.reader import FIELDS_OF_FORMAT
from llmcls.errors import LlmclsError
from llmcls.figures import to_json
from llmcls.settings import Section, Settings, change_settings, load_settings, merge_settings
from llmcls.settings.task import methods, tasks
from llmcls.visible import make_console, visible, visible_json

if TYPE_CHECKING:
    from rich.console import RenderableType

F = TypeVar("F", bound=Callable[..., Any])

QUANTIZATIONS = click.Choice(["none", "8bit", "4bit"])
TASKS = click.Choice(tasks())
METHODS = click.Choice(methods())
NARROW = 80  # columns where there is no terminal
PROBABILITY = click.FloatRange(0, 1)


def output_options(function: F) -> F:
    """`--quiet` and `--json`."""
    function = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")(function)
    return click.option("--quiet", "-q", is_flag=True, help="No progress, no notes; warnings and results only.")(
        function
    )


def column_options(function: F) -> F:
    """`--text-column` and `--label-column`; of the latter one is a text, several are a tuple."""
    function = click.option(
        "--label-column",
        metavar="C",
        multiple=True,
        callback=lambda _context, _option, names: names[0] if len(names) == 1 else names or None,
        help="Column with the label; guessed when not given. Repeat for columns of zeros and ones, each a label.",
    )(function)
    return click.option(
        "--text-column",
        "text_columns",
        metavar="C",
        multiple=True,
        help="Column with the text; repeat to join several.",
    )(function)


def code_option(function: F) -> F:
    """`--trust-remote-code`: the one way to let a model run code of its own, which no run can go."""
    return click.option(
        "--trust-remote-code",
        is_flag=True,
        help="Run Python code that the base model or its tokenizer brings. Read it first: it can do whatever you can.",
    )(function)


def dtype_option(function: F) -> F:
    """`--dtype`."""
    return click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="The number format of weights that are not quantised, and of computation; when not given as in training, "
        "or what this machine has instead.",
    )(function)


def settings_options(function: F) -> F:
    """`--config` and `--set`."""
    function = click.option(
        "--set",
        "assignments",
        metavar="KEY=VALUE",
        multiple=True,
        help="One setting: training.max_steps=100. Repeatable.",
    )(function)
    return click.option(
        "--config", "files", metavar="FILE", multiple=True, help="YAML file with settings (`llmcls config init`)."
    )(function)


def prediction_options(function: F) -> F:
    """`--method`, `--threshold`, `--min-probability` and `--min-label-mass`."""
    for name, of in (("--min-label-mass", "any label at all"), ("--min-probability", "its best label")):
        function = click.option(
            name,
            type=PROBABILITY,
            metavar="P",
            help=f"Answer no row for which {of} is less probable than this.",
        )(function)
    function = click.option(
        "--threshold", type=PROBABILITY, metavar="P", help="Several labels a text: predict those as probable."
    )(function)
    return click.option("--method", type=METHODS, help="How labels are found (prediction.method).")(function)


def prompt_option(function: F) -> F:
    """`--prompt`."""
    return click.option(
        "--prompt",
        is_flag=True,
        help="Add the column prompt: what the model read, decoded from its tokens, cut to fit, control tokens as text.",
    )(function)


def escape_option(function: F) -> F:
    """`--escape-formulas`."""
    return click.option(
        "--escape-formulas",
        is_flag=True,
        help="Put an apostrophe before text cells that a spreadsheet would compute: those with = + - @ in front.",
    )(function)


class ListCommand(click.Command):
    """A command whose option `--templates` takes any number of words up to the next option: `--templates a b c`."""

    lists = ("--templates",)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, which knows no such options: each word gets the option's name before it."""
        return super().parse_args(ctx, list(self._spread(args, ctx)))

    def _spread(self, args: Sequence[str], ctx: click.Context) -> Iterator[str]:
        name, values = "", 0
        for place, word in enumerate((*args, "--")):
            if name and not word.startswith("-"):
                values += 1
                yield f"{name}={word}"
                continue
            if name and not values and not ctx.resilient_parsing:
                raise click.UsageError(f"{name} names nothing; write at least one word behind it.", ctx)
            name, equals, _ = word.partition("=")
            values = int(bool(equals))
            if word == "--":
                yield from args[place:]
                return
            if name not in self.lists:
                name = ""
            if not name or equals:
                yield word


def split_commas(values: Sequence[str]) -> list[str]:
    """The names in `a,b`, unless that is a file's name."""
    names = []
    for value in values:
        names += [value] if Path(value).is_file() else [name.strip() for name in value.split(",")]
    return names


def refuse_repeats(command: click.Command, parent: click.Context, name: str | None, arguments: Sequence[str]) -> None:
    """Refuse an option that takes one value and is given twice, in the command or a command of it.

    Raises:
        click.UsageError: naming all such options.
    """
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    try:
        _, rest, order = command.make_parser(context).parse_args(list(arguments))
    except click.UsageError:
        return  # which click itself is about to say
    single = [
        given
        for given in order
        if isinstance(given, click.Option) and not (given.multiple or given.is_flag or given.count)
    ]
    if any(given.is_eager for given in order):  # --help, which says what would be right
        return
    if repeated := [given.opts[0] for given in dict.fromkeys(single) if single.count(given) > 1]:
        raise click.UsageError(f"{', '.join(repeated)} takes one value but is given several times; keep one.", context)
    if isinstance(command, click.Group) and rest and (inner := command.get_command(context, rest[0])):
        refuse_repeats(inner, context, rest[0], rest[1:])


def typed(context: click.Context, *names: str) -> list[str]:
    """Those of the options, by parameter name, that stand on the command line, as they are written there."""
    options = {option.name: option.opts[0] for option in context.command.params}
    return [options[name] for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]


def split_labels(text: str) -> list[str]:
    """The labels of `--labels A,B,C`; one that holds a comma is quoted, as in a CSV file.

    Raises:
        click.UsageError: when quotes are not closed, or the text has several lines.
    """
    hint = 'write one line A,B,C, with "..." around a label that holds a comma, and "" for a quote in it.'
    try:
        ((*names, last),) = csv.reader([f"{text},."], skipinitialspace=True)
    except csv.Error as error:
        raise click.UsageError(f"--labels {text!r} cannot be read ({error}); {hint}") from error
    if last != ".":
        raise click.UsageError(f"--labels {text!r} cannot be read (a quote is not closed); {hint}")
    return [name.strip() for name in names]


def gather_settings(files: Sequence[str], assignments: Sequence[str], **options: Any) -> Settings:
    """Settings from files, then `--set`, then options; an option's name is the setting's with `__` for the dot.

    Raises:
        click.UsageError: when `--set` gives a setting that an option gives, too.
    """
    given = {name.replace("__", "."): value for name, value in options.items() if value not in (None, ())}
    assigned = merge_settings((), assignments)
    if twice := [name for name in given if _holds(assigned, name)]:
        raise click.UsageError(f"{', '.join(twice)} is given by an option and by --set; keep one of the two.")
    return load_settings(files, assignments, given)


def find_origin(name: str, files: Sequence[str], assignments: Sequence[str], context: click.Context) -> str | None:
    """Where a setting was given, for messages: its option, `--set`, or the settings file; None where it was not.

    Args:
        name: the dotted name.
        files, assignments: of `settings_options`.
        context: the command's; an option for a setting is named by the last part of the setting's name.
    """
    _, _, key = name.rpartition(".")
    if any(option.name == key for option in context.command.params) and (said := typed(context, key)):
        return said[0]
    if _holds(merge_settings((), assignments), name):
        return f"--set {name}"
    return next((f"'{file}'" for file in reversed(files) if _holds(merge_settings((file,)), name)), None)


def _holds(nested: Any, name: str) -> bool:
    """Whether a nested mapping has a value at a dotted name."""
    for part in name.split("."):
        if not isinstance(nested, Mapping) or part not in nested:
            return False
        nested = nested[part]
    return True


def settings_for_run(trained: Settings, files: Sequence[str], assignments: Sequence[str], also: str) -> Settings:
    """A run's settings, with those of `prediction` and of how files are written that `--config` and `--set` give.

    Args:
        trained: the run's settings.
        files, assignments: of `settings_options`.
        also: the options that change more, for the message.

    Raises:
        LlmclsError: naming all other settings that are not the run's: they would have no effect.
    """
    merged = merge_settings(files, assignments)
    given = change_settings(trained, merged)
    ignored = []
    for name in Settings.model_fields:
        one, other = getattr(trained, name), getattr(given, name)
        if name != "prediction" and isinstance(one, Section):
            keys = [key for key in type(one).model_fields if name != "data" or key not in FIELDS_OF_FORMAT]
            ignored += [f"{name}.{key}" for key in keys if getattr(one, key) != getattr(other, key)]
        elif name != "prediction" and one != other:
            ignored.append(name)
    if ignored:
        formats = ", ".join(f"data.{name}" for name in FIELDS_OF_FORMAT)
        raise LlmclsError(
            f"A run keeps the settings it was trained with, so {', '.join(ignored)} cannot be changed now; "
            f"only prediction.*, {formats}, and {also}."
        )
    # `change_settings` leaves alone what is null; here that says: as the file has it.
    unsaid = {name: None for name in FIELDS_OF_FORMAT if merged.get("data", {}).get(name, "") is None}
    return given.model_copy(update={"data": given.data.model_copy(update=unsaid)})


def start(quiet: bool, as_json: bool = False) -> Reporter:
    """Silence the libraries' own bars and notices, and make the reporter."""
    silence_libraries()
    return Reporter(quiet or as_json)


def width() -> int:
    """Columns of standard output: the terminal's, or 80, which every page, mail and screen has room for.

    A terminal that is narrower than 40 breaks lines by itself: words of three letters a line help nobody.
    """
    return max(shutil.get_terminal_size().columns, NARROW // 2) if sys.stdout.isatty() else NARROW


def show(*renderables: RenderableType) -> None:
    """Print results on standard output, in as many columns as `width` says; for a pipe without blanks at the end."""
    if sys.stdout.isatty():
        make_console(highlight=False).print(*renderables, sep="\n")
        return
    drawn = StringIO()
    make_console(highlight=False, width=NARROW, file=drawn).print(*renderables, sep="\n")
    click.echo("".join(f"{line.rstrip(' ')}\n" for line in drawn.getvalue().splitlines()), nl=False)


def note(sentence: str, heading: str = "", indent: int = 0) -> None:
    """Print a sentence, cut into lines between words; names and paths stay whole, so that they can be copied.

    Args:
        sentence: any text; several lines stay lines.
        heading: stands before the first line.
        indent: columns for the heading, which the other lines leave free.
    """
    for line in sentence.split("\n"):
        cut = textwrap.wrap(line, width() - indent, break_long_words=False, break_on_hyphens=False) or [""]
        for part in cut:
            echo(f"{heading:{indent}}{part}" if indent else part)
            heading = ""


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a line for people to read."""
    click.echo(visible(str(text)), err=err)


def show_json(result: object) -> None:
    """Print a result as JSON on standard output."""
    click.echo(visible_json(to_json(result, indent=2)))


def echo_data(text: str) -> None:
    """Print what other programs read, as it is; on a terminal people read it."""
    click.echo(visible(text) if sys.stdout.isatty() else text, nl=False)


def table(title: str, *columns: str) -> Any:
    """A plain rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(visible(title), style="table.title") if title else None
    made = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
