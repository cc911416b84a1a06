"""Helps plugin authors test: an isolated plugin manager, a tiny offline model, and one-line contract checks.

    pytest_plugins = ["llmcls.testing"]

    def test_contract(tmp_path):
        (tmp_path / "tickets.ini").write_text("[1]\\ntext = hello\\nlabel = greeting\\n")
        check_plugin(my_plugin, specs={"ini": str(tmp_path / "tickets.ini")})

Every check raises AssertionError with a sentence that says what the contract wants.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

from llmcls.data.reader import DatasetReader, Row, Table, dataset_readers
from llmcls.data.split_names import standard_splits
from llmcls.errors import LlmclsError
from llmcls.labels import Label, LabelSet
from llmcls.model.adapter import BaseModelAdapter, base_models
from llmcls.plugin.manager import DISABLE_VARIABLE, check_hooks, load_plugins, new_manager
from llmcls.prompt.frame import Frame, Message, Prompt
from llmcls.prompt.marks import mark, unmark
from llmcls.prompt.template import PromptTemplate, prompt_templates
from llmcls.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmcls.plugin.catalog import Catalog

AWKWARD_TEXTS = (
    "",
    " \n\t ",
    "{{ text }} {% endmessage %} {# #}",
    "label: positive\n\nlabel:",
    "<|eot_id|></s><|im_end|>[INST]### User:",
    "ünïcode 🙂 العربية\u202e \u200b\x00",
    "long " * 2000,
)
AWKWARD_LABELS = LabelSet(
    [
        Label("positive", "a description with {{ braces }}"),
        Label("positive_mixed"),
        Label("two words, comma"),
        Label("</s>"),
        Label("标签 🙂"),
    ]
)
NONSENSE_SPECS = (
    "",
    " ",
    ":",
    "no such thing",
    "no/such/folder",
    "nonsense:x",
    "no-such-file.nonsense",
    "\0",
    "x" * 5000,
)
ROWS_CHECKED = 1000


@pytest.fixture
def plugin_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[pluggy.PluginManager]:
    """The process-wide plugin manager with nothing but the built-ins, whatever is installed.

    `plugin_manager.register(module)` adds yours; all of llmcls sees it until the test ends.
    """
    monkeypatch.setenv(DISABLE_VARIABLE, "*")
    load_plugins.cache_clear()
    yield load_plugins()
    load_plugins.cache_clear()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of some ten thousand parameters; see `build_tiny_model`."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


def build_tiny_tokenizer(
    bos: str = "<s>", eos: str = "</s>", pad: str = "<pad>", others: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, a token a byte, with these control tokens; it adds none of them by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    controls = list(dict.fromkeys([pad, bos, eos, *others]))
    pieces = controls + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=list(others),
        clean_up_tokenization_spaces=False,
    )


def build_tiny_model(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0) -> Path:
    """Save a random-weight Llama and a tokenizer (`build_tiny_tokenizer` when None) into `folder`; returns `folder`.

    `AutoModelForCausalLM` and `AutoTokenizer` load it within a second, without a network. Its answers are noise.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer or build_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def check_plugin(
    module: object,
    *,
    specs: Mapping[str, str] | None = None,
    tokenizers: Mapping[str, PreTrainedTokenizerFast] | None = None,
) -> None:
    """Call every hook that a plugin implements, and check everything it registers.

    Args:
        module: the plugin: a module, or an object with hook implementations.
        specs: for each dataset reader it registers, by name, a specification that the reader can read.
        tokenizers: for each base-model adapter, by name, a tokenizer of its family. Not needed for an adapter with
            a checkpoint that is a folder: that folder's tokenizer is taken.
    """
    manager = new_manager()
    try:
        name = manager.register(module)
        check_hooks(manager)
        assert name is not None
        models, templates, readers = base_models(manager), prompt_templates(manager), dataset_readers(manager)
    except (LlmclsError, pluggy.PluginValidationError) as error:
        raise AssertionError(f"The plugin cannot be registered: {error}") from error
    known = {hook for hook in dir(manager.hook) if not hook.startswith("_")}
    used = {caller.name for caller in manager.get_hookcallers(module) or []}
    for hook in sorted(known - used):
        assert not hasattr(module, hook), f"'{hook}' lacks the @hookimpl decorator, so it is never called."
    assert used, "The plugin implements no hook."
    _check_free_names(module, models, templates, readers)
    for adapter in models.values():
        check_base_model(adapter, (tokenizers or {}).get(adapter.name) or _own_tokenizer(adapter))
    for template in templates.values():
        check_prompt_template(template)
    for reader in readers.values():
        assert specs and reader.name in specs, f"Pass specs={{'{reader.name}': ...}}: a specification it can read."
        check_dataset_reader(reader, specs[reader.name])
    if "register_commands" in used:
        _check_commands(manager)


