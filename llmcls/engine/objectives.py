"""Training objectives on the token tree: lay out a micro-batch, then its loss.

    goal = Objective("label", class_weights=(1.0, 4.0), label_smoothing=0.05)
    batch = packed_batch(prompts, labels, trie, goal)         # a dict of CPU tensors, for a collator
    loss = packed_loss(model, batch)                          # after the trainer has moved the dict to the device
    logits = packed_logits(model, batch)                      # the same in two steps, for more figures of one forward
    loss, right = loss_of(logits, batch), rows_right(logits.detach(), batch)

The model's own `forward` runs (so DDP, FSDP, ZeRO, PEFT and checkpointing see it) over ONE sequence: the shared prefix
once, with gradients, then each row's own tokens and the path of its label. Logits exist at label positions only.
`padded_batch` and `padded_loss` are the usual padded forward with full logits, kept as reference and fallback; in
float32 both give the same loss and gradients to 1e-5. Dropout differs: rows share the prefix and its dropout mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from llmcls.engine.attention import attention_mask, windows_of
from llmcls.engine.packing import Batch
from llmcls.engine.tree import Branch, RowForest, chain, check_prompts, join, shared_prefix_length
from llmcls.engine.trie import Ints, LabelTrie
from llmcls.errors import LlmclsError, unknown


@dataclass(frozen=True)
class Objective:
    """What the model learns at the label positions.

    Let row i have the answer y_1 ... y_n (end token included; the label's own where it has aliases) and the weight w_i,
    its own times that of its class, and let ce(k) be the cross-entropy of y_k at its position (label smoothing e as in
    torch: target 1 - e + e/K on y_k, e/K on the other K - 1 choices).

    Attributes:
        name: `sft`: the choices are the whole vocabulary, at every answer token.
            `label`: the choices are the tokens by which some label continues (the trie's children), at branch points
            only; without smoothing `sum_k ce(k) = -local[i, label_i]`, the distribution that prediction decodes; with
            aliases an upper bound of it, since prediction adds their probabilities to that of the label's own answer.
        normalization: of `sft`; `example`: `sum_i w_i (1/n_i) sum_k ce(k) / sum_i w_i`, long labels do not outweigh
            short ones; `token`: `sum_i w_i sum_k ce(k) / sum_i w_i n_i`, as TRL does. `label` is always
            `sum_i w_i sum_k ce(k) / sum_i w_i`.
        class_weights: one positive weight per label, or None for ones.
        label_smoothing: e, at least 0 and below 1.

    Raises:
        LlmclsError: for an unknown name or normalization, weights that are not positive, smoothing out of range.
    """

    name: Literal["sft", "label"] = "sft"
    normalization: Literal["example", "token"] = "example"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("sft", "label"):
            raise LlmclsError(unknown("objective", self.name, ["sft", "label"]))
        if self.normalization not in ("example", "token"):
            raise LlmclsError(unknown("normalization", self.normalization, ["example", "token"]))
        for label, weight in enumerate(self.class_weights or ()):
            if not 0 < weight < float("inf"):
                raise LlmclsError(f"Class weight {weight} of label {label} must be a positive finite number.")
        if not 0 <= self.label_smoothing < 1:
            raise LlmclsError(f"label_smoothing is {self.label_smoothing}, but must be at least 0 and below 1.")

    def weight(self, label: int) -> float:
        """Class weight of a label."""
        return 1.0 if self.class_weights is None else self.class_weights[label]


def packed_batch(
    prompts: Sequence[Sequence[int]],
    labels: Sequence[int],
    trie: LabelTrie,
    objective: Objective,
    row_weights: Sequence[float] | None = None,
) -> Batch:
    """Lay a micro-batch out as one token tree.

    Args:
        prompts: token ids, each prompt at least one token.
        labels: index of each row's true label in the trie's answers.
        trie: the label set.
        objective: what is to be learned.
        row_weights: (rows,) 0 or more, beside the weights of classes; None for ones.

    Returns:
        CPU tensors: `input_ids`, `position_ids`, `tree_exit` (1, tokens); `points` (n,) places of the hidden states
        that are scored; and, as `padded_batch`, `targets`, `weights` (n,), `normalizer`, `label_smoothing` (),
        `row` (n,) the row of each place, `counted` (rows,) 1 for every row that counts in `rows_right`,
        for `label` also `choices` (n, most choices), padded by -1, into whose columns `targets` points.

    Raises:
        LlmclsError: for no rows, a prompt without tokens, a label out of range, weights for another number of labels.
    """
    rows = _check(prompts, labels, trie, objective)
    steps = [_steps(trie, label, objective) for label in labels]
    # The last scored step needs its own hidden state only, so the tokens after it are never fed.
    branches = [
        Branch.path(trie.answers[label][: max(row_steps, default=0)])
        for label, row_steps in zip(labels, steps, strict=True)
    ]
    layout, last_own = lay_out_tree(rows, branches)
    points = [int(last) + step for last, row_steps in zip(last_own, steps, strict=True) for step in row_steps]
    return {
        **layout,
        "points": torch.tensor(points, dtype=torch.int64),
        **_targets(labels, steps, trie, objective, row_weights),
    }


def lay_out_tree(rows: Sequence[list[int]], branches: Sequence[Branch]) -> tuple[Batch, Ints]:
    """Rows and what follows each as one packed sequence, below the longest prefix that all rows share.

    Returns:
        `input_ids`, `position_ids` and `tree_exit`, (1, tokens) each; and (rows,) the place of each row's last own
        token.
    """
    shared = shared_prefix_length(rows)
    forest = RowForest([row[shared:] for row in rows], branches, shared)
    tree = join(chain(rows[0][:shared]), forest.slice(0, forest.size))
    layout = {
        "input_ids": torch.from_numpy(tree.tokens)[None],
        "position_ids": torch.from_numpy(tree.positions)[None],
        "tree_exit": torch.from_numpy(tree.exit)[None],
    }
    return layout, forest.row_start[:-1] + forest.own_length - 1 + shared


def packed_loss(model: Any, batch: Batch, normalizer: torch.Tensor | float | None = None) -> torch.Tensor:
    """The objective's loss of a `packed_batch`, a float32 scalar with gradients.

    Args:
        model: a causal LM that `supports_packing`, possibly wrapped (PEFT, DDP, FSDP, DeepSpeed).
        batch: what `packed_batch` returned, on the model's device.
        normalizer: what to divide by instead of this batch's own `batch["normalizer"]`; the sum over all micro-batches
            of a step makes gradient accumulation equal to one large batch.
    """
    return loss_of(packed_logits(model, batch), batch, normalizer)


def packed_logits(model: Any, batch: Batch) -> torch.Tensor:
    """The logits (n, vocabulary) of the scored places of a `packed_batch`; see `packed_loss`."""
    exits = batch["tree_exit"][0]
    enter = torch.arange(len(exits), device=exits.device)
    mask, positions = attention_mask(enter, enter, exits), batch["position_ids"][0]
    logits: torch.Tensor = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=windows_of(model).narrow(mask, positions, positions),
        logits_to_keep=batch["points"],
        use_cache=False,
    ).logits
    return logits[0]


def padded_batch(
    prompts: Sequence[Sequence[int]],
    labels: Sequence[int],
    trie: LabelTrie,
    objective: Objective,
    row_weights: Sequence[float] | None = None,
    *,
    pad_token_id: int,
) -> Batch:
    """Lay a micro-batch out as right-padded sequences of prompt and answer, its last token aside, which is only said.

    Arguments, errors and the target tensors are those of `packed_batch`; the layout is `input_ids` and
    `attention_mask` (rows, longest), with `points` counting through the flattened (rows x longest).
    """
    rows = _check(prompts, labels, trie, objective)
    steps = [_steps(trie, label, objective) for label in labels]
    sequences = [row + list(trie.answers[label][:-1]) for row, label in zip(rows, labels, strict=True)]
    width = max(map(len, sequences))
    points = [
        at * width + len(row) - 1 + step
        for at, (row, row_steps) in enumerate(zip(rows, steps, strict=True))
        for step in row_steps
    ]
    return {
        **pad_right(sequences, width, pad_token_id),
        "points": torch.tensor(points, dtype=torch.int64),
        **_targets(labels, steps, trie, objective, row_weights),
    }


def pad_right(sequences: Sequence[list[int]], width: int, pad_token_id: int) -> Batch:
    """`input_ids` and `attention_mask`, (sequences, width) each."""
    return {
        "input_ids": torch.tensor([ids + [pad_token_id] * (width - len(ids)) for ids in sequences]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]),
    }


def padded_loss(model: Any, batch: Batch, normalizer: torch.Tensor | float | None = None) -> torch.Tensor:
    """The same loss from a `padded_batch` by a plain forward with logits at every position."""
    return loss_of(padded_logits(model, batch), batch, normalizer)


def padded_logits(model: Any, batch: Batch) -> torch.Tensor:
    """The logits (n, vocabulary) of the scored places of a `padded_batch`."""
    logits: torch.Tensor = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits
    return logits.flatten(0, 1)[batch["points"]]


def loss_of(logits: torch.Tensor, batch: Batch, normalizer: torch.Tensor | float | None = None) -> torch.Tensor:
    """Weighted cross-entropy of the scored places, from their logits (n, vocabulary); see `packed_loss`."""
    logits = _among_choices(logits, batch)
    valid = batch["choices"] >= 0 if "choices" in batch else torch.ones_like(logits, dtype=torch.bool)
    log_probs = logits.float().log_softmax(1)
    nll = -log_probs.gather(1, batch["targets"][:, None])[:, 0]
    smoothing = batch["label_smoothing"]
    uniform = -log_probs.masked_fill(~valid, 0.0).sum(1) / valid.sum(1)
    losses = (1 - smoothing) * nll + smoothing * uniform
    return (losses * batch["weights"]).sum() / (batch["normalizer"] if normalizer is None else normalizer)


def rows_right(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """How many rows the model has right, and how many rows there are: (2,), on the logits' device.

    A row is right where the target is the largest of its choices at every scored place: for `sft` every answer token
    is the most probable one of the vocabulary; for `label` every branch leads to the row's answer (one of its aliases
    is not it); for yes or no about every label all of them are right.

    Args:
        logits: (n, vocabulary) of the scored places, from `packed_logits` or `padded_logits`.
        batch: what they were computed of.
    """
    missed = _among_choices(logits, batch).argmax(1) != batch["targets"]
    misses = torch.zeros_like(batch["counted"]).index_add_(0, batch["row"], missed.to(batch["counted"]))
    # A product: picking by a mask would wait for the device.
    return torch.stack([(batch["counted"] * (misses == 0)).sum(), batch["counted"].sum()])


def _among_choices(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The logits (n, choices) of what each place chooses from, minus infinity where there is none; for `sft` all."""
    if "choices" not in batch:
        return logits
    # Before they become float32, which the whole vocabulary need not.
    choices = batch["choices"]
    return logits.gather(1, choices.clamp(min=0)).masked_fill(choices < 0, float("-inf"))


def _steps(trie: LabelTrie, label: int, objective: Objective) -> list[int]:
    """Which answer tokens of a label are scored, counted from 0."""
    path = trie.path(int(trie.leaf[label]))
    if objective.name == "sft":
        return list(range(len(path)))
    return np.flatnonzero(trie.degree[trie.parent[path]] > 1).tolist()


def _targets(
    labels: Sequence[int],
    steps: Sequence[Sequence[int]],
    trie: LabelTrie,
    objective: Objective,
    row_weights: Sequence[float] | None,
) -> Batch:
    own = [1.0] * len(labels) if row_weights is None else row_weights
    by_row = [objective.weight(label) * weight for label, weight in zip(labels, own, strict=True)]
    targets: list[int] = []
    weights: list[float] = []
    choices: list[torch.Tensor] = []
    for label, weight, row_steps in zip(labels, by_row, steps, strict=True):
        path = trie.path(int(trie.leaf[label]))
        per_example = objective.name == "sft" and objective.normalization == "example"
        weights += [weight / len(row_steps) if per_example else weight] * len(row_steps)
        for step in row_steps:
            token = trie.answers[label][step]
            if objective.name == "label":
                valid = trie.token[trie.children(int(trie.parent[path[step]]))]
                targets.append(int(np.searchsorted(valid, token)))
                choices.append(torch.from_numpy(valid))
            else:
                targets.append(token)
    by_token = objective.name == "sft" and objective.normalization == "token"
    batch = {
        "targets": torch.tensor(targets, dtype=torch.int64),
        "weights": torch.tensor(weights, dtype=torch.float32),
        "normalizer": torch.tensor(sum(weights) if by_token else sum(by_row)),
        "label_smoothing": torch.tensor(objective.label_smoothing),
        "row": torch.arange(len(labels)).repeat_interleave(torch.tensor([len(row_steps) for row_steps in steps])),
        "counted": torch.ones(len(labels)),
    }
    if objective.name == "label":
        batch["choices"] = torch.nn.utils.rnn.pad_sequence(choices, batch_first=True, padding_value=-1)
    return batch


def _check(
    prompts: Sequence[Sequence[int]], labels: Sequence[int], trie: LabelTrie, objective: Objective
) -> list[list[int]]:
    rows = check_prompts(prompts)
    if not rows or len(rows) != len(labels):
        raise LlmclsError(f"A batch has {len(rows)} prompts and {len(labels)} labels; give one label per prompt.")
    for label in labels:
        if not 0 <= label < len(trie):
            raise LlmclsError(f"Label index {label} is not among the {len(trie)} labels, 0 to {len(trie) - 1}.")
    if objective.class_weights is not None and len(objective.class_weights) != len(trie):
        raise LlmclsError(
            f"There are {len(objective.class_weights)} class weights for {len(trie)} labels; give one per label."
        )
    if objective.name == "label" and len(trie) < 2:
        raise LlmclsError("Objective 'label' learns choices, but there is only one label; give at least two.")
    return rows
