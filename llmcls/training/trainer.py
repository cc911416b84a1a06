"""TRL's `SFTTrainer` on rows that llmcls has rendered and encoded, with llmcls's objectives as the loss.

    config = make_config(settings, formats, folder, bool(validation_rows))   # joins the other processes
    trainer = make_trainer(config, model, assembly, collator, train_rows, validation_rows, settings, reporter)
    trainer.train()

TRL keeps its plumbing (PEFT, checkpoints, trackers, accelerate, DeepSpeed); the rows come encoded, so nothing is
truncated or dropped on the way, and only answer tokens carry loss.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import EarlyStoppingCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from llmcls.console import Reporter
from llmcls.engine.decoder import evaluating
from llmcls.engine.objectives import loss_of, packed_logits, padded_logits, rows_right
from llmcls.engine.packing import Batch
from llmcls.model.hardware import exact_dtype
from llmcls.model.lora_targets import suit_targets
from llmcls.model.mixtures import PATTERNS_IGNORED, keeping_router_settings
from llmcls.processes.stopping import StopSignals
from llmcls.settings import Settings, TrainingSettings
from llmcls.training.batches import Collator, LaidOutAhead, RowOrder, make_dataset
from llmcls.training.callbacks import (
    HealthCallback,
    RowsRight,
    StoppingCallback,
    check_finite,
    the_callback,
)
from llmcls.training.checkpoints import remove_old, seal_checkpoint, writing_checkpoint
from llmcls.training.configuration import check_ranking, clear_target_errors, make_lora_config, refusing
from llmcls.training.continuity import ContinuityCallback, SoFar, settle_state
from llmcls.training.cost import CostCallback, count_weights
from llmcls.training.progress import ProgressCallback
from llmcls.training.validation import Reading

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel

    from llmcls.runs.assembly import Assembly


COLLECTED = 1 << 22
"""Numbers that processes exchange at once, at most."""


class LabelTrainer(SFTTrainer):  # type: ignore[misc]
    """An `SFTTrainer` whose loss is an llmcls objective.

    The loss of an optimizer step is a sum over its rows (or answer tokens) divided by their weight over all packs,
    micro-batches and processes, so it does not depend on how the batch is cut up. What `Trainer` takes for a
    micro-batch is a list of packs here (`Collator`).
    """

    def __init__(
        self,
        *,
        collator: Collator,
        measure: Callable[[Sequence[Any], Sequence[Any], Any], dict[str, float]],
        training: TrainingSettings,
        scoring_pack_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._logits = packed_logits if collator.packed else padded_logits
        self._collator, self._measure, self._settings = collator, measure, training
        self._save_seconds, self._keep = training.save_minutes * 60, training.save_total_limit
        self._scoring_pack_tokens = scoring_pack_tokens
        self._saved_at = time.monotonic()
        self.stop: StopSignals | None = None
        self.stopping = self.save_is_due = False
        self.step_loss = torch.zeros(())  # of the last micro-batch
        super().__init__(data_collator=collator, **kwargs)
        exact = exact_dtype(self.args.device)
        self._evaluated = torch.zeros(2, dtype=exact, device=self.args.device)  # sum of losses, of weights
        self._trained = torch.zeros_like(self._evaluated)  # rows right, rows
        # `Trainer` divides by the accumulation steps itself unless the loss takes the step's item count.
        self.model_accepts_loss_kwargs = True
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and ("lora_" in name or "modules_to_save" in name):
                # TRL casts the LoRA weights of QLoRA to bf16, whose 8 bits of mantissa lose small updates.
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
        logits = self._logits(model, inputs)
        loss = loss_of(logits, inputs, weight if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is None:
            self._evaluated += torch.stack([loss.detach() * weight, weight]).to(self._evaluated)
        else:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients, the count is over all processes
            self._trained += rows_right(logits.detach(), inputs).to(self._trained)  # read where the loss is read
        check_finite(loss.item(), self.state.global_step)
        return loss

    def training_step(
        self, model: Any, inputs: list[Batch], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forward and backward of every pack; processes exchange gradients after the last one only."""
        *others, last = inputs
        step = super().training_step
        with self._accumulating(model):
            losses = [step(model, pack, num_items_in_batch) for pack in others]
        self.step_loss = torch.stack([*losses, step(model, last, num_items_in_batch)]).sum()
        return self.step_loss

    @contextmanager
    def _accumulating(self, model: Any) -> Iterator[None]:
        """No exchange of gradients, unless `Trainer` has switched it off already for the whole micro-batch."""
        accelerator = self.accelerator
        if not accelerator.sync_gradients:
            yield
            return
        accelerator.gradient_state._set_sync_gradients(False)  # what DeepSpeed goes by
        sharded_by_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        with nullcontext() if sharded_by_deepspeed else accelerator.no_sync(model):
            yield
        accelerator.gradient_state._set_sync_gradients(True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's; with a training loss stands the share of rows since the last one that were right."""
        if "loss" in logs:
            logs["accuracy"] = self._settle().take()
        super().log(logs, start_time)

    def _settle(self) -> RowsRight:
        """The training rows of all processes, counted until now."""
        counts = the_callback(self, RowsRight)
        counts.add(*self._agree(self._trained.tolist()).sum(0).tolist())
        self._trained.zero_()
        return counts

    def prediction_step(
        self, model: Any, inputs: list[Batch], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, None, None]:
        """Adds the packs' losses up; `evaluation_loop` takes the mean."""
        [agreed] = self._agree([float(len(inputs))]).amax(0).tolist()
        self._fill_up([inputs], [agreed])
        for pack in inputs:
            super().prediction_step(model, pack, True)
        return None, None, None

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume_from_checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        begun: tuple[int, int] = super()._init_training_state(
            max_steps, steps_per_epoch, epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            settle_state(self, resume_from_checkpoint, self._settings)
        return begun

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        """As transformers does; nothing where training had ended already, of which it would see after a step only."""
        if self.control.should_training_stop:
            return
        # With several processes accelerate's `set_epoch` does not reach the order of a loader that skips what was
        # trained (`skip_first_batches`): one level of samplers more than it looks for.
        self._train_order.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        """As transformers does, with the seconds of the parts before an interruption."""
        spent = the_callback(self, CostCallback)
        return super()._finalize_training(trial, num_train_samples, start_time - spent.seconds)

    def floating_point_ops(self, inputs: list[Batch]) -> int:
        """As transformers counts them, over all packs: 6 for every weight and token that is computed."""
        return 6 * self._weights * sum(pack["input_ids"].numel() for pack in inputs)

    @cached_property
    def _weights(self) -> int:
        return count_weights(self.model)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As TRL's, with the weights left as they are: bitsandbytes would repack them on some CPUs (`evaluating`)."""
        with evaluating(self.model):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        if self.is_in_train:
            self.stopping |= self.signal_has_come()  # it may have taken long
            self.control.should_save |= self.stopping or self.control.should_training_stop
        return metrics

    def evaluation_loop(
        self, dataloader: DataLoader[Any], *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """As TRL's, with the mean loss over all rows, and the form's figures of what is predicted.

        TRL's mean is over batches, of which the last is smaller, and its accuracy is of tokens under teacher forcing.
        """
        dataset, figures, reading = dataloader.dataset, {}, None
        self._evaluated.zero_()
        if not self.is_fsdp_enabled:
            reading = self._read(dataset)
        if reading is not None and reading.knows_loss:
            # A DataLoader draws a seed at its start: a training draws the same numbers however its rows are validated.
            torch.empty((), dtype=torch.int64).random_()
            output = EvalLoopOutput(None, None, {}, num_samples=reading.rows)
        else:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        losses, weights = self._agree(self._evaluated.tolist()).sum(0).tolist()
        loss = losses / weights
        check_finite(loss, self.state.global_step)
        if reading is not None:
            figures = self._check_labels(reading)
        metrics = {"loss": loss, **figures}
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _read(self, dataset: Dataset) -> Reading:
        """Each process reads some rows; with their losses where these take no forward of their own.

        With ZeRO-3 a layer's weights come together only while all processes run it, so all read all rows, in as many
        forwards: a search may take one more where a last bit differs. FSDP brings the embeddings together in the whole
        model's `forward` only, which reading does without.
        """
        together = is_deepspeed_zero3_enabled()
        reading = Reading(
            self.model,
            self._collator,
            dataset,
            probabilities=together or self.args.metric_for_best_model == "roc_auc",
            pack_tokens=self._scoring_pack_tokens,
            batch_size=self.args.eval_batch_size,
        )
        rows = range(reading.rows) if together else range(self.args.process_index, reading.rows, self.args.world_size)
        with the_callback(self, ProgressCallback).validating(len(rows)) as advance:
            reading.read(rows, advance)
        if reading.knows_loss and not (together and self.args.process_index):
            self._evaluated += torch.tensor(reading.loss, dtype=torch.float64).to(self._evaluated)
        return reading

    def _check_labels(self, reading: Reading) -> dict[str, float]:
        """Accuracy, ROC-AUC and their like of what all processes have read."""
        targets, probabilities = reading.targets, reading.probabilities
        if not is_deepspeed_zero3_enabled():
            layout, mine = self._collator.layout, range(self.args.process_index, reading.rows, self.args.world_size)
            targets = self._collect(targets, mine, (reading.rows, *layout.target_shape), torch.int64)
            if reading.probable:
                shape = (reading.rows, layout.labels)
                probabilities = self._collect(probabilities, mine, shape, self._evaluated.dtype)
        return self._measure(reading.true, [] if targets is None else targets.tolist(), probabilities)

    def _collect(
        self, mine: torch.Tensor | None, at: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        """The rows of all processes, in order and on the CPU; `mine` are those at the places `at`."""
        whole = torch.zeros(shape, dtype=dtype)
        if mine is not None:
            whole[list(at)] = mine.to(whole)
        # Only one process has a row, the others have zeros for it. Some rows at a time: 10,000 rows of 10,000 labels
        # take 800 MB.
        step = max(1, COLLECTED // max(1, whole[:1].numel()))
        return torch.cat(
            [
                self.accelerator.reduce(whole[start : start + step].to(self.args.device), "sum").cpu()
                for start in range(0, len(whole), step)
            ]
        )

    def _get_num_items_in_batch(self, batch_samples: list[list[Batch]], device: torch.device) -> torch.Tensor | None:
        """The normaliser of the step over all processes; what they must agree on travels along."""
        if not batch_samples:
            return None
        total = sum(float(pack["normalizer"]) for packs in batch_samples for pack in packs)
        stop = self.stop is not None and self.stop.received is not None
        due = 0 < self._save_seconds <= time.monotonic() - self._saved_at and self.is_world_process_zero()
        agreed = self._agree([total, float(stop), float(due), *(float(len(packs)) for packs in batch_samples)])
        normalizer, stops, dues, *_ = agreed.sum(0).tolist()
        normalizer = max(normalizer, torch.finfo(torch.float32).tiny)  # weights may vanish beside the largest one
        self.stopping, self.save_is_due = stops > 0, dues > 0
        self._fill_up(batch_samples, agreed[:, 3:].amax(0).tolist())
        return torch.tensor(normalizer, dtype=torch.float32, device=device)

    def signal_has_come(self) -> bool:
        """Whether a signal asks any process to stop; every process must ask."""
        return bool(self._agree([float(self.stop is not None and self.stop.received is not None)]).sum())

    def _agree(self, values: list[float]) -> torch.Tensor:
        """The numbers of every process, (processes, numbers), as exact as the device is; the same on all of them."""
        mine = torch.tensor([values], dtype=self._evaluated.dtype, device=self.args.device)
        return self.accelerator.gather(mine)  # type: ignore[no-any-return]

    def _fill_up(self, batches: list[list[Batch]], wanted: list[float]) -> None:
        """Every process runs as many packs, or those that exchange gradients or weights would wait for ever."""
        for packs, count in zip(batches, wanted, strict=True):
            packs.extend(self._collator.empty() for _ in range(int(count) - len(packs)))

    def create_optimizer(self, model: Any = None) -> Any:
        """As transformers does.

        Raises:
            LlmclsError: when a package is missing, or the optimizer needs what llmcls has no setting for.
        """
        name = str(self.args.optim.value)
        with refusing(ImportError, TypeError, ValueError, says=f"training.optim '{name}' cannot be used"):
            return super().create_optimizer(model)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers does.

        Raises:
            LlmclsError: when an argument is missing or wrong.
        """
        name, given = self.args.lr_scheduler_type.value, self.args.lr_scheduler_kwargs or {}
        says = f"training.lr_scheduler_type '{name}' cannot be used with training.lr_scheduler_kwargs {given}"
        with refusing(TypeError, ValueError, says=says):
            return super().create_scheduler(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As transformers does; the rows of the next step are laid out while the model is busy with this one.

        What is left of an epoch after a resume is laid out in time: accelerate makes another loader for it.
        """
        loader: Any = super().get_train_dataloader()
        if not self.args.dataloader_num_workers:  # else processes build batches
            loader.base_dataloader = LaidOutAhead(loader.base_dataloader, self.args.gradient_accumulation_steps)
        return loader  # type: ignore[no-any-return]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> RowOrder:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        self._train_order = self._order(dataset, self._train_batch_size, self.args.seed)
        return self._train_order

    def _get_eval_sampler(self, eval_dataset: Dataset) -> RowOrder:
        return self._order(eval_dataset, self.args.eval_batch_size, None)

    def _order(self, dataset: Dataset, batch_size: int, seed: int | None) -> RowOrder:
        filler = "filler" in dataset.column_names
        together = batch_size * self.args.world_size
        grouped = self._settings.train_sampling_strategy == "group_by_length"
        return RowOrder(
            len(dataset) - filler,
            together * filler,
            seed,
            lengths=[len(ids) for ids in dataset["input_ids"]] if grouped else None,
            step=together * self.args.gradient_accumulation_steps,
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As TRL's; the checkpoint counts, and older ones go, only when all of it is on the disk."""
        folder = Path(self.args.output_dir)
        with writing_checkpoint(folder / f"checkpoint-{self.state.global_step}") as checkpoint:
            self._settle()  # what was counted goes into the checkpoint
            the_callback(self, SoFar).note(self)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                seal_checkpoint(checkpoint)
        if self.is_world_process_zero():
            remove_old(folder, self._keep, self.state.best_model_checkpoint)
        self._saved_at = time.monotonic()
        self.accelerator.wait_for_everyone()


def make_trainer(
    config: SFTConfig,
    model: PreTrainedModel,
    assembly: Assembly,
    collator: Collator,
    train_rows: Sequence[dict[str, Any]],
    validation_rows: Sequence[dict[str, Any]],
    settings: Settings,
    reporter: Reporter,
) -> LabelTrainer:
    """Put the parts together; rows have `input_ids` (prompt) and `label` (the form's target).

    Raises:
        LlmclsError: when the best checkpoint goes by what this model or these validation rows do not give.
    """
    if config.metric_for_best_model == "roc_auc":
        check_ranking(assembly.form, collator.layout, model, [row["label"] for row in validation_rows])
    train_data, validation_data = (
        make_dataset(rows, filler=config.world_size > 1) if rows else None for rows in (train_rows, validation_rows)
    )
    adapter = assembly.base.adapter
    lora = make_lora_config(settings, adapter, model) if settings.training.tuning == "lora" else None
    with warnings.catch_warnings(), clear_target_errors(settings.lora), keeping_router_settings(model):
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        warnings.filterwarnings("ignore", message=PATTERNS_IGNORED)
        for line in suit_targets(lora, model) if lora else ():
            reporter.say(f"  {line}")
        trainer = LabelTrainer(
            collator=collator,
            measure=assembly.form.measure,
            training=settings.training,
            scoring_pack_tokens=settings.prediction.pack_tokens,
            model=model,
            args=config,
            processing_class=assembly.tokenizer,
            train_dataset=train_data,
            eval_dataset=validation_data,
            peft_config=lora,
        )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback(reporter))
    trainer.add_callback(ContinuityCallback(trainer))
    trainer.add_callback(SoFar())
    trainer.add_callback(StoppingCallback(trainer))
    trainer.add_callback(HealthCallback(trainer))
    trainer.add_callback(RowsRight())
    trainer.add_callback(CostCallback())
    patience = settings.training.early_stopping_patience
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience, settings.training.early_stopping_threshold))
    return trainer
