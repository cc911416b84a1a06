"""The next step's rows are laid out while the model is busy with this one; nothing else is different."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from trl import SFTTrainer

from llmcls.training.batches import Collator, LaidOutAhead
from llmcls.training.trainer import LabelTrainer


def test_a_loader_is_the_same_loader() -> None:
    threads: set[str] = set()

    def collate(rows: list[int]) -> list[int]:
        threads.add(threading.current_thread().name)
        return rows

    loader: Any = torch.utils.data.DataLoader(list(range(10)), batch_size=3, collate_fn=collate)  # type: ignore[arg-type]
    torch.manual_seed(1)
    plain, after = list(loader), torch.rand(1)
    assert threads == {threading.main_thread().name}
    ahead = LaidOutAhead(loader, 2)
    assert len(ahead) == 4 and ahead.batch_size == 3 and ahead.dataset is loader.dataset
    torch.manual_seed(1)
    iterator = iter(ahead)
    assert torch.equal(torch.rand(1), after), "the caller's thread draws what a loader draws"
    assert list(iterator) == plain
    assert threads == {threading.main_thread().name, "llmcls-ahead"}


@pytest.mark.slow
def test_training_is_the_same_to_the_last_bit(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout and accumulation, over two epochs whose last steps are smaller."""
    changes = {"training.num_train_epochs": 2, "lora.lora_dropout": 0.3, "training.per_device_train_batch_size": 3}
    changes |= {"training.gradient_accumulation_steps": 2}
    threads: set[str] = set()
    call = Collator.__call__

    def watched(self: Collator, rows: Any) -> Any:
        threads.add(threading.current_thread().name)
        return call(self, rows)

    monkeypatch.setattr(Collator, "__call__", watched)
    before = set(threading.enumerate())
    ahead = fit(changes)
    assert threads == {"llmcls-ahead"}
    assert "llmcls-ahead" not in {thread.name for thread in set(threading.enumerate()) - before}
    monkeypatch.setattr(LabelTrainer, "get_train_dataloader", SFTTrainer.get_train_dataloader)
    threads.clear()
    plain = fit(changes)
    assert threads == {threading.main_thread().name}
    assert ahead.losses == plain.losses and len(plain.losses) == 6
