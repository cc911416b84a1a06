"""The checks of `llmcls.testing` pass what is right and catch each thing that is wrong."""

import datetime
import itertools
import json
import re
import unicodedata
from types import SimpleNamespace

import pytest

from llmcls import LlmclsError, hookimpl
from llmcls.data.reader import DatasetReader, Row, Table
from llmcls.default_plugins import base_models, dataset_readers, prompt_templates
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt.encoding import EncodedPrompt, Encoder
from llmcls.prompt.frame import Frame
from llmcls.prompt.template import PromptTemplate
from llmcls.testing import (
    build_tiny_model,
    build_tiny_tokenizer,
    check_base_model,
    check_dataset_reader,
    check_plugin,
    check_prompt_template,
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer(others=["<|user|>"])


class Headings(BaseModelAdapter):
    name = "headings"
    description = "a family for tests"

    def chat(self, messages):
        return "<s>" + "".join(f"# {m.role}\n{m.content}\n" for m in messages) + "# assistant\n"

    def frame(self, tokenizer):
        return Frame("<s>", "</s>", "</s>", lambda messages: self.chat(messages), ("# system", "# user", "# assistant"))


def test_the_tiny_model_loads_runs_and_is_the_same_each_time(tiny_model_dir, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert tokenizer.is_fast and sum(p.numel() for p in model.parameters()) < 50_000
    text = "ünïcode 🙂\n two  spaces"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
    assert tokenizer("<s>a</s>", add_special_tokens=False)["input_ids"][::2] == [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    ]
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert model(**tokenizer("hello", return_tensors="pt")).logits.isfinite().all()
    again = AutoModelForCausalLM.from_pretrained(build_tiny_model(tmp_path))
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_built_ins_keep_the_contract(tokenizer, tmp_path, tiny_model_dir):
    check_plugin(prompt_templates)
    check_base_model(BaseModelAdapter(), tokenizer)
    check_base_model(Headings(), tokenizer)
    tinyllama = build_tiny_tokenizer(others=["<unk>"])
    check_base_model(base_models.TinyLlamaChat(), tinyllama)
    local = BaseModelAdapter()
    local.name = "local"
    local.checkpoints = {"tiny": str(tiny_model_dir)}
    check_plugin(SimpleNamespace(register_base_models=hookimpl(_named("register_base_models", lambda: [local]))))

    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tx\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    readers = {reader.name: reader for reader in dataset_readers.register_dataset_readers()}
    for name in ("csv", "tsv", "jsonl"):
        check_dataset_reader(readers[name], str(tmp_path / f"a.{name}"))


def test_adapters_keep_the_contract_on_real_vocabularies(shared):
    from transformers import AutoTokenizer

    for adapter, folder in ((base_models.Llama3(), "llama-3.2"), (base_models.TinyLlamaChat(), "tinyllama")):
        check_base_model(adapter, AutoTokenizer.from_pretrained(shared / "tokenizers" / folder))


COUNT = itertools.count()


def broken(**changes):
    return type("Broken", (Headings,), changes)()


def chat(render):
    return {"chat": lambda _self, messages: render(messages)}


def turns(messages, content=lambda m: m.content):
    return "<s>" + "".join(f"# {m.role}\n{content(m)}\n" for m in messages) + "# assistant\n"


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        (broken(name="two words"), "letters, digits"),
        (broken(description=""), "description"),
        (broken(fits=lambda *_: None), r"fits\(\)"),
        (broken(lora_target_modules="q_proj"), "lora_target_modules"),
        (broken(tuning="all"), "tuning must be one of lora, full, not 'all'"),
        (broken(quantization="2bit"), "quantization must be one of none, 8bit, 4bit, not '2bit'"),
        (broken(tuning="full"), "quantization '4bit' freezes"),
        (broken(quantization="none"), "say why in why_suggested"),
        (broken(quantization="none", why_suggested="of a kind"), None),
        (broken(learning_rate=0.0), "learning_rate must be a positive number"),
        (broken(full_learning_rate="1e-3"), "full_learning_rate must be a positive number"),
        (broken(pad_token=lambda *_: "</s>"), "never learns to stop"),
        (broken(pad_token=lambda *_: "<nope>"), "pad token '<nope>' is not in the vocabulary"),
        (broken(frame=lambda *_: Frame("<s>", "<nope>", "</s>", turns)), "end token '<nope>'"),
        (broken(frame=lambda *_: Frame("<nope>", "</s>", "</s>", turns)), "lacks BOS"),
        (broken(frame=lambda *_: Frame("<s>", "</s>", "</s>", lambda m: "<s>" + turns(m))), "hold it once"),
        (broken(frame=lambda *_: Frame("<s>", "</s>", "</s>", lambda m: turns(m)[3:])), "begin with BOS"),
        (broken(frame=lambda *_: Frame("<s>", "</s>", "</s>", turns)), None),  # its markers are ordinary text then
        (broken(**chat(lambda m: turns(m, lambda x: x.content.upper()))), "changes or reorders the system"),
        (broken(**chat(lambda m: turns([x for x in m if x.role != "system"]))), "drops, changes"),
        (broken(**chat(lambda m: turns(m[::-1]))), "reorders"),
        (
            broken(**chat(lambda m: turns(m, lambda x: re.sub(r"[^\S\n]+(?=\ufdd2)", "", x.content)))),
            "white space at its",
        ),
        (broken(**chat(lambda m: turns(m, lambda x: x.content[:900]))), "drops, changes"),
        (broken(**chat(lambda m: turns(m, lambda x: unicodedata.normalize("NFC", x.content)))), "drops, changes"),
        (broken(**chat(lambda m: f"<s>{datetime.date.today():%d %b %Y}\n" + turns(m)[3:])), "today's date"),
        (broken(**chat(lambda m: f"<s>{next(COUNT)}{turns(m)[3:]}")), "same each time"),
    ],
)
def test_catches_a_broken_adapter(adapter, says, tokenizer):
    if says is None:
        check_base_model(adapter, tokenizer)
        return
    with pytest.raises(AssertionError, match=says):
        check_base_model(adapter, tokenizer)


