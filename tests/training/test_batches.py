"""How rows become micro-batches and packs: every row once, and the same gradients however they are cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from llmcls.answers.single_label import SingleLabelLayout
from llmcls.console import Reporter
from llmcls.engine.objectives import Objective, packed_batch, packed_loss
from llmcls.engine.packing import cut_rows, round_up
from llmcls.engine.tree import shared_prefix_length
from llmcls.engine.trie import LabelTrie
from llmcls.training.batches import GROUPED_STEPS, Collator, RowOrder
from llmcls.training.preparation import doubt_weights

ANSWERS = [[5, 6, 1], [5, 7, 8, 1], [9, 1]]
WEIGHTS = (1.0, 3.0, 0.5)
GOALS = [
    Objective(),
    Objective(normalization="token", label_smoothing=0.1),
    Objective("label", class_weights=WEIGHTS),
    Objective("sft", class_weights=WEIGHTS),
]


@given(
    own=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    shared=st.integers(0, 400),
    pack_tokens=st.integers(1, 1000),
)
def test_every_row_is_in_one_pack_and_packs_are_few_and_even(own: list[int], shared: int, pack_tokens: int) -> None:
    packs = cut_rows(own, shared, pack_tokens)
    assert sorted(row for pack in packs for row in pack) == list(range(len(own)))
    assert all(pack and pack == sorted(pack) for pack in packs)
    sizes = [sum(own[row] for row in pack) for pack in packs]
    capacity = max(pack_tokens - shared, shared, *own)
    assert max(sizes) <= capacity
    assert len(packs) == 1 or sum(own) > capacity, "nothing is cut that fits"
    assert len(packs) <= -(-2 * sum(own) // capacity), "two packs together never fit into one"
    assert max(sizes) - min(sizes) <= max(own)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=400),
    each=st.integers(1, 3),
    processes=st.integers(1, 3),
    accumulate=st.integers(1, 2),
    epoch=st.integers(0, 2),
)
def test_grouped_rows_come_once_in_steps_of_similar_length(
    lengths: list[int], each: int, processes: int, accumulate: int, epoch: int
) -> None:
    step = each * processes * accumulate
    alone = RowOrder(len(lengths), 0, 7, lengths=lengths, step=step)
    together = RowOrder(len(lengths), each * processes, 7, lengths=lengths, step=step)
    for order in (alone, together):
        order.set_epoch(epoch)
    rows = list(alone)
    assert sorted(rows) == list(range(len(lengths)))
    assert list(together)[: len(rows)] == rows, "the number of processes changes no step"
    if len(rows) <= step * GROUPED_STEPS:
        steps = [[lengths[row] for row in rows[at : at + step]] for at in range(0, len(rows), step)]
        spans = sorted((min(part), max(part)) for part in steps)
        assert all(before[1] <= after[0] for before, after in pairwise(spans)), "no two overlap"


def test_grouped_steps_come_in_a_new_order_each_epoch() -> None:
    lengths = list(range(40))
    order = RowOrder(40, 0, 1, lengths=lengths, step=4)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    starts = [lengths[row] for row in first[::4]]
    assert starts != sorted(starts), "short rows do not all come first"


@pytest.fixture
def tiny_model(tiny_model_dir: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir)


def rows_of(seed: int, count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        drawn: list[int] = torch.randint(10, 200, (n,), generator=generator).tolist()
        return drawn

    shared, sizes = tokens(9), torch.randint(1, 60, (count,), generator=generator).tolist()
    return [{"input_ids": shared + tokens(size), "label": number % 3} for number, size in enumerate(sizes)]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.name}-{goal.normalization}-{goal.class_weights}")
def test_packs_have_the_gradients_of_one_pack(goal: Objective, tiny_model: Any) -> None:
    rows = rows_of(3, 12)

    def gradients(pack_tokens: int) -> tuple[int, float, dict[str, torch.Tensor]]:
        model = copy.deepcopy(tiny_model).float().train()
        packs = Collator(
            SingleLabelLayout(LabelTrie(ANSWERS), goal), packed=True, pad_token_id=0, pack_tokens=pack_tokens
        )(rows)
        total = sum(float(pack["normalizer"]) for pack in packs)
        loss = 0.0
        for pack in packs:
            part = packed_loss(model, pack, total)
            part.backward()
            loss += float(part)
        return len(packs), loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    count, loss, found = gradients(64)
    one, expected_loss, expected = gradients(10_000)
    assert count > 3 and one == 1
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_packs_share_their_prefix_and_stay_within_the_budget() -> None:
    rows = rows_of(5, 30)
    packs = Collator(SingleLabelLayout(LabelTrie(ANSWERS), Objective()), packed=True, pad_token_id=0, pack_tokens=100)(
        rows
    )
    assert {pack["input_ids"].shape[1] for pack in packs} <= {32, 64, 96, 128}, "rounded up, so few shapes are compiled"
    assert shared_prefix_length([row["input_ids"] for row in rows]) == 9
    assert sum(float(pack["normalizer"]) for pack in packs) == 30


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fillers_up_to_a_round_length_change_nothing(tiny_model: Any, count: int) -> None:
    rows = rows_of(count, count)
    prompts, labels = [row["input_ids"] for row in rows], [row["label"] for row in rows]
    plain = packed_batch(prompts, labels, LabelTrie(ANSWERS), Objective())
    model = tiny_model.float().train()
    found = []
    for pack in (plain, round_up(plain)):
        model.zero_grad()
        loss = packed_loss(model, pack)
        loss.backward()
        found.append((float(loss), torch.cat([p.grad.flatten().clone() for p in model.parameters()])))
    assert round_up(plain)["input_ids"].shape[1] % 32 == 0 != plain["input_ids"].shape[1] % 32
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert (found[1][1] - found[0][1]).norm() <= 1e-6 * found[0][1].norm()


@pytest.mark.slow
def test_pack_tokens_change_no_loss(fit: Callable[..., Any]) -> None:
    changes = {"training.max_steps": 4, "training.per_device_train_batch_size": 7, "model.quantization": "none"}
    one = fit({**changes, "training.pack_tokens": 10_000})
    packs = fit({**changes, "training.pack_tokens": 64, "training.gradient_accumulation_steps": 1}, name="packs")
    assert packs.losses == pytest.approx(one.losses, rel=1e-5)
    half = {"training.per_device_train_batch_size": 4, "training.gradient_accumulation_steps": 2}
    accumulated = fit({**changes, **half, "training.pack_tokens": 64, "training.max_steps": 2}, name="accumulated")
    whole = fit({**changes, "training.per_device_train_batch_size": 8, "training.max_steps": 2}, name="whole")
    assert accumulated.losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.slow
def test_no_logits_but_at_answer_tokens(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory holds no term of sequence length times vocabulary, in training and in evaluation."""
    seen: list[tuple[int, int]] = []
    body: list[int] = []
    original = torch.nn.Linear.forward

    def forward(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        out = original(self, x)
        if out.shape[-1] >= vocabulary:
            seen.append((out.numel() // out.shape[-1], out.shape[-1]))
        else:
            body.append(out.numel() // out.shape[-1])
        return out

    rows = [{"text": "my parcel is late " * (3 + n), "label": ("delivery", "billing")[n % 2]} for n in range(8)]
    vocabulary = fit({"training.max_steps": 1}).trainer.model.config.vocab_size
    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    changes = {"training.max_steps": 2, "training.eval_strategy": "steps", "training.eval_steps": 1}
    trained = fit({**changes, "model.quantization": "none"}, {"train": rows, "validation": rows})
    answers = [len(answer) for answer in trained.trainer.data_collator.layout.trie.answers]
    assert seen, "the output head has run"
    assert max(positions for positions, _ in seen) <= 8 * max(answers)
    assert max(body) > 3 * 8 * max(answers), "the texts are longer than that"
    assert [entry["eval_accuracy"] for entry in trained.log if "eval_accuracy" in entry]


def test_weights_of_rows_that_are_alone_in_their_step(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"input_ids": [1], "label": 0, "weight": 0.5}]
    doubt_weights(rows, 1, Reporter())
    assert "the weights of rows have no effect" in " ".join(capsys.readouterr().err.split())
    doubt_weights(rows, 2, Reporter())
    doubt_weights([{"input_ids": [1], "label": 0}], 1, Reporter())
    assert capsys.readouterr().err == ""


def test_a_pack_knows_the_weights_of_its_rows() -> None:
    layout = SingleLabelLayout(LabelTrie(ANSWERS), Objective("label"))
    rows = [{"input_ids": [1, 2, at], "label": at % 2, "weight": 1.0 + at} for at in range(6)]
    for packed in (True, False):
        packs = Collator(layout, packed=packed, pad_token_id=0, pack_tokens=8)(rows)
        assert len(packs) > 1 or not packed
        weights = {float(weight) for pack in packs for weight in pack["weights"]} - {0.0}  # of what fills packs up
        assert weights == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
        assert sum(float(pack["normalizer"]) for pack in packs) == 21.0
