"""The settings of the optimisation, with the names of `transformers.TrainingArguments`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmcls.settings.sections import LabelsAreText, Names, NoIsText, Section


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every float within nested mappings and lists, with the dotted name of its place."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _numbers(inner, f"{name}[{place}]")
    elif isinstance(value, float):
        yield name, value


class TrainingSettings(Section):
    """The optimisation."""

    objective: Literal["sft", "label", "head"] = Field(
        "label",
        description="label: cross-entropy among the valid answers only, the distribution that prediction uses; sft: "
        "likelihood of the answer's tokens, which label mass needs; head: a new classification head on the prompt's "
        "last token. With task multi_label, label and head learn yes or no about every label, sft lists of labels. "
        "null: label, or sft with prediction.method list.",
    )
    tuning: Literal["lora", "full"] = Field(
        "lora",
        description="lora: LoRA weights beside frozen base weights; full: all weights, which needs model.quantization "
        "none. null: the base model's suggestion, lora for most and full for nano; lora where settings of lora.* are "
        "given or model.quantization is 4bit or 8bit.",
    )
    loss_normalization: Literal["example", "token"] = Field(
        "example", description="Average over rows, or over answer tokens (TRL's way: long labels weigh more)."
    )
    class_weights: Annotated[Literal["none", "balanced", "inverse"] | dict[str, float], LabelsAreText] = Field(
        "none",
        description="Weight of each label's rows in the loss: none, balanced (n / (k * count)), inverse (the inverse "
        "shares n / count of all labels, divided by their sum), or a mapping. Balanced weights are inverse ones times "
        "n / k * sum(1 / count); the loss is divided by the sum of its rows' weights, as torch's CrossEntropyLoss "
        "does it, so this factor cancels, and both train alike at the same learning rate. With task multi_label "
        "weights are of each label's yes, balanced is (n - count) / count, and there is no inverse.",
    )
    num_train_epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the training split; null: 3, and where rows are few what 100 steps take, at most 20.",
    )
    max_steps: int = Field(-1, description="Stop after this many optimizer steps; -1: go by epochs.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Rows per device and forward pass in training.")
    per_device_eval_batch_size: int = Field(
        16,
        ge=1,
        description="Rows per device and forward pass in evaluation, where it takes one of its own for the loss "
        "(objective sft) or the model cannot be packed; else rows are read in packs of prediction.pack_tokens.",
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes per optimizer step.")
    halve_batch_on_oom: bool = Field(
        True,
        description="When a device's memory is full, go on with half the rows per forward pass and twice as many "
        "passes a step.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate; null: the base model's suggestion, for most 2e-4 with tuning lora and 2e-5 "
        "with full.",
    )
    lr_scheduler_type: str = Field("linear", description="linear, cosine, constant, constant_with_warmup, ...")
    lr_scheduler_kwargs: dict[str, Any] = Field(
        {}, description="What some schedules need besides: {min_lr_rate: 0.1} with cosine_with_min_lr."
    )
    warmup_steps: float = Field(0.03, ge=0, description="Warm-up: steps, or a share of all steps when below 1.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradient clipping; 0 switches it off.")
    label_smoothing_factor: float = Field(0.0, ge=0, lt=1, description="Probability spread over the other choices.")
    optim: str = Field("adamw_torch", description="Optimizer, as transformers names them.")
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], NoIsText] = Field(
        "auto",
        description="Autocast type in training; auto: bf16 where the GPU has it, else fp16; on a CPU bf16 where it has "
        "instructions for it (AVX512-BF16, AMX) and DeepSpeed is not asked for, else none. fp16 needs a GPU; a CPU "
        "trains without autocast instead, and says so.",
    )
    tf32: bool | None = Field(
        None,
        description="Whether float32 matrix products may round to TensorFloat-32 on GPUs that have it (Ampere and "
        "newer); null: as PyTorch has it. Without a GPU it has no effect, which is said.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, slower.")
    packing: bool = Field(
        True, description="Train on shared-prefix packed trees where the model's attention allows it; same gradients."
    )
    pack_tokens: int | None = Field(
        None, ge=64, description="Tokens per packed forward and backward pass; null: 512 on a CPU, 4096 on a GPU."
    )
    train_sampling_strategy: Literal["random", "group_by_length"] = Field(
        "random",
        description="Which rows make a step; group_by_length: rows of similar length, which evens the load of several "
        "processes and saves padding where packing is off.",
    )
    logging_steps: float = Field(10, gt=0, description="Steps between two log lines; a share of all steps below 1.")
    eval_strategy: Annotated[Literal["no", "steps", "epoch"], NoIsText] = Field(
        "epoch",
        description="When the loss and the figures of metric_for_best_model are taken on the validation split. With "
        "many labels the ROC-AUC, which needs every label's probability, is taken only where metric_for_best_model is "
        "roc_auc.",
    )
    eval_steps: float | None = Field(None, gt=0, description="Steps between evaluations when eval_strategy is steps.")
    save_strategy: Annotated[Literal["no", "steps", "epoch"], NoIsText] = Field(
        "no",
        description="When checkpoints are written, besides every save_minutes, at the end, and before a signal stops "
        "the run.",
    )
    save_minutes: float = Field(
        10, ge=0, description="Minutes after which the next step ends with a checkpoint to resume from; 0: not by time."
    )
    save_steps: float | None = Field(
        None,
        gt=0,
        description="Steps between checkpoints when save_strategy is steps; null: eval_steps with "
        "load_best_model_at_end, else 500.",
    )
    save_total_limit: int | None = Field(2, ge=1, description="How many checkpoints are kept.")
    load_best_model_at_end: bool = Field(
        False, description="Keep the checkpoint that metric_for_best_model finds best on the validation split."
    )
    metric_for_best_model: Literal[
        "loss",
        "accuracy",
        "subset_accuracy",
        "precision",
        "recall",
        "macro_f1",
        "micro_precision",
        "micro_recall",
        "micro_f1",
        "balanced_accuracy",
        "roc_auc",
    ] = Field(
        "loss",
        description="What load_best_model_at_end and early_stopping_patience go by. precision, recall and roc_auc are "
        "means over labels (roc_auc of the second of two labels, else one against the rest). subset_accuracy (also "
        "called accuracy) and the micro figures are for task multi_label, balanced_accuracy for single labels; with "
        "prediction.method list there is no roc_auc.",
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations in a row without a better metric_for_best_model."
    )
    early_stopping_threshold: float = Field(
        0.0, ge=0, description="By how much the metric must improve to count as better for early stopping."
    )
    dataloader_num_workers: int = Field(0, ge=0, description="Processes that build batches.")
    report_to: Names = Field((), description="Trackers: tensorboard, wandb, mlflow, ...")

    @model_validator(mode="after")
    def _refuse_impossible(self) -> TrainingSettings:
        problems = []
        saved = self.save_steps or self.eval_steps
        if self.load_best_model_at_end and self.save_strategy != self.eval_strategy:
            problems.append(
                f"load_best_model_at_end needs save_strategy ({self.save_strategy}) equal to "
                f"eval_strategy ({self.eval_strategy}), and not 'no'"
            )
        elif self.load_best_model_at_end and self.eval_strategy == "no":
            problems.append("load_best_model_at_end needs eval_strategy and save_strategy to be 'epoch' or 'steps'")
        elif self.load_best_model_at_end and self.save_strategy == "steps" and saved != self.eval_steps:
            problems.append(
                f"load_best_model_at_end needs a checkpoint of every evaluation, but save_steps is {saved} "
                f"and eval_steps {self.eval_steps}; leave save_steps out"
            )
        for name in ("warmup_steps", "logging_steps", "eval_steps", "save_steps"):
            steps = getattr(self, name)
            if steps is not None and steps > 1 and not steps.is_integer():
                problems.append(f"{name} is {steps}; give whole steps, or below 1 a share of all steps")
        problems += [
            f"{name} is {value}; give a finite number"
            for name, value in _numbers(self.lr_scheduler_kwargs, "lr_scheduler_kwargs")
            if not math.isfinite(value)
        ]
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            problems.append("early_stopping_patience needs eval_strategy 'epoch' or 'steps'")
        if self.metric_for_best_model != "loss" and not (
            self.load_best_model_at_end or self.early_stopping_patience is not None
        ):
            problems.append(
                f"metric_for_best_model is {self.metric_for_best_model}, but nothing goes by it; set "
                "load_best_model_at_end or early_stopping_patience"
            )
        if self.eval_strategy == "steps" and self.eval_steps is None:
            problems.append("eval_strategy 'steps' needs eval_steps")
        if self.max_steps == 0 or self.max_steps < -1:
            problems.append(f"max_steps is {self.max_steps}; give a positive number, or -1 to go by epochs")
        if self.objective != "sft" and self.loss_normalization == "token":
            problems.append(
                f"loss_normalization 'token' is for objective 'sft'; objective '{self.objective}' has one term per row"
            )
        if isinstance(self.class_weights, dict):
            problems += [
                f"class_weights: {name!r} has weight {weight}; it must be positive"
                for name, weight in self.class_weights.items()
                if weight <= 0
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self