def test_catches_forgery(tokenizer, monkeypatch):
    def encode(self, examples):
        prompts = [f"<s># user\n{example.text}\n# assistant\n" for example in examples]
        return [EncodedPrompt(ids) for ids in self.tokenizer(prompts, add_special_tokens=False)["input_ids"]]

    monkeypatch.setattr(Encoder, "encode", encode)
    with pytest.raises(AssertionError, match="forge the control token"):
        check_base_model(Headings(), tokenizer)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ text }}\nlabel:", "begin it with a"),
        ("{# x #}label: {{ text }}", "not end with the text"),
        ("{# x #}label: {{ text }} \n", "not end with the text"),
        ("{# x #}{{ text[:0] }}label:", "show the row's text"),
        ("{# x #}{{ text.splitlines()[0] }}\nlabel:", "render any text"),
        ("{# x #}{{ labels[7].name }} {{ text }}\nlabel:", "render any text"),
        ("{# x #}{{ range(99999) | random }}{{ text }}\nlabel:", "same each time"),
        (
            '{# x #}{% message "user" %}{{ text }}{% endmessage %}{% message "assistant" %}label:{% endmessage %}',
            "last turn",
        ),
    ],
)
def test_catches_a_broken_template(source, says):
    with pytest.raises(AssertionError, match=says):
        check_prompt_template(PromptTemplate("broken", source))


def test_templates_may_use_fields():
    check_prompt_template(PromptTemplate("mail", "{# x #}{{ fields.subject }}: {{ fields['the body'] }}\nlabel:"))


class OneRow(DatasetReader):
    name = "one"
    description = "a reader for tests"

    def reads(self, spec):
        return spec.startswith("one:")

    def read(self, spec):
        return {"train": Table(["text"], [Row({"text": "a"}, "one:1")])}


