"""Every setting of a run: one pydantic tree, checked as a whole, from YAML, `--set` and Python alike.

    settings = load_settings(["run.yaml"], ["training.max_steps=100", "lora.r=8"])
    settings.lora.r

Hyper-parameters carry the names of the Hugging Face class they go to: `training` those of
`transformers.TrainingArguments`, `lora` those of `peft.LoraConfig`, `model.bnb_4bit_*` those of
`transformers.BitsAndBytesConfig`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from llmcls.errors import LlmclsError, several
from llmcls.task import AnswerForm, answer_form, check_task, fill_by_task

# A single name may stand for a list of one: --set data.text_columns=body
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
# YAML 1.1 reads a bare `no` as false.
NoIsText = BeforeValidator(lambda value: "no" if value is False else value)
Quantization = Literal["none", "8bit", "4bit"]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values are final."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DataSettings(Section):
    """Where the rows come from and which columns matter."""

    source: str | None = Field(None, description="Folder, file or specification to read, as in --data.")
    text_columns: Names = Field(
        (), description="Columns that hold the text, joined with '. '; guessed from the column names when empty."
    )
    label_column: str | None = Field(None, description="Column that holds the label; guessed when not given.")
    label_separator: str = Field(
        ",",
        min_length=1,
        description="What stands between the labels of a row when the task is multi_label; lists need none.",
    )
    labels: Names = Field(
        (), description="The labels in the order wanted; all labels of the training split when empty."
    )
    label_descriptions: dict[str, str] = Field(
        {}, description="What each label means, shown to the model by templates that print descriptions."
    )
    label_aliases: dict[str, Names] = Field(
        {},
        description="Other spellings of labels, {billing: [invoice, payment]}: in the data each counts as its label, "
        "and the model may answer with any of them; their probabilities add up.",
    )
    validation_size: float = Field(
        0.1, ge=0, lt=1, description="Share of train cut off, stratified, when there is no validation split; 0: none."
    )
    max_per_class: dict[Literal["train", "validation", "test"], int] = Field(
        {}, description="At most this many rows of each label in a split, drawn with the seed: {train: 2000}."
    )


class ModelSettings(Section):
    """Which base model, and how its weights are held in memory."""

    base_model: str = Field(
        "nano", description="A name from `llmcls models list`, a Hub id, or a folder with a causal LM."
    )
    adapter: str | None = Field(
        None, description="Base-model adapter to use; chosen by the checkpoint's architecture when not given."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    trust_remote_code: bool = Field(False, description="Run model code that comes with a Hub checkpoint.")
    quantization: Quantization = Field("4bit", description="How the frozen base weights are stored (bitsandbytes).")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit data type.")
    bnb_4bit_use_double_quant: bool = Field(True, description="Quantise the quantisation constants as well.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Type of unquantised weights and of 4-bit computation; auto: bfloat16 on GPUs that have it, "
        "float16 on older ones, float32 on a CPU.",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = Field(
        "sdpa", description="Attention kernel; only sdpa and eager take llmcls's packed mask."
    )


class PromptSettings(Section):
    """How a row becomes a prompt."""

    template: str = Field("instruction", description="A name from `llmcls templates list`, or a path to a .j2 file.")
    max_length: int = Field(
        1024, ge=16, description="Tokens of prompt and answer together; longer rows have only their text cut."
    )
    truncation_side: Literal["right", "left"] = Field("right", description="Which end of a long text is cut off.")
    verbalizer: Literal["name", "code"] = Field(
        "name",
        description="What the model answers with. name: the label itself; code: a short code of one token (A, B, "
        "C ...) that the template shows beside the label, the cheapest to predict.",
    )
    shots_per_label: int = Field(1, ge=1, le=32, description="Solved examples of each label in few-shot templates.")


class LoraSettings(Section):
    """The adapter that is trained (PEFT)."""

    r: int = Field(16, ge=1, description="Rank of the update matrices.")
    lora_alpha: float = Field(32, gt=0, description="Scale of the update: lora_alpha / r.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the update.")
    target_modules: Literal["all-linear"] | tuple[str, ...] | None = Field(
        None, description="Modules that get an update: 'all-linear' or a list; the base model's own choice when null."
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(False, description="Weight-decomposed LoRA (DoRA).")


class TrainingSettings(Section):
    """The optimisation."""

    objective: Literal["sft", "label", "head"] = Field(
        "label",
        description="label: cross-entropy among the valid answers only, the distribution that prediction uses; sft: "
        "likelihood of the answer's tokens, which label mass needs; head: a new classification head on the prompt's "
        "last token. With task multi_label, label and head learn yes or no about every label, sft lists of labels.",
    )
    tuning: Literal["lora", "full"] = Field(
        "lora",
        description="lora: an adapter on frozen base weights; full: all weights, which needs model.quantization none.",
    )
    loss_normalization: Literal["example", "token"] = Field(
        "example", description="Average over rows, or over answer tokens (TRL's way: long labels weigh more)."
    )
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none",
        description="Weight of each label's rows in the loss: none, balanced (n / (k * count)), or a mapping; with "
        "task multi_label of each label's yes, and balanced is (n - count) / count.",
    )
    num_train_epochs: float = Field(3.0, gt=0, description="Passes over the training split.")
    max_steps: int = Field(-1, description="Stop after this many optimizer steps; -1: go by epochs.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Rows per device and forward pass in training.")
    per_device_eval_batch_size: int = Field(16, ge=1, description="Rows per device and forward pass in evaluation.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes per optimizer step.")
    halve_batch_on_oom: bool = Field(
        True,
        description="When a device's memory is full, go on with half the rows per forward pass and twice as many "
        "passes a step.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate; when null 2e-5 with tuning full, else the base model's suggestion (2e-4 for "
        "most).",
    )
    lr_scheduler_type: str = Field("linear", description="linear, cosine, constant, constant_with_warmup, ...")
    warmup_steps: float = Field(0.03, ge=0, description="Warm-up: steps, or a share of all steps when below 1.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradient clipping; 0 switches it off.")
    label_smoothing_factor: float = Field(0.0, ge=0, lt=1, description="Probability spread over the other choices.")
    optim: str = Field("adamw_torch", description="Optimizer, as transformers names them.")
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], NoIsText] = Field(
        "auto", description="Autocast type; auto: bf16 where the GPU has it, else fp16, none on a CPU."
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
        "epoch", description="When loss, accuracy, macro-F1 and balanced accuracy are taken on the validation split."
    )
    eval_steps: float | None = Field(None, gt=0, description="Steps between evaluations when eval_strategy is steps.")
    save_strategy: Annotated[Literal["no", "steps", "epoch"], NoIsText] = Field(
        "no", description="When checkpoints are written, besides every save_minutes and before a signal stops the run."
    )
    save_minutes: float = Field(
        10, ge=0, description="Minutes after which the next step ends with a checkpoint to resume from; 0: never."
    )
    save_steps: float = Field(500, gt=0, description="Steps between checkpoints when save_strategy is steps.")
    save_total_limit: int | None = Field(2, ge=1, description="How many checkpoints are kept.")
    load_best_model_at_end: bool = Field(
        False, description="Keep the checkpoint that metric_for_best_model finds best on the validation split."
    )
    metric_for_best_model: Literal["loss", "accuracy", "macro_f1", "balanced_accuracy"] = Field(
        "loss", description="What load_best_model_at_end and early_stopping_patience go by."
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
        if self.load_best_model_at_end and self.save_strategy != self.eval_strategy:
            problems.append(
                f"load_best_model_at_end needs save_strategy ({self.save_strategy}) equal to "
                f"eval_strategy ({self.eval_strategy}), and not 'no'"
            )
        elif self.load_best_model_at_end and self.eval_strategy == "no":
            problems.append("load_best_model_at_end needs eval_strategy and save_strategy to be 'epoch' or 'steps'")
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


class PredictionSettings(Section):
    """How probabilities are computed."""

    method: Literal["auto", "exact", "greedy", "best-first", "generate", "reference", "list"] = Field(
        "auto",
        description="exact: all probabilities by the packed engine; best-first: certified best label without scoring "
        "all; auto: exact where all probabilities are wanted, else the cheaper of these two; greedy: walk the label "
        "trie; generate: transformers' generate() with the constraint; reference: one plain forward per row and label; "
        "list: generate() of a list of labels, for task multi_label with objective sft.",
    )
    min_probability: float = Field(
        0.0, ge=0, le=1, description="A row whose best label is less probable gets no_answer instead; 0: off."
    )
    min_label_mass: float = Field(
        0.0,
        ge=0,
        le=1,
        description="A row for which any label at all is less probable (label mass) gets no_answer; 0: off.",
    )
    no_answer: str = Field("no answer", description="What a row below a threshold gets instead of a label.")
    batch_size: int = Field(16, ge=1, description="Rows per forward pass of generate and reference.")
    pack_tokens: int | None = Field(None, ge=64, description="Tokens per pack of the engine; null: by the hardware.")
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability from which on a multi_label task predicts a label; null: as tuned on validation.",
    )

    @property
    def may_abstain(self) -> bool:
        """Whether a threshold is set."""
        return self.min_probability > 0 or self.min_label_mass > 0

    @model_validator(mode="after")
    def _refuse_impossible(self) -> PredictionSettings:
        unable = {"min_probability": ("greedy", "generate"), "min_label_mass": ("greedy", "generate", "best-first")}
        problems = [
            f"{name} needs a probability that method '{self.method}' does not compute; use auto or exact"
            for name, methods in unable.items()
            if getattr(self, name) > 0 and self.method in methods
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


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


def load_settings(
    files: Iterable[str | Path] = (), assignments: Iterable[str] = (), options: Mapping[str, Any] | None = None
) -> Settings:
    """Merge YAML files, `dotted.key=value` assignments and `{dotted.key: value}` options, later ones winning.

    Raises:
        LlmclsError: with every unknown key, wrong type and impossible combination in one message.
    """
    merged: dict[str, Any] = {}
    for path in files:
        _merge(merged, _read_yaml(Path(path)))
    for assignment in assignments:
        _merge(merged, _parse_assignment(assignment))
    for key, value in (options or {}).items():
        _merge(merged, nest(key, value))
    return make_settings(merged)


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Check a nested mapping of settings.

    Raises:
        LlmclsError: with all problems in one message.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise LlmclsError(several([_explain(detail) for detail in error.errors()], "Settings")) from error


def fields(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, pydantic FieldInfo), sections resolved."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LlmclsError(f"Settings file '{path}' cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise LlmclsError(f"Settings file '{path}' is no valid YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise LlmclsError(f"Settings file '{path}' must hold sections such as 'training:', not {loaded!r}.")
    return loaded


def _parse_assignment(assignment: str) -> dict[str, Any]:
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise LlmclsError(f"'{assignment}' is no assignment; write it as training.max_steps=100.")
    try:
        # A lone mark is text, such as a separator: YAML reads | as an empty block, # as a comment, - as a list.
        parsed: Any = value if re.fullmatch(r"[^\w\s~]", value) else yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if isinstance(parsed, str):
        with suppress(ValueError):
            parsed = float(parsed)  # YAML 1.1 reads 2e-4 as text
    return nest(key.strip(), parsed)


def nest(key: str, value: Any) -> dict[str, Any]:
    """`nest("lora.r", 8)` is `{"lora": {"r": 8}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(detail: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return unknown_setting(path)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{path}: {message}" if path else str(message)
    return f"{path} = {detail['input']!r}: {message[0].lower()}{message[1:]}"


def unknown_setting(name: str) -> str:
    """Say that a setting does not exist, with the closest one."""
    known = [key for key, _ in fields()]
    leaves = {key.rpartition(".")[2]: key for key in known}
    sections = list(Settings.model_fields)
    if name in known:  # the key of a mapping was the dotted name
        section, _, leaf = name.rpartition(".")
        return f"'{name}' is a setting in a section; write it as {{'{section}': {{'{leaf}': ...}}}}"
    close = (
        difflib.get_close_matches(name, [*known, *sections], n=1, cutoff=0.75)
        or [leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.75)]
        or difflib.get_close_matches(name, sections, n=1)
    )
    hint = f"did you mean '{close[0]}'?" if close else "`llmcls config init` prints all."
    return f"there is no setting '{name}'; {hint}"
