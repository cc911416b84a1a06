"""What is known of a training before it begins: its labels, lengths, steps, learning rate, parameters, memory.

for line in take_stock(job, material, prepared).lines(): reporter.say(line)

      Labels   billing 12 (50%), delivery 12 (50%)
      Lengths  median 6 tokens, 95% at most 8, longest 9, beside 46 of the prompt
      Cut      none: prompt.max_length is 1,024
      Steps    9 of 8 rows: 3 epochs of 3
      ...

No weight is loaded for it. `--dry-run` ends here.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmcls.memory_use import machine_memory, resident
from llmcls.model.adapter import BaseModelAdapter
from llmcls.records import Example
from llmcls.settings import Settings, TrainingSettings
from llmcls.training.backends import effective_batch
from llmcls.training.footprint import Footprint, Held, Load, estimate
from llmcls.training.length import EPOCHS

if TYPE_CHECKING:
    from llmcls.labels import LabelSet
    from llmcls.runs.assembly import Assembly
    from llmcls.training.job import Job
    from llmcls.training.train import Material, Prepared

WIDTH = 80
SKEWED = 3
"""From how many times the rows of the rarest label on the most frequent one has too many to go without a word."""
NAMED = 6
"""Labels that are listed one by one."""
LONGEST_NAME = 30
"""Characters of a label that are shown."""
UNLABELLED = "(no label)"
"""How rows without any label are counted."""
SAMPLED = 40
"""Batches that are laid out, and cut texts whose tokens are counted; the more, the longer it takes."""
COMPARED = 1000
"""Prompts that are looked at to find out what all of them share."""


@dataclass(frozen=True)
class Outlook:
    """The facts.

    Attributes:
        labels: training rows of each label, in the order of the label set.
        rows: training rows.
        unlabelled: those with no label at all, where a row may have several.
        several: whether a row may have several labels.
        weighted: `training.class_weights`.
        numbers: whether all labels that the model is to write are numbers.
        lengths: tokens of each text as the model will read it, ascending.
        frame: tokens of a prompt besides its text.
        max_length: the tokens that prompt and answer may have.
        cut: texts that are cut, by label.
        kept: the share of its tokens that a cut text keeps, on average; None where none is cut.
        steps: optimizer steps.
        batch: rows of a step.
        training: the settings of the optimisation.
        lengthened: whether it has more epochs than usual because rows are few.
        learning_rate: the peak.
        rate_origin: where it comes from.
        parameters: of the model, those that are added included.
        trained: how many are trained.
        kind: what these are.
        memory: the peak; see `llmcls.training.footprint`.
        device: whose memory.
        available: bytes of it; None where the system does not tell.
    """

    labels: Mapping[str, int]
    rows: int
    unlabelled: int
    several: bool
    weighted: bool
    numbers: bool
    lengths: Sequence[int]
    frame: int
    max_length: int
    cut: Mapping[str, int]
    kept: float | None
    steps: int
    batch: int
    training: TrainingSettings
    lengthened: bool
    learning_rate: float
    rate_origin: str
    parameters: int
    trained: int
    kind: str
    memory: Footprint
    device: str
    available: int | None

    @property
    def skewed(self) -> bool:
        """Whether some label has many times the rows of another."""
        rarest = min(self.labels.values())
        return rarest > 0 and max(self.labels.values()) >= SKEWED * rarest

    @property
    def seen(self) -> float:
        """How often a training row is seen; the last step of a pass may have fewer rows than the others."""
        passes, further = divmod(self.steps, math.ceil(self.rows / self.batch))
        return passes + further * self.batch / self.rows

    def lines(self) -> Iterator[str]:
        """Lines of at most 80 columns, unless a name is longer."""
        for name, text in (
            ("Labels", self._labels()),
            ("", self._skew()),
            ("", "Labels that are numbers tell an LLM nothing; data.label_aliases names them." * self.numbers),
            ("Lengths", self._lengths()),
            ("Cut", self._cut()),
            ("Steps", self._steps()),
            ("Rate", f"{self.learning_rate:g} at its peak, {self.rate_origin}"),
            ("Trained", f"{self.trained:,} of {self.parameters:,} parameters ({self._share()}), {self.kind}"),
            ("Memory", self._memory()),
        ):
            if text:
                yield textwrap.fill(
                    text,
                    WIDTH,
                    initial_indent=f"  {name:<9}",
                    subsequent_indent=" " * 11,
                    break_long_words=False,
                    break_on_hyphens=False,
                )

    def figures(self) -> dict[str, Any]:
        """The same, for programs."""
        return {
            "labels": dict(self.labels),
            "rows": self.rows,
            "tokens": {"median": _quantile(self.lengths, 0.5), "longest": self.lengths[-1], "prompt": self.frame},
            "max_length": self.max_length,
            "cut": dict(self.cut),
            "steps": self.steps,
            "rows_per_step": self.batch,
            "epochs": self.seen,
            "learning_rate": self.learning_rate,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "memory_bytes": self.memory.total,
            "memory": {name: round(size) for name, size in asdict(self.memory).items()},
        }

    def doubts(self) -> Iterator[str]:
        """What will not work on this machine."""
        if self.available is not None and self.memory.total > self.available:
            yield (
                f"training will need about {self.memory.total / 1e9:.1f} GB of the {self.device}'s memory, which has "
                f"{self.available / 1e9:.1f} GB; lower training.per_device_train_batch_size or prompt.max_length, or "
                "set training.gradient_checkpointing to true."
            )

    def _labels(self) -> str:
        ordered = sorted(self.labels.items(), key=lambda label: -label[1])
        if len(ordered) <= NAMED:
            found = ", ".join(self._rows_of(*label) for label in ordered)
        else:
            found = f"{len(ordered):,}, from {self._rows_of(*ordered[0])} to {self._rows_of(*ordered[-1])}"
        if self.several:
            found += f"; {sum(self.labels.values()) / self.rows:.1f} a row"
            found += f", {_rows(self.unlabelled)} without any" * (self.unlabelled > 0)
        return found

    def _rows_of(self, name: str, count: int) -> str:
        return f"{_short(name)} {count:,} ({_percent(count / self.rows)})"

    def _skew(self) -> str:
        if not self.skewed or self.weighted:
            return ""
        return "Skewed: --set training.class_weights=balanced evens the labels out."

    def _lengths(self) -> str:
        half, most = _quantile(self.lengths, 0.5), _quantile(self.lengths, 0.95)
        return (
            f"{half:,} tokens (median), 95% up to {most:,}, longest {self.lengths[-1]:,}; "
            f"the prompt adds {self.frame:,}"
        )

    def _cut(self) -> str:
        limit = f"prompt.max_length is {self.max_length:,}"
        if not (total := sum(self.cut.values())) or self.kept is None:
            return f"none; {limit}"
        which = "1 text, which keeps" if total == 1 else f"{total:,} texts, which keep"
        of = {**self.labels, UNLABELLED: self.unlabelled}
        shares = {name: count / of[name] for name, count in self.cut.items()}
        worst = sorted(self.cut, key=lambda name: -shares[name])[:3]
        named = ", ".join(f"{_short(name)} {_percent(shares[name])}" for name in worst)
        return (
            f"{which} {_percent(self.kept)} of {'its' if total == 1 else 'their'} tokens ({limit}); "
            f"of each label: {named}{', ...' if len(self.cut) > len(worst) else ''}"
        )

    def _steps(self) -> str:
        each = f"{self.steps:,} of {min(self.batch, self.rows):,} rows"
        if self.training.max_steps > 0:
            seen = f"{self.seen:.3g} passes over the" if self.seen >= 1 else f"{_percent(self.seen)} of the"
            return f"{each} (training.max_steps): {seen} {self.rows:,} rows"
        epochs = self.training.num_train_epochs or EPOCHS
        few = ", so many because rows are few (--epochs)" if self.lengthened else ""
        return f"{each}: {epochs:g} epoch{'s' * (epochs != 1)} of {self.rows:,} rows{few}"

    def _share(self) -> str:
        return _percent(self.trained / self.parameters)

    def _memory(self) -> str:
        found, of = self.memory, f" of {self.available / 1e9:,.0f}" if self.available else ""
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in found.parts.items() if size > found.total / 20)
        where = " on the GPU" if self.device == "GPU" else ""
        return f"about {found.total / 1e9:.2f}{of} GB{where} ({parts})"


def take_stock(job: Job, material: Material, prepared: Prepared) -> Outlook:
    """Find out what is known before any weight is loaded.

    Args:
        job: what is asked for.
        material: the data, and what the machine allows.
        prepared: the encoded rows.

    Raises:
        LlmclsError: when LoRA does not fit the model, or its architecture has no classification head.
    """
    held = resident() or 0  # before the libraries that only training needs
    from llmcls.training.batches import make_collator
    from llmcls.training.skeleton import measure_shape

    settings, splits, formats = job.settings, material.splits, material.formats
    training, assembly, rows = settings.training, prepared.assembly, prepared.train_rows
    names = splits.labels.names
    shape, packed = measure_shape(assembly)
    device = formats.device.type
    collator = make_collator(assembly, material.class_weights, packed=packed, device=device)
    compute = 2 if formats.mixed_precision != "no" else formats.dtype.itemsize
    load = _heaviest(collator, rows, training, packed)
    prompts = [row["input_ids"] for row in rows]
    frame = _shared_length(prompts[:: 1 + len(prompts) // COMPARED])
    labels = Counter(name for example in splits.train for name in example.names)
    cut = Counter(name for at in prepared.cut for name in splits.train[at].names or (UNLABELLED,))
    learning_rate, origin = find_rate(settings, assembly.base.adapter, material.settled.chosen, job.origins)
    lora = training.tuning != "full"
    tokens = sum(map(len, prompts)) + sum(len(row["input_ids"]) for row in prepared.validation_rows)
    return Outlook(
        labels={name: labels[name] for name in names},
        rows=len(rows),
        unlabelled=sum(not example.names for example in splits.train),
        several=assembly.form.rules.several,
        weighted=training.class_weights != "none",
        numbers=are_numbers(assembly.encoder.labels) and assembly.head is None,
        lengths=sorted(max(0, len(ids) - frame) for ids in prompts),
        frame=frame,
        max_length=assembly.encoder.max_length,
        cut=cut,
        kept=_kept(assembly, [(splits.train[at], len(prompts[at]) - frame) for at in prepared.cut[:SAMPLED]]),
        steps=count_steps(training, len(rows), job.processes),
        batch=effective_batch(training, job.processes),
        training=training,
        lengthened=material.settled.chosen.get("training.num_train_epochs", EPOCHS) > EPOCHS,
        learning_rate=learning_rate,
        rate_origin=origin,
        parameters=shape.weights + (shape.trained if lora else 0),
        trained=shape.trained,
        kind=(f"LoRA of rank {settings.lora.r}" + " and the head" * (assembly.head is not None))
        if lora
        else "all weights",
        memory=estimate(
            shape,
            Load(*load, tokens),
            Held(
                device,
                formats.quantization,
                formats.dtype.itemsize,
                compute,
                optim=training.optim,
                dropout=settings.lora.lora_dropout > 0,
                full=not lora,
                checkpointing=training.gradient_checkpointing,
                processes=job.processes,
                backend=job.backend,
                resident=held,
            ),
        ),
        device="machine" if device == "cpu" else "GPU",
        available=_available(device, job.processes),
    )


def count_steps(training: TrainingSettings, rows: int, processes: int) -> int:
    """Optimizer steps, as transformers counts them.

    >>> count_steps(TrainingSettings(num_train_epochs=2, gradient_accumulation_steps=2), rows=40, processes=1)
    6
    """
    if training.max_steps > 0:
        return training.max_steps
    passes = math.ceil(rows / (training.per_device_train_batch_size * processes))
    steps = max(1, math.ceil(passes / training.gradient_accumulation_steps))
    return math.ceil((training.num_train_epochs or EPOCHS) * steps)


def find_rate(
    settings: Settings, adapter: BaseModelAdapter, chosen: Collection[str], origins: Mapping[str, str]
) -> tuple[float, str]:
    """The peak learning rate, and where it comes from."""
    training, full = settings.training, settings.training.tuning == "full"
    rate, name = training.learning_rate, "full_learning_rate" if full else "learning_rate"
    if rate is not None and "training.learning_rate" not in chosen:
        return rate, f"as {origins.get('training.learning_rate', 'training.learning_rate')} says"
    suggested: float = getattr(adapter, name)
    if suggested == getattr(BaseModelAdapter, name):
        return suggested, f"the default {'of training.tuning full' if full else 'of LoRA'} (--learning-rate)"
    return suggested, f"suggested by adapter {adapter.name} (--learning-rate)"


def are_numbers(labels: LabelSet) -> bool:
    """Whether the model is to write nothing but numbers, of which nobody has said what they mean."""
    return all(spelling.isdecimal() for spelling in labels.spellings) and not any(
        label.description or label.code for label in labels
    )


def _heaviest(
    collator: Any, rows: Sequence[dict[str, Any]], training: TrainingSettings, packed: bool
) -> tuple[int, int, int]:
    """Tokens, mask elements and scored places of the largest forward pass among some batches, by chance."""
    import torch

    size = training.per_device_train_batch_size
    # The longest rows may meet in a batch, but hardly do: rows are drawn as training draws them.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    batches = ([rows[at] for at in order[start : start + size]] for start in range(0, len(order), size))
    packs = [pack for batch in islice(batches, SAMPLED) for pack in collator(batch)]
    found = max(packs, key=lambda pack: pack["input_ids"].numel())["input_ids"]
    tokens, width = found.numel(), found.shape[1]
    places = max(pack["points"].numel() for pack in packs) if packed else tokens
    return tokens, tokens * width, places


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """The tokens that all prompts begin with, and those that they end with."""
    from llmcls.engine.tree import shared_prefix_length

    if len(prompts) < 2:
        return 0
    before = shared_prefix_length(prompts)
    return before + shared_prefix_length([[*reversed(ids[before:]), -1] for ids in prompts])


def _kept(assembly: Assembly, cut: Sequence[tuple[Example, int]]) -> float | None:
    """The share of their tokens that texts keep which are cut to these lengths."""
    if not cut:
        return None
    whole = [len(assembly.tokenizer(example.text, add_special_tokens=False)["input_ids"]) for example, _ in cut]
    return min(1.0, sum(length for _, length in cut) / max(1, sum(whole)))


def _available(device: str, processes: int) -> int | None:
    """Bytes for one process; those of a CPU share the machine's memory."""
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    memory = machine_memory() if device == "cpu" else None
    return None if memory is None else memory // processes


def _quantile(ascending: Sequence[int], share: float) -> int:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _percent(share: float) -> str:
    """Two digits that count, and 100% for all only.

    >>> _percent(0.25), _percent(0.0123), _percent(0.00041), _percent(1.0)
    ('25%', '1.2%', '0.041%', '100%')
    """
    percent = 100 * share
    if percent >= 10 or percent == 0:
        return f"{percent:.0f}%"
    return f"{float(f'{percent:.2g}'):g}%"
