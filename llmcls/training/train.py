"""Trains a classifier: data and settings in, a sealed run directory out.

from llmcls import train

run = train("tickets/", base_model="meta-llama/Llama-3.2-1B", output_dir="runs/tickets")
run.path
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.answers import form_of
from llmcls.answers.form import Decision
from llmcls.console import Reporter
from llmcls.data.splits import DataSplits
from llmcls.errors import LlmclsError
from llmcls.model.loading import load_model, locate
from llmcls.processes.stopping import StoppedError, StopSignals
from llmcls.processes.world import join_training, launched_rank, launched_size, requested_backend
from llmcls.runs.assembly import Assembly, assemble
from llmcls.runs.claim import claiming
from llmcls.runs.remains import clear_remains, remove_state
from llmcls.runs.run import Run
from llmcls.runs.writing import (
    check_free,
    check_not_read,
    check_unfinished,
    default_path,
    explaining_writes,
    unfinished_folder,
)
from llmcls.settings import LoraSettings, Settings, make_settings
from llmcls.training.backends import SHARDED, check_agreement, check_request, describe_world, effective_batch
from llmcls.training.checkpoints import (
    choose_checkpoint,
    describe_run,
)
from llmcls.training.going_on import Start, announce_start, explicit_settings, find_start
from llmcls.training.keeping import describe, save_weights, write_bad_rows, write_run
from llmcls.training.memory import DeviceFullError, explain, shrink
from llmcls.training.preparation import (
    announce,
    check_by_libraries,
    check_names,
    describe_missing,
    doubt_weights,
    encode_rows,
    locate_source,
    read_data,
    resolve_class_weights,
)
from llmcls.training.unfinished import Unfinished, goes_on, stopped, writing_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers.trainer_utils import TrainOutput

    from llmcls.model.hardware import Formats
    from llmcls.training.trainer import LabelTrainer


@dataclass(frozen=True)
class Job:
    """One attempt at a training.

    Attributes:
        settings: as resolved.
        path: the run directory to write.
        data: what to train on; see `train`.
        start: the run that it goes on from, if any.
        overwrite, resume, force: see `train`.
        reporter: where progress goes.
        when_checked: see `train`.
    """

    settings: Settings
    path: Path
    data: object
    start: Start | None
    overwrite: bool
    resume: str
    force: bool
    reporter: Reporter
    when_checked: Callable[[], None] | None = None


def train(
    data: object = None,
    *,
    base_model: str | None = None,
    template: str | None = None,
    text_columns: tuple[str, ...] = (),
    label_column: str | Sequence[str] | None = None,
    output_dir: str | Path | None = None,
    trust_remote_code: bool | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    when_checked: Callable[[], None] | None = None,
) -> Run:
    """Fine-tune a base model on labelled texts and write a run directory.

    A run that was killed or stopped goes on from its last whole checkpoint, which is in `output_dir.unfinished`, when
    it is started again with the same `output_dir`. Every process of a launcher calls this function alike.

    Args:
        data: a path or specification, a pandas DataFrame, a `datasets.Dataset`/`DatasetDict`, a list of dicts, or a
            dict of splits; `settings.data.source` when None.
        base_model: a name from `llmcls models list`, a Hub id, a folder, or a run to go on from.
        template: a template's name, or the path of a `.j2` file.
        text_columns: columns that hold the text.
        label_column: column that holds the label, or several of zeros and ones, each a label.
        output_dir: the run directory to write.
        trust_remote_code: whether code that the base model brings may run, whatever a run to go on from says of that;
            None: as the settings say, which is no.
        settings: a `Settings` tree or nested mapping; the arguments above win over it.
        overwrite: replace an existing run.
        resume: `auto`: go on with an unfinished run; `never`: begin anew; or the path of a checkpoint.
        force: go on although settings or data differ from those of the checkpoint.
        reporter: where progress goes.
        when_checked: called once settings, output and data are known to be good, before anything is said of them or
            any large library is imported; what it raises ends the training.

    Returns:
        The finished run.

    Raises:
        LlmclsError: for bad data, impossible settings, a model that cannot be loaded, a diverging loss, a launcher that
            did not start what it was asked for, a checkpoint of another run, a run that another process trains, or a
            full disk.
        StoppedError: after SIGTERM or SIGINT, when a checkpoint has been written.
    """
    reporter = reporter or Reporter()
    explicit = explicit_settings(settings or {})
    given: dict[str, Any] = settings.model_dump() if isinstance(settings, Settings) else _deep_copy(settings or {})
    for section, key, value in (
        ("data", "source", str(data) if isinstance(data, (str, Path)) else None),
        ("data", "text_columns", text_columns or None),
        ("data", "label_column", label_column),
        ("model", "base_model", base_model),
        ("model", "trust_remote_code", trust_remote_code),
        ("prompt", "template", template),
    ):
        if value is not None:
            given.setdefault(section, {})[key] = value
    if trust_remote_code is not None:
        explicit.setdefault("model", set()).add("trust_remote_code")
    if data is not None and not isinstance(data, (str, Path)):
        given.setdefault("data", {})["source"] = None  # what the settings name is not what it was trained on
    if output_dir is not None:
        given["output_dir"] = str(output_dir)
    resolved = make_settings(given)
    if (start := find_start(resolved.model.base_model)) is not None:
        resolved = start.settle(resolved, explicit, Path(resolved.output_dir) if resolved.output_dir else None)
    if data is None and resolved.data.source is None:
        raise LlmclsError("There is no data to train on; give --data, or data.source in the settings.")
    source = data if data is not None else resolved.data.source
    resolved = resolved.model_copy(update={"model": locate(resolved.model), "data": locate_source(resolved.data)})
    path = Path(resolved.output_dir or default_path(resolved))
    if launched_rank() == 0:
        clear_remains(path)
    with claiming(path) if launched_rank() == 0 else nullcontext():
        while True:
            try:
                return _train(Job(resolved, path, source, start, overwrite, resume, force, reporter, when_checked))
            except DeviceFullError:
                smaller = shrink(resolved.training)
                if smaller is None or launched_size() > 1:
                    raise  # other processes hang in the same step: their launcher must start all anew
            reporter.warn(explain(smaller))
            resolved = resolved.model_copy(update={"training": resolved.training.model_copy(update=smaller)})
            resume = "auto" if resume == "never" else resume
            when_checked = None
            _free_memory()


def _free_memory() -> None:
    """Drop what a failed attempt has left on the device."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def _train(job: Job) -> Run:
    """One attempt, from data to a run directory."""
    stop, begun = StopSignals(job.reporter.say), goes_on(job.path, job.resume)
    with ExitStack() as signals:
        if begun:  # else there is nothing to keep yet, and a signal does what it always does
            signals.enter_context(stop)
        with stop.leaving_at_once(stopped(job.path, "before training went on")):
            material = _read(job)
            prepared = _prepare(job, material)
            unfinished = _join(job, material, prepared)
            model, packed = _load(job, material, prepared)
        if not begun:
            signals.enter_context(stop)
        path, world = unfinished.path, unfinished.world
        with ExitStack() as stack:
            if world.is_main:
                stack.enter_context(writing_run(unfinished, job.overwrite, job.reporter))
            world.wait()
            trainer = _make_trainer(job, material, prepared, unfinished, model, packed)
            trainer.stop = stop
            metrics = _fit(job, unfinished, trainer)
            with stop.leaving_at_once(stopped(path, "after the last step"), come=trainer.signal_has_come()):
                _keep(job, material, prepared, unfinished, trainer, metrics)
            stop.ignore()  # all is done but for the name
        if world.is_main:
            remove_state(path)  # last: whatever fails before, the run can go on
        world.wait()
        return Run.open(path)


