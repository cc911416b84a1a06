"""A run, or a base model as it is, to a model that predicts, with the parts that belong to it.

loaded = load_run(Run.open("runs/tickets"))
loaded = load_zero_shot("nano", ["billing", "delivery"])
loaded.model, loaded.assembly.encoder, loaded.formats
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.labels import LabelSet
from llmcls.model.calm import calm_libraries
from llmcls.model.foreign import load_lora
from llmcls.model.kernels import with_usable_attention
from llmcls.model.loading import LOADING, BaseModel, find_base_model, load_model
from llmcls.model.lora import merged
from llmcls.model.stored import stored_quantization
from llmcls.model.suggestion import suggest
from llmcls.runs.assembly import (
    Assembly,
    assemble,
    assemble_run,
    check_zero_shot,
    find_trained_base,
    labels_for_zero_shot,
    settle_for_head,
)
from llmcls.runs.run import Run
from llmcls.settings import Settings, given_settings, make_settings

if TYPE_CHECKING:
    from llmcls.model.hardware import Formats


@dataclass(frozen=True)
class Loaded:
    """A model and what belongs to it.

    Attributes:
        assembly: form of answer, base model and encoder, and the settings that they come from.
        formats: device and number formats.
        model: the weights; PEFT's wrapper around the base model where LoRA weights are kept apart.
    """

    assembly: Assembly
    formats: Formats
    model: Any


def load_run(
    run: Run,
    *,
    template: str | None = None,
    base_model: str | None = None,
    quantization: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    merge: bool = True,
) -> Loaded:
    """Load what a run has learnt; arguments as in `Classifier.load`.

    Raises:
        LlmclsError: when the base model is gone or another one, needs code of its own that may not run, or the template
            is unknown.
    """
    where: dict[str, Any] = {"template": template, "base_model": base_model, "quantization": quantization}
    assembly = assemble_run(run, **where, dtype=dtype, trust_remote_code=trust_remote_code)
    from llmcls.model.hardware import choose_formats  # with torch, after all that can be wrong without it

    formats = as_stored(choose_formats(assembly.settings, asked=dtype is not None), assembly.base)
    held = with_usable_attention(assembly.settings.model, formats.device, training=False, asked=False)
    model: Any = load_model(assembly.base, held, formats, assembly.head)
    if not run.whole:
        with LOADING, calm_libraries():
            model = load_lora(model, run.lora_path)
        if merge:
            model = merged(model)
    return Loaded(assembly, formats, model)


def as_stored(formats: Formats, base: BaseModel) -> Formats:
    """The formats, with how a base model is held whose files are quantised already."""
    stored = stored_quantization(base.config)
    return formats if stored is None else replace(formats, quantization=stored)


def describe_change(run: Run | None, formats: Formats) -> str | None:
    """What to say where predictions are computed in another type than the run was trained in; else None.

    A run from before its card kept the type says nothing.
    """
    if run is None or "dtype" not in run.card["training"]:
        return None
    from llmcls.model.hardware import computing_type

    trained = computing_type(run.card["training"]["dtype"], run.card["training"]["mixed_precision"])
    if trained == formats.computes_in:
        return None
    return (
        f"  the run was trained in {trained}; predictions are computed in {formats.computes_in}, so their figures may "
        "differ a little from those of the training."
    )


def load_base_before(run: Run, trained: Loaded, base_model: str | None = None) -> Loaded:
    """The model that a run's training began with, for the prompts and in the formats of the trained one.

    Args:
        run: the run.
        trained: what was loaded of it.
        base_model: where its base model is now, if not where it was.

    Raises:
        LlmclsError: when the base model is gone, or another one.
    """
    own = trained.assembly.settings.model
    held = {"trust_remote_code": own.trust_remote_code, "quantization": own.quantization}
    settings = run.settings.model.model_copy(update=held) if run.whole else own
    if base_model:
        settings = settings.model_copy(update={"base_model": base_model})
    with warnings.catch_warnings():  # which the trained one has given
        warnings.simplefilter("ignore", LlmclsWarning)
        settings = with_usable_attention(settings, trained.formats.device, training=False, asked=False)
    assembly = replace(trained.assembly, base=find_trained_base(settings, run))
    return replace(
        trained, assembly=assembly, model=load_model(assembly.base, settings, trained.formats, assembly.head)
    )


def load_zero_shot(
    base_model: str,
    labels: Sequence[str] | LabelSet | None = None,
    *,
    template: str | None = None,
    settings: Settings | None = None,
) -> Loaded:
    """Load a base model as it is; arguments and errors as in `Classifier.zero_shot`."""
    if isinstance(labels, str):
        raise LlmclsError(f"Give a list of labels, not one string: zero_shot(model, [{labels!r}, ...]).")
    chosen = settings or Settings()
    held = chosen.model.model_copy(update={"base_model": base_model})
    labels = labels if labels is None or isinstance(labels, LabelSet) else list(labels)
    check_zero_shot(held, labels, chosen.data, template)
    chosen = chosen.model_copy(update={"model": held})
    base = find_base_model(held)
    held = suggest(chosen, given_settings(chosen), base.adapter, stored=stored_quantization(base.config))[0].model
    chosen = chosen.model_copy(update={"model": held})
    if base.head_labels is not None:
        chosen = settle_for_head(chosen, base, template)
    elif chosen.training.objective == "head":
        raise LlmclsError(
            "A classification head knows nothing before it is trained; leave training.objective out to predict "
            "with a base model as it is."
        )
    given = chosen.model_dump()
    given["prompt"]["template"] = template or given["prompt"]["template"]
    resolved = make_settings(given)
    label_set = labels_for_zero_shot(base, labels, resolved.data)
    assembly = assemble(resolved, label_set, as_published=base.head_labels is not None)
    if (notice := assembly.encoder.frame.notice) and assembly.encoder.is_chat:
        warnings.warn(notice, LlmclsWarning, stacklevel=3)
    from llmcls.model.hardware import choose_formats

    formats = as_stored(choose_formats(resolved), assembly.base)
    with_usable_attention(resolved.model, formats.device, training=False)
    return Loaded(assembly, formats, load_model(assembly.base, resolved.model, formats, assembly.head))
