"""Settings to the configurations of the libraries that train: TRL's `SFTConfig` and PEFT's `LoraConfig`.

    config = make_config(settings, formats, folder, bool(validation_rows))   # joins the other processes
    lora = make_lora_config(settings, adapter, model)

What a library refuses becomes one sentence here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from peft import LoraConfig
from trl import SFTConfig

from llmcls.errors import LlmclsError
from llmcls.model.hardware import Formats
from llmcls.model.targets import ALL_LINEAR, choose_targets
from llmcls.processes.world import tell_deepspeed_cpu
from llmcls.settings import LoraSettings, Settings
from llmcls.training.names import usable_trackers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmcls.answers import Form, Layout
    from llmcls.model.adapter import BaseModelAdapter


def make_config(settings: Settings, formats: Formats, folder: Path, has_validation: bool) -> SFTConfig:
    """TRL's configuration; making it starts torch.distributed and tells ZeRO-3 to shard the loading.

    The settings leave nothing open (`llmcls.training.preparation.settle`, `llmcls.training.length.settle_epochs`).
    It must exist before the model is loaded and live as long. It is the one place that says precision and accumulation:
    the accelerate and DeepSpeed configurations say `no` and `auto`.

    Raises:
        LlmclsError: for a best checkpoint or early stopping without validation rows, and for what transformers refuses.
    """
    training = settings.training
    selects = training.load_best_model_at_end or training.early_stopping_patience is not None
    if selects and not has_validation:
        name = "load_best_model_at_end" if training.load_best_model_at_end else "early_stopping_patience"
        raise LlmclsError(
            f"training.{name} goes by the validation split, which has no rows; raise data.validation_size, or leave "
            "the setting out."
        )
    if formats.device.type == "cpu":
        tell_deepspeed_cpu()
    with refusing(ValueError, ImportError, says="These training settings cannot be used"):
        config = _sft_config(settings, formats, folder, selects, has_validation)
    if config.world_size == 1 and config.n_gpu > 1:
        config._n_gpu = 1  # else `Trainer` wraps the model in DataParallel, which cuts a token tree into pieces
    return config


def _sft_config(settings: Settings, formats: Formats, folder: Path, selects: bool, has_validation: bool) -> SFTConfig:
    training = settings.training
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.num_train_epochs,
        max_steps=training.max_steps,
        per_device_train_batch_size=training.per_device_train_batch_size,
        per_device_eval_batch_size=training.per_device_eval_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        lr_scheduler_kwargs=training.lr_scheduler_kwargs,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optim,
        bf16=formats.mixed_precision == "bf16",
        fp16=formats.mixed_precision == "fp16",
        tf32=training.tf32 if formats.device.type == "cuda" else None,
        use_cpu=formats.device.type == "cpu",
        activation_checkpointing=training.gradient_checkpointing,  # transformers' newer name of it
        logging_steps=training.logging_steps,
        logging_first_step=True,  # what the loss is before anything is learned; and a run of few steps is checked, too
        eval_strategy=training.eval_strategy if has_validation else "no",
        eval_steps=training.eval_steps,
        save_strategy=training.save_strategy,
        save_steps=training.save_steps or (training.eval_steps if training.load_best_model_at_end else None) or 500,
        load_best_model_at_end=training.load_best_model_at_end,
        metric_for_best_model=_logged_metric(settings) if selects else None,
        greater_is_better=training.metric_for_best_model != "loss" if selects else None,
        restore_callback_states_from_checkpoint=True,
        dataloader_num_workers=training.dataloader_num_workers,
        dataloader_pin_memory=formats.device.type in ("cuda", "xpu"),
        ddp_find_unused_parameters=False,
        report_to=usable_trackers(training) or "none",
        seed=settings.seed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        prediction_loss_only=True,
        router_aux_loss_coef=0.0,  # see `llmcls.model.mixtures`
        disable_tqdm=True,
    )


def _logged_metric(settings: Settings) -> str:
    """The metric to go by, as it is logged: the accuracy of rows with several labels is called subset accuracy."""
    chosen = settings.training.metric_for_best_model
    return "subset_accuracy" if chosen == "accuracy" and settings.form.several else chosen


def check_ranking(form: Form, layout: Layout, model: Any, targets: Sequence[Any]) -> None:
    """Refuse to go by the ROC-AUC where there will be none: better now than after the first epoch.

    Args:
        form, layout: of the answers.
        model: what will be trained.
        targets: the validation rows', at least one.

    Raises:
        LlmclsError: when the model gives no probabilities, or every row has the same labels.
    """
    if not layout.probable(model):
        raise LlmclsError(
            "training.metric_for_best_model 'roc_auc' needs every label's probability, which this model gives too "
            "slowly during training because it cannot be packed; choose 'accuracy' or 'macro_f1'."
        )
    anything = np.broadcast_to(0.5, (len(targets), layout.labels))
    if "roc_auc" not in form.measure(targets, targets, anything):
        raise LlmclsError(
            f"training.metric_for_best_model 'roc_auc' is not defined for these {len(targets)} validation rows: they "
            "all have the same labels; raise data.validation_size, or choose 'loss'."
        )


def make_lora_config(settings: Settings, adapter: BaseModelAdapter, model: PreTrainedModel) -> LoraConfig:
    """PEFT's configuration; target modules from the settings, or else the base-model adapter's.

    A classification head is trained whole and saved with the LoRA weights.

    Raises:
        LlmclsError: for target modules that the model has not, or that LoRA cannot change.
    """
    lora, head = settings.lora, settings.training.objective == "head"
    targets: str | list[str]
    if lora.target_modules:
        targets = choose_targets(model, lora.target_modules)
    else:
        whose = f"the LoRA target modules of base-model adapter '{adapter.name}'"
        targets = choose_targets(model, adapter.lora_target_modules, whose)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
        modules_to_save=["score"] if head else None,
    )


@contextmanager
def refusing(*kinds: type[Exception], says: str) -> Iterator[None]:
    """Turn what transformers raises of settings into one sentence."""
    try:
        yield
    except kinds as error:
        raise LlmclsError(f"{says}: {' '.join(str(error).split())}") from error


@contextmanager
def clear_target_errors(settings: LoraSettings) -> Iterator[None]:
    """Turn what PEFT and TRL raise of target modules into advice."""
    try:
        yield
    except ValueError as error:
        if not any(
            words in str(error).lower() for words in ("target module", "target_modules", "peft target", "lm_head")
        ):
            raise
        asked = settings.target_modules
        remedy = f"Set it to '{ALL_LINEAR}'" if asked not in (None, ALL_LINEAR) else "Name other modules in it"
        raise LlmclsError(
            f"lora.target_modules {asked!r} cannot be used with this model: {' '.join(str(error).split())} "
            f"{remedy}, or train without LoRA (training.tuning=full)."
        ) from error
