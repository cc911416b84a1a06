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
from llmcls.model.calm import calm_libraries
from llmcls.model.kernels import with_usable_attention
from llmcls.model.loading import load_model
from llmcls.processes.stopping import StoppedError, StopSignals
from llmcls.processes.world import join_training, launched_rank, launched_size
from llmcls.runs.assembly import Assembly, assemble
from llmcls.runs.claim import claiming
from llmcls.runs.remains import clear_remains, remove_state
from llmcls.runs.run import Run
from llmcls.runs.writing import (
    check_free,
    check_not_read,
    check_unfinished,
    explaining_writes,
    unfinished_folder,
)
from llmcls.settings import LoraSettings, Settings
from llmcls.training.backends import SHARDED, check_agreement, check_request, describe_world, effective_batch
from llmcls.training.checkpoints import (
    choose_checkpoint,
    describe_run,
)
from llmcls.training.going_on import announce_start
from llmcls.training.job import Job, resolve_job
from llmcls.training.keeping import describe, save_weights, write_bad_rows, write_run
from llmcls.training.length import settle_epochs
from llmcls.training.memory import DeviceFullError, explain, free_memory, run_trainer, shrink
from llmcls.training.outlook import take_stock
from llmcls.training.preparation import (
    Settled,
    announce,
    check_names,
    describe_missing,
    doubt_weights,
    encode_rows,
    read_data,
    resolve_class_weights,
    settle,
)
from llmcls.training.unfinished import Unfinished, goes_on, stopped, writing_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmcls.model.hardware import Formats
    from llmcls.training.trainer import LabelTrainer


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
    origins: Mapping[str, str] | None = None,
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
        origins: where settings were given, by their dotted names, for what is said of them:
            `{"training.learning_rate": "'run.yaml'"}`.

    Returns:
        The finished run.

    Raises:
        LlmclsError: for bad data, impossible settings, a model that cannot be loaded, a diverging loss, a launcher that
            did not start what it was asked for, a checkpoint of another run, a run that another process trains, or a
            full disk.
        StoppedError: after SIGTERM or SIGINT, when a checkpoint has been written.
    """
    job = resolve_job(
        data,
        base_model=base_model,
        template=template,
        text_columns=text_columns,
        label_column=label_column,
        output_dir=output_dir,
        trust_remote_code=trust_remote_code,
        settings=settings,
        overwrite=overwrite,
        resume=resume,
        force=force,
        reporter=reporter or Reporter(),
        when_checked=when_checked,
        origins=origins or {},
    )
    path = job.path
    if launched_rank() == 0:
        clear_remains(path)
    with claiming(path) if launched_rank() == 0 else nullcontext():
        while True:
            try:
                return _train(job)
            except DeviceFullError:
                smaller = shrink(job.settings.training)
                if smaller is None or launched_size() > 1:
                    raise  # other processes hang in the same step: their launcher must start all anew
            job.reporter.warn(explain(smaller))
            training = job.settings.training.model_copy(update=smaller)
            job = replace(
                job,
                settings=job.settings.model_copy(update={"training": training}),
                resume="auto" if job.resume == "never" else job.resume,
                when_checked=None,
            )
            free_memory()


def _train(job: Job) -> Run:
    """One attempt, from data to a run directory."""
    stop, begun = StopSignals(job.reporter.say), goes_on(job.path, job.resume)
    with ExitStack() as signals:
        if begun:  # else there is nothing to keep yet, and a signal does what it always does
            signals.enter_context(stop)
        with stop.leaving_at_once(stopped(job.path, "before training went on")):
            job, material = read_material(job)
            signals.enter_context(calm_libraries())
            prepared = prepare_rows(job, material)
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
class Material:
    """What is learnt, and what the machine and the launcher allow."""

    splits: DataSplits
    class_weights: tuple[float, ...] | None
    backend: str
    formats: Formats
    settled: Settled


def read_material(job: Job) -> tuple[Job, Material]:
    """Read and check everything that needs no model. Every process does the same work: nobody waits.

    What is wrong with settings, output or data is found before torch is imported, which takes seconds.
    """
    settings = job.settings
    check_free(job.path, job.overwrite)
    if launched_rank() == 0:  # which alone writes there, and may just be clearing it
        check_unfinished(job.path)
    check_not_read(job.path, (settings.data.source, settings.prompt.template, settings.model.base_model))
    backend = job.backend
    if job.start is not None:
        job.start.refuse_backend(backend)
    check_names(settings)
    read = read_data(settings, job.data)
    splits, form = read.splits, form_of(settings)
    weights = resolve_class_weights(settings.training.class_weights, splits.labels, splits.train, form)
    if job.when_checked is not None:
        job.when_checked()
    from llmcls.model.hardware import choose_formats

    settled = settle(settings, job.explicit, job.start)
    settings = settled.settings
    lasting = settle_epochs(settings.training, len(splits.train), job.processes)
    if lasting is not settings.training:
        settled.chosen["training.num_train_epochs"] = lasting.num_train_epochs
    settings = settings.model_copy(update={"training": lasting})
    deepspeed = backend.startswith("zero")
    formats = choose_formats(settings, sharded=backend in SHARDED, training=True, deepspeed=deepspeed)
    formats = replace(formats, quantization=settled.held)
    check_request(settings, formats, backend)
    with_usable_attention(settings.model, formats.device, training=True)
    for line in describe_missing(settings.training, formats.device.type):
        job.reporter.warn(line)
    read.tell(job.reporter)
    return replace(job, settings=settings), Material(splits, weights, backend, formats, settled)


@dataclass(frozen=True)
class Prepared:
    """Encoded rows, and the parts that encoded them."""

    assembly: Assembly
    train_rows: Sequence[dict[str, Any]]
    validation_rows: Sequence[dict[str, Any]]
    cut: Sequence[int]  # the training rows whose text was cut


def prepare_rows(job: Job, material: Material, announced: bool = True) -> Prepared:
    """Assemble what turns examples into tokens, and encode them; `announced`: say what is known of the training."""
    splits, reporter = material.splits, job.reporter
    start = job.start
    assembly = assemble(job.settings, splits.labels, splits.train, start=start.run if start else None)
    announce(splits, assembly, reporter, material.settled.why)
    announce_start(start, job.settings, assembly, reporter)
    train_rows, cut = encode_rows(assembly, splits.train, reporter, "train")
    validation_rows, _ = encode_rows(assembly, splits.validation, reporter, "validation")
    prepared = Prepared(assembly, train_rows, validation_rows, cut)
    if announced and not reporter.quiet:
        outlook = take_stock(job, material, prepared)
        for line in outlook.lines():
            reporter.say(line)
        for doubt in outlook.doubts():
            reporter.warn(doubt)
    return prepared


def _join(job: Job, material: Material, prepared: Prepared) -> Unfinished:
    """Join the other processes, and choose the checkpoint to go on from."""
    from llmcls.model.wrapped import import_quickly

    import_quickly()
    from llmcls.training.configuration import make_config

    settings, formats, base = job.settings, material.formats, prepared.assembly.base
    # The configuration before the model: it starts torch.distributed, and tells ZeRO-3 to shard what is loaded.
    folder = unfinished_folder(job.path) / "trainer"
    config = make_config(settings, formats, folder, bool(prepared.validation_rows))
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
    begun_with = settings if job.start is None else job.start.named_in(settings)
    unfinished = Unfinished(path, world, identity, world.share(checkpoint), config, begun_with)
    described = describe_world(world, formats, settings.training)
    job.reporter.say(f"Loading {base.checkpoint} on {described}")
    doubt_weights(prepared.train_rows, effective_batch(settings.training, world.size), job.reporter)
    return unfinished


def _load(job: Job, material: Material, prepared: Prepared) -> tuple[Any, bool]:
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
    job: Job, material: Material, prepared: Prepared, unfinished: Unfinished, model: Any, packed: bool
) -> LabelTrainer:
    """Model, rows and objective put together."""
    from llmcls.training.batches import make_collator
    from llmcls.training.trainer import make_trainer

    settings, reporter, assembly = job.settings, job.reporter, prepared.assembly
    collator = make_collator(assembly, material.class_weights, packed=packed, device=material.formats.device.type)
    rows = prepared.train_rows, prepared.validation_rows
    trainer = make_trainer(unfinished.config, model, assembly, collator, *rows, settings, reporter)
    if job.start is not None and not job.start.run.whole:
        job.start.load_lora(trainer.model, assembly.head)
    # ZeRO-3 leaves this process a share of each tensor, and says how large the whole is.
    trainable = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad)
    kind = "" if settings.training.tuning == "full" else "LoRA "
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

    result, state = run_trainer(trainer, unfinished.checkpoint, job.settings), trainer.state
    if trainer.stopping and state.global_step < state.max_steps:
        unfinished.world.wait()
        raise StoppedError(stopped(unfinished.path, f"at step {state.global_step} of {state.max_steps}"))
    for line in describe_outcome(trainer):
        job.reporter.say(line)
    return dict(result.metrics)


def _keep(
    job: Job,
    material: Material,
    prepared: Prepared,
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
            card = describe(settings, material.splits, prepared.assembly, metrics, len(prepared.cut), cost)
            if job.start is not None:
                card["started_from"] = job.start.origin
            write_bad_rows(folder, material.splits.bad_rows)
            formats = material.formats
            card["training"] |= {"backend": world.backend, "processes": world.size}
            card["training"] |= {"dtype": formats.dtype_name, "mixed_precision": formats.mixed_precision}
            write_run(folder, trainer, prepared.assembly, settings, card | {"decision": decision})
            job.reporter.say(cost_line(cost))


def _decide(trainer: LabelTrainer, prepared: Prepared, reporter: Reporter) -> Decision | None:
    rows = [] if trainer.is_fsdp_enabled else prepared.validation_rows
    # Every process decides: with ZeRO-3 all must run the model.
    decision = prepared.assembly.form.decide(trainer.model, prepared.assembly.encoder, rows, reporter)
    if decision and trainer.is_fsdp_enabled:
        reporter.warn("with 'fsdp' thresholds stay at 0.5: no process has the whole model to tune them with.")
    return decision or None
