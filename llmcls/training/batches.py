"""Rows into micro-batches: which rows in which order, and how a micro-batch is laid out for the objective.

collator = Collator(answers, goal, packed=True, pad_token_id=0)
dataset = make_dataset(rows, filler=processes > 1)
order = RowOrder(len(rows), multiple=8 * processes, seed=42)     # iterates over positions in the dataset
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset

from llmcls.engine.objectives import Batch, Objective, packed_batch, padded_batch
from llmcls.engine.trie import LabelTrie


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


def make_dataset(rows: Sequence[dict[str, Any]], filler: bool) -> Dataset:
    """The rows, with one more, `filler`, for `RowOrder` to fill up with."""
    if not filler:
        return Dataset.from_list(list(rows))
    return Dataset.from_list([*({**row, "filler": False} for row in rows), {**rows[0], "filler": True}])
