"""TRL's `SFTTrainer` on rows that llmcls has rendered and encoded, with llmcls's objectives as the loss.

    trainer = make_trainer(model, tokenizer, collator, train_rows, validation_rows, settings, formats, ...)
    trainer.train()

TRL keeps its plumbing (PEFT, checkpoints, trackers, accelerate, DeepSpeed); the rows come encoded, so nothing is
truncated or dropped on the way, and only answer tokens carry loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from llmcls.engine.decoder import evaluating
from llmcls.engine.objectives import Batch, Objective, packed_batch, packed_loss, padded_batch, padded_loss
from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError
from llmcls.model.hardware import Formats
from llmcls.progress import Reporter
from llmcls.settings import LoraSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from llmcls.model.adapter import BaseModelAdapter


class Collator:
    """Lays rows out as one packed token tree, or padded where the model cannot take the packed mask."""

    def __init__(self, answers: Sequence[Sequence[int]], goal: Objective, *, packed: bool, pad_token_id: int) -> None:
        self.packed = packed
        self._trie, self._goal, self._pad = LabelTrie(answers), goal, pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """One micro-batch of rows with `input_ids` (the prompt) and `label` (position)."""
        prompts, labels = [row["input_ids"] for row in rows], [row["label"] for row in rows]
        if self.packed:
            return packed_batch(prompts, labels, self._trie, self._goal)
        return padded_batch(prompts, labels, self._trie, self._goal, pad_token_id=self._pad)


class LabelTrainer(SFTTrainer):  # type: ignore[misc]
    """An `SFTTrainer` whose loss is an llmcls objective.

    The loss of an optimizer step is a sum over its rows (or answer tokens) divided by their weight over all
    micro-batches and processes, so it does not depend on how the batch is cut up.
    """

    def __init__(self, *, collator: Collator, **kwargs: Any) -> None:
        self._loss = packed_loss if collator.packed else padded_loss
        super().__init__(data_collator=collator, **kwargs)
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
        loss = self._loss(model, inputs, num_items_in_batch)
        if num_items_in_batch is not None:
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

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        total = torch.stack([batch["normalizer"] for batch in batch_samples]).sum().to(device)
        gathered: torch.Tensor = self.accelerator.gather(total).sum()
        return gathered


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Shows training through llmcls's reporter instead of tqdm."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._done = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self._track = self._reporter.track("Training", total=state.max_steps)
        self._advance = self._track.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar."""
        self._advance(state.global_step - self._done)
        self._done = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """One line per logged loss."""
        logs = logs or {}
        where = f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}"
        if "eval_loss" in logs:
            self._reporter.say(f"  {where}: validation loss {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            self._reporter.say(f"  {where}: loss {float(logs['loss']):.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self._track.__exit__(None, None, None)


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    collator: Collator,
    train_rows: Sequence[dict[str, Any]],
    validation_rows: Sequence[dict[str, Any]],
    settings: Settings,
    formats: Formats,
    adapter: BaseModelAdapter,
    folder: Path,
    reporter: Reporter,
) -> LabelTrainer:
    """Configure TRL's trainer from the settings; rows have `input_ids` (prompt) and `label` (position)."""
    training = settings.training
    evaluate = training.eval_strategy if validation_rows else "no"
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
        eval_strategy=evaluate,
        eval_steps=training.eval_steps,
        save_strategy=training.save_strategy,
        save_steps=training.save_steps,
        save_total_limit=training.save_total_limit,
        load_best_model_at_end=training.load_best_model_at_end and bool(validation_rows),
        dataloader_num_workers=training.dataloader_num_workers,
        dataloader_pin_memory=formats.device.type == "cuda",
        report_to=list(training.report_to) or "none",
        seed=settings.seed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        prediction_loss_only=True,
        disable_tqdm=True,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*label_names.*")
        trainer = LabelTrainer(
            collator=collator,
            model=model,
            args=config,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(list(train_rows)),
            eval_dataset=Dataset.from_list(list(validation_rows)) if validation_rows else None,
            peft_config=make_lora_config(settings.lora, adapter),
        )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback(reporter))
    return trainer


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
