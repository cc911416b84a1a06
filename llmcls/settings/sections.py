"""The settings of data, model, prompt, LoRA and prediction: one class a section, checked for itself."""

from __future__ import annotations

import codecs
import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from llmcls.errors import LlmclsError, unknown
from llmcls.settings.rows import Size, check_kept
from llmcls.settings.task import OneOf

LARGEST_NUMBER = 2**32
"""Of whole numbers: libraries count in 64 bits, and multiply."""

_PLACES = {"source", "base_model", "template", "output_dir"}
_TRUTH = ("bool", "bool_")  # Python's type, and what NumPy calls its own


def _as_text(name: Any) -> Any:
    """A name as text: numbers become what the label column makes of them, 1 and 1.0 alike '1'.

    Raises:
        ValueError: for truth values, dates and whatever else may have been written in another way.
    """
    if isinstance(name, str):
        return str(name)
    if isinstance(name, Integral) and not isinstance(name, bool):
        return str(int(name))
    if isinstance(name, Real) and not isinstance(name, bool) and math.isfinite(name):
        return str(int(float(name))) if float(name).is_integer() else str(name)
    raise ValueError(f"{name!r} is a {type(name).__name__}, not a name; write the name as text, in quotes")


def _as_names(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()  # NumPy's arrays
    if isinstance(value, (set, frozenset)):
        value = sorted(map(_as_text, value))  # the order of a set differs from process to process
    if isinstance(value, (list, tuple)):
        return tuple(map(_as_text, value))
    return (_as_text(value),) if isinstance(value, (str, Real)) else value


def _as_columns(value: Any) -> Any:
    """One name as text, several as a tuple; a list of one is that one."""
    if value is None or isinstance(value, str):
        return value
    names = _as_names(value)
    if not isinstance(names, tuple):
        raise ValueError(f"{value!r} is a {type(value).__name__}; give a column's name, or a list of names")
    return names[0] if len(names) == 1 else names or None


def _as_labelled(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    named = {_as_text(name): content for name, content in value.items()}
    if len(named) < len(value):
        raise ValueError(f"two keys of {list(value)} are the same name once they are text; keep one")
    return named


def _as_delimiter(value: Any) -> Any:
    named = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " "}
    delimiter = named.get(value, value) if isinstance(value, str) else value
    if isinstance(delimiter, str) and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
        raise ValueError(f"{value!r} is not a delimiter; give one character, or comma, semicolon, tab or pipe")
    return delimiter


def _known_encoding(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        "".encode(name)
    except LookupError:
        raise ValueError(f"{name!r} is not an encoding that Python knows; cp1252, latin-1 and utf-16 are") from None
    # A byte-order mark is not part of the first column's name.
    return "utf-8-sig" if codecs.lookup(name).name == "utf-8" else name


# A single name may stand for a list of one: --set data.text_columns=body
Names = Annotated[tuple[str, ...], BeforeValidator(_as_names)]
KeptLabels = Annotated[
    tuple[str, ...] | dict[Literal["top", "min_rows"], int], BeforeValidator(lambda value: check_kept(value, _as_names))
]
# Labels may be numbers, which Python does not write as text: {0: 1.0, 1: 3.0}
LabelsAreText = BeforeValidator(_as_labelled)
# YAML 1.1 reads a bare `no` as false.
NoIsText = BeforeValidator(lambda value: "no" if value is False else value)
Quantization = Literal["none", "8bit", "4bit"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values are final, numbers are finite and no truth values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_extremes(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise ValueError(f"the number is beyond {LARGEST_NUMBER:,}, which no setting needs")
        if isinstance(value, str) and "\0" in value and info.field_name in _PLACES:
            raise ValueError("the name holds a NUL character, which no name of a file can; take it out")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name or ""].annotation
        parts = {kind, *get_args(kind)}
        of_keys = {get_args(part)[1] for part in parts if get_origin(part) is dict}
        found = {"": value} if parts & {int, float} else {}
        if isinstance(value, Mapping) and of_keys & {int, float}:
            found = {f"{name!r} is ": content for name, content in value.items()}
        if wrong := [f"{name}{content}" for name, content in found.items() if type(content).__name__ in _TRUTH]:
            raise ValueError(f"{', '.join(wrong)}, but must be a number")  # pydantic would take true for 1
        return value


class DataSettings(Section):
    """Where the rows come from and which columns matter."""

    source: str | None = Field(None, description="Folder, file or specification to read, as in --data.")
    text_columns: Names = Field(
        (), description="Columns that hold the text, joined with '. '; guessed from the column names when empty."
    )
    delimiter: Annotated[str | None, BeforeValidator(_as_delimiter)] = Field(
        None,
        description="What stands between the cells of .csv and .tsv files: comma, semicolon, tab, pipe or any "
        "character; told from the name of the file and its header when null.",
    )
    encoding: Annotated[str | None, AfterValidator(_known_encoding)] = Field(
        None, description="Encoding of .csv, .tsv and JSON files, such as cp1252, latin-1, utf-16; UTF-8 when null."
    )
    quoting: Literal["auto", "quoted", "plain"] = Field(
        "auto",
        description="What quotation marks in .csv and .tsv files do. quoted: enclose cells; plain: they are text; "
        "auto: quoted, and in files separated by tabs whatever makes sense of all lines.",
    )
    label_column: Annotated[str | tuple[str, ...] | None, BeforeValidator(_as_columns)] = Field(
        None,
        description="Column that holds the label; guessed when not given. A list of columns of zeros and ones, "
        "[anger, joy], if each is a label.",
    )
    weight_column: str | None = Field(
        None,
        description="Column that says how much each training row counts, a number, 0 or more: its loss is multiplied "
        "by it. Validation and test rows count alike.",
    )
    label_separator: str = Field(
        ",",
        min_length=1,
        description="What stands between the labels of a row when the task is multi_label; lists need none.",
    )
    labels: Names = Field(
        (), description="The labels in the order wanted; all labels of the training split when empty."
    )
    keep_labels: KeptLabels = Field(
        (),
        description="Labels to train on: a list of names, {top: 5} for the most frequent of the training split, or "
        "{min_rows: 3} for those of three rows and more; all when empty. With task multi_label other labels are taken "
        "out of a row's list, and a row stays with what is left, also with none.",
    )
    other_labels: Literal["drop", "error"] | None = Field(
        None,
        description="What becomes of rows whose label is not wanted by labels or keep_labels. drop: they are left out "
        "of every split, and counted; error: nothing is trained; null: drop with keep_labels, else error.",
    )
    label_descriptions: Annotated[dict[str, str], LabelsAreText] = Field(
        {}, description="What each label means, shown to the model by templates that print descriptions."
    )
    label_aliases: Annotated[dict[str, Names], LabelsAreText] = Field(
        {},
        description="Other spellings of labels, {billing: [invoice, payment]}: in the data each counts as its label, "
        "and the model may answer with any of them; their probabilities add up.",
    )
    bad_rows: Literal["error", "skip"] = Field(
        "error",
        description="Training rows that cannot be used, such as one without label. error: all are reported, and "
        "nothing is trained; skip: they are left out, counted, and listed in bad_rows.csv in the run.",
    )
    validation_size: Size = Field(
        None,
        description="Rows of train cut off, stratified, when there is no validation split: a share (0.1), a number of "
        "rows (200), or 0 for none; null: 0.1, or of each label as many as max_per_class names.",
    )
    test_size: Size = Field(
        None,
        description="The same for test, which is cut first; null: of a single table (a file, a DataFrame) 0.1 where it "
        "has 500 rows or more, or of each label as many as max_per_class names; of other data none.",
    )
    max_per_class: dict[Literal["train", "validation", "test"], int] = Field(
        {},
        description="At most this many rows of each label in a split, drawn with the seed: {train: 2000}. Of a single "
        "table, validation and test are cut by it where their size is null; a label with too few rows for all splits "
        "is divided in the ratio of the limits, and half of it stays in train where train has none.",
    )

    @property
    def drops_other_labels(self) -> bool:
        """Whether rows whose label is not wanted are left out."""
        return self.other_labels == "drop" or (self.other_labels is None and bool(self.keep_labels))

    @model_validator(mode="after")
    def _refuse_dropping_nothing(self) -> DataSettings:
        if self.other_labels == "drop" and not self.labels and not self.keep_labels:
            raise ValueError(
                "other_labels is drop, but nothing says which labels are wanted; set data.labels or data.keep_labels"
            )
        return self


class ModelSettings(Section):
    """Which base model, and how its weights are held in memory."""

    base_model: str = Field(
        "nano",
        description="A name from `llmcls models list`, a Hub id, a folder with a causal LM or with a classifier "
        "that has a head, or a run whose training goes on.",
    )
    adapter: str | None = Field(
        None, description="Base-model adapter to use; chosen by the checkpoint's architecture when not given."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with the base model, as --trust-remote-code does. What a run says of "
        "this never counts: whoever loads the run decides.",
    )
    quantization: Quantization = Field(
        "4bit",
        description="How the frozen base weights are held (bitsandbytes). null: none with training.tuning full, else "
        "the base model's suggestion, 4bit for most and none for nano; 4bit where settings of bnb_4bit_* are given. A "
        "checkpoint that is quantised already is held as it is stored.",
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit data type.")
    bnb_4bit_use_double_quant: bool = Field(True, description="Quantise the quantisation constants as well.")
    bnb_4bit_compute_dtype: DType = Field(
        "auto",
        description="Type that 4-bit models compute in, and of what of them is not quantised; auto: as dtype.",
    )
    dtype: DType = Field(
        "auto",
        description="Type of unquantised weights; auto: bfloat16 on GPUs that have it, float16 on older ones, float32 "
        "on a CPU.",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = Field(
        "sdpa",
        description="Attention kernel; only sdpa takes llmcls's packed mask. A model that has no sdpa gets eager.",
    )

    @property
    def loaded_dtype(self) -> DType:
        """The type of what is not quantised, and of computation, as these settings ask for it."""
        chosen = self.bnb_4bit_compute_dtype if self.quantization == "4bit" else "auto"
        return self.dtype if chosen == "auto" else chosen

    @model_validator(mode="after")
    def _refuse_two_types(self) -> ModelSettings:
        if self.quantization == "4bit" and self.dtype not in ("auto", self.loaded_dtype):
            raise ValueError(
                f"bnb_4bit_compute_dtype is {self.bnb_4bit_compute_dtype} and dtype {self.dtype}, but a 4-bit model "
                "computes in one type; leave dtype out"
            )
        return self


def with_dtype(settings: ModelSettings, dtype: str) -> ModelSettings:
    """The same, with weights that are not quantised, and computation, in one type.

    Raises:
        LlmclsError: for a type that there is not.
    """
    if dtype not in get_args(DType):
        raise LlmclsError(unknown("dtype", dtype, get_args(DType)))
    return settings.model_copy(update={"dtype": dtype, "bnb_4bit_compute_dtype": "auto"})


class PromptSettings(Section):
    """How a row becomes a prompt."""

    template: str = Field(
        "instruction",
        description="A name from `llmcls templates list`, or a path to a .j2 file; null: 'instruction', or "
        "'multi_label' with task multi_label.",
    )
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
    """The LoRA weights that are trained (PEFT)."""

    r: int = Field(16, ge=1, le=65_536, description="Rank of the update matrices.")
    lora_alpha: float = Field(32, gt=0, description="Scale of the update: lora_alpha / r.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the update; 0 where experts get one.")
    target_modules: Literal["all-linear"] | Names | None = Field(
        None,
        description="Modules that get an update: 'all-linear' or a list; the base model's own choice when null. The "
        "experts of a mixture are not linear layers; those named get an update without dropout.",
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(False, description="Weight-decomposed LoRA (DoRA).")


class PredictionSettings(Section):
    """How probabilities are computed."""

    method: Annotated[str, OneOf("methods")] = Field(
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
    pack_tokens: int | None = Field(
        None,
        ge=64,
        description="Tokens per pack of the engine, also where training reads the validation split; null: by the "
        "hardware.",
    )
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

    def check(self, spellings: Collection[str]) -> None:
        """Refuse a `no_answer` that is a label.

        Raises:
            LlmclsError: when a threshold may give it to a row.
        """
        if self.may_abstain and self.no_answer in spellings:
            raise LlmclsError(
                f"prediction.no_answer is {self.no_answer!r}, which is a label; choose a value that no label has."
            )

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
