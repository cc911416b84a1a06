"""`llmcls templates`: the prompt templates, and what a real prompt looks like, token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from llmcls.cli.shared import gather_settings, settings_options, show, show_json, start, table
from llmcls.errors import LlmclsError

if TYPE_CHECKING:
    from rich.text import Text

    from llmcls.prompt.encoding import Encoder, TokenView
    from llmcls.records import Example

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


@command.command("show", short_help="Print a real prompt, token by token.")
@click.argument("name", required=False)
@click.option("--run", "run_path", metavar="DIR", help="Show the prompt of a trained run.")
@click.option("--base-model", metavar="M", help="Whose tokenizer and chat format to use (default: nano).")
@click.option("--data", metavar="DIR|FILE|SPEC", help="Take labels and the example row from here (default: demo:).")
@click.option("--row", default=0, show_default=True, help="Which training row to show.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print the tokens as JSON, nothing else.")
def show_(
    name: str | None,
    run_path: str | None,
    base_model: str | None,
    data: str | None,
    row: int,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print a real prompt with token boundaries: shared prefix, the row's text, and the answer that carries loss."""
    start(quiet=True)
    from llmcls.training.api import load_training_data
    from llmcls.training.preparation import find_template, make_encoder, prepare
    from llmcls.training.run import Run

    if run_path:
        if files or assignments:
            raise click.UsageError("A run has its own settings; --config and --set are for templates without --run.")
        from transformers import AutoTokenizer

        from llmcls.model.loading import find_base_model

        run = Run.open(run_path)
        settings, template = run.settings, find_template(name) if name else run.template
        moved = {"base_model": base_model} if base_model else {}
        base = find_base_model(run.model_settings.model_copy(update=moved))
        tokenizer = AutoTokenizer.from_pretrained(run.tokenizer_path)
        form = settings.answer_form
        encoder = make_encoder(base, tokenizer, template, run.labels, settings.prompt, run.shots, run.has_head, form)
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
    answer, carrying = _answer(encoder, example)
    views = encoder.view(example)
    if as_json:
        tokens = [
            {"id": view.id, "text": view.text, "from": view.origin, "shared": place < shared, "loss": False}
            for place, view in enumerate(views)
        ]
        tokens += [
            {"id": token_id, "text": piece, "from": "answer", "shared": False, "loss": place in carrying}
            for place, (token_id, piece) in enumerate(zip(answer, _pieces(encoder, views[-1].id, answer), strict=True))
        ]
        show_json({"template": encoder.template.name, "row": example.source, "tokens": tokens})
        return
    click.echo(f"Template '{encoder.template.name}' for {whose}, row {row} ({example.source or 'no source'})")
    click.echo(f"{len(views)} prompt tokens, {shared} of them shared by all rows; {_what_is_learnt(encoder, answer)}")
    show(_legend(), _render(views, shared, _pieces(encoder, views[-1].id, answer)))


def _answer(encoder: Encoder, example: Example) -> tuple[Sequence[int], Collection[int]]:
    """What follows the prompt, and the places of its tokens that carry loss.

    Of a head the outputs that are the row's labels. Of a multi-label task the question about the row's first label with
    its yes, or about the first of all with its no.
    """
    from llmcls.engine.lists import list_items

    if encoder.head:
        outputs = [encoder.labels.position(name) for name in example.names]
        return outputs, range(len(outputs))
    at = encoder.labels.position(example.names[0]) if example.names else 0
    if encoder.form == "label":
        return encoder.answers[at], range(len(encoder.answers[at]))
    if encoder.form == "list":
        said = list_items(encoder).tokens([encoder.labels.position(name) for name in example.names])
        return said, range(len(said))
    yes, no = encoder.answers[at], encoder.denials[at]
    chosen = yes if example.names else no
    decided = next(place for place, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
    return chosen[: decided + 1], (decided,)


def _what_is_learnt(encoder: Encoder, answer: Sequence[int]) -> str:
    if encoder.head:
        decision = "the right one of" if encoder.form == "label" else "yes or no about each of"
        return f"a head learns {decision} {len(encoder.labels)} labels"
    if encoder.form != "yes_no":
        return f"{len(answer)} answer token{' carries' if len(answer) == 1 else 's carry'} loss"
    return f"one of {len(encoder.labels)} questions is shown, whose last token carries loss"


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
        shown.append(view.text.replace("\n", "⏎\n"), style=f"{STYLES[view.origin]}{dim}".strip())
        shown.append(BOUNDARY, style="dim")
        before = view.origin
    shown.append(BRACKETS[before][1])
    shown.append("\n⟨answer⟩\n", style="italic")
    for piece in answer:
        shown.append(piece, style="bold magenta")
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
