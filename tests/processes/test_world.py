"""What the environment asks for, what is refused, and how rows are dealt out to processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcls.answers.single_label import SingleLabelLayout
from llmcls.engine import LabelTrie
from llmcls.engine.objectives import Objective, padded_loss
from llmcls.errors import LlmclsError
from llmcls.model.hardware import Formats, choose_formats
from llmcls.processes.world import World, requested_backend
from llmcls.settings import make_settings
from llmcls.training.backends import check_request, describe_world
from llmcls.training.batches import Collator, RowOrder
from llmcls.training.checkpoints import differences, find_fault, remove_old, seal_checkpoint

CPU = Formats(torch.device("cpu"), torch.float32, "no", "4bit")
GPU = replace(CPU, device=torch.device("cuda", 0), dtype=torch.bfloat16, mixed_precision="bf16")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in ("MASTER_ADDR", "ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


@pytest.mark.parametrize(
    ("environment", "backend"),
    [
        ({}, "single"),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, "single"),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "x"}, "ddp"),
        ({"WORLD_SIZE": "4", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3"),
        ({"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"}, "fsdp"),
    ],
)
def test_the_backend_is_read_from_the_environment(monkeypatch, environment, backend):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert requested_backend() == backend


def test_a_deepspeed_file_says_its_stage(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "ds.json"))
    with pytest.raises(LlmclsError, match=r"ds\.json' cannot be read"):
        requested_backend()
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert requested_backend() == "zero1"


@pytest.mark.parametrize(
    ("backend", "formats", "settings", "environment", "message"),
    [
        ("fsdp", CPU, {}, {"FSDP_VERSION": "2"}, "FSDP needs GPUs"),
        ("fsdp", GPU, {}, {"FSDP_VERSION": "1"}, "FSDP version 2"),
        ("fsdp", replace(GPU, sharded=True, quantization="8bit"), {}, {"FSDP_VERSION": "2"}, "use --quantization 4bit"),
        (
            "fsdp",
            replace(GPU, sharded=True),
            {"model": {"dtype": "float32"}},
            {"FSDP_VERSION": "2"},
            "model.dtype to 'auto'",
        ),
        ("ddp", CPU, {}, {"ACCELERATE_MIXED_PRECISION": "bf16"}, "training.mixed_precision decides"),
        (
            "fsdp",
            replace(GPU, sharded=True),
            {"training": {"load_best_model_at_end": True, "save_strategy": "epoch"}},
            {"FSDP_VERSION": "2"},
            "load_best_model_at_end",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_alternative(
    monkeypatch, backend, formats, settings, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LlmclsError) as caught:
        check_request(make_settings(settings), formats, backend)
    assert message in str(caught.value)


def test_what_works_is_not_refused(monkeypatch):
    check_request(make_settings({}), CPU, "ddp")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_request(make_settings({}), replace(GPU, sharded=True), "fsdp")


def test_sharded_4bit_weights_are_stored_in_16_bit_words():
    settings = make_settings({"model": {"quantization": "4bit"}})
    formats = choose_formats(settings, sharded=True)
    assert formats.dtype in (torch.bfloat16, torch.float16) and formats.sharded


def test_the_start_line_says_all_there_is():
    training = make_settings(
        {"training": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}}
    ).training
    assert describe_world(World("zero2", 8, 0), CPU, training) == (
        "zero2, 8 processes: CPU, 4-bit base weights, float32, no autocast; 64 rows a step (8 x 4 x 2 accumulated)"
    )
    training = make_settings({}).training
    assert describe_world(World("single", 1, 0), CPU, training).endswith("; 8 rows a step")


@given(rows=st.integers(1, 60), each=st.integers(1, 5), processes=st.integers(1, 4), epoch=st.integers(0, 3))
def test_every_row_once_an_epoch_whatever_the_number_of_processes(rows, each, processes, epoch):
    alone, together = RowOrder(rows, 0, 42), RowOrder(rows, each * processes, 42)
    alone.set_epoch(epoch)
    together.set_epoch(epoch)
    order = list(together)
    assert len(order) == len(together) and len(order) % (each * processes) == 0
    assert order[:rows] == list(alone) and sorted(order[:rows]) == list(range(rows))
    assert set(order[rows:]) <= {rows} and len(order) - rows < each * processes
    assert list(RowOrder(rows, each, None))[:rows] == list(range(rows))


def test_orders_differ_by_epoch_and_seed():
    first, second = RowOrder(50, 0, 1), RowOrder(50, 0, 2)
    assert list(first) != list(second)
    before = list(first)
    first.set_epoch(1)
    assert list(first) != before


@pytest.mark.parametrize("packed", [True, False])
def test_fillers_count_nothing(packed):
    collator = Collator(SingleLabelLayout(LabelTrie([[5, 1], [6, 1]]), Objective()), packed=packed, pad_token_id=0)
    rows = [{"input_ids": [3, 4, 5], "label": 0}, {"input_ids": [3, 4, 7, 8], "label": 1}]
    filler = {**rows[0], "filler": True}
    [counted], [plain] = collator([*rows, filler, filler]), collator(rows)
    assert all(torch.equal(counted[name], plain[name]) for name in plain)
    [only] = collator([filler, filler])
    assert only["normalizer"] == 0 and not only["weights"].any() and len(only["input_ids"]) == 1


def test_a_process_with_fillers_alone_adds_zero(tmp_path):
    from transformers import AutoModelForCausalLM

    from llmcls.testing import build_tiny_model

    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(tmp_path))
    [batch] = Collator(SingleLabelLayout(LabelTrie([[5, 1], [6, 1]]), Objective()), packed=False, pad_token_id=0)(
        [{"input_ids": [3, 4, 5], "label": 0, "filler": True}]
    )
    loss = padded_loss(model, batch, torch.tensor(4.0))
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "weights").write_bytes(b"weights" * step)
    (path / "state").write_text("{}")
    return path


def test_a_seal_sees_every_change(tmp_path):
    path = checkpoint(tmp_path, 3)
    assert find_fault(path) == "its writing was not finished"
    seal_checkpoint(path)
    assert find_fault(path) is None
    content = (path / "inner" / "weights").read_bytes()
    (path / "inner" / "weights").write_bytes(content[:-1] + b"?")
    assert find_fault(path) == "inner/weights has changed"
    (path / "inner" / "weights").write_bytes(content[:-1])
    assert find_fault(path) == "inner/weights has changed"
    (path / "inner" / "weights").unlink()
    assert find_fault(path) == "inner/weights is missing"
    (path / "complete.json").write_text('{"inner/wei')
    assert find_fault(path) == "its complete.json is damaged"
    assert find_fault(tmp_path / "checkpoint-4") == "there is no such folder"


def test_old_checkpoints_go_by_step_but_not_the_best_nor_torn_ones(tmp_path):
    for step in (2, 4, 10, 30):
        seal_checkpoint(checkpoint(tmp_path, step))
    checkpoint(tmp_path, 40)
    remove_old(tmp_path, 2, str(tmp_path / "checkpoint-2"))
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in (2, 10, 30, 40)}
    remove_old(tmp_path, None, None)
    assert len(list(tmp_path.iterdir())) == 4


def test_differences_name_what_came_and_went():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == ["b: was 2, is 3"]
    assert differences({"a": 1}, {"b": [1]}) == ["a: was 1, is None", "b: was None, is [1]"]
    assert not differences({"a": [1]}, {"a": [1]})
