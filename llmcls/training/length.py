"""How long to train where nobody says: three passes over the rows, and more where rows are few.

settle_epochs(TrainingSettings(), rows=24, processes=1).num_train_epochs      # 20.0
settle_epochs(TrainingSettings(), rows=10_000, processes=1).num_train_epochs  # 3.0

Three passes over 24 rows are nine steps of eight, after which a base model has learned next to nothing.
"""

from __future__ import annotations

import math

from llmcls.settings import TrainingSettings
from llmcls.training.backends import effective_batch

EPOCHS = 3.0
"""Where rows are enough."""

STEPS = 100
"""Optimizer steps that a training should have, as long as it need not read its rows too often for that."""

MOST_EPOCHS = 20.0


def settle_epochs(training: TrainingSettings, rows: int, processes: int) -> TrainingSettings:
    """The settings with a number of epochs; one that was given stays.

    Args:
        training: as given.
        rows: of the training split.
        processes: how many take part.

    >>> settle_epochs(TrainingSettings(per_device_train_batch_size=4), rows=60, processes=1).num_train_epochs
    7.0
    """
    if training.num_train_epochs is not None:
        return training
    epochs = EPOCHS
    if training.max_steps < 0:
        steps = math.ceil(rows / effective_batch(training, processes))  # of an epoch
        epochs = max(EPOCHS, min(MOST_EPOCHS, float(math.ceil(STEPS / steps))))
    return training.model_copy(update={"num_train_epochs": epochs})
