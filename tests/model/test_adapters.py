"""Adapters: what they fit, their tokens, and what `auto` finds out from a tokenizer's own chat template."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmcls.default_plugins.base_models import Llama3, TinyLlamaChat
from llmcls.errors import LlmclsError
from llmcls.model.adapter import BaseModelAdapter, find_turn_markers, render_chat_template
from llmcls.prompt.frame import Message
from llmcls.testing import build_tiny_tokenizer

AUTO = BaseModelAdapter()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = (Message("system", "S"), Message("user", "U"))


def tokenizer(*others: str, template: str | None = None, **tokens: str) -> Any:
    made = build_tiny_tokenizer(**tokens, others=others)
    made.chat_template = template
    return made


def bare_tokenizer(*added: AddedToken, pieces: tuple[str, ...] = (), **roles: str) -> Any:
    """Tokens that no role is declared for, as in a tokenizer.json whose config says little."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate([*alphabet, *pieces])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def special(content: str) -> AddedToken:
    return AddedToken(content, special=True, normalized=False)


@pytest.mark.parametrize(
    ("checkpoint", "config", "expected"),
    [
        ("meta-llama/Llama-3.2-1B", {"model_type": "llama", "vocab_size": 128_256}, "llama-3"),
        ("mine", {"model_type": "mllama", "vocab_size": 128_256}, "auto"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", {"model_type": "llama", "vocab_size": 32_000}, "tinyllama"),
        (
            "./here",
            {
                "model_type": "llama",
                "vocab_size": 32_000,
                "hidden_size": 2048,
                "num_hidden_layers": 22,
                "num_key_value_heads": 4,
            },
            "tinyllama",
        ),
        ("meta-llama/Llama-2-7b-hf", {"model_type": "llama", "vocab_size": 32_000, "hidden_size": 4096}, "auto"),
        ("tinyllama-tuned", {"model_type": "llama", "vocab_size": 32_003}, "auto"),
        ("anything", {}, "auto"),
    ],
)
def test_who_fits(checkpoint, config, expected):
    found = next(adapter for adapter in (Llama3(), TinyLlamaChat(), AUTO) if adapter.fits(checkpoint, config))
    assert found.name == expected


def test_the_built_in_chats_are_written_as_published():
    assert Llama3().frame(None).chat(TURNS) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert TinyLlamaChat().frame(None).chat(TURNS) == "<s><|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\n"


def test_the_turn_end_is_read_from_the_template_though_no_role_names_it():
    for declared in (True, False):
        end = AddedToken("<|im_end|>", special=declared, normalized=False)
        made = bare_tokenizer(special("<eos>"), special("<|im_start|>"), end, eos_token="<eos>")
        made.chat_template = CHATML
        frame = AUTO.frame(made)
        assert (frame.end_token, frame.turn_end_token) == ("<eos>", "<|im_end|>")
        assert AUTO.pad_token(made) not in ("<eos>", "<|im_end|>")


def test_plain_markers_of_a_template_are_found():
    llama2 = (
        "{% set system = '' %}{% set first = 0 %}{% if messages[0].role == 'system' %}{% set first = 1 %}"
        "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% endif %}"
        "{% for m in messages[first:] %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
        "{{ (system if loop.first else '') + m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}"
        "{% endfor %}"
    )
    assert {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"} <= set(find_turn_markers(tokenizer(template=llama2)))
    vicuna = (
        "You are helpful and honest. {% for m in messages %}{{ m.role.upper() }}: {{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}ASSISTANT:"
    )
    assert {"USER:", "ASSISTANT:"} <= set(find_turn_markers(tokenizer(template=vicuna)))


def test_a_system_prompt_of_the_models_own_is_no_marker():
    template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.\nBe kind.<|im_end|>\n"
        "{% endif %}" + CHATML
    )
    assert find_turn_markers(tokenizer("<|im_start|>", "<|im_end|>", template=template)) == ()


def test_undeclared_tokens_of_the_template_are_markers_and_others_are_text():
    made = bare_tokenizer(
        *(
            AddedToken(content, special=False, normalized=False)
            for content in ("<|im_start|>", "<|im_end|>", "<h1>", "  ")
        ),
        special("</s>"),
        eos_token="</s>",
    )
    made.chat_template = CHATML
    markers = find_turn_markers(made)
    assert {"<|im_start|>", "<|im_end|>"} <= set(markers)
    assert "<h1>" not in markers and "  " not in markers


@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d", "%B %d, %Y"])
def test_no_date_in_a_prompt(form):
    template = "{% macro head() %}Today: {{ strftime_now('" + form + "') }}\n{% endmacro %}{{ head() }}" + CHATML
    template += "{% if not date_string is defined %}{% set date_string = strftime_now('" + form + "') %}{% endif %}"
    text = AUTO.frame(tokenizer("<|im_end|>", template=template + "{{ date_string }}")).chat(TURNS)
    assert text.startswith("Today: \n<|im_start|>system\nS<|im_end|>\n")
    assert datetime.datetime.now().astimezone().strftime(form) not in text


def test_the_template_s_own_white_space_survives_the_date_s_removal():
    for head in ("\n", "\n\n ", "  ", ""):
        made = tokenizer("<|im_end|>", template=head + CHATML)
        expected = made.apply_chat_template(
            [{"role": "user", "content": "U"}], tokenize=False, add_generation_prompt=True
        )
        assert render_chat_template(made, [TURNS[1]]) == expected


def test_a_refused_system_role_joins_the_user():
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    text = AUTO.frame(tokenizer("<|im_end|>", template=refusing)).chat(TURNS)
    assert text == "<|im_start|>user\nS\n\nU<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template", ["{{ raise_exception('broken') }}", "{{ 'a' + 1 }}", "{{ messages[0] + 1 }}"])
