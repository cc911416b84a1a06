"""Every setting of a run: one pydantic tree, checked as a whole, from YAML, `--set` and Python alike.

    settings = load_settings(["run.yaml"], ["training.max_steps=100", "lora.r=8"])
    settings.lora.r

Hyper-parameters carry the names of the Hugging Face class they go to: `training` those of
`transformers.TrainingArguments`, `lora` those of `peft.LoraConfig`, `model.bnb_4bit_*` those of
`transformers.BitsAndBytesConfig`.
"""

from llmcls.settings.schema import Settings, fields
from llmcls.settings.sections import (
    DataSettings,
    LoraSettings,
    ModelSettings,
    PredictionSettings,
    PromptSettings,
    Section,
)
from llmcls.settings.sources import (
    change_settings,
    load_settings,
    make_settings,
    merge_settings,
    nest,
    unknown_setting,
)
from llmcls.settings.suggested import SUGGESTED, given_settings
from llmcls.settings.training import TrainingSettings

__all__ = [
    "SUGGESTED",
    "DataSettings",
    "LoraSettings",
    "ModelSettings",
    "PredictionSettings",
    "PromptSettings",
    "Section",
    "Settings",
    "TrainingSettings",
    "change_settings",
    "fields",
    "given_settings",
    "load_settings",
    "make_settings",
    "merge_settings",
    "nest",
    "unknown_setting",
]
