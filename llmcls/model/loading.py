"""From a base model's name to a loaded tokenizer and model.

base = find_base_model(settings.model)
tokenizer = load_tokenizer(base)
model = load_model(base, settings.model, formats)
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.data.paths import is_folder, path_exists
from llmcls.errors import LlmclsError, unknown
from llmcls.model.adapter import BaseModelAdapter, base_models, find_pad_token
from llmcls.model.foreign import read_object, refuse_adapter
from llmcls.model.loading_errors import clear_errors
from llmcls.model.mixtures import silence_router
from llmcls.model.positions import embeddings_of, positions_of
from llmcls.model.stored import held_quantization, stored_quantization, usable_attention, warn_of_eager
from llmcls.model.wrapped import import_quickly
from llmcls.plugin.blame import ask
from llmcls.plugin.packages import packaged
from llmcls.processes.collector import resume_collection
from llmcls.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from llmcls.model.hardware import Formats
    from llmcls.model.head import Head


HEAD_SUFFIX = "ForSequenceClassification"
"""How transformers calls an architecture with a classification head."""
LOADING = threading.RLock()
"""Held while weights are loaded: transformers and PEFT change torch's own functions and random numbers meanwhile, which
two threads that load at once would take from each other."""


@dataclass(frozen=True)
class BaseModel:
    """A base model found by name: which checkpoint, and which adapter knows it.

    Attributes:
        name: as the user gave it.
        checkpoint: Hub id or folder.
        adapter: the adapter that knows it.
        config: the checkpoint's `config.json`.
        revision: branch, tag or commit on the Hub, or None.
        trust_remote_code: whether code from the Hub may run.
    """

    name: str
    checkpoint: str
    adapter: BaseModelAdapter
    config: dict[str, Any]
    revision: str | None = None
    trust_remote_code: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights: sha256 over a few values of each tensor; wherever and however the files are stored.

        A checkpoint without safetensors is identified by its architecture only (its config).
        """
        with clear_errors(self.checkpoint):
            sample = _sample_weights(self.checkpoint, self.revision)
        if sample is None:
            sample = {k: v for k, v in self.config.items() if not k.startswith("_") and k != "transformers_version"}
        return hashlib.sha256(json.dumps(sample, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def head_labels(self) -> tuple[str, ...] | None:
        """The labels of a checkpoint with a classification head, in the order of its outputs; else None."""
        if not any(name.endswith(HEAD_SUFFIX) for name in self.config.get("architectures") or ()):
            return None
        try:
            named = {int(number): str(name) for number, name in self.config["id2label"].items()}
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise LlmclsError(
                f"'{self.checkpoint}' is a classifier, but its config.json names no labels (id2label); correct it."
            ) from error
        return tuple(named[number] for number in sorted(named))

    @property
    def embeddings(self) -> int | None:
        """How many tokens it has embeddings for, where its configuration says so."""
        return embeddings_of(self.config)

    @property
    def positions(self) -> int | None:
        """How many tokens it reads at most, where that is known."""
        return positions_of(self.config)

    @property
    def hub_arguments(self) -> dict[str, Any]:
        """What every `from_pretrained` call needs."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def short_names() -> dict[str, tuple[str, BaseModelAdapter]]:
    """Every short name for `--base-model`: the checkpoint it stands for, and its adapter."""
    names: dict[str, tuple[str, BaseModelAdapter]] = {}
    for adapter in base_models().values():
        for short, checkpoint in adapter.checkpoints.items():
            if short in names:
                raise LlmclsError(
                    f"Two adapters call a base model '{short}': {names[short][1].name} and {adapter.name}; disable one."
                )
            names[short] = (checkpoint, adapter)
    return names


def find_checkpoint(settings: ModelSettings) -> tuple[str, BaseModelAdapter | None]:
    """The checkpoint that `settings.base_model` names, and its adapter where a name says which; imports no library.

    Raises:
        LlmclsError: for a short name or an adapter that there is not, and for a run.
    """
    names = short_names()
    checkpoint, adapter = names.get(settings.base_model, (settings.base_model, None))
    if adapter is None and not is_folder(checkpoint) and "/" not in checkpoint:
        if said := packaged("base model", checkpoint):
            raise LlmclsError(said)
        hint = unknown("base model", checkpoint, names)
        raise LlmclsError(f"{hint} A Hub id (owner/name) or a folder with a causal LM works as well.")
    if path_exists(f"{checkpoint}/run.json") and not path_exists(f"{checkpoint}/config.json"):
        raise LlmclsError(
            f"'{checkpoint}' is a run, not a base model; predict with --run {checkpoint}, or train it on with "
            f"`llmcls train --base-model {checkpoint}`."
        )
    if settings.adapter:
        adapters = base_models()
        if settings.adapter not in adapters:
            missing = packaged("base-model adapter", settings.adapter)
            missing = missing or unknown("base-model adapter", settings.adapter, adapters)
            raise LlmclsError(f"model.adapter: {missing}")
        adapter = adapters[settings.adapter]
    return checkpoint, adapter


def find_base_model(settings: ModelSettings) -> BaseModel:
    """Find checkpoint, configuration and adapter of `settings.base_model`.

    Raises:
        LlmclsError: when there is no such model, it is gated, or it is no causal LM.
    """
    checkpoint, adapter = find_checkpoint(settings)
    if (named := short_names().get(settings.base_model)) is not None:
        checkpoint = ask(named[1], "locate", settings.base_model, gives=str)
    config = _read_config(checkpoint, settings)
    adapter = adapter or choose_adapter(checkpoint, config)
    return BaseModel(settings.base_model, checkpoint, adapter, config, settings.revision, settings.trust_remote_code)


def choose_adapter(checkpoint: str, config: dict[str, Any]) -> BaseModelAdapter:
    """The adapter that fits a checkpoint and its `config.json`; `auto` fits everything, so every other is asked first.

    Args:
        checkpoint: Hub id or folder.
        config: the checkpoint's `config.json`.
    """
    candidates = sorted(base_models().values(), key=lambda known: known.name == "auto")
    return next(known for known in candidates if ask(known, "fits", checkpoint, config, gives=object))


def may_have_head(settings: ModelSettings) -> bool:
    """Whether `settings.base_model` may be a classifier with labels of its own, without asking transformers.

    True for what is not a folder here, and for one whose `config.json` cannot be read: transformers will tell.
    """
    file = Path(find_checkpoint(settings)[0]) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return any(name.endswith(HEAD_SUFFIX) for name in config.get("architectures") or ())
    except (OSError, ValueError, AttributeError):
        return True


def order_of_head(known: tuple[str, ...] | None, labels: tuple[str, ...]) -> tuple[int, ...] | None:
    """Which output of a head with the labels `known` is each of `labels`; None where these are other labels."""
    if known is None or sorted(known) != sorted(labels):
        return None
    return tuple(map(known.index, labels))


def locate(settings: ModelSettings) -> ModelSettings:
    """The same settings, with a base model that is a folder by its absolute path: it is found from everywhere."""
    name = settings.base_model
    if name in short_names() or not is_folder(name):
        return settings
    return settings.model_copy(update={"base_model": str(Path(name).absolute())})


def load_saved_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Load the tokenizer that a run has kept.

    Args:
        folder: the run's `tokenizer/`.
        trust_remote_code: whether code that it brings may run.

    Raises:
        LlmclsError: when it is damaged, or brings code that may not run.
    """
    from transformers import AutoTokenizer

    with clear_errors(str(folder), "Restore the run, or train again."):
        read_object(folder / "tokenizer_config.json")
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    if tokenizer.pad_token_id is None:
        raise LlmclsError(f"The tokenizer in '{folder}' has no pad token, as those of runs have; restore the run.")
    if not tokenizer.is_fast:
        raise LlmclsError(f"'{folder}' holds no fast tokenizer, as runs do; restore the run, or train again.")
    return tokenizer


def load_tokenizer(base: BaseModel) -> PreTrainedTokenizerFast:
    """Load the tokenizer and give it the adapter's pad token.

    Raises:
        LlmclsError: when it is missing or not a fast tokenizer.
    """
    from transformers import AutoTokenizer

    with clear_errors(base.checkpoint):
        tokenizer = AutoTokenizer.from_pretrained(base.checkpoint, **base.hub_arguments)
    if not tokenizer.is_fast:
        raise LlmclsError(f"'{base.checkpoint}' has no fast tokenizer; llmcls needs one to tell text from frame.")
    tokenizer.pad_token = _usable_pad_token(base, tokenizer)
    return tokenizer


def _usable_pad_token(base: BaseModel, tokenizer: PreTrainedTokenizerFast) -> str:
    """The adapter's pad token, or the next best where the model has no embedding for it.

    Some tokenizers have had a token added for padding that the model was never resized for. Padding is masked, but it
    is embedded before that.
    """
    chosen, rows = find_pad_token(base.adapter, tokenizer), base.embeddings
    vocabulary = tokenizer.get_vocab()
    if rows is None or vocabulary[chosen] < rows:
        return chosen
    return next((token for token in base.adapter.spare_tokens(tokenizer) if vocabulary[token] < rows), chosen)


def load_model(base: BaseModel, settings: ModelSettings, formats: Formats, head: Head | None = None) -> PreTrainedModel:
    """Load the weights, quantised as the settings say, on this process's device.

    Args:
        base: the checkpoint.
        settings: how to hold its weights.
        formats: device and number formats.
        head: a classification head in place of the language model's output layer; never quantised, and new where
            the checkpoint has none for these labels (`kept_head`).

    Raises:
        LlmclsError: when weights are missing, gated, NaN or infinite, or do not fit, or the architecture has no
            classification head.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from llmcls.model.head import head_class
    from llmcls.model.soundness import find_unsound, unsound_error

    resume_collection()
    held = held_quantization(base.name, base.config, settings.quantization)
    stored = stored_quantization(base.config) is not None
    if held != "none":
        import_quickly()  # which transformers does next, and slowly
    place = formats.device.index if formats.device.type == "cuda" else str(formats.device)
    quantization = None
    if held == "4bit" and not stored:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=settings.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=settings.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=formats.dtype,
            bnb_4bit_quant_storage=formats.dtype if formats.sharded else None,
        )
    elif held == "8bit" and not stored:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    with LOADING, clear_errors(base.checkpoint), _new_weights(head):
        config = AutoConfig.from_pretrained(base.checkpoint, **base.hub_arguments)
        known = _class_of(config) if head is None else head_class(config)
        load = partial(
            (AutoModelForCausalLM if head is None else known).from_pretrained,
            base.checkpoint,
            dtype=formats.dtype,
            # None would mean that a quantised checkpoint is to be read as if it were not.
            **({} if quantization is None else {"quantization_config": quantization}),
            # A quantised model cannot be moved afterwards: each process loads it onto its own GPU, or a shard of it.
            device_map={"": place} if formats.device.type != "cpu" and not formats.sharded else None,
            **base.hub_arguments,
            # A published classifier as the base model: its head may know other labels.
            **({} if head is None else {**head.write_into(config), "ignore_mismatched_sizes": True}),
        )
        attention = usable_attention(known, settings.attn_implementation)
        try:
            model = load(attn_implementation=attention)
        except ValueError as error:
            # A class that is not transformers' own says only now that it has no sdpa.
            if attention != "sdpa" or "scaled_dot_product_attention" not in str(error):
                raise
            warn_of_eager(base.name)
            model = load(attn_implementation="eager")
        silence_router(model.config)
        for module in model.modules() if stored else ():
            if hasattr(module, "compute_dtype"):  # of a 4-bit layer, which its file has an opinion of, too
                module.compute_dtype = formats.dtype
        if head is not None and base.head_labels is not None:
            head.arrange(model, kept_head(base, head), len(base.head_labels))
    if unsound := find_unsound(model):
        narrow = ", or set model.dtype to 'bfloat16' or 'float32'" if formats.dtype == torch.float16 else ""
        raise unsound_error(unsound, f"'{base.checkpoint}'", f"download or make it again{narrow}")
    return model


def kept_head(base: BaseModel, head: Head) -> tuple[int, ...] | None:
    """Which output of the checkpoint's own head is each label; None where a new head is made."""
    kind = base.config.get("problem_type")
    if kind not in (None, head.config_arguments()["problem_type"]):
        return None
    return order_of_head(base.head_labels, head.labels)


def _class_of(config: Any) -> Any:
    """transformers' own class of a causal LM; None where the checkpoint brings one, or there is none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


@contextmanager
def _new_weights(head: Head | None) -> Iterator[None]:
    """Draw what the checkpoint lacks from the head's seed, the same in training, prediction and on every process."""
    import torch

    from llmcls.model.hardware import forked_random

    if head is None:
        yield
        return
    with forked_random():
        torch.manual_seed(head.seed)
        yield


def _sample_weights(checkpoint: str, revision: str | None) -> dict[str, list[float]] | None:
    """The first values of every tensor of a safetensors checkpoint, by name; None when it has none.

    A tied output head is left out: some files hold it, some do not.
    """
    from safetensors import safe_open
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

    def find(name: str) -> str | None:
        place: str | None = cached_file(
            checkpoint, name, revision=revision, _raise_exceptions_for_missing_entries=False
        )
        return place

    files = [find(SAFE_WEIGHTS_NAME)]
    if files == [None] and (index := find(SAFE_WEIGHTS_INDEX_NAME)):
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        files = [find(shard) for shard in sorted(set(shards))]
    sample: dict[str, list[float]] = {}
    for file in filter(None, files):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                part = tensors.get_slice(name)
                if shape := part.get_shape():
                    corner = part[tuple([slice(0, 1)] * (len(shape) - 1) + [slice(0, 8)])]
                    sample[name] = corner.float().flatten().tolist()
    return {name: values for name, values in sample.items() if not name.endswith("lm_head.weight")} or None


def _read_config(checkpoint: str, settings: ModelSettings) -> dict[str, Any]:
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    with clear_errors(checkpoint):
        if path_exists(f"{checkpoint}/config.json"):
            read_object(Path(checkpoint) / "config.json")
        refuse_adapter(checkpoint, settings.revision)
        config = AutoConfig.from_pretrained(
            checkpoint, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    if getattr(config, "is_encoder_decoder", False):
        raise LlmclsError(f"'{checkpoint}' is an encoder-decoder; llmcls needs a decoder-only causal LM.")
    # transformers has a causal LM for BERT as well, which nobody has trained to be one.
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise LlmclsError(
            f"'{checkpoint}' is an encoder-only model ({config.model_type}), which fills gaps and cannot write an "
            "answer; llmcls needs a decoder-only causal LM (`llmcls models list`)."
        )
    return dict(config.to_dict())
