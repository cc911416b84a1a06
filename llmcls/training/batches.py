"""Rows into micro-batches: which rows in which order, and how a micro-batch is laid out for the objective.

    collator = Collator(form.lay_out(encoder, objective), packed=True, pad_token_id=0, pack_tokens=512)
    dataset = make_dataset(rows, filler=processes > 1)
    order = RowOrder(len(rows), multiple=8 * processes, seed=42)     # iterates over positions in the dataset

A micro-batch becomes one or more *packs*, each a forward and a backward of its own. The loss is normalised over the
whole optimizer step, so gradients do not depend on the cutting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from llmcls.ahead import ahead
from llmcls.answers import Answered, Layout
from llmcls.engine.objectives import Objective
from llmcls.engine.packing import TRAINING_PACK_TOKENS, Batch, cut_rows, round_up, training_pack_tokens
from llmcls.engine.scores import Progress
from llmcls.engine.tree import shared_prefix_length

if TYPE_CHECKING:
    from llmcls.runs.assembly import Assembly

GROUPED_STEPS = 50
"""Steps whose rows are sorted by length together (as transformers does): enough to find rows of one length."""


class Collator:
    """Lays rows out as packed token trees, or padded where the model cannot take the packed mask.

    Args:
        layout: how the form of answer lays rows out for the objective.
        packed: packed trees, each of at most `pack_tokens`; else one right-padded batch.
        pad_token_id: of the padded layout.
        pack_tokens: see `cut_rows`.
    """

    def __init__(
        self, layout: Layout, *, packed: bool, pad_token_id: int, pack_tokens: int = TRAINING_PACK_TOKENS["cpu"]
    ) -> None:
        self.layout, self.packed = layout, packed
        self._pad, self._pack_tokens = pad_token_id, pack_tokens

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[Batch]:
        """The packs of a micro-batch of rows with `input_ids` (the prompt) and `label` (the form's target).

        A row may have a `weight`. Rows marked `filler` count nothing; a process that has only those still takes part in
        the step.
        """
        counted = [row for row in rows if not row.get("filler")]
        prompts, targets = [row["input_ids"] for row in counted], [row["label"] for row in counted]
        weights = [row.get("weight", 1.0) for row in counted]
        if not counted:
            return [self.empty()]
        if not self.packed:
            return [self._lay_out(prompts, targets, weights)]
        shared = shared_prefix_length(prompts)
        own = [
            len(ids) - shared + self.layout.tokens_behind(target) for ids, target in zip(prompts, targets, strict=True)
        ]
        parts = cut_rows(own, shared, self._pack_tokens)
        columns = prompts, targets, weights
        return [self._lay_out(*([values[row] for row in part] for values in columns)) for part in parts]

    def empty(self) -> Batch:
        """The smallest pack, of weight zero: keeps a process in step with others that have more packs."""
        batch = self._lay_out([[self.layout.some_token]], [self.layout.some_target], [1.0])
        return batch | {name: batch[name] * 0 for name in ("weights", "normalizer", "counted")}

    def predict(
        self, model: Any, prompts: Sequence[Sequence[int]], batch_size: int, progress: Progress | None = None
    ) -> Answered:
        """What constrained prediction answers, with all labels' probabilities where `layout.probable(model)`."""
        return self.layout.predict(model, prompts, pad_token_id=self._pad, batch_size=batch_size, progress=progress)

    def _lay_out(self, prompts: Sequence[Sequence[int]], targets: Sequence[Any], weights: Sequence[float]) -> Batch:
        if self.packed:
            return round_up(self.layout.packed(prompts, targets, weights))
        return self.layout.padded(prompts, targets, self._pad, weights)


def make_collator(
    assembly: Assembly, class_weights: tuple[float, ...] | None, *, packed: bool, device: str
) -> Collator:
    """What lays rows out as the settings say.

    Args:
        assembly: form of answer, encoder and settings.
        class_weights: one for each label, or None for ones.
        packed: whether the model takes packed trees.
        device: the torch device type.
    """
    training = assembly.settings.training
    objective = Objective(
        "sft" if training.objective == "sft" else "label",  # to a head, every label is one token
        training.loss_normalization,
        class_weights,
        training.label_smoothing_factor,
    )
    return Collator(
        assembly.form.lay_out(assembly.encoder, objective),
        packed=packed,
        pad_token_id=int(assembly.tokenizer.pad_token_id),
        pack_tokens=training_pack_tokens(training.pack_tokens, device),
    )


class RowOrder(torch.utils.data.Sampler[int]):
    """The order of the rows in an epoch, the same for any number of processes and after a resume.

    accelerate fills the last batch of an epoch up with rows from its beginning, so that every process gets some; they
    would count twice. This order fills it up with the `filler` row, which counts nothing.

    Args:
        rows: how many rows there are; the filler is row number `rows`.
        multiple: rows of all processes' micro-batches together; 0: no filler.
        seed: of the order; epoch e uses seed + e. None: as they come.
        lengths: tokens of each row, to give every optimizer step rows of similar length; None: any rows.
        step: rows of an optimizer step, of all processes; needed with `lengths` only.
    """

    def __init__(
        self, rows: int, multiple: int, seed: int | None, *, lengths: Sequence[int] | None = None, step: int = 1
    ) -> None:
        self._rows, self._seed, self._epoch = rows, seed, 0
        self._lengths, self._step = lengths, step
        self._fillers = -rows % multiple if multiple else 0

    def set_epoch(self, epoch: int) -> None:
        """Called by `Trainer` at the start of an epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self._seed is None:
            yield from range(self._rows)
        else:
            generator = torch.Generator().manual_seed(self._seed + self._epoch)
            order: list[int] = torch.randperm(self._rows, generator=generator).tolist()
            yield from order if self._lengths is None else self._grouped(order, self._lengths, generator)
        yield from [self._rows] * self._fillers

    def __len__(self) -> int:
        return self._rows + self._fillers

    def _grouped(self, order: list[int], lengths: Sequence[int], generator: torch.Generator) -> Iterator[int]:
        """Sort stretches of the order by length, cut them into steps, shuffle the steps; an incomplete one is last."""
        window, steps = self._step * GROUPED_STEPS, []
        for start in range(0, len(order), window):
            stretch = sorted(order[start : start + window], key=lambda row: lengths[row])
            steps += [stretch[at : at + self._step] for at in range(0, len(stretch), self._step)]
        last = [steps.pop()] if len(steps[-1]) < self._step else []
        for at in torch.randperm(len(steps), generator=generator).tolist():
            yield from steps[at]
        for rows in last:
            yield from rows


class LaidOutAhead:
    """A data loader whose batches are made by a thread, ahead of the model; in everything else the loader itself.

    The caller's thread starts the loader, which draws from torch's random numbers then; rows are chosen and laid out
    without any.

    Args:
        loader: a `torch.utils.data.DataLoader` without worker processes.
        depth: batches made ahead: a step's.
    """

    def __init__(self, loader: Any, depth: int) -> None:
        self._loader, self._depth = loader, depth

    def __iter__(self) -> Iterator[list[Batch]]:
        return ahead(iter(self._loader), depth=self._depth)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name in ("_loader", "_depth"):  # not there yet: copying makes an object without `__init__`
            raise AttributeError(name)
        return getattr(self._loader, name)


def make_dataset(rows: Sequence[dict[str, Any]], filler: bool) -> Dataset:
    """The rows, with one more, `filler`, for `RowOrder` to fill up with."""
    if not filler:
        return Dataset.from_list(list(rows))
    return Dataset.from_list([*({**row, "filler": False} for row in rows), {**rows[0], "filler": True}])
