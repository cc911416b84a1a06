"""`llmcls labels`: what a label set costs with a model's tokenizer, before anything is trained or predicted."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from llmcls.cli.shared import (
    code_option,
    echo,
    gather_settings,
    settings_options,
    show,
    show_json,
    split_labels,
    start,
    table,
    typed,
)
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.visible import visible

if TYPE_CHECKING:
    from llmcls.data.splits import DataSplits
    from llmcls.engine.choice import Choice
    from llmcls.engine.inspection import Inspection
    from llmcls.prompt.encoding import Encoder
    from llmcls.records import Example
    from llmcls.runs.assembly import Assembly
    from llmcls.settings import Settings

ASSUMED_TEXT_TOKENS = 50
SAMPLED_ROWS = 200


@click.group("labels")
def command() -> None:
    """Show what a label set costs."""


@command.command("inspect", short_help="Count tokens, choices and cost of a label set.")
@click.option("--run", "run_path", metavar="DIR", help="A trained run: its labels, template and tokenizer.")
@click.option("--base-model", metavar="M", help="Without --run: whose tokenizer to use (default: nano).")
@code_option
@click.option("--template", metavar="T", help="A name from `llmcls templates list`, or a .j2 file.")
@click.option("--labels", metavar="A,B,C", help="The labels; quote one that holds a comma.")
@click.option("--data", metavar="DIR|FILE|SPEC", help="Take the labels, and how long texts are, from labelled data.")
@click.option("--text-tokens", type=click.IntRange(0), help="Tokens of a text (default: as in the data, else 50).")
@click.option("--rows", type=click.IntRange(1), default=1000, show_default=True, help="Texts predicted in one call.")
@click.option("--top", type=click.IntRange(0), default=12, show_default=True, help="How many labels to list.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, nothing else; lists every label.")
@click.pass_context
def inspect_(
    context: click.Context,
    /,
    run_path: str | None,
    base_model: str | None,
    trust_remote_code: bool,
    template: str | None,
    labels: str | None,
    data: str | None,
    text_tokens: int | None,
    rows: int,
    top: int,
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Count what a label set costs: tokens, choices, token-passes per row by method; and what could be cheaper.

    \b
    llmcls labels inspect --run runs/tickets
    llmcls labels inspect --base-model llama-3.2-1b --data tickets.csv
    llmcls labels inspect --base-model nano --labels positive,positive_mixed,negative --text-tokens 30

    A token-pass is one token read by the model. Nothing is loaded but the tokenizer.
    """
    if labels is not None and (run_path or data):
        raise click.UsageError("Give --labels, or --data, or --run: each of them brings the labels.")
    if run_path and (base_model or files or assignments):
        raise click.UsageError("A run has its own base model and settings; leave --base-model, --config and --set out.")
    if as_json and typed(context, "top"):
        raise click.UsageError("--json lists every label; leave --top out.")
    start(quiet=True)
    if run_path:
        assembly, examples = _of_run(run_path, template, data, trust_remote_code)
        whose = run_path
    else:
        settings = gather_settings(
            files,
            assignments,
            model__base_model=base_model,
            model__trust_remote_code=trust_remote_code or None,
            prompt__template=template,
            data__source=data,
        )
        if not labels and not settings.data.source:
            raise click.UsageError("Give --run DIR, or labels by --labels A,B,C or --data SPEC.")
        assembly, examples = _of_settings(settings, labels)
        whose = settings.model.base_model
    _report(_measure(assembly, examples, text_tokens, rows, whose), assembly.encoder, top, as_json)


@dataclass(frozen=True)
class _Measured:
    """An inspection, and how it came about; `names` are the answers as they are shown, in order."""

    whose: str
    names: tuple[str, ...]
    inspection: Inspection
    choice: Choice
    device: str
    room: int
    sampled: int
    truncated: int
    suggestions: list[str]


def _of_run(
    run_path: str, template: str | None, data: str | None, trust_remote_code: bool
) -> tuple[Assembly, Sequence[Example]]:
    from llmcls.runs.assembly import assemble_run, check_run
    from llmcls.runs.run import Run

    run = Run.open(run_path)
    check_run(run, template=template, verify=False)
    _refuse_other_forms(run.settings)
    examples = _read(run.settings, data).train if data else ()
    return assemble_run(run, template=template, verify=False, trust_remote_code=trust_remote_code), examples


