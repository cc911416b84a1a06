"""Settings or a run to what a trainer and a classifier share: form of answer, base model, tokenizer, encoder, head.

assembly = assemble(settings, splits.labels, splits.train)      # to train, or to predict with a base model as it is
assembly = assemble_run(Run.open("runs/tickets"))               # to predict with a run
assembly.encoder, assembly.base
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcls.answers import Form, form_of
from llmcls.errors import LlmclsError, LlmclsWarning, shorten
from llmcls.labels import LabelSet
from llmcls.model.adapter import find_frame
from llmcls.model.foreign import CodeRefusedError, brings_code, refuse_code, require_weights
from llmcls.model.loading import (
    BaseModel,
    find_base_model,
    find_checkpoint,
    load_saved_tokenizer,
    load_tokenizer,
)
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.frame import Frame
from llmcls.prompt.shots import Shots, choose_shots
from llmcls.prompt.template import PromptTemplate, prompt_templates
from llmcls.records import Example
from llmcls.runs.framing import frame_as_published, frame_of_run, require_adapter
from llmcls.runs.run import Run
from llmcls.settings import DataSettings, ModelSettings, Settings, make_settings
from llmcls.settings.sections import with_dtype
from llmcls.settings.task import rules_for, tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmcls.model.head import Head


@dataclass(frozen=True)
class Assembly:
    """Parts that belong together.

    Attributes:
        settings: what they were chosen by; of a run, the run's own with the model as it is to be loaded now.
        form: the form of answer.
        base: the base model; of a run that holds all of its model, that model.
        encoder: turns examples into tokens.
        head: what to make a classification head from, if there is one.
    """

    settings: Settings
    form: Form
    base: BaseModel
    encoder: Encoder
    head: Head | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The encoder's tokenizer."""
        return self.encoder.tokenizer

    def with_template(self, template: PromptTemplate) -> Assembly:
        """The same with another prompt.

        Raises:
            LlmclsError: for a template that shows solved examples where there are none.
        """
        encoder = self.encoder
        check_shots(template, encoder.shots)
        return _put_together(
            self.settings, self.base, encoder.tokenizer, template, encoder.labels, encoder.shots, encoder.frame
        )


def assemble(
    settings: Settings,
    labels: LabelSet,
    train: Sequence[Example] = (),
    *,
    start: Run | None = None,
    as_published: bool = False,
) -> Assembly:
    """Find and load all that turns examples into tokens, for a base model that is not trained yet.

    Args:
        settings: as resolved.
        labels: the label set.
        train: the rows to draw solved examples from.
        start: the run that training goes on from: its tokenizer is taken, and its base model must be the same.
        as_published: begin prompts as the tokenizer itself does, for a classifier that others have trained.

    Raises:
        LlmclsError: for an unknown base model or template, or shots wanted without training examples.
    """
    template, shots = find_template(settings.prompt.template), Shots()
    if template.uses("shots"):
        if settings.form.several:
            raise LlmclsError(
                f"Template '{template.name}' shows solved examples of one label each, so it does not suit the task "
                f"{settings.task}; use the template '{settings.form.defaults['prompt.template']}', or one of your own "
                "without shots."
            )
        if not train:
            raise LlmclsError(
                f"Template '{template.name}' shows solved examples, which need a training split or a run."
            )
        shots = choose_shots(train, labels, per_label=settings.prompt.shots_per_label, seed=settings.seed)
    if start is None:
        base = find_base_model(settings.model)
        tokenizer = load_tokenizer(base)
    else:
        base, tokenizer = _load_parts(start, settings.model)
    frame = frame_as_published(base, tokenizer) if as_published else None
    return _put_together(settings, base, tokenizer, template, labels, shots, frame)


