"""The real vocabularies, and tokenizers built on the spot that stand for the families `auto` meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmcls.answers import form_named
from llmcls.default_plugins.base_models import Llama3, TinyLlamaChat
from llmcls.files import shipped
from llmcls.labels import LabelSet
from llmcls.model.adapter import BaseModelAdapter
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.template import PromptTemplate

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + CHATML
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
LLAMA2 = (
    "{% set offset = 0 %}{% set system = '' %}{% if messages[0].role == 'system' %}{% set offset = 1 %}"
    "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% endif %}"
    "{% for m in messages[offset:] %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_tokenizer(
    controls: tuple[str | AddedToken, ...],
    *,
    template: str | None = None,
    normalizer: Any = None,
    merges: tuple[str, ...] = (),
    **roles: str,
) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose vocabulary knows `merges`, written as `Ġ t`; `controls` are added tokens."""
    pairs = [tuple(pair.split(" ")) for pair in merges]
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in pairs]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens(
        [c if isinstance(c, AddedToken) else AddedToken(c, special=True, normalized=False) for c in controls]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **roles)
    fast.chat_template = template
    return fast


def _plain(content: str, **options: Any) -> AddedToken:
    return AddedToken(content, normalized=False, **options)


BUILT: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "chatml": lambda: byte_tokenizer(
        ("<|im_start|>", "<|im_end|>", "<|pad|>"), template=CHATML, eos_token="<|im_end|>"
    ),
    # Declares no role for the token that ends turns, as many tokenizers do.
    "dated": lambda: byte_tokenizer(
        ("<s>", "<eos>", "<|im_start|>", "<|im_end|>"), template=DATED, eos_token="<eos>", bos_token="<s>"
    ),
    "llama-2": lambda: byte_tokenizer(("<s>", "</s>", "<unk>"), template=LLAMA2, bos_token="<s>", eos_token="</s>"),
    "no-template": lambda: byte_tokenizer(("<s>", "</s>", "<pad>"), bos_token="<s>", eos_token="</s>"),
    "no-system": lambda: byte_tokenizer(("<|im_start|>", "<|im_end|>"), template=NO_SYSTEM, eos_token="<|im_end|>"),
    "not-special": lambda: byte_tokenizer(
        (_plain("<|im_start|>", special=False), _plain("<|im_end|>", special=False), "</s>"),
        template=CHATML,
        eos_token="</s>",
    ),
    # Its tokens swallow white space behind them, also that of a text.
    "phi-3": lambda: byte_tokenizer(
        (
            "<s>",
            "</s>",
            *(_plain(f"<|{r}|>", special=True, rstrip=True) for r in ("system", "user", "assistant", "end")),
        ),
        template=PHI3,
        bos_token="<s>",
        eos_token="</s>",
    ),
    "folding": lambda: byte_tokenizer(
        tuple(AddedToken(c, special=True, normalized=True) for c in ("<|im_start|>", "<|im_end|>", "<|pad|>")),
        template=CHATML,
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        eos_token="<|im_end|>",
    ),
    "gpt-2": lambda: byte_tokenizer(
        ("<|endoftext|>",),
        merges=("! !", "Ġ t", "h e", "Ġt he"),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    ),
    "smollm": lambda: byte_tokenizer(
        ("<|im_start|>", "<|im_end|>", "<pad>"), template=CHATML, bos_token="<|im_start|>", eos_token="<|im_end|>"
    ),
    "one-character": lambda: byte_tokenizer(("<s>", "\u241e", "  "), bos_token="<s>", eos_token="\u241e"),
}
REAL = ("llama-3", "tinyllama", "nano")
NAMES = (*REAL, *BUILT)


@pytest.fixture(scope="session")
def bases(shared: Any) -> Callable[[str], tuple[BaseModelAdapter, PreTrainedTokenizerFast]]:
    """An adapter and its tokenizer by name."""
    made: dict[str, tuple[BaseModelAdapter, PreTrainedTokenizerFast]] = {}

    def make(name: str) -> tuple[BaseModelAdapter, PreTrainedTokenizerFast]:
        if name == "llama-3":
            return Llama3(), AutoTokenizer.from_pretrained(shared / "tokenizers" / "llama-3.2")
        if name == "tinyllama":
            return TinyLlamaChat(), AutoTokenizer.from_pretrained(shared / "tokenizers" / "tinyllama")
        if name == "nano":
            nano = pytest.importorskip("llmcls_nano")
            return nano.Nano(), AutoTokenizer.from_pretrained(nano.MODEL_FOLDER)
        return BaseModelAdapter(), BUILT[name]()

    def base(name: str) -> tuple[BaseModelAdapter, PreTrainedTokenizerFast]:
        if name not in made:
            adapter, tokenizer = make(name)
            tokenizer.pad_token = adapter.pad_token(tokenizer)
            made[name] = adapter, tokenizer
        return made[name]

    return base


@pytest.fixture(scope="session")
def make_encoder(bases: Any) -> Callable[..., Encoder]:
    """An encoder by base and template name or source."""

    def make(
        base: str, template: str = "instruction", labels: LabelSet | tuple[str, ...] = ("yes", "no"), **options: Any
    ) -> Encoder:
        adapter, tokenizer = bases(base)
        shipped_file = shipped("templates") / f"{template}.j2"
        found = PromptTemplate("probe", template) if "{" in template else PromptTemplate.from_file(shipped_file)
        label_set = labels if isinstance(labels, LabelSet) else LabelSet.from_names(labels)
        form = form_named(options.pop("form", "single_label"))
        return Encoder(
            tokenizer, adapter.frame(tokenizer), found, label_set, form, **{"max_length": 100_000, **options}
        )

    return make


@pytest.fixture(scope="session", params=NAMES)
def base(request: pytest.FixtureRequest) -> str:
    """Every base."""
    return str(request.param)


@pytest.fixture(scope="session", params=REAL)
def real_base(request: pytest.FixtureRequest) -> str:
    """The bases with real vocabularies."""
    return str(request.param)


@pytest.fixture(scope="session", params=BUILT)
def built_base(request: pytest.FixtureRequest) -> str:
    """The bases built on the spot."""
    return str(request.param)
