"""What a seal names is in the run and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcls import LlmclsError
from llmcls.files import sha256_of
from llmcls.runs.run import Run

from .conftest import reseal


def seal_as_well(run: Path, name: str, digest: str) -> None:
    card = json.loads((run / "run.json").read_bytes())
    card["seal"][name] = digest
    card["seal"]["run.json"] = Run(run, card).fingerprint
    (run / "run.json").write_text(json.dumps(card), encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["../outside.txt", "{}/outside.txt", "adapter/../../outside.txt", "..", "", "a\\..\\b", "C:b"]
)
def test_names_that_lead_out_of_the_run_are_refused(name: str, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret", encoding="utf-8")
    seal_as_well(lora, name.format(tmp_path), sha256_of(tmp_path / "outside.txt"))
    with pytest.raises(LlmclsError, match="is not a file of the run, but the seal names it"):
        Run.open(lora)


def test_links_are_never_followed(lora: Path, tmp_path: Path, refuse: Callable[..., str]) -> None:
    outside = tmp_path / "outside"
    (lora / "adapter").rename(outside)
    (lora / "adapter").symlink_to(outside)
    message = refuse("predict", "--run", lora, "a text")
    assert "adapter is a link" in message and "adapter was added" in message
    (lora / "adapter").unlink()
    outside.rename(lora / "adapter")
    Run.open(lora)
    (lora / "tokenizer" / "more").symlink_to(tmp_path)
    assert "tokenizer/more was added" in refuse("predict", "--run", lora, "a text")
    (lora / "tokenizer" / "more").unlink()
    (lora / "log.jsonl").rename(tmp_path / "log.jsonl")
    (lora / "log.jsonl").symlink_to(tmp_path / "log.jsonl")
    assert "log.jsonl is a link" in refuse("predict", "--run", lora, "a text")


def test_a_run_that_is_itself_behind_a_link_is_read(lora: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(lora)
    assert Run.open(tmp_path / "link").labels.names == ("billing", "delivery")


def test_what_decides_predictions_must_be_sealed(lora: Path) -> None:
    card = json.loads((lora / "run.json").read_bytes())
    del card["seal"]["settings.yaml"]
    card["seal"]["run.json"] = Run(lora, card).fingerprint
    (lora / "run.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(LlmclsError, match=r"settings\.yaml is not sealed"):
        Run.open(lora)


def test_anybody_can_seal_a_run_again(lora: Path) -> None:
    (lora / "log.jsonl").write_text("changed\n", encoding="utf-8")
    with pytest.raises(LlmclsError, match=r"log\.jsonl has changed"):
        Run.open(lora)
    Run.open(reseal(lora))  # a checksum, not a signature
