"""From data to what the trainer takes: names checked, rows encoded, class weights resolved.

check_names(settings)                                    # before any data is read
rows, cut = encode_rows(assembly, splits.train, reporter, "train")
weights = resolve_class_weights("balanced", splits.labels, splits.train, form)
"""

from __future__ import annotations

import textwrap
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcls.answers import Form, form_of
from llmcls.console import Reporter
from llmcls.data.paths import locate_data
from llmcls.data.splits import DataSplits, load_training_data
from llmcls.data.weights import relative_weights
from llmcls.errors import LlmclsError, unknown
from llmcls.labels import LabelSet
from llmcls.model.loading import find_base_model
from llmcls.model.stored import check_trainable, stored_quantization
from llmcls.model.suggestion import describe_chosen, suggest
from llmcls.records import Example
from llmcls.runs.assembly import Assembly, check_assembly
from llmcls.settings import DataSettings, Settings, TrainingSettings
from llmcls.training.going_on import Start
from llmcls.training.names import LOCAL_TRACKER, check_trackers, check_training_names, usable_trackers

_CHUNK = 512


def check_names(settings: Settings) -> None:
    """Refuse a template, base model, optimizer, schedule or tracker that there is not, before data is read.

    Raises:
        LlmclsError: for the first kind of name that is wrong, with all of that kind.
    """
    check_training_names(settings.training)
    check_assembly(settings)


@dataclass(frozen=True)
class Settled:
    """Settings with nothing left open.

    Attributes:
        settings: all of them.
        chosen: what was chosen of them, by dotted name.
        why: a line that says so.
        held: how the base weights will be held: `model.quantization`, or what they are stored as.
    """

    settings: Settings
    chosen: dict[str, Any]
    why: str
    held: str


def settle(settings: Settings, explicit: Mapping[str, Collection[str]], start: Start | None = None) -> Settled:
    """Refuse what only transformers can tell, and leave to the base model's adapter what nobody has given.

    Args:
        settings: as resolved.
        explicit: the settings of each section that were given.
        start: the run that training goes on from, if any, whose weights are trained and stored as they were.

    Raises:
        LlmclsError: for trackers that are switched off, or a base model that is none, or that cannot be trained so.
    """
    check_trackers(settings.training)
    base, fixed = find_base_model(settings.model), list[str]()
    if start is not None:
        fixed = ["model.quantization", *([] if start.run.whole else ["training.tuning"])]
    stored = stored_quantization(base.config)
    settled, chosen = suggest(settings, explicit, base.adapter, fixed, stored)
    if settled.training.tuning == "full":
        check_trainable(base.name, base.config)
    name = start.run.path if start is not None else base.name
    why = describe_chosen(settled, chosen, str(name), base.adapter)
    return Settled(settled, chosen, why, stored or settled.model.quantization)


def describe_missing(training: TrainingSettings, device_type: str) -> list[str]:
    """What these settings ask for, this machine lacks, and training can do without: a sentence each.

    >>> describe_missing(TrainingSettings(tf32=True), "cpu")
    ['this machine has no GPU, so training.tf32 true has no effect.']
    """
    said = []
    asked = {"mixed_precision fp16": training.mixed_precision == "fp16", "tf32 true": bool(training.tf32)}
    if device_type == "cpu" and (idle := [f"training.{name}" for name in asked if asked[name]]):
        said.append(f"this machine has no GPU, so {' and '.join(idle)} {'have' if idle[1:] else 'has'} no effect.")
    if LOCAL_TRACKER in training.report_to and LOCAL_TRACKER not in usable_trackers(training):
        said.append(
            "TensorBoard is not installed, so the figures are in the run's log.jsonl alone; pip install "
            "'llmcls[tensorboard]' for training.report_to tensorboard."
        )
    return said


@dataclass(frozen=True)
class ReadData:
    """Data, and what is worth knowing of it, which has not been said yet.

    Attributes:
        splits: the rows.
        warned: the warnings that reading them gave.
    """

    splits: DataSplits
    warned: Sequence[warnings.WarningMessage]

    def tell(self, reporter: Reporter) -> None:
        """Say each fact once, as a warning or else as a note."""
        for warning in self.warned:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno, warning.file)
        warned = [str(warning.message) for warning in self.warned]
        for note in self.splits.notes:
            if not any(note in message for message in warned):
                reporter.say(f"  {note}")


def read_data(settings: Settings, data: object) -> ReadData:
    """Read the data.

    Raises:
        LlmclsError: see `load_training_data`; for labels with which nobody could predict, and weights of other labels.
    """

    def check(labels: LabelSet) -> None:
        form_of(settings).check(settings.prediction, labels)
        check_class_weights(settings.training.class_weights, labels)

    with warnings.catch_warnings(record=True) as given:  # under the filters of the caller
        splits = load_training_data(settings, data, check)
    return ReadData(splits, given)