def _of_settings(settings: Settings, labels: str | None) -> tuple[Assembly, Sequence[Example]]:
    from llmcls.labels import LabelSet
    from llmcls.runs.assembly import assemble, check_assembly

    check_assembly(settings)
    _refuse_other_forms(settings)
    if labels:
        given = settings.data
        names = LabelSet.from_names(split_labels(labels), given.label_descriptions, given.label_aliases)
        return assemble(settings, names), ()
    splits = _read(settings)
    return assemble(settings, splits.labels, splits.train), splits.train


def _refuse_other_forms(settings: Settings) -> None:
    if settings.training.objective == "head":
        raise LlmclsError(
            "labels inspect tells what the labels' tokens cost, but to a classification head labels are numbers, all "
            "known from the prompt's last token; `llmcls templates show` shows the prompt."
        )
    if settings.form.several:
        raise LlmclsError(
            "labels inspect tells what finding one label costs, but with the task multi_label a text may have several; "
            "`llmcls templates show` shows what is asked."
        )


def _read(settings: Settings, data: str | None = None) -> DataSplits:
    from llmcls.data.splits import load_training_data

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=LlmclsWarning)  # of the texts, which are not inspected here
        return load_training_data(settings, data)


def _measure(
    assembly: Assembly, examples: Sequence[Example], text_tokens: int | None, rows: int, whose: str
) -> _Measured:
    from llmcls.engine.choice import TrieCosts, choose_method
    from llmcls.engine.inspection import PromptShape, inspect_answers, suggest
    from llmcls.engine.tree import shared_prefix_length
    from llmcls.engine.trie import LabelTrie
    from llmcls.model.hardware import choose_device
    from llmcls.records import Example

    encoder = assembly.encoder
    fields = dict.fromkeys(examples[0].fields, "") if examples else {}
    bare = len(encoder.encode([Example("", fields=fields)])[0].input_ids)
    sample = examples[:SAMPLED_ROWS] or [Example("a", fields=fields), Example("Z", fields=fields)]
    prompts = encoder.encode(sample)
    prefix = shared_prefix_length([prompt.input_ids for prompt in prompts])
    if examples and text_tokens is None:
        own = sum(len(prompt.input_ids) for prompt in prompts) / len(prompts) - prefix
    else:
        own = max(bare - prefix, 0) + (ASSUMED_TEXT_TOKENS if text_tokens is None else text_tokens)
    trie, shape, device = (
        LabelTrie(encoder.answers, encoder.answer_labels),
        PromptShape(prefix, own, rows),
        choose_device(),
    )
    inspection = inspect_answers(trie, shape)
    names = _answer_names(encoder)
    room = encoder.max_length - bare - inspection.statistics.depth
    return _Measured(
        whose,
        names,
        inspection,
        choose_method(TrieCosts.of(trie), shape, device.type),
        device.type,
        room,
        sampled=len(prompts) if examples else 0,
        truncated=sum(prompt.truncated for prompt in prompts),
        suggestions=suggest(inspection, names, room),
    )


def _answer_names(encoder: Encoder) -> tuple[str, ...]:
    """What each answer is called: a label, `A: label` where it has a code, `alias (label)` for another spelling."""
    names, labels = encoder.labels.names, encoder.labels
    own = [f"{label.code}: {label.name}" if label.code else label.name for label in labels]
    others = zip(encoder.spellings[len(own) :], encoder.answer_labels[len(own) :], strict=True)
    return (*own, *(f"{alias} ({names[label]})" for alias, label in others))


