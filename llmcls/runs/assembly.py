"""Settings or a run to what a trainer and a classifier share: form of answer, base model, tokenizer, encoder, head.

assembly = assemble(settings, splits.labels, splits.train)      # to train, or to predict with a base model as it is
assembly = assemble_run(Run.open("runs/tickets"))               # to predict with a run
assembly.encoder, assembly.base
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcls.answers import Form, form_of
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.model.loading import BaseModel, find_base_model, load_saved_tokenizer, load_tokenizer
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.shots import Shots, choose_shots
from llmcls.prompt.template import PromptTemplate, prompt_templates
from llmcls.records import Example
from llmcls.runs.run import Run
from llmcls.settings import ModelSettings, Settings, make_settings

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
        if template.uses("shots") and not encoder.shots.examples:
            raise LlmclsError(
                f"Template '{template.name}' shows solved examples, but this classifier was trained without any and "
                "keeps none; choose another template, or train with this one."
            )
        return _put_together(self.settings, self.base, encoder.tokenizer, template, encoder.labels, encoder.shots)


def assemble(settings: Settings, labels: LabelSet, train: Sequence[Example] = ()) -> Assembly:
    """Find and load all that turns examples into tokens, for a base model that is not trained yet.

    Raises:
        LlmclsError: for an unknown base model or template, or shots wanted without training examples.
    """
    template = find_template(settings.prompt.template)
    base = find_base_model(settings.model)
    tokenizer = load_tokenizer(base)
    shots = Shots()
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
    return _put_together(settings, base, tokenizer, template, labels, shots)


def assemble_run(
    run: Run,
    *,
    template: str | None = None,
    base_model: str | None = None,
    quantization: str | None = None,
    verify: bool = True,
) -> Assembly:
    """Find and load all that turns examples into tokens, as a run was trained.

    Args:
        run: the run.
        template: another template than it was trained with.
        base_model: where its base model is now, if not where it was; refused for a run that holds all weights.
        quantization: how to hold the base weights; as in training when None.
        verify: refuse a base model whose weights are not those that the run was trained on.

    Raises:
        LlmclsError: when the base model is gone or another one, or the template wants shots that the run has not kept.
    """
    if run.whole and base_model:
        raise LlmclsError(f"Run '{run.path}' holds all of its model and needs no base model; leave it out.")
    trained = run.settings
    wanted = {"base_model": base_model, "quantization": quantization}
    model_settings = run.model_settings.model_copy(update={k: v for k, v in wanted.items() if v is not None})
    # What is checked of training says nothing of prediction: a run of all weights may be held in 4 bits.
    held = make_settings({"model": model_settings.model_dump(), "lora": trained.lora.model_dump()}).model
    settings = trained.model_copy(update={"model": held})
    base = find_base_model(held) if run.whole or not verify else find_trained_base(held, run)
    tokenizer = load_saved_tokenizer(run.tokenizer_path)
    used = find_template(template) if template else run.template
    if used.uses("shots") and not run.shots.examples:
        raise LlmclsError(
            f"Template '{used.name}' shows solved examples, but run '{run.path}' was trained without any and keeps "
            "none; choose another template, or train with this one."
        )
    return _put_together(settings, base, tokenizer, used, run.labels, run.shots)


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


def _put_together(
    settings: Settings,
    base: BaseModel,
    tokenizer: PreTrainedTokenizerFast,
    template: PromptTemplate,
    labels: LabelSet,
    shots: Shots,
) -> Assembly:
    form, has_head, prompt = form_of(settings), settings.training.objective == "head", settings.prompt
    encoder = Encoder(
        tokenizer,
        base.adapter.frame(tokenizer),
        template,
        labels,
        form,
        max_length=prompt.max_length,
        positions=base.config.get("max_position_embeddings"),
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