def settle_for_head(settings: Settings, base: BaseModel, template: str | None) -> Settings:
    """The settings to predict with a base model that is a classifier: its head, its task, and the text alone.

    Args:
        settings: those given.
        base: a base model that has `head_labels`.
        template: that given, if any; else that of the settings where they name one, else `text`.

    Raises:
        LlmclsError: when the settings name another task, or the head's outputs are not labels.
    """
    kind = base.config.get("problem_type")
    if kind not in (None, "single_label_classification", "multi_label_classification"):
        raise LlmclsError(f"'{base.name}' has a head for '{kind}', not for labels; give a classifier.")
    task, several = settings.task, kind == "multi_label_classification"
    if settings.form.several != several:
        task = next(name for name in tasks() if rules_for(name, "auto").several == several)
        if "task" in settings.model_fields_set:
            raise LlmclsError(f"'{base.name}' has a head for task {task}, not {settings.task}; leave --task out.")
    given = settings.model_dump()
    named = "template" in settings.prompt.model_fields_set
    usual = settings.form.defaults.get("prompt.template")  # which is filled in, and not given
    chosen = settings.prompt.template if named and settings.prompt.template != usual else "text"
    given["prompt"]["template"] = template or chosen
    given["training"]["objective"] = "head"
    return make_settings({**given, "task": task})


def assemble_run(
    run: Run,
    *,
    template: str | None = None,
    base_model: str | None = None,
    quantization: str | None = None,
    dtype: str | None = None,
    verify: bool = True,
    trust_remote_code: bool = False,
) -> Assembly:
    """Find and load all that turns examples into tokens, as a run was trained.

    Args:
        run: the run.
        template: another template than it was trained with.
        base_model: where its base model is now, if not where it was; refused for a run that holds all weights.
        quantization: how to hold the base weights; as in training when None.
        dtype: the type of weights that are not quantised, and of computation; as in training when None.
        verify: refuse a base model whose weights are not those that the run was trained on.
        trust_remote_code: whether code that base model or tokenizer bring may run; what the run says of it does not
            count.

    Raises:
        LlmclsError: when the base model is gone or another one, or the template wants shots that the run has not kept.
        CodeRefusedError: when the run needs code that may not run.
    """
    held, used = check_run(run, template=template, base_model=base_model, quantization=quantization, verify=verify)
    held = held.model_copy(update={"trust_remote_code": trust_remote_code})
    if dtype is not None:
        held = with_dtype(held, dtype)
    settings = run.settings.model_copy(update={"model": held})
    base, tokenizer = _load_parts(run, held, verify=verify)
    frame = frame_of_run(run, base, tokenizer)
    return _put_together(settings, base, tokenizer, used, run.labels, run.shots, frame)


def check_run(
    run: Run,
    *,
    template: str | None = None,
    base_model: str | None = None,
    quantization: str | None = None,
    verify: bool = True,
) -> tuple[ModelSettings, PromptTemplate]:
    """What `assemble_run` will hold and ask with; refuses what can be seen to be wrong without any large library.

    Raises:
        LlmclsError: for a template, a base model or a quantisation that the run cannot be used with.
    """
    if run.whole and base_model:
        raise LlmclsError(f"Run '{run.path}' holds all of its model and needs no base model; leave it out.")
    require_adapter(run)
    # The one that it was trained with, whichever plugin's fits best by now.
    adapter = run.card["base_model"]["adapter"]
    wanted = {"base_model": base_model, "quantization": quantization, "adapter": adapter}
    model_settings = run.model_settings.model_copy(update={k: v for k, v in wanted.items() if v is not None})
    # What is checked of training says nothing of prediction: a run of all weights may be held in 4 bits.
    held = make_settings({"model": model_settings.model_dump(), "lora": run.settings.lora.model_dump()}).model
    used = find_template(template) if template else run.template
    check_shots(used, run.shots, f"run '{run.path}'")
    with nullcontext() if run.whole or not verify else _needing_base(run):
        find_checkpoint(held)
    return held, used


def check_assembly(settings: Settings) -> None:
    """Refuse a template or a base model that there is not, as far as that is known without any large library.

    Raises:
        LlmclsError: for the first that is wrong.
    """
    find_template(settings.prompt.template)
    find_checkpoint(settings.model)


