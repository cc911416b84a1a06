"""Every setting has an effect: what the libraries, prompts and splits become with another value than the default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback

from llmcls import Classifier, train
from llmcls.console import Reporter
from llmcls.data.splits import DataSplits, load_training_data
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.model.hardware import choose_formats
from llmcls.model.loading import find_base_model
from llmcls.records import Example
from llmcls.runs.assembly import assemble
from llmcls.runs.writing import default_path
from llmcls.settings import Settings, fields, given_settings, make_settings
from llmcls.training.configuration import make_config
from llmcls.training.length import settle_epochs
from llmcls.training.memory import shrink
from llmcls.training.preparation import describe_missing, settle
from llmcls.training.trainer import LabelTrainer

WORDS = ("late", "parcel", "twice", "paid", "thanks", "broken")
ROWS = [
    {
        "text": f"{WORDS[n % 6]} {WORDS[n % 5]} {n}",
        "body": f"body {n}",
        "label": "ab"[n % 2],
        "kind": "yx"[n % 2],
        "n": 1 + n % 4 // 2,
    }
    for n in range(40)
]
TEXTS = ["a text", "another text that is longer than the first", "x"]


class Stop(Exception):  # noqa: N818 - not an error: training has come far enough
    def __init__(self, trainer: LabelTrainer) -> None:
        self.trainer = trainer


@dataclass(frozen=True)
class Probe:
    """What a setting may change, made from a settings tree; each part is made when it is looked at."""

    settings: Settings
    folder: Path

    @property
    def splits(self) -> DataSplits:
        return load_training_data(self.settings, None if self.settings.data.source else ROWS)

    @property
    def trainer(self) -> Any:
        columns = {"text_columns": ("text",), "label_column": "label"}
        try:
            train(ROWS, settings=self.settings, output_dir=self.folder, reporter=Reporter(quiet=True), **columns)
        except Stop as reached:
            return reached.trainer
        raise AssertionError("training did not begin")

    @property
    def args(self) -> Any:
        return self.trainer.args

    @property
    def lora(self) -> Any:
        return self.trainer.model.peft_config["default"]

    @property
    def quantization(self) -> Any:
        return self.trainer.model.config.quantization_config

    @property
    def encoder(self) -> Any:
        labels = LabelSet.from_names(["a", "b"], self.settings.data.label_descriptions)
        return assemble(self.settings, labels, [Example(row["text"], row["label"]) for row in ROWS]).encoder

    @property
    def config(self) -> Any:
        settings = settle(self.settings, given_settings(self.settings)).settings
        lasting = settle_epochs(settings.training, rows=len(ROWS), processes=1)
        settings = settings.model_copy(update={"training": lasting})
        return make_config(settings, choose_formats(self.settings, training=True), self.folder, has_validation=True)

    @property
    def base(self) -> Any:
        return find_base_model(self.settings.model)

    @property
    def classifier(self) -> Classifier:
        return Classifier.zero_shot(self.settings.model.base_model, ["ab", "abc", "x"], settings=self.settings)

    @property
    def batch(self) -> Any:
        trainer = self.trainer
        return trainer._collator([trainer.train_dataset[row] for row in range(8)])


def spread(lengths: list[int], step: int = 8) -> int:
    """How much the lengths of the rows of one step differ, summed over steps."""
    steps = [lengths[at : at + step] for at in range(0, len(lengths), step)]
    return sum(max(part) - min(part) for part in steps)


def end_of_prompt(probe: Probe) -> bool:
    """Whether the end of a text that is too long is kept."""
    (prompt,) = probe.encoder.encode([Example("word " * 500 + "zebra")])
    return "zebra" in probe.encoder.tokenizer.decode(prompt.input_ids)


def first_text(probe: Probe, content: str, encoding: str = "utf-8") -> str:
    """The first text of a file, or why it cannot be read."""
    path = probe.folder.with_suffix(".csv")
    path.write_bytes(content.encode(encoding))
    settings = probe.settings.model_copy(
        update={"data": probe.settings.data.model_copy(update={"validation_size": 0.0})}
    )
    try:
        return load_training_data(settings, str(path)).train[0].text
    except LlmclsError as error:
        return str(error)


def labels_or_error(probe: Probe) -> Any:
    """The labels of the training rows, or why they cannot be used."""
    try:
        return {row.label for row in probe.splits.train}
    except LlmclsError as error:
        return str(error)


def patience(trainer: Any) -> Any:
    """The callback that stops early, or None."""
    return next((each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)), None)


def order(trainer: Any) -> list[int]:
    return [len(trainer.train_dataset[row]["input_ids"]) for row in trainer._get_train_sampler()]


def loss_weights(batch: Any) -> list[float]:
    return sorted({round(float(weight), 4) for pack in batch for weight in pack["weights"]})


NO_TF32 = "this machine has no GPU, so training.tf32 true has no effect."

# (setting, another value, what is looked at, what it must be); with the default it must be something else.
CASES: list[tuple[str, Any, Callable[[Probe], Any], Any]] = [
    ("task", "multi_label", lambda p: p.encoder.template.name, "multi_label"),
    ("seed", 7, lambda p: p.args.seed, 7),
    ("output_dir", "elsewhere", lambda p: p.settings.output_dir or str(default_path(p.settings)), "elsewhere"),
    ("data.source", "{csv}", lambda p: len(p.splits.train), 10),
    ("data.text_columns", ["body"], lambda p: p.splits.train[0].text.split()[0], "body"),
    ("data.label_column", "kind", lambda p: sorted({str(row.label) for row in p.splits.train}), ["x", "y"]),
    ("data.weight_column", "n", lambda p: loss_weights(p.batch), [0.5, 1.0]),
    ("data.label_separator", "|", lambda p: p.classifier.assembly.settings.data.label_separator, "|"),
    ("data.labels", ["b", "a"], lambda p: p.splits.labels.names, ("b", "a")),
    ("data.keep_labels", {"top": 3}, lambda p: len(p.splits.labels), 3),
    ("data.other_labels", "drop", lambda p: labels_or_error(p), {"a"}),
    ("data.label_descriptions", {"a": "first"}, lambda p: p.splits.labels[0].description, "first"),
    ("data.label_aliases", {"a": ["b2"]}, lambda p: p.splits.labels[0].aliases, ("b2",)),
    ("data.delimiter", "~", lambda p: first_text(p, "text~label\na,b~x\nc~y\n"), "a,b"),
    ("data.encoding", "latin-1", lambda p: first_text(p, "text,label\n\u00e9,x\nc,y\n", "latin-1"), "\u00e9"),
    ("data.quoting", "plain", lambda p: first_text(p, 'text,label\n"a",x\nc,y\n'), '"a"'),
    ("data.bad_rows", "skip", lambda p: first_text(p, "text,label\na,x\nc,y\nd,\n"), "a"),
    ("data.validation_size", 0.5, lambda p: len(p.splits.validation), 20),
    ("data.test_size", 8, lambda p: len(p.splits.test), 8),
    ("data.max_per_class", {"train": 3}, lambda p: len(p.splits.train), 6),
    ("model.base_model", "nano", lambda p: p.base.name, "nano"),
    ("model.adapter", "tinyllama", lambda p: p.base.adapter.name, "tinyllama"),
    ("model.revision", "v2", lambda p: p.base.hub_arguments["revision"], "v2"),
    ("model.trust_remote_code", True, lambda p: p.base.hub_arguments["trust_remote_code"], True),
    ("model.quantization", "none", lambda p: hasattr(p.trainer.model.config, "quantization_config"), False),
    ("model.bnb_4bit_quant_type", "fp4", lambda p: p.quantization.bnb_4bit_quant_type, "fp4"),
    ("model.bnb_4bit_use_double_quant", False, lambda p: p.quantization.bnb_4bit_use_double_quant, False),
    ("model.bnb_4bit_compute_dtype", "float16", lambda p: p.quantization.bnb_4bit_compute_dtype, torch.float16),
    ("model.dtype", "bfloat16", lambda p: p.trainer.model.config.dtype, torch.bfloat16),
    ("model.attn_implementation", "eager", lambda p: p.trainer.model.config._attn_implementation, "eager"),
    ("prompt.template", "minimal", lambda p: p.encoder.template.name, "minimal"),
    ("prompt.max_length", 130, lambda p: len(p.encoder.encode([Example("word " * 500)])[0].input_ids) < 130, True),
    ("prompt.truncation_side", "left", lambda p: end_of_prompt(p), True),
    ("prompt.verbalizer", "code", lambda p: p.encoder.spellings, ("A", "B")),
    ("prompt.shots_per_label", 3, lambda p: len(p.encoder.shots.examples), 6),
    ("lora.r", 3, lambda p: p.lora.r, 3),
    ("lora.lora_alpha", 5.0, lambda p: p.lora.lora_alpha, 5.0),
    ("lora.lora_dropout", 0.3, lambda p: p.lora.lora_dropout, 0.3),
    ("lora.target_modules", ["q_proj"], lambda p: p.lora.target_modules, {"q_proj"}),
    ("lora.bias", "all", lambda p: p.lora.bias, "all"),
    ("lora.use_rslora", True, lambda p: p.lora.use_rslora, True),
    ("lora.use_dora", True, lambda p: p.lora.use_dora, True),
    ("training.objective", "sft", lambda p: p.trainer._collator.layout.objective.name, "sft"),
    ("training.tuning", "full", lambda p: hasattr(p.trainer.model, "peft_config"), False),
    ("training.loss_normalization", "token", lambda p: p.trainer._collator.layout.objective.normalization, "token"),
    ("training.class_weights", {"a": 3.0}, lambda p: loss_weights(p.batch), [1.0, 3.0]),
    ("training.num_train_epochs", 2.5, lambda p: p.args.num_train_epochs, 2.5),
    ("training.max_steps", 9, lambda p: p.args.max_steps, 9),
    ("training.per_device_train_batch_size", 5, lambda p: p.args.per_device_train_batch_size, 5),
    ("training.per_device_eval_batch_size", 5, lambda p: p.args.per_device_eval_batch_size, 5),
    ("training.gradient_accumulation_steps", 3, lambda p: p.args.gradient_accumulation_steps, 3),
    ("training.halve_batch_on_oom", False, lambda p: shrink(p.settings.training), None),
    ("training.learning_rate", 0.5, lambda p: p.args.learning_rate, 0.5),
    ("training.lr_scheduler_type", "constant", lambda p: p.args.lr_scheduler_type, "constant"),
    ("training.lr_scheduler_kwargs", {"min_lr_rate": 0.1}, lambda p: p.args.lr_scheduler_kwargs, {"min_lr_rate": 0.1}),
    ("training.warmup_steps", 4, lambda p: p.args.warmup_steps, 4),
    ("training.weight_decay", 0.2, lambda p: p.args.weight_decay, 0.2),
    ("training.max_grad_norm", 0.7, lambda p: p.args.max_grad_norm, 0.7),
    ("training.label_smoothing_factor", 0.25, lambda p: float(p.batch[0]["label_smoothing"]), 0.25),
    ("training.optim", "sgd", lambda p: p.args.optim, "sgd"),
    ("training.mixed_precision", "bf16", lambda p: p.args.bf16, True),
    ("training.tf32", True, lambda p: describe_missing(p.settings.training, "cpu"), [NO_TF32]),
    ("training.gradient_checkpointing", True, lambda p: p.args.activation_checkpointing, True),
    ("training.packing", False, lambda p: p.trainer._collator.packed, False),
    ("training.pack_tokens", 200, lambda p: len(p.batch) > 1, True),
    ("training.train_sampling_strategy", "group_by_length", lambda p: spread(order(p.trainer)) < 12, True),
    ("training.logging_steps", 3, lambda p: p.args.logging_steps, 3),
    ("training.eval_strategy", "no", lambda p: p.args.eval_strategy, "no"),
    ("training.eval_steps", 4, lambda p: p.args.eval_steps, 4),
    ("training.save_strategy", "epoch", lambda p: p.args.save_strategy, "epoch"),
    ("training.save_minutes", 2, lambda p: p.trainer._save_seconds, 120),
    ("training.save_steps", 6, lambda p: p.args.save_steps, 6),
    ("training.save_total_limit", 1, lambda p: p.trainer._keep, 1),
    ("training.load_best_model_at_end", True, lambda p: p.args.load_best_model_at_end, True),
    ("training.metric_for_best_model", "accuracy", lambda p: p.args.metric_for_best_model, "accuracy"),
    ("training.early_stopping_patience", 2, lambda p: patience(p.trainer) is not None, True),
    ("training.early_stopping_threshold", 0.1, lambda p: patience(p.trainer).early_stopping_threshold, 0.1),
    ("training.dataloader_num_workers", 1, lambda p: p.args.dataloader_num_workers, 1),
    ("training.report_to", ["flyte"], lambda p: p.config.report_to, ["flyte"]),
    ("prediction.method", "reference", lambda p: type(p.classifier._predictor.scorer).__name__, "ReferenceScorer"),
    ("prediction.min_probability", 1.0, lambda p: set(p.classifier.predict(TEXTS)), {"no answer"}),
    ("prediction.min_label_mass", 1.0, lambda p: set(p.classifier.predict(TEXTS)), {"no answer"}),
    ("prediction.no_answer", "?", lambda p: p.classifier.predict(TEXTS), ["?"] * 3),
    ("prediction.batch_size", 3, lambda p: p.classifier._predictor.scorer.batch_size, 3),
    ("prediction.pack_tokens", 64, lambda p: p.classifier._predictor.scorer.exact.pack_tokens, 64),
    ("prediction.threshold", 0.25, lambda p: p.classifier.thresholds.values, (0.25,) * 3),
]  # fmt: skip

# What has to be set beside a setting, so that it can have an effect.
BESIDE: dict[str, dict[str, Any]] = {
    "prompt.shots_per_label": {"prompt.template": "few_shot"},
    "prompt.verbalizer": {"prompt.template": "instruction"},
    "prompt.truncation_side": {"prompt.max_length": 130},
    "data.keep_labels": {"data.label_column": "body"},
    "data.other_labels": {"data.labels": ["a", "c"]},
    "model.bnb_4bit_quant_type": {"model.quantization": "4bit"},
    "model.bnb_4bit_use_double_quant": {"model.quantization": "4bit"},
    "model.bnb_4bit_compute_dtype": {"model.quantization": "4bit"},
    "training.loss_normalization": {"training.objective": "sft"},
    "training.lr_scheduler_kwargs": {"training.lr_scheduler_type": "cosine_with_min_lr"},
    "training.eval_steps": {"training.eval_strategy": "steps"},
    "training.save_steps": {"training.save_strategy": "steps"},
    "training.load_best_model_at_end": {"training.save_strategy": "epoch"},
    "training.metric_for_best_model": {"training.early_stopping_patience": 1},
    "training.early_stopping_threshold": {"training.early_stopping_patience": 1},
    "prediction.no_answer": {"prediction.min_probability": 1.0},
    "prediction.batch_size": {"prediction.method": "generate"},
    "prediction.threshold": {"task": "multi_label"},
}
# Settings that are refused where they can have no effect: without them, something is looked at that is not there.
ONLY_TOGETHER = {"training.eval_steps"}


@pytest.fixture
def probe(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Probe]:
    def stop(self: LabelTrainer, **_: Any) -> None:
        raise Stop(self)

    monkeypatch.setattr(LabelTrainer, "train", stop)
    csv = tmp_path / "rows.csv"
    csv.write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(12)), encoding="utf-8")
    made: list[Probe] = []

    def make(changes: dict[str, Any]) -> Probe:
        given: dict[str, Any] = {"model": {"base_model": str(tiny_model_dir)}}
        given["data"] = {"text_columns": ["text"], "label_column": "label"}
        for name, value in changes.items():
            section, _, key = name.rpartition(".")
            value = str(csv) if value == "{csv}" else value
            (given.setdefault(section, {}) if section else given)[key] = value
        made.append(Probe(make_settings(given), tmp_path / f"run-{len(made)}"))
        return made[-1]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value", "look", "expected"), CASES, ids=[name for name, *_ in CASES])
def test_a_setting_has_its_effect(
    probe: Callable[[dict[str, Any]], Probe], name: str, value: Any, look: Callable[[Probe], Any], expected: Any
) -> None:
    beside = {"model.quantization": "none"} if name not in ("model.quantization",) else {}
    beside |= BESIDE.get(name, {})
    assert look(probe({**beside, name: value})) == expected
    if name not in ONLY_TOGETHER:
        assert look(probe(beside)) != expected


def test_no_setting_is_left_out() -> None:
    assert sorted(name for name, *_ in CASES) == sorted(name for name, _ in fields())


# (what is given, what the training of nano is like): what is not given is as the base model's adapter suggests.
SUGGESTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"quantized": False, "lora": False, "rate": 1e-3}),
    ({"training.tuning": "lora"}, {"quantized": False, "lora": True, "rate": 2e-3}),
    ({"model.quantization": "4bit", "training.learning_rate": 0.5}, {"quantized": True, "lora": True, "rate": 0.5}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("given", "expected"), SUGGESTIONS, ids=[" ".join(given) for given, _ in SUGGESTIONS])
def test_what_is_not_given_is_as_the_base_model_suggests(
    probe: Callable[[dict[str, Any]], Probe], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    trainer = probe({"model.base_model": "nano", **given}).trainer
    found = {
        "quantized": hasattr(trainer.model.config, "quantization_config"),
        "lora": hasattr(trainer.model, "peft_config"),
        "rate": trainer.args.learning_rate,
    }
    assert found == expected


OVERRIDDEN = (
    *("compute_loss", "training_step", "prediction_step", "floating_point_ops", "evaluate", "evaluation_loop", "log"),
    *("_get_num_items_in_batch", "create_optimizer", "create_scheduler", "_get_train_sampler", "_get_eval_sampler"),
    *("_save_checkpoint", "get_train_dataloader", "_init_training_state", "_run_epoch", "_finalize_training"),
)


def test_what_the_trainer_overrides_is_there_to_be_overridden() -> None:
    """A method that transformers or TRL renames would be called by nobody, without a word."""
    base = LabelTrainer.__mro__[1]
    own = {name for name, thing in vars(LabelTrainer).items() if callable(thing) and not name.startswith("__")}
    assert set(OVERRIDDEN) == {name for name in own if hasattr(base, name)}
    assert own - set(OVERRIDDEN) == {
        "_accumulating",
        "_check_labels",
        "_read",
        "_agree",
        "_fill_up",
        "_order",
        "_settle",
        "_collect",
        "signal_has_come",
    }