@dataclass(frozen=True)
class _Material:
    """What is learnt, and what the machine and the launcher allow."""

    splits: DataSplits
    class_weights: tuple[float, ...] | None
    backend: str
    formats: Formats


def _read(job: Job) -> _Material:
    """Read and check everything that needs no model. Every process does the same work: nobody waits.

    What is wrong with settings, output or data is found before torch is imported, which takes seconds.
    """
    settings = job.settings
    check_free(job.path, job.overwrite)
    if launched_rank() == 0:  # which alone writes there, and may just be clearing it
        check_unfinished(job.path)
    check_not_read(job.path, (settings.data.source, settings.prompt.template, settings.model.base_model))
    backend = requested_backend()
    if job.start is not None:
        job.start.refuse_backend(backend)
    check_names(settings)
    read = read_data(settings, job.data)
    splits, form = read.splits, form_of(settings)
    weights = resolve_class_weights(settings.training.class_weights, splits.labels, splits.train, form)
    if job.when_checked is not None:
        job.when_checked()
    from llmcls.model.hardware import choose_formats

    deepspeed = backend.startswith("zero")
    formats = choose_formats(settings, sharded=backend in SHARDED, training=True, deepspeed=deepspeed)
    check_request(settings, formats, backend)
    formats = replace(formats, quantization=check_by_libraries(settings))
    for line in describe_missing(settings.training, formats.device.type):
        job.reporter.warn(line)
    read.tell(job.reporter)
    return _Material(splits, weights, backend, formats)