def check_zero_shot(
    settings: ModelSettings,
    labels: Sequence[str] | LabelSet | None,
    known: DataSettings,
    template: str | None = None,
) -> None:
    """Refuse names that are wrong with any base model, without any large library.

    Raises:
        LlmclsError: for a short name that is not a base model's, an unknown template, and labels that are not a label
            set.
    """
    find_checkpoint(settings)
    if template:
        find_template(template)
    if labels is not None and not isinstance(labels, LabelSet):
        LabelSet.from_names(labels, known.label_descriptions, known.label_aliases)


def choose_labels(assembled: LabelSet, labels: Sequence[str] | LabelSet, *, head: bool) -> LabelSet:
    """Other labels for a model that spells them; labels given by name keep what is known of them.

    Raises:
        LlmclsError: for a model with a classification head, and labels that are not a label set.
    """
    if head:
        raise LlmclsError(
            "A classification head has one output for each label that it was trained with, so it cannot be given "
            "other labels (--labels, with_labels) without training; leave them out, or train with the new ones."
        )
    return labels if isinstance(labels, LabelSet) else assembled.with_names(labels)


def labels_for_zero_shot(base: BaseModel, labels: Sequence[str] | LabelSet | None, known: DataSettings) -> LabelSet:
    """The labels of a base model as it is: those given, or those of its head, which may come in another order.

    Raises:
        LlmclsError: for labels that are not a label set or not the head's, and for none where there is no head.
    """
    own = base.head_labels
    if labels is None and own is None:
        raise LlmclsError(
            f"'{base.name}' is not a classifier with labels of its own; give a list: zero_shot(model, ['a', 'b'])."
        )
    names: Sequence[str] = own or ()
    if isinstance(labels, LabelSet):
        names = labels.names
    elif labels is not None:
        names = list(labels)
    if own is not None and sorted(names) != sorted(own):
        raise LlmclsError(
            f"The head of '{base.name}' knows the labels {shorten(own)}, so it cannot be given {shorten(names)}; leave "
            "them (--labels) out, or train it with other ones."
        )
    if isinstance(labels, LabelSet):
        return labels
    return LabelSet.from_names(names, known.label_descriptions, known.label_aliases)


def relabel(assembly: Assembly, labels: LabelSet) -> Assembly:
    """The same parts with other labels: prompt, answers and codes follow; examples of labels that are gone go.

    Raises:
        LlmclsError: when the template shows solved examples and none is left, or the labels cannot be spelled.
    """
    encoder = assembly.encoder
    template, before, shots = encoder.template, encoder.labels, encoder.shots.of(labels)
    known = {label.name: label for label in before}
    if assembly.settings.prompt.verbalizer == "code":
        codes = [label.code or (known[label.name].code if label.name in known else "") for label in labels]
        labels = labels.with_codes(codes)
    added = [label.name for label in labels if label.name not in known]
    if added and not template.uses("labels"):
        warnings.warn(
            f"template '{template.name}' does not list the labels, so the prompt says nothing of those that are new "
            f"({shorten(added)}); another template may.",
            LlmclsWarning,
            stacklevel=3,
        )
    if template.uses("shots") and encoder.shots.examples:
        shown = {shot.label for shot in shots.examples}
        missing = [label.name for label in labels if label.name not in shown]
        if not shown:
            had = dict.fromkeys(str(shot.label) for shot in encoder.shots.examples)
            raise LlmclsError(
                f"Template '{template.name}' shows solved examples, but there is none of these labels "
                f"({shorten(missing)}); keep one of {shorten(list(had))}, or choose another template."
            )
        if missing:
            warnings.warn(
                f"template '{template.name}' shows solved examples, but there is none of {shorten(missing)}; another "
                "template treats all labels alike.",
                LlmclsWarning,
                stacklevel=3,
            )
    base, tokenizer = assembly.base, assembly.tokenizer
    return _put_together(assembly.settings, base, tokenizer, template, labels, shots, encoder.frame)