def locate_source(data: DataSettings) -> DataSettings:
    """The same settings, with a source that is found from every directory: `evaluate` reads it again."""
    return data if data.source is None else data.model_copy(update={"source": locate_data(data.source)})


def encode_rows(
    assembly: Assembly, examples: Sequence[Example], reporter: Reporter, split: str
) -> tuple[list[dict[str, Any]], list[int]]:
    """Encode labelled examples for the trainer.

    Returns:
        Rows with `input_ids` (the prompt), `label` (the form's target) and, of train where rows differ in it, `weight`;
        and the numbers of those whose text was cut.
    """
    encoder, form = assembly.encoder, assembly.form
    weights = relative_weights(examples) if split == "train" else None
    rows: list[dict[str, Any]] = []
    cut: list[int] = []
    encoder.encode(examples[:1])  # a prompt that cannot fit is found at once, not after the first chunk
    with reporter.track(f"Encoding {split}", total=len(examples)) as advance:
        for start in range(0, len(examples), _CHUNK):
            chunk = examples[start : start + _CHUNK]
            for example, prompt in zip(chunk, encoder.encode(chunk), strict=True):
                if prompt.truncated:
                    cut.append(len(rows))
                rows.append({"input_ids": prompt.input_ids, "label": form.target(example, encoder.labels)})
            advance(len(chunk))
    for row, weight in zip(rows, weights or (), strict=weights is not None):
        row["weight"] = weight
    return rows, cut


def doubt_weights(rows: Sequence[dict[str, Any]], step: int, reporter: Reporter) -> None:
    """Warn where the weights of rows have no effect: the loss of a step is divided by the sum of its rows' weights."""
    if step == 1 and "weight" in rows[0]:
        reporter.warn(
            "the weights of rows have no effect, since every optimizer step has one row, and there is no other for it "
            "to outweigh; raise training.per_device_train_batch_size or training.gradient_accumulation_steps."
        )


def check_class_weights(wanted: str | dict[str, float], labels: LabelSet) -> None:
    """Refuse weights of labels that there are not.

    Raises:
        LlmclsError: naming the first.
    """
    known = set(labels.names)
    for name in wanted if isinstance(wanted, dict) else ():
        if name not in known:
            raise LlmclsError(f"training.class_weights: {unknown('label', name, labels.names)}")


def resolve_class_weights(
    wanted: str | dict[str, float], labels: LabelSet, train: Sequence[Example], form: Form
) -> tuple[float, ...] | None:
    """One weight per label; labels not in a mapping get 1, and `balanced` is the form's own formula.

    `inverse` is w_c = (1 / p_c) / sum_d (1 / p_d) with p_c = count_c / n, the share of label c.

    Raises:
        LlmclsError: when the mapping names an unknown label, or a label has no rows to count.
    """
    check_class_weights(wanted, labels)
    if isinstance(wanted, dict):
        return tuple(wanted.get(name, 1.0) for name in labels.names)
    if wanted == "none":
        return None
    counts = Counter(name for example in train for name in example.names)
    if missing := [name for name in labels.names if not counts[name]]:
        raise LlmclsError(
            f"training.class_weights '{wanted}': label {missing[0]!r} has no training rows; leave it out."
        )
    if wanted == "inverse":
        inverse = [len(train) / counts[name] for name in labels.names]
        return tuple(value / sum(inverse) for value in inverse)
    return form.balance([counts[name] for name in labels.names], len(train))


def announce(splits: DataSplits, assembly: Assembly, reporter: Reporter, chosen: str = "") -> None:
    """Say which rows, labels, base model and template training is about to begin with, and what was `chosen` for it."""
    counts = ", ".join(f"{len(splits[split])} {split}" for split in ("train", "validation", "test"))
    reporter.say(f"Data: {counts} rows, {len(splits.labels)} labels")
    reporter.say(
        f"Base model: {assembly.base.name} (adapter {assembly.base.adapter.name}), "
        f"template: {assembly.encoder.template.name}"
    )
    if assembly.base.name == "nano":
        reporter.say(
            "  'nano' is a tiny model for trying things out; for real work choose one, for\n"
            "  example --base-model llama-3.2-1b (`llmcls models list`)"
        )
    if chosen:
        folder = textwrap.TextWrapper(80, subsequent_indent="    ", break_on_hyphens=False)
        folder.break_long_words = False  # a path can be copied
        reporter.say(folder.fill(f"  {chosen}"))
    notice = assembly.encoder.frame.notice
    if notice and assembly.encoder.is_chat:
        reporter.warn(notice)