@dataclass(frozen=True)
class _Prepared:
    """Encoded rows, and the parts that encoded them."""

    assembly: Assembly
    train_rows: Sequence[dict[str, Any]]
    validation_rows: Sequence[dict[str, Any]]
    truncated: int


def _prepare(job: Job, material: _Material) -> _Prepared:
    """Assemble what turns examples into tokens, and encode them."""
    splits, reporter = material.splits, job.reporter
    start = job.start
    assembly = assemble(job.settings, splits.labels, splits.train, start=start.run if start else None)
    announce(splits, assembly, reporter)
    announce_start(start, job.settings, assembly, reporter)
    train_rows, truncated = encode_rows(assembly, splits.train, reporter, "train")
    validation_rows, _ = encode_rows(assembly, splits.validation, reporter, "validation")
    if truncated:
        reporter.say(f"  {truncated} of {len(train_rows)} training texts were cut to prompt.max_length tokens")
    return _Prepared(assembly, train_rows, validation_rows, truncated)


def _join(job: Job, material: _Material, prepared: _Prepared) -> Unfinished:
    """Join the other processes, and choose the checkpoint to go on from."""
    from llmcls.model.wrapped import import_quickly

    import_quickly()
    from llmcls.training.configuration import make_config

    settings, formats, base = job.settings, material.formats, prepared.assembly.base
    # The configuration before the model: it starts torch.distributed, and tells ZeRO-3 to shard what is loaded.
    config = make_config(
        settings,
        formats,
        base.adapter,
        unfinished_folder(job.path) / "trainer",
        bool(prepared.validation_rows),
    )
    world = join_training(config, material.backend)
    check_agreement(world, formats)
    path = world.share(job.path)  # its default holds the time
    folder, checkpoint = unfinished_folder(path), None
    config.output_dir = str(folder / "trainer")
    identity = describe_run(settings, material.splits.fingerprint, base.fingerprint, world)
    if formats.device.type == "cpu" and formats.mixed_precision != "no":
        identity["number formats"] = formats.arithmetic  # 'auto' may choose others on another machine
    if job.start is not None:
        identity["run it goes on from"] = job.start.run.fingerprint
    if world.is_main:
        best = settings.training.load_best_model_at_end
        checkpoint = choose_checkpoint(folder, job.resume, identity, force=job.force, reporter=job.reporter, best=best)
    unfinished = Unfinished(path, world, identity, world.share(checkpoint), config)
    described = describe_world(world, formats, settings.training)
    job.reporter.say(f"Loading {base.checkpoint} on {described}")
    doubt_weights(prepared.train_rows, effective_batch(settings.training, world.size), job.reporter)
    return unfinished


def _load(job: Job, material: _Material, prepared: _Prepared) -> tuple[Any, bool]:
    """The model, and whether it is trained on packed rows."""
    from transformers import set_seed

    from llmcls.engine.attention import supports_packing

    settings, reporter, assembly = job.settings, job.reporter, prepared.assembly
    set_seed(settings.seed)
    if settings.training.tuning == "full" and settings.lora != LoraSettings():
        reporter.warn("the lora.* settings have no effect: training.tuning 'full' trains all weights.")
    model = load_model(assembly.base, settings.model, material.formats, assembly.head)
    reason = supports_packing(model) if settings.training.packing else None
    if reason:
        reporter.warn(f"training runs on padded batches, which are slower: {reason}.")
    return model, settings.training.packing and reason is None


