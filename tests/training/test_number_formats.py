"""Which number formats a training computes in: chosen by the CPU's features, the same everywhere, kept and said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from llmcls.cli import build_cli
from llmcls.errors import LlmclsError
from llmcls.model.hardware import Formats
from llmcls.processes.world import World
from llmcls.runs.loading import describe_change
from llmcls.training.backends import check_agreement
from llmcls.training.checkpoints import differences


def test_a_cpu_with_bfloat16_trains_in_it(fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    identities: list[Any] = []
    monkeypatch.setattr("llmcls.training.unfinished.record_identity", lambda _, identity: identities.append(identity))
    for has in (True, False):
        monkeypatch.setattr("llmcls.model.hardware.multiplies_bfloat16", lambda has=has: has)
        trained = fit({"model.quantization": "none", "training.max_steps": 1})
        assert trained.trainer.args.bf16 is has
        kept = trained.run.card["training"]
        assert (kept["dtype"], kept["mixed_precision"]) == ("float32", "bf16" if has else "no")
        done = CliRunner().invoke(build_cli(), ["predict", "--run", str(trained.run.path), "where is my parcel?"])
        assert done.exit_code == 0, done.output
        assert "CPU, unquantised base weights, float32, no autocast" in done.output
        assert ("was trained in bfloat16; predictions are computed in float32" in done.output) is has
    # An unfinished training does not go on in other formats without being asked to.
    (line,) = differences(*identities)
    assert line == "number formats: was 'float32, bf16 autocast', is None"


def test_processes_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    formats = Formats(torch.device("cpu"), torch.float32, "bf16", "none")
    world = World("ddp", 2, 1)
    monkeypatch.setattr(World, "share", lambda self, value: value)
    check_agreement(world, formats)
    monkeypatch.setattr(World, "share", lambda self, value: "float32, no autocast")
    with pytest.raises(LlmclsError, match=r"Process 1 computes in float32, bf16 autocast, but process 0 in float32, n"):
        check_agreement(world, formats)


def test_another_type_than_in_training_is_said() -> None:
    def said(dtype: str, mixed: str, now: Formats) -> str | None:
        run: Any = type("Run", (), {"card": {"training": {"dtype": dtype, "mixed_precision": mixed}}})
        return describe_change(run, now)

    here = Formats(torch.device("cpu"), torch.float32, "no", "none")
    there = replace(here, dtype=torch.bfloat16)
    assert said("float32", "no", here) is said("bfloat16", "bf16", there) is said("float32", "bf16", there) is None
    for dtype, mixed, now in (("bfloat16", "bf16", here), ("float16", "fp16", there), ("float32", "no", there)):
        assert "the run was trained in" in str(said(dtype, mixed, now))
    assert describe_change(None, here) is None
    old: Any = type("Run", (), {"card": {"training": {}}})
    assert describe_change(old, here) is None, "from before formats were kept"
