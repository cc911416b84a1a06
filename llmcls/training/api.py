"""Trains a classifier: data and settings in, a sealed run directory out.

from llmcls import train

run = train("tickets/", base_model="meta-llama/Llama-3.2-1B", output_dir="runs/tickets")
run.path
"""

from __future__ import annotations

import gc
import json
import os
import platform
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls import __version__
from llmcls.data.splits import DataSplits, load_data
from llmcls.engine.decoder import supports_packing
from llmcls.engine.objectives import Objective
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.model.hardware import choose_formats
from llmcls.model.loading import load_model
from llmcls.plugin.manager import describe_plugins, load_plugins
from llmcls.progress import Reporter
from llmcls.settings import LoraSettings, Settings, make_settings
from llmcls.training.checkpoints import (
    STATE,
    choose_checkpoint,
    describe_run,
    record_identity,
    remove_leftovers,
    remove_state,
)
from llmcls.training.claim import claiming
from llmcls.training.memory import DeviceFullError, explain, shrink
from llmcls.training.preparation import Prepared, check_names, encode_rows, prepare, resolve_class_weights
from llmcls.training.run import Run, check_free, default_path, unfinished_folder, write_card, writing
from llmcls.training.stopping import StoppedError, StopSignals
from llmcls.training.world import check_request, join_world, requested_backend

if TYPE_CHECKING:
    from transformers.trainer_utils import TrainOutput

    from llmcls.training.trainer import LabelTrainer

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers")