def reading(table):
    return {"read": lambda *_: {"train": table}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"name": ""}, "letters, digits"),
        ({"description": "two\nlines"}, "description"),
        ({"reads": lambda *_: False}, "must be True"),
        ({"reads": lambda *_: True}, "must be False"),
        ({"reads": lambda _, spec: spec[3] == ":"}, "must be False and raise nothing"),
        ({"read": lambda *_: {}}, "at least one split"),
        (reading([Row({"text": "a"}, "one:1")]), "must be a Table"),
        (reading(Table([], [])), "declare its columns"),
        (reading(Table(["text", "text"], [Row({"text": "a"}, "one:1")])), "no two columns"),
        (reading(Table(["text"], [])), "has no rows"),
        (reading(Table(["text"], [{"text": "a"}])), "must be a Row"),
        (reading(Table(["text"], [Row({"text": "a"}, "")])), "say where it stands"),
        (reading(Table(["text"], [Row({"body": "a"}, "one:1")])), r"\['body'\] are not declared"),
        (reading(Table(["text"], [Row({}, "one:1", problem=" ")])), "must be a sentence"),
    ],
)
def test_catches_a_broken_reader(changes, says):
    reader = type("Broken", (OneRow,), changes)()
    if says is None:
        check_dataset_reader(reader, "one:x")
        return
    with pytest.raises(AssertionError, match=says):
        check_dataset_reader(reader, "one:x")


def test_two_splits_of_one_meaning_are_refused():
    reader = OneRow()
    reader.read = lambda _: dict.fromkeys(("dev", "validation"), Table(["text"], [Row({"text": "a"}, "one:1")]))
    with pytest.raises(LlmclsError, match="two validation splits"):
        check_dataset_reader(reader, "one:x")


def _named(name, function):
    function.__name__ = name
    return function


def _train():
    """Train."""


def _module(**hooks):
    return SimpleNamespace(**{name: hookimpl(_named(name, function)) for name, function in hooks.items()})


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (SimpleNamespace(), "implements no hook"),
        (_module(register_reader=lambda: []), "hook that llmcls does not have"),
        (SimpleNamespace(register_prompt_templates=lambda: []), "lacks the @hookimpl"),
        (_module(register_prompt_templates=lambda: None), "must return a list"),
        (_module(register_prompt_templates=lambda folder: []), "folder"),
        (_module(register_dataset_readers=lambda: [OneRow]), "register an instance"),
        (
            _module(register_dataset_readers=lambda: [OneRow(), OneRow()]),
            "Two plugins register the dataset reader 'one'",
        ),
        (_module(register_dataset_readers=lambda: [OneRow()]), "Pass specs="),
        (_module(register_base_models=lambda: [Headings()]), "Pass tokenizers="),
        (_module(register_prompt_templates=lambda: [PromptTemplate("x", "{{ text }}")]), "description"),
        (_module(register_commands=lambda cli: None), "added no command"),
        (
            _module(register_commands=lambda cli: cli.command("train")(_named("train", _train))),
            "has already: rename it",
        ),
        (
            _module(register_prompt_templates=lambda: [PromptTemplate("chat", "{# x #}{{ text }}\nlabel:")]),
            "already; give",
        ),
        (
            _module(register_base_models=lambda: [type("Mine", (Headings,), {"name": "llama-3"})()]),
            "'llama-3' is regis",
        ),
        (
            _module(register_base_models=lambda: [type("Mine", (Headings,), {"checkpoints": {"tinyllama": "x/y"}})()]),
            "'tinyllama' calls a base model 'tinyllama' already",
        ),
        (
            _module(register_dataset_readers=lambda: [type("Mine", (OneRow,), {"name": "csv"})()]),
            "reader 'csv' is regis",
        ),
    ],
)
def test_catches_a_broken_plugin(module, says):
    with pytest.raises(AssertionError, match=says):
        check_plugin(module)


def test_commands_need_help():
    def register_commands(cli):
        cli.command("silent")(lambda: None)

    with pytest.raises(AssertionError, match="'silent' needs a docstring"):
        check_plugin(_module(register_commands=register_commands))
