"""`llmcls templates`: the prompt templates, and what a real prompt looks like, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

import click

from llmcls.cli.shared import code_option, echo, gather_settings, note, settings_options, show, show_json, start, table
from llmcls.errors import LlmclsError
from llmcls.settings import change_settings
from llmcls.visible import visible

if TYPE_CHECKING:
    from rich.text import Text

    from llmcls.prompt.encoding import Encoder, TokenView
    from llmcls.records import Example
    from llmcls.runs.assembly import Assembly
    from llmcls.settings import Settings

STYLES = {"frame": "", "text": "green", "data": "cyan"}
# Brackets say the same as the colours, which a pipe or a file does not have.
BRACKETS = {"frame": ("", ""), "text": ("⟦", "⟧"), "data": ("‹", "›")}
BOUNDARY = "│"


@click.group("templates", short_help="List prompt templates, show real prompts.")
def command() -> None:
    """List prompt templates, and show a real prompt token by token."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def list_(as_json: bool) -> None:
    """List the templates that --template takes."""
    from rich.text import Text

    from llmcls.prompt.template import prompt_templates

    catalog = prompt_templates()
    if as_json:
        show_json({name: template.description for name, template in catalog.items()})
        return
    shown = table("", "template", "description", "plugin")
    for name, template in catalog.items():
        shown.add_row(name, Text(template.description), catalog.owner(name))
    show(shown)
    note("A path to a .j2 file works as well. `llmcls templates show NAME` prints a real prompt.")


@command.command("show", short_help="Print a real prompt, token by token.")
@click.argument("name", required=False)
@click.option("--run", "run_path", metavar="DIR", help="Show the prompt of a trained run.")
@click.option("--base-model", metavar="M", help="Whose tokenizer and chat format to use (default: nano).")
@code_option
@click.option("--data", metavar="DIR|FILE|SPEC", help="Take labels and the example row from here (default: demo:).")
@click.option("--row", default=0, show_default=True, help="Which training row to show.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print the tokens as JSON, nothing else.")
def show_(
    name: str | None,
    run_path: str | None,
    base_model: str | None,
    trust_remote_code: bool,
    data: str | None,
    row: int,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print a real prompt with token boundaries: shared prefix, the row's text, and the answer that carries loss."""
    start(quiet=True)
    if run_path:
        if files or assignments:
            raise click.UsageError("A run has its own settings; --config and --set are for templates without --run.")
        assembly, examples = _of_run(run_path, name, base_model, data, row, trust_remote_code)
    elif name:
        settings = gather_settings(
            files,
            assignments,
            prompt__template=name,
            model__base_model=base_model,
            model__trust_remote_code=trust_remote_code or None,
            data__source=data,
        )
        if settings.data.source is None:
            settings = change_settings(settings, {"data": {"source": "demo:"}})
        assembly, examples = _of_settings(settings, row)
    else:
        raise click.UsageError("Give a template's NAME, or --run DIR.")
    encoder, whose = assembly.encoder, run_path or assembly.base.name
    shared = _shared_tokens(encoder, examples)
    example = examples[row]
    shown = assembly.form.show(encoder, example)
    answer = shown.tokens
    views = encoder.view(example)
    if as_json:
        tokens = [
            {"id": view.id, "text": view.text, "from": view.origin, "shared": place < shared, "loss": False}
            for place, view in enumerate(views)
        ]
        tokens += [
            {"id": token_id, "text": piece, "from": "answer", "shared": False, "loss": place in shown.carrying}
            for place, (token_id, piece) in enumerate(zip(answer, _pieces(encoder, views[-1].id, answer), strict=True))
        ]
        show_json({"template": encoder.template.name, "row": example.source, "tokens": tokens})
        return
    echo(f"Template '{encoder.template.name}' for {whose}, row {row} ({example.source or 'no source'})")
    echo(f"{len(views)} prompt tokens, {shared} of them shared by all rows; {shown.learnt}")
    show(_legend(), _render(views, shared, _pieces(encoder, views[-1].id, answer)))


def _of_run(
    run_path: str,
    template: str | None,
    base_model: str | None,
    data: str | None,
    row: int,
    trust_remote_code: bool,
) -> tuple[Assembly, Sequence[Example]]:
    from llmcls.data.splits import load_training_data
    from llmcls.runs.assembly import assemble_run, check_run
    from llmcls.runs.run import Run

    run = Run.open(run_path)
    if not data and not run.settings.data.source:
        raise LlmclsError("This run was trained on data from Python; say with --data which rows to show.")
    check_run(run, template=template, base_model=base_model, verify=False)
    examples = load_training_data(run.settings, data).train
    _check_row(row, examples)
    where: dict[str, Any] = {"template": template, "base_model": base_model, "trust_remote_code": trust_remote_code}
    return assemble_run(run, **where, verify=False), examples


def _of_settings(settings: Settings, row: int) -> tuple[Assembly, Sequence[Example]]:
    from llmcls.data.splits import load_training_data
    from llmcls.runs.assembly import assemble, check_assembly

    check_assembly(settings)
    splits = load_training_data(settings)
    _check_row(row, splits.train)
    return assemble(settings, splits.labels, splits.train), splits.train


def _check_row(row: int, examples: Sequence[Example]) -> None:
    if not 0 <= row < len(examples):
        raise LlmclsError(f"--row is {row}, but there are {len(examples)} training rows: 0 to {len(examples) - 1}.")


def _shared_tokens(encoder: Encoder, examples: Sequence[Example]) -> int:
    return len(commonprefix([prompt.input_ids for prompt in encoder.encode(examples[:200])]))


def _legend() -> Text:
    from rich.text import Text

    return Text.assemble(
        ("⟦row's text⟧", STYLES["text"]), "  ", ("‹labels and other data›", STYLES["data"]), "  ",
        ("⟨answer⟩ carries loss", "bold magenta"), f"  {BOUNDARY} token boundary  ⏎ newline\n",
    )  # fmt: skip


def _render(views: Sequence[TokenView], shared: int, answer: Sequence[str]) -> Text:
    from rich.text import Text

    shown = Text()
    before = "frame"
    for position, view in enumerate(views):
        dim = " dim" if position < shared else ""
        if view.origin != before:
            shown.append(BRACKETS[before][1], style=STYLES[before])
        if position == shared:
            shown.append("\n⟨end of the prefix that all rows share⟩\n", style="italic")
        if view.origin != before:
            shown.append(BRACKETS[view.origin][0], style=STYLES[view.origin])
        shown.append(visible(view.text).replace("\n", "⏎\n"), style=f"{STYLES[view.origin]}{dim}".strip())
        shown.append(BOUNDARY, style="dim")
        before = view.origin
    shown.append(BRACKETS[before][1])
    shown.append("\n⟨answer⟩\n", style="italic")
    for piece in answer:
        shown.append(visible(piece), style="bold magenta")
        shown.append(BOUNDARY, style="dim")
    return shown


def _pieces(encoder: Encoder, before: int, answer: Sequence[int]) -> list[str]:
    """What each answer token adds to the text; a token that ends amid a character adds nothing yet.

    Decoded behind the prompt's last token, because some tokenizers drop a space at the beginning.
    """
    if encoder.head:
        return [encoder.labels.names[token] for token in answer]
    texts = [
        encoder.tokenizer.decode([before, *answer[:length]], clean_up_tokenization_spaces=False).rstrip("\ufffd")
        for length in range(len(answer) + 1)
    ]
    return [text[len(shorter) :] for shorter, text in pairwise(texts)]
