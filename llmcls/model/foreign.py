"""What files of others may say before a library reads them: a run or checkpoint brings weights and words, never code.

    require_weights(run.lora_path, "adapter_model")       # safetensors only: a pickle is a program
    model = load_lora(model, run.lora_path)               # PEFT sees the settings that llmcls writes, and no others
    refuse_adapter("owner/name", revision=None)           # transformers would load PEFT's settings as they are

Code that a model brings is run only where the caller of this process allows it (`--trust-remote-code`,
`trust_remote_code=True`); what a run or checkpoint says of that itself is never asked.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError, shorten
from llmcls.files import read_json
from llmcls.model.mixtures import PATTERNS_IGNORED
from llmcls.model.wrapped import import_quickly

if TYPE_CHECKING:
    from peft import LoraConfig

ALLOW_CODE = "--trust-remote-code (in Python: trust_remote_code=True)"
"""How a person allows a model's own code."""

_LORA_TYPES: Mapping[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "target_modules": (list,),
    "bias": (str,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "fan_in_fan_out": (bool,),
    "task_type": (str,),
    "modules_to_save": (list, type(None)),
    "target_parameters": (list, type(None)),  # the stacked weights of experts
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
}
"""What of PEFT's settings decides what a run's LoRA weights compute, and how it is written."""

_PATTERN = re.compile(r"\.\*\\\.\w+")
"""What PEFT calls a stacked weight by where two of a rank are one: `.*\\.gate_up_proj`."""

_REMARKS = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"}
"""What PEFT writes besides and what has no effect here: where weights are, llmcls knows itself."""


class CodeRefusedError(LlmclsError):
    """A model brings code of its own, which nobody has allowed to run."""


def refuse_code(whose: str, place: object) -> CodeRefusedError:
    """The error for code that was not allowed.

    Args:
        whose: what brings it, at the beginning of a sentence.
        place: where the code is.
    """
    return CodeRefusedError(
        f"{whose} brings Python code of its own ('{place}'), which can do on this machine whatever you can; read it, "
        f"and if you trust it, allow it with {ALLOW_CODE}."
    )


def brings_code(folder: Path, name: str) -> bool:
    """Whether a JSON file of a folder names classes of its own (`auto_map`); False where there is no such file.

    Raises:
        LlmclsError: when the file is not a JSON object.
    """
    return (folder / name).is_file() and bool(read_object(folder / name).get("auto_map"))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file of a run or checkpoint holds.

    Raises:
        LlmclsError: when it cannot be read, or holds something else.
    """
    content = read_json(path, "File")
    if not isinstance(content, dict):
        raise LlmclsError(f"File '{path}' holds a JSON {type(content).__name__}, not an object; restore the file.")
    return content


def require_weights(folder: Path, stem: str) -> None:
    """Refuse a folder of a run whose weights are not safetensors: other formats are programs that loading them runs.

    Args:
        folder: `adapter/` or `model/`.
        stem: `adapter_model` or `model`.

    Raises:
        LlmclsError: when there are none, or their index names files of other formats or folders.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if (folder / f"{stem}.safetensors").is_file():
        return
    if not index.is_file():
        raise LlmclsError(
            f"'{folder}' holds no weights as safetensors ({stem}.safetensors), the only format that runs are read in; "
            "restore the run, or train again."
        )
    shards = read_object(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else [shards]
    if strange := [name for name in names if not _is_shard(name)]:
        raise LlmclsError(
            f"'{index}' names {strange[0]!r} as a file of weights, but these are .safetensors files beside it; restore "
            "the run, or train again."
        )


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and PurePosixPath(name).name == name


def refuse_adapter(checkpoint: str, revision: str | None) -> None:
    """Refuse a base model with LoRA weights beside it, whose settings transformers would hand to PEFT unread.

    Raises:
        LlmclsError: naming what to do.
    """
    from transformers.utils import ADAPTER_CONFIG_NAME, cached_file

    found = cached_file(
        checkpoint,
        ADAPTER_CONFIG_NAME,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is not None:
        raise LlmclsError(
            f"'{checkpoint}' holds LoRA weights ({ADAPTER_CONFIG_NAME}), not only a base model; merge them into it "
            "with PEFT's merge_and_unload, or give the base model itself."
        )


def lora_config(folder: Path) -> LoraConfig:
    """PEFT's configuration of a run's LoRA weights, from what llmcls itself writes of it.

    PEFT acts on more: `megatron_core` is the name of a module that it imports.

    Raises:
        LlmclsError: for other methods than LoRA, values of a wrong type, and further settings.
    """
    from peft import LoraConfig

    file = folder / "adapter_config.json"
    given = read_object(file)
    if given.get("peft_type") != "LORA":
        raise LlmclsError(
            f"'{file}' says peft_type {given.get('peft_type')!r:.60}, but runs hold LORA; restore the run."
        )
    defaults = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(LoraConfig)
    }
    others = [
        name
        for name, value in given.items()
        if name not in _LORA_TYPES and name not in _REMARKS and value and value != defaults.get(name)
    ]
    if others:
        raise LlmclsError(
            f"'{file}' sets {shorten(others)}, which llmcls does not write and will not hand to PEFT; restore the run."
        )
    known = {name: given[name] for name in _LORA_TYPES if name in given}
    for name, value in known.items():
        words = isinstance(value, list) and all(isinstance(each, str) for each in value)
        # A truth value is a number to Python. The keys of patterns are regular expressions, which may take for ever.
        plain = not isinstance(value, dict) or all(
            _PATTERN.fullmatch(key) and type(number) in (int, float) for key, number in value.items()
        )
        right = type(value) in _LORA_TYPES[name] and (words or not isinstance(value, list)) and plain
        if not right:
            raise LlmclsError(f"'{file}' says {name} {value!r:.60}, which is not of the right type; restore the run.")
    try:
        return LoraConfig(**known)
    except ValueError as error:
        raise LlmclsError(f"'{file}' cannot be used: {' '.join(str(error).split())} Restore the run.") from error


def load_lora(model: Any, folder: Path) -> Any:
    """The model with a run's LoRA weights, as PEFT loads them.

    Raises:
        LlmclsError: for weights that are damaged, NaN or infinite, or do not fit the model, and as `lora_config` and
            `require_weights`.
    """
    require_weights(folder, "adapter_model")
    import_quickly()
    from peft import PeftModel
    from safetensors import SafetensorError

    from llmcls.model.soundness import find_unsound, unsound_error

    config = lora_config(folder)
    before = {id(parameter) for parameter in model.parameters()}
    try:
        with warnings.catch_warnings():
            # PEFT asks for an attribute by a name that transformers calls deprecated.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            warnings.filterwarnings("ignore", message=PATTERNS_IGNORED)
            # It only warns of weights that are missing, and would draw them at random.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, folder, config=config)
    except (SafetensorError, ValueError, RuntimeError, UserWarning) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = " ".join(str(error).split())
        raise LlmclsError(
            f"The LoRA weights in '{folder}' are damaged, or do not fit the model: {reason[:300].rstrip('.')}. Restore "
            "the run, or give its own base model with --base-model."
        ) from error
    added = {name for name, parameter in adapted.named_parameters() if id(parameter) not in before}
    if unsound := find_unsound(adapted, added.__contains__):
        raise unsound_error(unsound, f"'{folder}'", "train the run again, with a lower training.learning_rate")
    return adapted
