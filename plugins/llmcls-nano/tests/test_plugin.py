"""The plugin: what it registers, how `nano` frames a prompt, and what the reader delivers."""

import csv
import json
import subprocess
import sys

import llmcls_nano
import pytest
from llmcls_nano import DEMO_FOLDER, MODEL_FOLDER, DemoReader, Nano

from llmcls.answers import form_named
from llmcls.data.reader import dataset_readers
from llmcls.data.sources import open_tables
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.model.adapter import base_models
from llmcls.plugin.manager import check_hooks, new_manager
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.frame import Message
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.testing import check_plugin

CHAT = '{% message "user" %}What is it about?\n{{ text }}{% endmessage %}'
PLAIN = "Message: {{ text }}\nTopic:"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def config():
    return json.loads((MODEL_FOLDER / "config.json").read_text())


def test_import_loads_nothing_heavy():
    code = (
        "import sys, llmcls_nano; heavy = {'torch', 'transformers', 'pandas', 'numpy', 'sklearn', 'datasets'}; "
        "print(*sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_keeps_every_contract():
    check_plugin(llmcls_nano, specs={"demo": "demo:"})


def test_registers_one_model_and_one_reader_through_the_hooks():
    manager = new_manager()
    manager.register(llmcls_nano, name="nano")
    check_hooks(manager)
    assert list(base_models(manager)) == ["nano"]
    assert list(dataset_readers(manager)) == ["demo"]


def test_reader_delivers_the_three_splits_with_true_line_numbers():
    tables = open_tables("demo:", {"demo": DemoReader()})
    assert list(tables) == ["train", "validation", "test"]
    for split, table in tables.items():
        assert tuple(table.columns) == ("text", "label")
        with (DEMO_FOLDER / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        rows = list(table.rows)
        assert len(rows) == len(lines) - 1
        for row in rows:
            name, _, line = row.source.rpartition(":")
            assert name == f"demo:{split}.csv" and row.problem is None
            assert [row.values["text"], row.values["label"]] == lines[int(line) - 1]


def test_reader_is_meant_for_its_prefix_alone_and_knows_one_data_set():
    reader = DemoReader()
    assert reader.reads("demo:") and reader.reads("demo:x")
    assert not any(reader.reads(spec) for spec in ("demo", "demo.csv", "./demo:", "hub:demo:"))
    with pytest.raises(LlmclsError, match="'demo:x' asks for another; write 'demo:'"):
        reader.read("demo:x")


def test_fits_its_own_checkpoint_only(config):
    assert Nano().fits(str(MODEL_FOLDER), config)
    assert not Nano().fits("nano", config | {"vocab_size": 32_000})
    assert not Nano().fits("nano", {})


def test_chat_format_token_for_token(tokenizer):
    chat = Nano().frame(tokenizer).chat([Message("system", "be brief"), Message("user", "hello")])
    assert chat == "<s><|system|>be brief<|end|><|user|>hello<|end|><|assistant|>"
    ids = tokenizer(chat, add_special_tokens=False).input_ids
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in ("be brief", "hello")]
    assert ids == [0, 3, *words[0], 6, 4, *words[1], 6, 5]


@pytest.mark.parametrize(("source", "end"), [(CHAT, "<|end|>"), (PLAIN, "</s>")])
def test_one_beginning_one_end_and_padding_apart(tokenizer, source, end):
    adapter, labels = Nano(), LabelSet.from_names(["billing", "billing late", "praise"])
    encoder = Encoder(
        tokenizer,
        adapter.frame(tokenizer),
        PromptTemplate("probe", source),
        labels,
        form_named("single_label"),
        max_length=256,
    )
    prompt = encoder.encode([Example("where is my parcel")])[0].input_ids
    assert prompt[0] == 0 and prompt.count(0) == 1
    pad = tokenizer.convert_tokens_to_ids(adapter.pad_token(tokenizer))
    assert encoder.end_token_id == tokenizer.convert_tokens_to_ids(end)
    for answer in encoder.answers:
        assert answer.count(encoder.end_token_id) == 1 and answer[-1] == encoder.end_token_id
        assert pad not in answer


@pytest.mark.parametrize("source", [CHAT, PLAIN])
@pytest.mark.parametrize("token", ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
def test_text_cannot_forge_the_frame(tokenizer, source, token):
    labels = LabelSet.from_names(["a", "b"])
    encoder = Encoder(
        tokenizer,
        Nano().frame(tokenizer),
        PromptTemplate("probe", source),
        labels,
        form_named("single_label"),
        max_length=256,
    )
    honest, forged = encoder.encode([Example("hello"), Example(f"hello{token}you {token}")])

    def controls(ids):
        return [token_id for token_id in ids if token_id <= 6]

    assert controls(forged.input_ids) == controls(honest.input_ids)


def test_weights_load_and_turn_markers_can_be_told_apart():
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, local_files_only=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(6.45e6, rel=0.01)
    tokens = torch.nn.functional.normalize(model.get_input_embeddings().weight[:7].float(), dim=1)
    similarity = tokens @ tokens.T - torch.eye(7)
    assert similarity.abs().max() < 0.7  # 0.34 is usual between any two tokens; the markers once had 1.00
    with torch.no_grad():
        assert model(torch.tensor([[0, 100, 200]])).logits.isfinite().all()
