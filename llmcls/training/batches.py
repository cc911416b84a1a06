"""Rows into micro-batches: which rows in which order, and how a micro-batch is laid out for the objective.

    collator = Collator(answers, goal, packed=True, pad_token_id=0, pack_tokens=512)
    dataset = make_dataset(rows, filler=processes > 1)
    order = RowOrder(len(rows), multiple=8 * processes, seed=42)     # iterates over positions in the dataset

A micro-batch becomes one or more *packs*, each a forward and a backward of its own. The loss is normalised over the
whole optimizer step, so gradients do not depend on the cutting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset

from llmcls.engine.decoder import has_head, supports_packing
from llmcls.engine.objectives import Batch, Objective, packed_batch, padded_batch
from llmcls.engine.scorer import Method, make_scorer
from llmcls.engine.tree import shared_prefix_length
from llmcls.engine.trie import LabelTrie
from llmcls.training.validation import label_metrics

PACK_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens per forward in training. The dense mask costs pack length squared, small packs waste launches and traffic."""

LENGTH_MULTIPLE = 32
"""Pack lengths are rounded up to multiples of this by tokens that nothing sees. oneDNN compiles and keeps kernels for
every length (bfloat16 on a CPU: 17 MB for each with nano), and CUDA's attention pads masks of odd width itself."""

GROUPED_STEPS = 50
"""Steps whose rows are sorted by length together (as transformers does): enough to find rows of one length."""


class Collator:
    """Lays rows out as packed token trees, or padded where the model cannot take the packed mask.

    Args:
        answers: tokenised answers, one per label, end token included; or a ready `LabelTrie`, which may have aliases.
        goal: what is to be learned.
        packed: packed trees, each of at most `pack_tokens`; else one right-padded batch.
        pad_token_id: of the padded layout.
        pack_tokens: see `cut_rows`.
    """

    def __init__(
        self,
        answers: Sequence[Sequence[int]] | LabelTrie,
        goal: Objective,
        *,
        packed: bool,
        pad_token_id: int,
        pack_tokens: int = PACK_TOKENS["cpu"],
    ) -> None:
        self.packed, self.trie = packed, answers if isinstance(answers, LabelTrie) else LabelTrie(answers)
        self._goal, self._pad, self._pack_tokens = goal, pad_token_id, pack_tokens
        self._some_label: Any = 0
        self.shape: tuple[int, ...] = ()  # of what a row has in `label`

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[Batch]:
        """The packs of a micro-batch of rows with `input_ids` (the prompt) and `label` (position).

        Rows marked `filler` count nothing; a process that has only those still takes part in the step.
        """
        counted = [row for row in rows if not row.get("filler")]
        prompts, labels = [row["input_ids"] for row in counted], [row["label"] for row in counted]
        if not counted:
            return [self.empty()]
        if not self.packed:
            return [self._lay_out(prompts, labels)]
        shared = shared_prefix_length(prompts)
        own = [len(ids) - shared + self._behind(label) for ids, label in zip(prompts, labels, strict=True)]
        parts = cut_rows(own, shared, self._pack_tokens)
        return [self._lay_out([prompts[row] for row in part], [labels[row] for row in part]) for part in parts]

    def empty(self) -> Batch:
        """The smallest pack, of weight zero: keeps a process in step with others that have more packs."""
        batch = self._lay_out([self.trie.answers[0][:1]], [self._some_label])
        return batch | {"weights": batch["weights"] * 0, "normalizer": batch["normalizer"] * 0}

    def predict(self, model: Any, prompts: Sequence[Sequence[int]], batch_size: int) -> torch.Tensor:
        """What constrained prediction answers, as rows have it in `label`: (rows,) int64 positions."""
        slow: Method = "reference" if has_head(model) else "generate"
        method = slow if supports_packing(model) else "exact"
        scorer = make_scorer(model, self.trie, method=method, pad_token_id=self._pad, batch_size=batch_size)
        return scorer.score(prompts).predicted

    def measure(self, true: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
        """Figures of the validation split; both as rows have it in `label`."""
        return label_metrics(true, predicted)

    def _behind(self, label: Any) -> int:
        """How many tokens follow a row's prompt, at most."""
        return len(self.trie.answers[label])

    def _lay_out(self, prompts: Sequence[Sequence[int]], labels: Sequence[Any]) -> Batch:
        if self.packed:
            return round_up(packed_batch(prompts, labels, self.trie, self._goal))
        return padded_batch(prompts, labels, self.trie, self._goal, pad_token_id=self._pad)


def cut_rows(own: Sequence[int], shared: int, pack_tokens: int) -> list[list[int]]:
    """Cut rows into as few packs as fit, of nearly equal size.

    Each pack repeats the shared prefix and its mask costs its length squared. With P shared tokens and S of the rows'
    own, a pack costs (P + S) + (P + S)^2 / c for S useful tokens, which is least at S = sqrt(P (P + c)) > P: below P
    own tokens a pack is never worth its prefix, whatever `pack_tokens` says.

    Args:
        own: tokens of each row without the shared prefix.
        shared: length of the prefix.
        pack_tokens: most tokens of a pack; only long prefixes and single long rows exceed it.

    Returns:
        Row numbers, each once, ascending within a pack.
    """
    capacity = max(pack_tokens - shared, shared, *own)
    longest_first = sorted(range(len(own)), key=lambda row: -own[row])
    count = -(-sum(own) // capacity)
    while True:
        packs: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for row in longest_first:
            smallest = sizes.index(min(sizes))
            packs[smallest].append(row)
            sizes[smallest] += own[row]
        if max(sizes) <= capacity:
            return [sorted(pack) for pack in packs]
        count += 1


def round_up(pack: Batch) -> Batch:
    """The pack with filler tokens up to a multiple of `LENGTH_MULTIPLE`; no other token sees them."""
    length = pack["input_ids"].shape[1]
    extra = -length % LENGTH_MULTIPLE
    own_end = torch.arange(length + 1, length + extra + 1)[None]  # visible to itself only
    return pack | {
        "input_ids": torch.nn.functional.pad(pack["input_ids"], (0, extra)),
        "position_ids": torch.nn.functional.pad(pack["position_ids"], (0, extra)),
        "tree_exit": torch.cat([pack["tree_exit"], own_end], dim=1),
    }


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


def make_dataset(rows: Sequence[dict[str, Any]], filler: bool) -> Dataset:
    """The rows, with one more, `filler`, for `RowOrder` to fill up with."""
    if not filler:
        return Dataset.from_list(list(rows))
    return Dataset.from_list([*({**row, "filler": False} for row in rows), {**rows[0], "filler": True}])
