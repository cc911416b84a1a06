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
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from llmcls.engine.decoder import evaluating
from llmcls.engine.objectives import Batch, Objective, packed_batch, packed_loss, padded_batch, padded_loss
from llmcls.engine.trie import LabelTrie
from llmcls.errors import LlmclsError
from llmcls.model.hardware import Formats
from llmcls.progress import Reporter
from llmcls.settings import LoraSettings, Settings
from llmcls.training.checkpoints import remove_old, seal_checkpoint
from llmcls.training.stopping import StopSignals

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast
    from transformers.trainer_utils import EvalLoopOutput

    from llmcls.model.adapter import BaseModelAdapter


class Collator:
    """Lays rows out as one packed token tree, or padded where the model cannot take the packed mask."""

    def __init__(self, answers: Sequence[Sequence[int]], goal: Objective, *, packed: bool, pad_token_id: int) -> None:
        self.packed = packed
        self._trie, self._goal, self._pad = LabelTrie(answers), goal, pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """One micro-batch of rows with `input_ids` (the prompt) and `label` (position); `filler` rows count nothing."""
        counted = [row for row in rows if not row.get("filler")]
        kept = counted or rows[:1]  # a process without rows still takes part in the step
        prompts, labels = [row["input_ids"] for row in kept], [row["label"] for row in kept]
        if self.packed:
            batch = packed_batch(prompts, labels, self._trie, self._goal)
        else:
            batch = padded_batch(prompts, labels, self._trie, self._goal, pad_token_id=self._pad)
        if not counted:
            batch["weights"], batch["normalizer"] = batch["weights"] * 0, batch["normalizer"] * 0
        return batch


class RowOrder(torch.utils.data.Sampler[int]):
    """The order of the rows in an epoch, the same for any number of processes and after a resume.

    accelerate fills the last batch of an epoch up with rows from its beginning, so that every process gets some; they
    would count twice. This order fills it up with the `filler` row, which counts nothing.

    Args:
        rows: how many rows there are; the filler is row number `rows`.
        multiple: rows of all processes' micro-batches together; 0: no filler.
        seed: of the order; epoch e uses seed + e. None: as they come.
    """

    def __init__(self, rows: int, multiple: int, seed: int | None) -> None:
        self._rows, self._seed, self._epoch = rows, seed, 0
        self._fillers = -rows % multiple if multiple else 0

    def set_epoch(self, epoch: int) -> None:
        """Called by `Trainer` at the start of an epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self._seed is None:
            yield from range(self._rows)
        else:
            generator = torch.Generator().manual_seed(self._seed + self._epoch)
            yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from [self._rows] * self._fillers

    def __len__(self) -> int:
        return self._rows + self._fillers


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


class StoppingCallback(TrainerCallback):  # type: ignore[misc]
    """Writes a checkpoint when one is due by the clock, or when a signal asks the run to stop.

    `Trainer` evaluates at an epoch's end after it has saved the epoch's last step. A run that goes on from there would
    have lost that evaluation and the random numbers it drew, so such a checkpoint waits for the evaluation.
    """

    def __init__(self, trainer: LabelTrainer) -> None:
        self._trainer = trainer
        self._waiting = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All processes have agreed on this at the beginning of the step."""
        stop = self._trainer.stop
        if args.world_size == 1 and stop is not None and stop.received is not None:
            self._trainer.stopping = True
        if state.global_step < state.max_steps:
            control.should_training_stop |= self._trainer.stopping
            control.should_save |= self._trainer.stopping or self._trainer.save_is_due
        self._waiting = control.should_save and state.epoch.is_integer()
        control.should_save &= not self._waiting

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`Trainer` calls this also when training stops amid an epoch; then the checkpoint is written already."""
        if self._trainer.stopping and not state.epoch.is_integer():
            control.should_evaluate = control.should_save = False
        control.should_save |= self._waiting
        self._waiting = False


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
        _dataset(rows, filler=config.world_size > 1) if rows else None for rows in (train_rows, validation_rows)
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


def _dataset(rows: Sequence[dict[str, Any]], filler: bool) -> Dataset:
    """The rows, with one more for `RowOrder` to fill up with."""
    if not filler:
        return Dataset.from_list(list(rows))
    return Dataset.from_list([*({**row, "filler": False} for row in rows), {**rows[0], "filler": True}])


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
