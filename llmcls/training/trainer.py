"""TRL's `SFTTrainer` on rows that llmcls has rendered and encoded, with llmcls's objectives as the loss.

    config = make_config(settings, formats, adapter, folder, bool(validation_rows))   # joins the other processes
    trainer = make_trainer(config, model, tokenizer, collator, train_rows, validation_rows, settings, ...)
    trainer.train()

TRL keeps its plumbing (PEFT, checkpoints, trackers, accelerate, DeepSpeed); the rows come encoded, so nothing is
truncated or dropped on the way, and only answer tokens carry loss.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from llmcls.engine.decoder import evaluating
from llmcls.engine.objectives import Batch, packed_loss, padded_loss
from llmcls.errors import LlmclsError
from llmcls.model.hardware import Formats
from llmcls.progress import Reporter
from llmcls.settings import LoraSettings, Settings
from llmcls.training.batches import Collator, RowOrder, make_dataset
from llmcls.training.callbacks import ProgressCallback, StoppingCallback
from llmcls.training.checkpoints import remove_old, seal_checkpoint
from llmcls.training.stopping import StopSignals

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast
    from transformers.trainer_utils import EvalLoopOutput

    from llmcls.model.adapter import BaseModelAdapter


class LabelTrainer(SFTTrainer):  # type: ignore[misc]
    """An `SFTTrainer` whose loss is an llmcls objective.

    The loss of an optimizer step is a sum over its rows (or answer tokens) divided by their weight over all
    micro-batches and processes, so it does not depend on how the batch is cut up.
    """

    def __init__(self, *, collator: Collator, save_minutes: float, keep: int | None, **kwargs: Any) -> None:
        self._loss = packed_loss if collator.packed else padded_loss
        self._save_seconds, self._keep = save_minutes * 60, keep
        self._saved_at = time.monotonic()
        self.stop: StopSignals | None = None
        self.stopping = self.save_is_due = False
        super().__init__(data_collator=collator, **kwargs)
        self._evaluated = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # sum of losses, of weights
        # `Trainer` divides by the accumulation steps itself unless the loss takes the step's item count.
        self.model_accepts_loss_kwargs = True
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and "lora_" in name:
                # TRL casts QLoRA adapters to bf16, whose 8 bits of mantissa lose small updates; keep them in fp32.
                parameter.data = parameter.data.float()

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The objective's loss, normalised over the whole optimizer step.

        Raises:
            LlmclsError: when the loss is NaN or infinite.
        """
        # A process that has only fillers divides nothing by nothing.
        weight = inputs["normalizer"].clamp(min=torch.finfo(torch.float32).tiny)
        loss = self._loss(model, inputs, weight if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is None:
            self._evaluated += torch.stack([loss.detach() * weight, weight]).to(self._evaluated)
        else:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients, the count is over all processes
        if not torch.isfinite(loss):
            raise LlmclsError(
                f"The loss became {loss.item()} at step {self.state.global_step}; "
                "lower training.learning_rate, or set training.mixed_precision to 'no'."
            )
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As TRL's, with the weights left as they are: bitsandbytes would repack them on some CPUs (`evaluating`)."""
        with evaluating(self.model):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As TRL's, with the mean over all rows where theirs is over batches, of which the last is smaller."""
        self._evaluated.zero_()
        output = super().evaluation_loop(*args, **kwargs)
        losses, weights = self.accelerator.gather(self._evaluated[None]).sum(0).tolist()
        for name in output.metrics:
            if name.endswith("_loss"):
                output.metrics[name] = losses / weights
        return output

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor | None:
        """The normaliser of the step over all processes; what they must agree on travels along."""
        if not batch_samples:
            return None
        total = torch.stack([batch["normalizer"] for batch in batch_samples]).sum()
        stop = self.stop is not None and self.stop.received is not None
        due = 0 < self._save_seconds <= time.monotonic() - self._saved_at
        if self.args.world_size == 1:
            self.stopping, self.save_is_due = stop, due
            return total.to(device)
        mine = torch.tensor([float(total), float(stop), float(due and self.is_world_process_zero())], device=device)
        gathered = self.accelerator.gather(mine).view(-1, 3).sum(0)
        _, stops, dues = gathered.tolist()
        self.stopping, self.save_is_due = stops > 0, dues > 0
        normalizer: torch.Tensor = gathered[0]
        return normalizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> RowOrder:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return self._order(dataset, self._train_batch_size, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> RowOrder:
        return self._order(eval_dataset, self.args.eval_batch_size, None)

    def _order(self, dataset: Dataset, batch_size: int, seed: int | None) -> RowOrder:
        filler = "filler" in dataset.column_names
        return RowOrder(len(dataset) - filler, batch_size * self.args.world_size * filler, seed)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As TRL's; the checkpoint counts, and older ones go, only when all of it is on the disk."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        folder = Path(self.args.output_dir)
        if self.is_world_process_zero():
            seal_checkpoint(folder / f"checkpoint-{self.state.global_step}")
            remove_old(folder, self._keep, self.state.best_model_checkpoint)
        self._saved_at = time.monotonic()
        self.accelerator.wait_for_everyone()


def make_config(
    settings: Settings, formats: Formats, adapter: BaseModelAdapter, folder: Path, has_validation: bool
) -> SFTConfig:
    """TRL's configuration from the settings; making it starts torch.distributed and tells ZeRO-3 to shard the loading.

    It must exist before the model is loaded and live as long. It is the one place that says precision and accumulation:
    the accelerate and DeepSpeed configurations say `no` and `auto`.
    """
    training = settings.training
    if formats.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed guesses otherwise, and may look for CUDA
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.num_train_epochs,
        max_steps=training.max_steps,
        per_device_train_batch_size=training.per_device_train_batch_size,
        per_device_eval_batch_size=training.per_device_eval_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate or adapter.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optim,
        bf16=formats.mixed_precision == "bf16",
        fp16=formats.mixed_precision == "fp16",
        use_cpu=formats.device.type == "cpu",
        gradient_checkpointing=training.gradient_checkpointing,
        logging_steps=training.logging_steps,
        eval_strategy=training.eval_strategy if has_validation else "no",
        eval_steps=training.eval_steps,
        save_strategy=training.save_strategy,
        save_steps=training.save_steps,
        load_best_model_at_end=training.load_best_model_at_end and has_validation,
        dataloader_num_workers=training.dataloader_num_workers,
        dataloader_pin_memory=formats.device.type == "cuda",
        ddp_find_unused_parameters=False,
        report_to=list(training.report_to) or "none",
        seed=settings.seed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        prediction_loss_only=True,
        disable_tqdm=True,
    )
    if config.world_size == 1 and config.n_gpu > 1:
        config._n_gpu = 1  # else `Trainer` wraps the model in DataParallel, which cuts a token tree into pieces
    return config


def make_trainer(
    config: SFTConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    collator: Collator,
    train_rows: Sequence[dict[str, Any]],
    validation_rows: Sequence[dict[str, Any]],
    settings: Settings,
    adapter: BaseModelAdapter,
    reporter: Reporter,
) -> LabelTrainer:
    """Put the parts together; rows have `input_ids` (prompt) and `label` (position)."""
    train_data, validation_data = (
        make_dataset(rows, filler=config.world_size > 1) if rows else None for rows in (train_rows, validation_rows)
    )
    with warnings.catch_warnings(), _clear_target_errors(settings.lora):
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        trainer = LabelTrainer(
            collator=collator,
            save_minutes=settings.training.save_minutes,
            keep=settings.training.save_total_limit,
            model=model,
            args=config,
            processing_class=tokenizer,
            train_dataset=train_data,
            eval_dataset=validation_data,
            peft_config=make_lora_config(settings.lora, adapter),
        )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback(reporter))
    trainer.add_callback(StoppingCallback(trainer))
    return trainer


@contextmanager
def _clear_target_errors(settings: LoraSettings) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        raise LlmclsError(
            f"lora.target_modules {settings.target_modules!r} are not in this model: {error} "
            "Leave the setting out for the base model's own choice, or use all-linear."
        ) from error


def make_lora_config(settings: LoraSettings, adapter: BaseModelAdapter) -> LoraConfig:
    """PEFT's configuration; target modules from the settings, or else the adapter's."""
    targets = settings.target_modules or adapter.lora_target_modules
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias=settings.bias,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        task_type="CAUSAL_LM",
    )
