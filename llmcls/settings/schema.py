"""All settings together, and what does not go together across sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from llmcls.settings.sections import (
    DataSettings,
    LoraSettings,
    ModelSettings,
    PredictionSettings,
    PromptSettings,
    Section,
)
from llmcls.settings.suggested import leave_to_adapter
from llmcls.settings.task import FormRules, OneOf, check_form, fill_by_form, rules_for
from llmcls.settings.training import TrainingSettings


class Settings(Section):
    """All settings of a run."""

    task: Annotated[str, OneOf("tasks")] = Field(
        "single_label", description="Whether a text has exactly one label, or any number of them."
    )
    data: DataSettings = Field(default_factory=DataSettings, description="Where the rows come from.")
    model: ModelSettings = Field(default_factory=ModelSettings, description="The base model.")
    prompt: PromptSettings = Field(default_factory=PromptSettings, description="How a row becomes a prompt.")
    lora: LoraSettings = Field(default_factory=LoraSettings, description="The LoRA weights that are trained.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="The optimisation.")
    prediction: PredictionSettings = Field(default_factory=PredictionSettings, description="How labels are scored.")
    output_dir: str | None = Field(None, description="Run directory; runs/DATA-MODEL-TIME when not given.")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Seed of splits, shots, initial weights and shuffling.")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        return fill_by_form(leave_to_adapter(values), cls.model_fields["task"].default)

    @property
    def form(self) -> FormRules:
        """The table of the form of answer."""
        return rules_for(self.task, self.prediction.method)

    @model_validator(mode="after")
    def _refuse_impossible(self) -> Settings:
        problems = check_form(self.task, {name: getattr(self, name) for name in type(self).model_fields})
        if self.lora.use_dora and self.model.quantization == "8bit":
            problems.append("lora.use_dora does not work with model.quantization 8bit; use 4bit or none")
        if self.training.tuning == "full" and self.model.quantization != "none":
            problems.append(
                f"training.tuning 'full' changes the weights, which model.quantization {self.model.quantization} "
                "freezes; set model.quantization to none"
            )
        if self.training.objective == "head" and self.prediction.method == "generate":
            problems.append("prediction.method 'generate' needs a model that writes, but objective 'head' has none")
        if self.training.objective == "head" and self.prompt.verbalizer == "code":
            problems.append("prompt.verbalizer 'code' needs a model that writes, but objective 'head' has none")
        if self.training.objective == "head" and self.prediction.min_label_mass > 0:
            problems.append("prediction.min_label_mass is of no use with objective 'head': its label mass is always 1")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def fields(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, pydantic FieldInfo), sections resolved."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info