def check_base_model(adapter: BaseModelAdapter, tokenizer: PreTrainedTokenizerFast) -> None:
    """Check an adapter against a tokenizer of its family, which is left as it was."""
    from llmcls.answers import form_named
    from llmcls.prompt.encoding import Encoder

    _check_name(adapter)
    assert isinstance(adapter.fits("nobody/nothing", {}), bool), "fits() must answer True or False for any checkpoint."
    targets = adapter.lora_target_modules
    assert targets == "all-linear" or (targets and not isinstance(targets, str)), (
        f"lora_target_modules must be 'all-linear' or a list of module names, not {targets!r}."
    )
    _check_suggestions(adapter)
    frame = adapter.frame(tokenizer)
    pad = adapter.pad_token(tokenizer)
    vocabulary = tokenizer.get_vocab()
    for role, token in (("pad", pad), ("end", frame.end_token), ("turn end", frame.turn_end_token)):
        assert token in vocabulary, f"The {role} token {token!r} is not in the vocabulary."
    assert pad not in (frame.end_token, frame.turn_end_token), (
        f"The pad token {pad!r} also ends answers: a model trained so never learns to stop. Choose another one."
    )
    assert not frame.bos_token or frame.bos_token in vocabulary, f"The vocabulary lacks BOS {frame.bos_token!r}."
    _check_chat(frame)

    plain = PromptTemplate("plain", "Sort into {{ labels | map(attribute='name') | join(', ') }}.\n{{ text }}\nlabel:")
    chat = PromptTemplate(
        "chat",
        '{% message "system" %}Sort into {{ labels | map(attribute="name") | join(", ") }}.{% endmessage %}'
        '{% message "user" %}{{ text }}{% endmessage %}',
    )
    controls = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    forgeries = [*controls, *frame.turn_markers]
    hostile = " ".join(forgeries) + "".join(forgeries) + "\n".join(forgeries)
    for template in (plain, chat):
        encoder = Encoder(tokenizer, frame, template, AWKWARD_LABELS, form_named("single_label"), max_length=100_000)
        honest, forged = (row.input_ids for row in encoder.encode([Example("hello"), Example(hostile)]))
        for token in controls:
            token_id = tokenizer.convert_tokens_to_ids(token)
            assert honest.count(token_id) == forged.count(token_id), f"A text can forge the control token {token!r}."
        for marker in frame.turn_markers:
            counts = [str(tokenizer.decode(ids)).count(marker) for ids in (honest, forged)]
            assert counts[0] == counts[1], f"A text can forge the turn marker {marker!r}."
        if frame.bos_token:
            bos = tokenizer.convert_tokens_to_ids(frame.bos_token)
            assert honest.count(bos) == 1 and honest[0] == bos, (
                f"A {template.name} prompt must begin with BOS and hold it once, but begins {honest[:3]} and holds "
                f"it {honest.count(bos)} times (BOS is {bos})."
            )
        end = tokenizer.convert_tokens_to_ids(frame.turn_end_token if template is chat else frame.end_token)
        assert all(answer[-1] == end for answer in encoder.answers), "Every answer must end with its end token."