def find_template(name: str) -> PromptTemplate:
    """A registered template by name, or a `.j2` file by path.

    Raises:
        LlmclsError: when there is neither.
    """
    if name.endswith(".j2") or "/" in name:
        return PromptTemplate.from_file(Path(name))
    return prompt_templates()[name]


def _load_parts(run: Run, settings: ModelSettings, *, verify: bool = True) -> tuple[BaseModel, PreTrainedTokenizerFast]:
    """A run's base model and tokenizer; the settings say where, and whether code that they bring may run."""
    if run.whole:
        require_weights(run.model_path, "model")
    base = find_base_model(settings) if run.whole or not verify else find_trained_base(settings, run)
    allowed = settings.trust_remote_code
    # transformers has classes for some models that bring code as well, and would take those: other ones than in
    # training.
    if run.settings.model.trust_remote_code and not allowed:
        if base.config.get("auto_map"):
            raise refuse_code(f"The base model of run '{run.path}'", base.checkpoint)
        if brings_code(run.tokenizer_path, "tokenizer_config.json"):
            raise refuse_code(f"The tokenizer of run '{run.path}'", run.tokenizer_path)
    return base, load_saved_tokenizer(run.tokenizer_path, allowed)


def check_shots(template: PromptTemplate, shots: Shots, whose: str = "this classifier") -> None:
    """Refuse to ask a trained classifier with a template that needs more than it has kept.

    Raises:
        LlmclsError: for a template that shows solved examples where there are none.
    """
    if template.uses("shots") and not shots.examples:
        raise LlmclsError(
            f"Template '{template.name}' shows solved examples, but {whose} was trained without any and "
            "keeps none; choose another template, or train with this one."
        )


def find_trained_base(settings: ModelSettings, run: Run) -> BaseModel:
    """The base model that a run was trained on, where the settings say that it is now.

    Raises:
        LlmclsError: when there is none, or one with other weights.
    """
    with _needing_base(run):
        base = find_base_model(settings)
    if base.fingerprint != run.card["base_model"]["fingerprint"]:
        raise LlmclsError(
            f"Run '{run.path}' was trained on '{run.card['base_model']['name']}', but '{base.name}' has other "
            "weights; give the right base model with --base-model."
        )
    return base


@contextmanager
def _needing_base(run: Run) -> Iterator[None]:
    try:
        yield
    except CodeRefusedError as error:
        raise refuse_code(f"The base model of run '{run.path}'", run.card["base_model"]["name"]) from error
    except LlmclsError as error:
        raise LlmclsError(
            f"{error} Run '{run.path}' needs its base model; if that has moved, say where it is with --base-model."
        ) from error


def _put_together(
    settings: Settings,
    base: BaseModel,
    tokenizer: PreTrainedTokenizerFast,
    template: PromptTemplate,
    labels: LabelSet,
    shots: Shots,
    frame: Frame | None = None,
) -> Assembly:
    form, has_head, prompt = form_of(settings), settings.training.objective == "head", settings.prompt
    template.try_out(labels, shots.examples)
    if base.head_labels is not None and not has_head:
        raise LlmclsError(
            f"'{base.name}' is a classifier: it has a head for {len(base.head_labels)} labels in place of the output "
            "layer that writes; train it with training.objective=head, or give its causal LM."
        )
    encoder = Encoder(
        tokenizer,
        frame or find_frame(base.adapter, tokenizer),
        template,
        labels,
        form,
        max_length=prompt.max_length,
        positions=base.positions,
        truncation_side=prompt.truncation_side,
        shots=shots,
        head=has_head,
        verbalizer=prompt.verbalizer,
    )
    head = None
    if has_head:
        from llmcls.model.head import Head

        pad_token_id = int(tokenizer.pad_token_id)
        head = Head(encoder.labels.names, pad_token_id, settings.seed, several=form.rules.several)
    return Assembly(settings, form, base, encoder, head)
