"""Settings and data to everything a trainer and a classifier share: base model, tokenizer, labels, encoder, rows.

prepared = prepare(settings, splits.labels, splits.train)
prepared.encoder, prepared.base
rows = encode_rows(prepared.encoder, splits.train, reporter, "train")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError, several, unknown
from llmcls.labels import LabelSet
from llmcls.model.loading import BaseModel, find_base_model, load_tokenizer
from llmcls.plugin.catalog import prompt_templates
from llmcls.progress import Reporter
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.shots import Shots, choose_shots
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.settings import ModelSettings, PromptSettings, Settings, TrainingSettings
from llmcls.task import AnswerForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmcls.model.head import Head
    from llmcls.training.run import Run

_CHUNK = 512


@dataclass(frozen=True)
class Prepared:
    """Base model, tokenizer and encoder that belong together, and the classification head, if there is one."""

    base: BaseModel
    tokenizer: PreTrainedTokenizerFast
    encoder: Encoder
    head: Head | None = None


def find_template(name: str) -> PromptTemplate:
    """A registered template by name, or a `.j2` file by path.

    Raises:
        LlmclsError: when there is neither.
    """
    if name.endswith(".j2") or "/" in name:
        return PromptTemplate.from_file(Path(name))
    return prompt_templates()[name]


def find_trained_base(settings: ModelSettings, run: Run) -> BaseModel:
    """The base model that a run was trained on, where the settings say that it is now.

    Raises:
        LlmclsError: when there is none, or one with other weights.
    """
    try:
        base = find_base_model(settings)
    except LlmclsError as error:
        raise LlmclsError(
            f"{error} Run '{run.path}' needs its base model; if that has moved, say where it is with --base-model."
        ) from error
    if base.fingerprint != run.card["base_model"]["fingerprint"]:
        raise LlmclsError(
            f"Run '{run.path}' was trained on '{run.card['base_model']['name']}', but '{base.name}' has other "
            "weights; give the right base model with --base-model."
        )
    return base


def prepare(
    settings: Settings, labels: LabelSet, train: Sequence[Example] = (), template: PromptTemplate | None = None
) -> Prepared:
    """Find and load all that turns examples into tokens.

    Raises:
        LlmclsError: for an unknown base model or template, or shots wanted without training examples.
    """
    template = template or find_template(settings.prompt.template)
    base = find_base_model(settings.model)
    tokenizer = load_tokenizer(base)
    shots = Shots()
    if template.uses("shots"):
        if settings.task == "multi_label":
            raise LlmclsError(
                f"Template '{template.name}' shows solved examples of one label each, so it does not suit the task "
                "multi_label; use the template 'multi_label', or one of your own without shots."
            )
        if not train:
            raise LlmclsError(
                f"Template '{template.name}' shows solved examples, which need a training split or a run."
            )
        shots = choose_shots(train, labels, per_label=settings.prompt.shots_per_label, seed=settings.seed)
    wanted, form = settings.training.objective == "head", settings.answer_form
    encoder = make_encoder(base, tokenizer, template, labels, settings.prompt, shots, wanted, form)
    return Prepared(base, tokenizer, encoder, make_head(encoder, settings) if wanted else None)


def make_head(encoder: Encoder, settings: Settings) -> Head:
    """The classification head that goes with an encoder."""
    from llmcls.model.head import Head

    pad_token_id, several = int(encoder.tokenizer.pad_token_id), encoder.form == "yes_no"
    return Head(encoder.labels.names, pad_token_id, settings.seed, several)


def check_names(settings: Settings) -> None:
    """Refuse a template or base model that does not exist, and what transformers cannot use, before data is read.

    Raises:
        LlmclsError: for the first kind of name that is wrong, with all of that kind.
    """
    _check_training(settings.training)
    find_template(settings.prompt.template)
    find_base_model(settings.model)


def _check_training(training: TrainingSettings) -> None:
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    problems = []
    for key, value, choices in (
        ("optim", training.optim, OptimizerNames),
        ("lr_scheduler_type", training.lr_scheduler_type, SchedulerType),
    ):
        known = [choice.value for choice in choices]
        if value not in known:
            problems.append(f"training.{key}: {unknown('name', value, known)}")
    # 'flyte' has no check of its own in transformers.
    usable = {*get_available_reporting_integrations(), "flyte", "all", "none"}
    for tracker in training.report_to:
        if tracker not in {*INTEGRATION_TO_CALLBACK, "all", "none"}:
            problems.append(f"training.report_to: {unknown('tracker', tracker, INTEGRATION_TO_CALLBACK)}")
        elif tracker not in usable:
            problems.append(
                f"training.report_to: '{tracker}' is not installed; install it (pip install {tracker}), or train with "
                "--set training.report_to=[]"
            )
    if problems:
        raise LlmclsError(several(problems, "Training cannot start"))


def make_encoder(
    base: BaseModel,
    tokenizer: PreTrainedTokenizerFast,
    template: PromptTemplate,
    labels: LabelSet,
    prompt: PromptSettings,
    shots: Shots,
    head: bool,
    form: AnswerForm = "label",
) -> Encoder:
    """The encoder for a base model, with `max_length` no longer than the model's positions reach."""
    return Encoder(
        tokenizer,
        base.adapter.frame(tokenizer),
        template,
        labels,
        max_length=prompt.max_length,
        positions=base.config.get("max_position_embeddings"),
        truncation_side=prompt.truncation_side,
        form=form,
        shots=shots,
        head=head,
        verbalizer=prompt.verbalizer,
    )