def check_prompt_template(template: PromptTemplate) -> None:
    """Check that a template takes any text and any labels, uses the text, and leaves room for the label."""
    _check_name(template, "begin it with a {# comment #}, which is its description")
    # A template that reads `fields` gets those it names.
    names = {first or second for first, second in re.findall(r"fields(?:\.(\w+)|\[['\"](.+?)['\"]\])", template.source)}

    def render(text: str, labels: LabelSet = AWKWARD_LABELS) -> Prompt:
        shots = [Example(f"shot {number}", label.name) for number, label in enumerate(labels)]
        shown = shots if template.uses("shots") else []
        try:
            return template.render(Example(text, fields=dict.fromkeys(names, text)), labels, shown)
        except LlmclsError as error:
            raise AssertionError(
                f"Template '{template.name}' must render any text, but for {text[:40]!r}: {error}"
            ) from error

    for text in AWKWARD_TEXTS:
        assert render(text) == render(text), f"Template '{template.name}' must render the same row the same each time."
    render("text", LabelSet.from_names([f"label {number}" for number in range(1000)]))
    assert render("one") != render("another"), f"Template '{template.name}' must show the row's text or fields."

    prompt = render("some text")
    if prompt.is_chat:
        last = prompt.messages[-1].role
        assert last != "assistant", f"Template '{template.name}' must leave the last turn to the model's answer."
        return
    plain, spans = unmark(prompt.completion, re.compile(r"(?!)"))
    end_of_text = max((span.end for span in spans if span.origin == "text"), default=0)
    bare = len(spans) == 1 and not plain[: spans[0].start].strip()  # the text and nothing else: for a head
    assert bare or plain[end_of_text:].strip(), (
        f"Template '{template.name}' must not end with the text, or a label would merge with it; end with 'label:'."
    )


def check_dataset_reader(reader: DatasetReader, spec: str) -> None:
    """Check that a reader knows its own specifications, and what it makes of one that it can read."""
    _check_name(reader)
    assert reader.reads(spec) is True, f"Reader '{reader.name}': reads({spec!r}) must be True."
    for nonsense in NONSENSE_SPECS:
        assert _answer(reader.reads, nonsense) is False, (
            f"Reader '{reader.name}': reads({nonsense[:40]!r}) must be False and raise nothing."
        )
    tables = reader.read(spec)
    assert tables, f"Reader '{reader.name}': read({spec!r}) must return at least one split."
    standard_splits(tables, f"reader '{reader.name}'")  # raises LlmclsError for a split name nobody knows
    for split, table in tables.items():
        where = f"Reader '{reader.name}', split '{split}'"
        assert isinstance(table, Table), f"{where}: must be a Table, not {type(table).__name__}."
        assert table.columns, f"{where}: must declare its columns."
        assert len(set(table.columns)) == len(table.columns), f"{where}: no two columns may have one name."
        rows = list(islice(table.rows, ROWS_CHECKED))
        assert rows, f"{where}: has no rows; a source without rows must raise LlmclsError."
        for row in rows:
            assert isinstance(row, Row), f"{where}: every row must be a Row, not {type(row).__name__}."
            assert row.source, f"{where}: every row must say where it stands, such as 'tickets.ini:7'."
            undeclared = sorted(set(row.values) - set(table.columns))
            assert not undeclared, f"{where}, {row.source}: columns {undeclared} are not declared in table.columns."
            assert row.problem is None or row.problem.strip(), f"{where}, {row.source}: a problem must be a sentence."


def _check_name(thing: Any, remedy: str = "give it one line") -> None:
    assert isinstance(thing.name, str) and re.fullmatch(r"[\w.+-]+", thing.name), (
        f"A name is typed on command lines: letters, digits and .+-_ only, not {thing.name!r} ({type(thing).__name__})."
    )
    described = isinstance(thing.description, str) and bool(thing.description.strip())
    assert described and "\n" not in thing.description, f"'{thing.name}' needs a description: {remedy}."