def train(
    data: object = None,
    *,
    base_model: str | None = None,
    template: str | None = None,
    text_columns: tuple[str, ...] = (),
    label_column: str | None = None,
    output_dir: str | Path | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Fine-tune a base model on labelled texts and write a run directory.

    A run that was killed or stopped goes on from its last whole checkpoint, which is in `output_dir.unfinished`, when
    it is started again with the same `output_dir`. Every process of a launcher calls this function alike.

    Args:
        data: a path or specification, a pandas DataFrame, a `datasets.Dataset`/`DatasetDict`, a list of dicts, or a
            dict of splits; `settings.data.source` when None.
        base_model: a name from `llmcls models list`, a Hub id, or a folder.
        template: a template's name, or the path of a `.j2` file.
        text_columns: columns that hold the text.
        label_column: column that holds the label.
        output_dir: the run directory to write.
        settings: a `Settings` tree or nested mapping; the arguments above win over it.
        overwrite: replace an existing run.
        resume: `auto`: go on with an unfinished run; `never`: begin anew; or the path of a checkpoint.
        force: go on although settings or data differ from those of the checkpoint.
        reporter: where progress goes.

    Returns:
        The finished run.

    Raises:
        LlmclsError: for bad data, impossible settings, a model that cannot be loaded, a diverging loss, a launcher that
            did not start what it was asked for, a checkpoint of another run, a run that another process trains, or a
            full disk.
        StoppedError: after SIGTERM or SIGINT, when a checkpoint has been written.
    """
    reporter = reporter or Reporter()
    given: dict[str, Any] = settings.model_dump() if isinstance(settings, Settings) else _deep_copy(settings or {})
    for section, key, value in (
        ("data", "source", str(data) if isinstance(data, (str, Path)) else None),
        ("data", "text_columns", text_columns or None),
        ("data", "label_column", label_column),
        ("model", "base_model", base_model),
        ("prompt", "template", template),
    ):
        if value is not None:
            given.setdefault(section, {})[key] = value
    if data is not None and not isinstance(data, (str, Path)):
        given.setdefault("data", {})["source"] = None  # what the settings name is not what it was trained on
    if output_dir is not None:
        given["output_dir"] = str(output_dir)
    resolved = make_settings(given)
    if data is None and resolved.data.source is None:
        raise LlmclsError("There is no data to train on; give --data, or data.source in the settings.")
    source = data if data is not None else resolved.data.source
    path = Path(resolved.output_dir or default_path(resolved))
    with claiming(path) if os.environ.get("RANK", "0") == "0" else nullcontext():
        while True:
            try:
                return _train(resolved, path, source, overwrite, resume, force, reporter)
            except DeviceFullError:
                smaller = shrink(resolved.training)
                if smaller is None or int(os.environ.get("WORLD_SIZE", "1")) > 1:
                    raise  # other processes hang in the same step: their launcher must start all anew
            reporter.warn(explain(smaller))
            resolved = resolved.model_copy(update={"training": resolved.training.model_copy(update=smaller)})
            resume = "auto" if resume == "never" else resume
            _free_memory()


def _free_memory() -> None:
    """Drop what a failed attempt has left on the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_training_data(settings: Settings, data: object = None) -> DataSplits:
    """Read the data of the settings."""
    wanted = settings.data
    splits = load_data(
        data if data is not None else wanted.source,
        text_columns=wanted.text_columns,
        label_column=wanted.label_column,
        labels=wanted.labels or None,
        aliases=wanted.label_aliases,
        validation_size=wanted.validation_size,
        seed=settings.seed,
        label_separator=wanted.label_separator if settings.task == "multi_label" else None,
        max_per_class={str(split): limit for split, limit in wanted.max_per_class.items()},
    )
    labels = LabelSet.from_names(splits.labels.names, wanted.label_descriptions, wanted.label_aliases)
    return replace(splits, labels=labels)


def _train(
    settings: Settings, path: Path, data: object, overwrite: bool, resume: str, force: bool, reporter: Reporter
) -> Run:
    check_free(path, overwrite)
    backend = requested_backend()
    formats = choose_formats(settings, sharded=backend in ("zero3", "fsdp"), training=True)
    check_request(settings, formats, backend)
    check_names(settings)
    # Every process prepares the same rows: the outcome is a function of data and settings, and nobody waits.
    splits = load_training_data(settings, data)
    settings.prediction.check(settings.answer_form, splits.labels.spellings)  # or no one could predict with the run
    for note in splits.notes:
        reporter.say(f"  {note}")
    weights = resolve_class_weights(settings.training.class_weights, splits.labels, splits.train, settings.answer_form)
    prepared = prepare(settings, splits.labels, splits.train)
    _announce(splits, prepared, reporter)
    train_rows, cut = encode_rows(prepared.encoder, splits.train, reporter, "train")
    validation_rows, _ = encode_rows(prepared.encoder, splits.validation, reporter, "validation")
    if cut:
        reporter.say(f"  {cut} of {len(train_rows)} training texts were cut to prompt.max_length tokens")

    import torch
    from transformers import set_seed

    from llmcls.training.batches import PACK_TOKENS
    from llmcls.training.callbacks import describe_outcome
    from llmcls.training.configuration import make_config
    from llmcls.training.multilabel import make_collator, tune_on_rows
    from llmcls.training.trainer import make_trainer

    adapter = prepared.base.adapter
    # The configuration before the model: it starts torch.distributed, and tells ZeRO-3 to shard what is loaded.
    config = make_config(settings, formats, adapter, unfinished_folder(path) / "trainer", bool(validation_rows))
    world = join_world(config, backend)
    path = world.share(path)  # its default holds the time
    folder, checkpoint = unfinished_folder(path), None
    config.output_dir = str(folder / "trainer")
    identity = describe_run(settings, splits.fingerprint, prepared.base.fingerprint, world)
    if world.is_main:
        checkpoint = choose_checkpoint(folder, resume, identity, force=force, reporter=reporter)
    checkpoint = world.share(checkpoint)
    reporter.say(f"Loading {prepared.base.checkpoint} on {world.describe(formats, settings.training)}")
    set_seed(settings.seed)
    whole = settings.training.tuning == "full"
    if whole and settings.lora != LoraSettings():
        reporter.warn("the lora.* settings have no effect: training.tuning 'full' trains all weights.")
    model = load_model(prepared.base, settings.model, formats, prepared.head)
    reason = "training.packing is off" if not settings.training.packing else supports_packing(model)
    if reason and settings.training.packing:
        reporter.warn(f"training runs on padded batches, which are slower: {reason}.")
    goal = Objective(
        "sft" if settings.training.objective == "sft" else "label",  # to a head, every label is one token
        settings.training.loss_normalization,
        weights,
        settings.training.label_smoothing_factor,
    )
    collator = make_collator(
        prepared.encoder,
        goal,
        packed=not reason,
        pad_token_id=int(prepared.tokenizer.pad_token_id),
        pack_tokens=settings.training.pack_tokens or PACK_TOKENS.get(formats.device.type, PACK_TOKENS["cuda"]),
    )
    with ExitStack() as stack:
        if world.is_main:
            own = checkpoint is not None and checkpoint.resolve().is_relative_to(folder.resolve())
            stack.enter_context(writing(path, overwrite, keep=own))
            record_identity(folder, identity)
            if checkpoint is not None:
                reporter.say(f"Going on from {checkpoint}; --resume never begins anew")
                if own:  # nothing is deleted in another run
                    remove_leftovers(checkpoint)
        world.wait()
        trainer = make_trainer(
            config, model, prepared.tokenizer, collator, train_rows, validation_rows, settings, adapter, reporter
        )
        # ZeRO-3 leaves this process a share of each tensor, and says how large the whole is.
        trainable = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad)
        reporter.say(f"Training {trainable:,} {'' if whole else 'adapter '}parameters on {len(train_rows)} rows")
        with StopSignals() as stop:
            trainer.stop = stop
            result = _run(trainer, checkpoint, settings)
        if trainer.stopping and trainer.state.global_step < trainer.state.max_steps:
            world.wait()
            raise StoppedError(
                f"Stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, with a checkpoint in "
                f"'{folder}'; the same command with --output-dir {path} goes on."
            )
        for line in describe_outcome(trainer):
            reporter.say(line)
        thresholds = None
        if settings.answer_form == "yes_no":
            if sharded := trainer.is_fsdp_enabled:
                reporter.warn("with 'fsdp' thresholds stay at 0.5: no process has the whole model to tune them with.")
            rows = [] if sharded else validation_rows  # every process tunes: with ZeRO-3 all must run the model
            thresholds = tune_on_rows(trainer.model, prepared.encoder, rows, reporter)
        _save_weights(trainer, folder / ("model" if whole else "adapter"))
        if world.is_main:
            peak = torch.cuda.max_memory_allocated() if formats.device.type == "cuda" else None
            card = _describe(settings, splits, prepared, dict(result.metrics), peak, cut)
            card["training"] |= {"backend": world.backend, "processes": world.size}
            if thresholds is not None:
                card["thresholds"] = asdict(thresholds)
            _write_run(folder, trainer, prepared, settings, card)
    if world.is_main:
        remove_state(path)  # last: whatever fails before, the run can go on
    world.wait()
    return Run.open(path)