def _make_trainer(
    job: Job, material: _Material, prepared: _Prepared, unfinished: Unfinished, model: Any, packed: bool
) -> LabelTrainer:
    """Model, rows and objective put together."""
    from llmcls.engine.objectives import Objective
    from llmcls.engine.packing import training_pack_tokens
    from llmcls.training.batches import Collator
    from llmcls.training.trainer import make_trainer

    settings, reporter, assembly = job.settings, job.reporter, prepared.assembly
    training = settings.training
    objective = Objective(
        "sft" if training.objective == "sft" else "label",  # to a head, every label is one token
        training.loss_normalization,
        material.class_weights,
        training.label_smoothing_factor,
    )
    collator = Collator(
        assembly.form.lay_out(assembly.encoder, objective),
        packed=packed,
        pad_token_id=int(assembly.tokenizer.pad_token_id),
        pack_tokens=training_pack_tokens(training.pack_tokens, material.formats.device.type),
    )
    rows = prepared.train_rows, prepared.validation_rows
    trainer = make_trainer(unfinished.config, model, assembly, collator, *rows, settings, reporter)
    if job.start is not None and not job.start.run.whole:
        job.start.load_lora(trainer.model, assembly.head)
    # ZeRO-3 leaves this process a share of each tensor, and says how large the whole is.
    trainable = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad)
    kind = "" if training.tuning == "full" else "LoRA "
    reporter.say(f"Training {trainable:,} {kind}parameters on {len(prepared.train_rows)} rows")
    return trainer


def _fit(job: Job, unfinished: Unfinished, trainer: LabelTrainer) -> dict[str, float]:
    """Train, from the checkpoint if there is one.

    Returns:
        What transformers measures of it.

    Raises:
        StoppedError: when a signal ended it.
    """
    from llmcls.training.callbacks import describe_outcome

    result, state = _run(trainer, unfinished.checkpoint, job.settings), trainer.state
    if trainer.stopping and state.global_step < state.max_steps:
        unfinished.world.wait()
        raise StoppedError(stopped(unfinished.path, f"at step {state.global_step} of {state.max_steps}"))
    for line in describe_outcome(trainer):
        job.reporter.say(line)
    return dict(result.metrics)


def _keep(
    job: Job,
    material: _Material,
    prepared: _Prepared,
    unfinished: Unfinished,
    trainer: LabelTrainer,
    metrics: dict[str, float],
) -> None:
    """Decide on held-out rows what the form decides, and write weights, tokenizer, log and card."""
    from llmcls.training.cost import cost_line, describe_cost

    settings, world, folder = job.settings, unfinished.world, unfinished.folder
    cost = describe_cost(trainer, material.formats)
    decision = _decide(trainer, prepared, job.reporter)
    with explaining_writes(folder):
        save_weights(trainer, folder / ("model" if settings.training.tuning == "full" else "adapter"))
        if world.is_main:
            card = describe(settings, material.splits, prepared.assembly, metrics, prepared.truncated, cost)
            if job.start is not None:
                card["started_from"] = job.start.origin
            write_bad_rows(folder, material.splits.bad_rows)
            formats = material.formats
            card["training"] |= {"backend": world.backend, "processes": world.size}
            card["training"] |= {"dtype": formats.dtype_name, "mixed_precision": formats.mixed_precision}
            write_run(folder, trainer, prepared.assembly, settings, card | {"decision": decision})
            job.reporter.say(cost_line(cost))


def _decide(trainer: LabelTrainer, prepared: _Prepared, reporter: Reporter) -> Decision | None:
    rows = [] if trainer.is_fsdp_enabled else prepared.validation_rows
    # Every process decides: with ZeRO-3 all must run the model.
    decision = prepared.assembly.form.decide(trainer.model, prepared.assembly.encoder, rows, reporter)
    if decision and trainer.is_fsdp_enabled:
        reporter.warn("with 'fsdp' thresholds stay at 0.5: no process has the whole model to tune them with.")
    return decision or None


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


def _deep_copy(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}
