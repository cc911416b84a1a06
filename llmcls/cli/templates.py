"""`llmcls templates`: the prompt templates, and what a real prompt looks like, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmcls.cli.shared import gather_settings, settings_options, show, show_json, start, table
from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from rich.text import Text

    from llmcls.prompt.encoding import Encoder
    from llmcls.records import Example

STYLES = {"frame": "", "text": "green", "data": "cyan"}
BOUNDARY = "│"


@click.group("templates")
def command() -> None:
    """List prompt templates, and show a real prompt token by token."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else.")
def list_(as_json: bool) -> None:
    """List the templates that --template takes."""
    from rich.text import Text

    from llmcls.plugin.catalog import prompt_templates

    catalog = prompt_templates()
    if as_json:
        show_json({name: template.description for name, template in catalog.items()})
        return
    shown = table("", "template", "description", "plugin")
    for name, template in catalog.items():
        shown.add_row(name, Text(template.description), catalog.owner(name))
    show(shown)
    click.echo("A path to a .j2 file works as well. `llmcls templates show NAME` prints a real prompt.")


@command.command("show")
@click.argument("name", required=False)
@click.option("--run", "run_path", metavar="DIR", help="Show the prompt of a trained run.")
@click.option("--base-model", metavar="M", help="Whose tokenizer and chat format to use (default: nano).")
@click.option("--data", metavar="DIR|FILE|SPEC", help="Take labels and the example row from here (default: demo:).")
@click.option("--row", default=0, show_default=True, help="Which training row to show.")
@settings_options
def show_(
    name: str | None,
    run_path: str | None,
    base_model: str | None,
    data: str | None,
    row: int,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
) -> None:
    """Print a real prompt with token boundaries: shared prefix, the row's text, and the answer that carries loss."""
    start(quiet=True)
    from llmcls.training.api import load_training_data
    from llmcls.training.preparation import find_template, make_encoder, prepare
    from llmcls.training.run import Run

    if run_path:
        from transformers import AutoTokenizer

        from llmcls.model.loading import find_base_model

        run = Run.open(run_path)
        settings, template = run.settings, find_template(name) if name else run.template
        base = find_base_model(settings.model)
        tokenizer = AutoTokenizer.from_pretrained(run.tokenizer_path)
        encoder = make_encoder(base, tokenizer, template, run.labels, settings.prompt, run.shots)
        if data or settings.data.source:
            examples = load_training_data(settings, data).train
        else:
            raise LlmclsError("This run was trained on data from Python; say with --data which rows to show.")
        whose = run_path
    else:
        if not name:
            raise click.UsageError("Give a template's NAME, or --run DIR.")
        settings = gather_settings(
            files, assignments, prompt__template=name, model__base_model=base_model, data__source=data or "demo:"
        )
        splits = load_training_data(settings)
        prepared = prepare(settings, splits.labels, splits.train)
        encoder, examples, whose = prepared.encoder, splits.train, prepared.base.name
    if not 0 <= row < len(examples):
        raise LlmclsError(f"--row is {row}, but there are {len(examples)} training rows: 0 to {len(examples) - 1}.")
    shared = _shared_tokens(encoder, examples)
    example = examples[row]
    answer = encoder.answers[encoder.labels.position(example.label or "")]
    views = encoder.view(example)
    click.echo(f"Template '{encoder.template.name}' for {whose}, row {row} ({example.source or 'no source'})")
    click.echo(
        f"{len(views)} prompt tokens, {shared} of them shared by all rows; {len(answer)} answer tokens carry loss"
    )
    show(_legend(), _render(encoder, example, shared, answer))


def _shared_tokens(encoder: Encoder, examples: tuple[Example, ...]) -> int:
    prompts = [prompt.input_ids for prompt in encoder.encode(examples[:200])]
    shared = 0
    for column in zip(*prompts, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared


def _legend() -> Text:
    from rich.text import Text

    return Text.assemble(
        ("shared prefix", "dim"), "  frame  ", ("row's text", STYLES["text"]), "  ", ("other data", STYLES["data"]),
        "  ", ("answer: carries loss", "bold magenta"), f"  {BOUNDARY} token boundary  ⏎ newline\n",
    )  # fmt: skip


def _render(encoder: Encoder, example: Example, shared: int, answer: tuple[int, ...]) -> Text:
    from rich.text import Text

    shown = Text()
    for position, view in enumerate(encoder.view(example)):
        style = STYLES[view.origin] + (" dim" if position < shared else "")
        if position == shared:
            shown.append("\n⟨end of shared prefix⟩\n", style="italic")
        shown.append(view.text.replace("\n", "⏎\n"), style=style.strip())
        shown.append(BOUNDARY, style="dim")
    shown.append("\n⟨answer⟩\n", style="italic")
    for token in encoder.tokenizer.convert_ids_to_tokens(list(answer)):
        shown.append(token.replace("Ġ", " ").replace("▁", " "), style="bold magenta")
        shown.append(BOUNDARY, style="dim")
    return shown