def _run(trainer: LabelTrainer, checkpoint: Path | None, settings: Settings) -> TrainOutput:
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        rows = settings.training.per_device_train_batch_size
        raise DeviceFullError(
            f"The device's memory is full at step {trainer.state.global_step} with {rows} rows per forward pass; lower "
            "training.per_device_train_batch_size and prompt.max_length, or set training.gradient_checkpointing to "
            "true."
        ) from error


def _save_weights(trainer: LabelTrainer, folder: Path) -> None:
    """PEFT's or transformers' own save, safetensors; ZeRO-3 and FSDP gather the shards first, on all ranks."""
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder, state_dict=state)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; run.json describes the run


def _write_run(
    folder: Path, trainer: LabelTrainer, prepared: Prepared, settings: Settings, card: dict[str, Any]
) -> None:
    prepared.tokenizer.save_pretrained(folder / "tokenizer")
    lines = [json.dumps(entry, default=float) for entry in trainer.state.log_history]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if (events := folder / "trainer" / "runs").is_dir():
        shutil.move(events, folder / "tensorboard")
    write_card(folder, card, settings, prepared.encoder.template, prepared.encoder.shots, unsealed=STATE)


def _announce(splits: DataSplits, prepared: Prepared, reporter: Reporter) -> None:
    counts = ", ".join(f"{len(splits[split])} {split}" for split in ("train", "validation", "test"))
    reporter.say(f"Data: {counts} rows, {len(splits.labels)} labels")
    reporter.say(
        f"Base model: {prepared.base.name} (adapter {prepared.base.adapter.name}), "
        f"template: {prepared.encoder.template.name}"
    )
    if prepared.base.name == "nano":
        reporter.say(
            "  'nano' is a tiny model for trying things out; for real work choose one, for example "
            "--base-model llama-3.2-1b (`llmcls models list`)"
        )
    notice = prepared.encoder.frame.notice
    if notice and prepared.encoder.is_chat:
        reporter.warn(notice)


def _describe(
    settings: Settings, splits: DataSplits, prepared: Prepared, metrics: dict[str, float], peak: int | None, cut: int
) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": settings.task,
        "labels": [asdict(label) for label in prepared.encoder.labels],
        "template": prepared.encoder.template.name,
        "base_model": {
            "name": prepared.base.name,
            "checkpoint": prepared.base.checkpoint,
            "adapter": prepared.base.adapter.name,
            "revision": prepared.base.config.get("_commit_hash") or prepared.base.revision,
            "fingerprint": prepared.base.fingerprint,
        },
        "data": {
            "source": settings.data.source,
            "rows": {split: len(splits[split]) for split in ("train", "validation", "test")},
            "fingerprint": splits.fingerprint,
            "text_columns": list(splits.columns.text),
            "label_column": splits.columns.label,
            "truncated": cut,
        },
        "seed": settings.seed,
        "training": {**metrics, "peak_gpu_memory_bytes": peak},
        "plugins": {info.name: f"{info.distribution} {info.version}" for info in describe_plugins(load_plugins())},
        "versions": {
            "llmcls": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }


def _deep_copy(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}