def encode_rows(
    encoder: Encoder, examples: Sequence[Example], reporter: Reporter, split: str
) -> tuple[list[dict[str, Any]], int]:
    """Encode labelled examples for the trainer.

    Returns:
        Rows with `input_ids` (the prompt) and `label` (position in the label set; of a multi-label task 0 or 1 for
        every label), and how many were truncated.
    """
    rows: list[dict[str, Any]] = []
    truncated = 0
    encoder.encode(examples[:1])  # a prompt that cannot fit is found at once, not after the first chunk
    with reporter.track(f"Encoding {split}", total=len(examples)) as advance:
        for start in range(0, len(examples), _CHUNK):
            chunk = examples[start : start + _CHUNK]
            for example, prompt in zip(chunk, encoder.encode(chunk), strict=True):
                rows.append({"input_ids": prompt.input_ids, "label": _target(example, encoder)})
                truncated += prompt.truncated
            advance(len(chunk))
    return rows, truncated


def _target(example: Example, encoder: Encoder) -> int | list[int]:
    positions = [encoder.labels.position(name) for name in example.names]
    if encoder.form != "label":
        return [int(position in positions) for position in range(len(encoder.labels))]
    return positions[0]


def resolve_class_weights(
    wanted: str | dict[str, float], labels: LabelSet, train: Sequence[Example], form: AnswerForm = "label"
) -> tuple[float, ...] | None:
    """One weight per label; labels not in a mapping get 1.

    `balanced` is n / (k * count), scikit-learn's formula. The weight of a multi-label task is that of the label's yes,
    of which `balanced` makes as much as of all its no: (n - count) / count, what torch recommends for `pos_weight`.

    Raises:
        LlmclsError: when the mapping names an unknown label, or a label to balance has no rows.
    """
    if isinstance(wanted, dict):
        known = set(labels.names)
        for name in wanted:
            if name not in known:
                raise LlmclsError(f"training.class_weights: {unknown('label', name, labels.names)}")
        return tuple(wanted.get(name, 1.0) for name in labels.names)
    if wanted == "none":
        return None
    counts = Counter(name for example in train for name in example.names)
    if missing := [name for name in labels.names if not counts[name]]:
        raise LlmclsError(
            f"training.class_weights 'balanced': label {missing[0]!r} has no training rows; leave it out."
        )
    if form == "yes_no":
        # A label that every row has would get 0, which is no weight: its yes would not be learnt.
        return tuple(max(len(train) - counts[name], 1) / counts[name] for name in labels.names)
    return tuple(len(train) / (len(labels) * counts[name]) for name in labels.names)