def test_a_failing_chat_template_is_said(template):
    with pytest.raises(LlmclsError, match=r"chat template fails: .*use the template 'instruction'"):
        render_chat_template(tokenizer(template=template), TURNS)


def test_bos_stands_once():
    adds_none = tokenizer("<|im_end|>", template=CHATML)
    assert AUTO.frame(adds_none).chat(TURNS).startswith("<|im_start|>")
    from tokenizers.processors import TemplateProcessing

    adds_bos = tokenizer("<|im_end|>", template=CHATML)
    adds_bos.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert AUTO.frame(adds_bos).chat(TURNS).startswith("<s><|im_start|>")
    adds_bos.chat_template = "{{ bos_token }}" + CHATML
    assert AUTO.frame(adds_bos).chat(TURNS).count("<s>") == 1
    turn_start = tokenizer("<|im_end|>", bos="<|im_start|>", template=CHATML)
    assert AUTO.frame(turn_start).bos_token == ""


def test_without_a_chat_template_roles_are_headings_and_it_is_said():
    frame = AUTO.frame(tokenizer())
    assert frame.chat(TURNS) == "<s>### System:\nS\n\n### User:\nU\n\n### Assistant:\n"
    assert "no chat template" in frame.notice and "instruction" in frame.notice


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: tokenizer(), "<pad>"),
        (lambda: tokenizer(pad="</s>"), "<s>"),
        (lambda: tokenizer("<unk>", pad="</s>"), "<unk>"),
        (lambda: tokenizer("<|finetune_right_pad_id|>", pad="</s>"), "<|finetune_right_pad_id|>"),
        (lambda: tokenizer("<spare>", bos="</s>", pad="</s>"), "<spare>"),
        (
            lambda: bare_tokenizer(
                special("<|end|>"), pieces=("!!!!", "Ġwords", "Ġa"), bos_token="<|end|>", eos_token="<|end|>"
            ),
            "Ġwords",
        ),
        (lambda: tokenizer("<|im_end|>", pad="<|im_end|>", template=CHATML), "<s>"),
    ],
)
def test_padding_never_ends_an_answer(made, expected):
    assert AUTO.pad_token(made()) == expected


def test_no_end_token_is_refused():
    with pytest.raises(LlmclsError, match="no end-of-sequence token"):
        AUTO.frame(bare_tokenizer(special("<s>"), bos_token="<s>"))


def test_the_built_in_padding_is_in_the_real_vocabularies(shared):
    from transformers import AutoTokenizer

    for adapter, folder, pad in ((Llama3(), "llama-3.2", 128_004), (TinyLlamaChat(), "tinyllama", 0)):
        real = AutoTokenizer.from_pretrained(shared / "tokenizers" / folder)
        assert real.convert_tokens_to_ids(adapter.pad_token(real)) == pad
        frame = adapter.frame(real)
        assert {frame.bos_token, frame.end_token, frame.turn_end_token} <= real.get_vocab().keys()
        assert AUTO.pad_token(real) not in (real.eos_token, frame.turn_end_token)
