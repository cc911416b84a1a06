"""The validation split during training: its loss and its figures, from one reading of each row where that is possible.

    reading = Reading(trainer.model, collator, dataset, probabilities=False, pack_tokens=None)
    reading.knows_loss                       # or else the trainer takes the loss by batches
    reading.read(range(0, 100))              # these rows; `loss`, `targets` and `probabilities` have them then

One reading suffices for the objective `label` (and for a classification head) where the model can be packed: the loss
is made of log-probabilities that scoring computes anyway (`llmcls.engine.judging`). What a row costs then is a forward
pass over its own tokens and a few label tokens, about a third of a training row's forward and backward; so with V
validation rows for T training rows and E evaluations an epoch, validation takes about E V / 3 T of the training's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from datasets import Dataset

from llmcls.answers.form import Judge
from llmcls.engine.scores import Progress
from llmcls.training.batches import Collator


class Reading:
    """What a model says of validation rows, some of them read by this process.

    Args:
        model: as it is in training.
        collator: lays rows out.
        dataset: all validation rows, and perhaps the filler behind them.
        probabilities: whether something goes by every label's probability; else they are computed where a search
            would not cost less.
        pack_tokens: tokens per forward; None chooses for the device.
        batch_size: rows per forward where the model cannot be packed.

    Attributes:
        loss: weighted sum of the losses of the rows read so far, and the sum of weights.
        targets: int64, (rows read, *target_shape); None before the first.
        probabilities: float64, (rows read, labels); None where there are none.
    """

    def __init__(
        self,
        model: Any,
        collator: Collator,
        dataset: Dataset,
        *,
        probabilities: bool,
        pack_tokens: int | None,
        batch_size: int,
    ) -> None:
        self._model, self._collator, self._batch_size = model, collator, batch_size
        self.rows = len(dataset) - ("filler" in dataset.column_names)
        columns = dataset[: self.rows]
        self._prompts: list[list[int]] = columns["input_ids"]
        self.true: list[Any] = columns["label"]
        layout = collator.layout
        self._judge: Judge | None = layout.judge(
            model, self._prompts, probabilities=probabilities, pack_tokens=pack_tokens
        )
        self.loss = (0.0, 0.0)
        self.targets: torch.Tensor | None = None
        self.probabilities: torch.Tensor | None = None

    @cached_property
    def probable(self) -> bool:
        """Whether there are probabilities, on every process."""
        return self._collator.layout.probable(self._model) if self._judge is None else self._judge.probable

    @property
    def knows_loss(self) -> bool:
        """Whether `loss` is the objective's."""
        return self._judge is not None and self._judge.knows_loss

    def read(self, rows: Sequence[int], progress: Progress | None = None) -> None:
        """Read these rows; there may be none."""
        if not rows:
            return
        prompts = [self._prompts[row] for row in rows]
        if self._judge is None:
            answered = self._collator.predict(self._model, prompts, self._batch_size, progress)
            self.targets, self.probabilities = answered.targets, answered.probabilities
            return
        judged = self._judge(prompts, [self.true[row] for row in rows], progress)
        self.targets, self.probabilities, self.loss = judged.targets, judged.probabilities, judged.loss or (0.0, 0.0)