def _report(measured: _Measured, encoder: Encoder, top: int, as_json: bool) -> None:
    if as_json:
        show_json(_as_json(measured, encoder))
        return
    inspection, names = measured.inspection, measured.names
    figures, shape = inspection.statistics, inspection.shape
    source = f"mean of {measured.sampled} texts" if measured.sampled else "assumed"
    cut = f"; {measured.truncated} of {measured.sampled} texts are cut" if measured.truncated else ""
    spelled = f" in {len(names)} spellings" if len(names) > figures.labels else ""
    alike, groups = sum(map(len, inspection.collisions)), len(inspection.collisions)
    for line in (
        f"{figures.labels} labels{spelled}, template '{encoder.template.name}', tokenizer of {measured.whose}",
        f"Prompt       {shape.prefix} tokens shared by all rows, {shape.own:.1f} a row's own ({source})",
        f"             room for {measured.room} tokens of text{cut}",
        f"Label trie   {figures.nodes} tokens, {figures.forced} forced; {figures.branching} places with a choice",
        f"             {figures.fed} fed per row ({inspection.fed_for_mass} with label mass)",
        f"Labels       {figures.depth} tokens the longest, {len(inspection.continued)} the beginning of others",
        f"             {alike} share the first token with others ({groups} group{'' if groups == 1 else 's'})",
        "",
    ):
        echo(line)
    show(_method_table(inspection))
    echo("A token-pass is one token read by the model; ranges go from the average label to")
    echo("the worst. Further forwards wait for each other, which small models feel most.\n")
    chosen, device = measured.choice, {"cpu": "a CPU"}.get(measured.device, "a GPU")
    _say(f"Method auto on {device}: {chosen.method} for labels alone ({chosen.reason}); exact for all probabilities.")
    echo()
    if top:
        show(_label_table(inspection, names, top))
        echo("fed: tokens to feed until no other label is possible; forced: tokens without a")
        echo("choice; begin alike: labels with this first token.\n")
    for suggestion in measured.suggestions:
        _say(suggestion, "- ")


def _say(sentence: str, bullet: str = "") -> None:
    indent = " " * len(bullet)
    echo(textwrap.fill(sentence, 80, initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False))


def _method_table(inspection: Inspection) -> Any:
    shown = table(
        f"Predicted cost, {inspection.shape.rows} rows in one call",
        "method",
        "token-passes per row",
        "against exact",
        "further forwards",
    )
    exact = inspection.costs["exact"].most
    for column in shown.columns[1:]:
        column.justify = "right"
    for method, cost in inspection.costs.items():
        least, most = f"{cost.least:,.1f}", f"{cost.most:,.1f}"
        ratios = f"{cost.least / exact:.2f}", f"{cost.most / exact:.2f}"
        shown.add_row(
            method,
            least if least == most else f"{least} to {most}",
            ratios[0] if ratios[0] == ratios[1] else f"{ratios[0]} to {ratios[1]}",
            str(cost.rounds) if cost.rounds < 2 else f"up to {cost.rounds}",
        )
    return shown


def _label_table(inspection: Inspection, names: Sequence[str], top: int) -> Any:
    from rich.text import Text

    costs = inspection.answers
    order = sorted(range(len(names)), key=lambda at: (-costs[at].fed, -costs[at].tokens, at))[:top]
    sharing = {label: len(group) for group in inspection.collisions for label in group}
    title = f"The {len(order)} costliest of {len(names)} labels" if len(order) < len(names) else "Labels"
    shown = table(title, "label", "tokens", "fed", "forced", "begin alike")
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    shown.columns[0].max_width = 38
    for at in order:
        figures = (costs[at].tokens, costs[at].fed, costs[at].forced, sharing.get(at, 1))
        shown.add_row(Text(visible(names[at])), *map(str, figures))
    return shown


def _as_json(measured: _Measured, encoder: Encoder) -> dict[str, Any]:
    inspection, labels, names = measured.inspection, encoder.labels.names, encoder.spellings
    answers = zip(encoder.answer_labels, names, encoder.answers, inspection.answers, strict=True)
    return {
        "tokenizer": measured.whose,
        "template": encoder.template.name,
        "prompt": {
            "shared_tokens": inspection.shape.prefix,
            "own_tokens": inspection.shape.own,
            "rows": inspection.shape.rows,
            "sampled_texts": measured.sampled,
            "truncated_texts": measured.truncated,
            "room_for_text": measured.room,
        },
        "trie": {**asdict(inspection.statistics), "fed_for_label_mass": inspection.fed_for_mass},
        "token_passes_per_row": {method: asdict(cost) for method, cost in inspection.costs.items()},
        "labels": [
            {
                "label": labels[label],
                "answer": name,
                **asdict(cost),
                "pieces": [str(encoder.tokenizer.decode([token])) for token in answer],
            }
            for label, name, answer, cost in answers
        ],
        "auto": {"device": measured.device, **asdict(measured.choice)},
        "prefixes_of_others": {names[at]: [names[b] for b in more] for at, more in inspection.continued.items()},
        "first_token_collisions": [[names[at] for at in group] for group in inspection.collisions],
        "suggestions": measured.suggestions,
    }
