"""All settings together, and what does not go together across sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from llmcls.settings.sections import (
    DataSettings,
    LoraSettings,
    ModelSettings,
    PredictionSettings,
    PromptSettings,
    Section,
)
from llmcls.settings.training import TrainingSettings
from llmcls.task import AnswerForm, answer_form, check_task, fill_by_task


class Settings(Section):
    """All settings of a run."""

    task: Literal["single_label", "multi_label"] = Field(
        "single_label", description="Whether a text has exactly one label, or any number of them."
    )
    data: DataSettings = Field(default_factory=DataSettings, description="Where the rows come from.")
    model: ModelSettings = Field(default_factory=ModelSettings, description="The base model.")
    prompt: PromptSettings = Field(default_factory=PromptSettings, description="How a row becomes a prompt.")
    lora: LoraSettings = Field(default_factory=LoraSettings, description="The adapter that is trained.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="The optimisation.")
    prediction: PredictionSettings = Field(default_factory=PredictionSettings, description="How labels are scored.")
    output_dir: str | None = Field(None, description="Run directory; runs/DATA-MODEL-TIME when not given.")
    seed: int = Field(42, ge=0, description="Seed of splits, shots, initial weights and shuffling.")

    @model_validator(mode="before")
    @classmethod
    def _fill_by_task(cls, values: Any) -> Any:
        return fill_by_task(values)

    @property
    def answer_form(self) -> AnswerForm:
        """What the model answers."""
        return answer_form(self.task, self.prediction.method)

    @model_validator(mode="after")
    def _refuse_impossible(self) -> Settings:
        problems = check_task(self)
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