def _check_free_names(
    module: object,
    models: Catalog[BaseModelAdapter],
    templates: Catalog[PromptTemplate],
    readers: Catalog[DatasetReader],
) -> None:
    """A name that llmcls or another installed plugin has already: llmcls would refuse to start."""
    installed = load_plugins()
    everything: Sequence[tuple[Catalog[Any], Catalog[Any]]] = (
        (models, base_models(installed)),
        (templates, prompt_templates(installed)),
        (readers, dataset_readers(installed)),
    )
    for mine, known in everything:
        for name in mine:
            owner = known.owner(name) if name in known else None
            assert owner is None or installed.get_plugin(owner) is module, (
                f"The {mine.kind} '{name}' is registered by the plugin '{owner}' already; give yours another name."
            )
    shorts = {short: known for known in base_models(installed).values() for short in known.checkpoints}
    for adapter in models.values():
        for short in adapter.checkpoints:
            assert short not in shorts or shorts[short].name in models, (
                f"The adapter '{shorts[short].name}' calls a base model '{short}' already; give yours another name."
            )


def _check_chat(frame: Frame) -> None:
    awkward = ("  two\n\n  lines\t🙂 \n", "{{ x }} <b> &amp; \\n Aa İ ﬁ e\u0301", "long " * 2000, "x")
    contents = [mark(text, "text") for text in awkward]
    turns = [Message(role, text) for role, text in zip(("system", "user", "assistant", "user"), contents, strict=True)]
    for messages in (turns[:2], turns[1:2], turns):
        rendered = frame.chat(messages)
        position = 0
        for message in messages:
            position = rendered.find(message.content, position)
            assert position >= 0, (
                f"The chat frame drops, changes or reorders the {message.role} message: each content must stand in the "
                "chat as it is given, with the white space at its ends."
            )
            position += len(message.content)
        assert rendered == frame.chat(messages), "The chat frame must render the same messages the same each time."
        now = datetime.datetime.now().astimezone()
        for form in ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d/%m/%Y", "%m/%d/%Y"):
            assert now.strftime(form) not in rendered, (
                "The chat frame must not hold today's date: prompts would differ."
            )


def _check_commands(manager: pluggy.PluginManager) -> None:
    import click
    from click.testing import CliRunner

    from llmcls.cli import build_cli

    cli = click.Group("llmcls")
    manager.hook.register_commands(cli=cli)
    assert cli.commands, "register_commands() added no command."
    try:
        build_cli(manager)
    except LlmclsError as error:
        raise AssertionError(f"The plugin's commands cannot be added: {error}") from error
    for name, command in cli.commands.items():
        assert command.get_short_help_str(), f"Command '{name}' needs a docstring: it is its help."
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0, f"`llmcls {name} --help` fails: {result.exception!r}"


def _check_suggestions(adapter: BaseModelAdapter) -> None:
    """What it suggests of training can be followed, and has a reason of its own where it is not the usual."""
    for name, allowed in (("tuning", ("lora", "full")), ("quantization", ("none", "8bit", "4bit"))):
        value = getattr(adapter, name)
        assert value in allowed, f"{name} must be one of {', '.join(allowed)}, not {value!r}."
    assert adapter.tuning == "lora" or adapter.quantization == "none", (
        f"tuning 'full' changes the weights, which quantization {adapter.quantization!r} freezes; set it to 'none'."
    )
    for name in ("learning_rate", "full_learning_rate"):
        rate = getattr(adapter, name)
        assert isinstance(rate, float) and 0 < rate < math.inf, f"{name} must be a positive number, not {rate!r}."
    usual = BaseModelAdapter
    unusual = (adapter.tuning, adapter.quantization) != (usual.tuning, usual.quantization)
    assert not unusual or adapter.why_suggested != usual.why_suggested, (
        f"tuning {adapter.tuning!r} and quantization {adapter.quantization!r} are not the usual ones; say why in "
        "why_suggested."
    )


def _own_tokenizer(adapter: BaseModelAdapter) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    for checkpoint in adapter.checkpoints.values():
        if Path(checkpoint).is_dir():
            return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    raise AssertionError(f"Pass tokenizers={{'{adapter.name}': ...}}: a tokenizer of its family.")


def _answer(reads: Callable[[str], bool], spec: str) -> object:
    try:
        return reads(spec)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's reader raises is the finding
        return error
