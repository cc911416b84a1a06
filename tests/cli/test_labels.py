"""`llmcls labels inspect`: what it counts, on what it can count, and that it stays readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from llmcls import train
from llmcls.cli.labels import command
from llmcls.errors import LlmclsError


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["inspect", *map(str, arguments)], prog_name="labels")


def inspect(*arguments: object) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.csv"
    rows = [f"parcel number {n} is late,delivery" for n in range(20)] + [
        f"charged {n} twice,billing" for n in range(20)
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_labels_from_the_command_line(tiny_model_dir: Path) -> None:
    # The tiny tokenizer has a token a byte, so tokens are letters, and the space before the label, and the end token.
    found = inspect("--base-model", tiny_model_dir, "--labels", "pos, pos_mixed,neg", "--text-tokens", 7, "--rows", 10)
    assert [entry["label"] for entry in found["labels"]] == ["pos", "pos_mixed", "neg"]
    tokens = [entry["tokens"] for entry in found["labels"]]
    assert tokens == [tokens[0], tokens[0] + len("_mixed"), tokens[0]]
    assert "".join(found["labels"][1]["pieces"]).strip().startswith("pos_mixed")
    assert found["prefixes_of_others"] == {"pos": ["pos_mixed"]}
    assert found["trie"]["branching"] == 2
    shape, costs = found["prompt"], found["token_passes_per_row"]
    assert shape["rows"] == 10 and not shape["sampled_texts"]
    read = shape["shared_tokens"] / 10 + shape["own_tokens"]
    assert costs["exact"]["most"] == pytest.approx(read + found["trie"]["fed"])
    longer = inspect("--base-model", tiny_model_dir, "--labels", "pos,pos_mixed,neg", "--text-tokens", 17)
    assert longer["prompt"]["own_tokens"] == shape["own_tokens"] + 10


def test_labels_and_text_lengths_from_data(tiny_model_dir: Path, tickets: Path) -> None:
    found = inspect("--base-model", tiny_model_dir, "--data", tickets)
    assert [entry["label"] for entry in found["labels"]] == ["billing", "delivery"]
    assert found["prompt"]["sampled_texts"] == 36  # train, without the tenth that is cut off for validation
    empty = inspect("--base-model", tiny_model_dir, "--data", tickets, "--text-tokens", 0)
    lengths = [len(line.rpartition(",")[0]) for line in tickets.read_text(encoding="utf-8").splitlines()[1:]]
    own = found["prompt"]["own_tokens"] - empty["prompt"]["own_tokens"]
    assert min(lengths) < own < max(lengths)


def test_cut_texts_are_counted(tiny_model_dir: Path, tickets: Path) -> None:
    free = inspect("--base-model", tiny_model_dir, "--data", tickets)
    limit = 1024 - free["prompt"]["room_for_text"] + 3
    found = inspect("--base-model", tiny_model_dir, "--data", tickets, "--set", f"prompt.max_length={limit}")
    assert found["prompt"]["room_for_text"] == 3
    assert found["prompt"]["truncated_texts"] == 36
    assert "leaves only 3 tokens" in found["suggestions"][0]


@pytest.mark.slow
def test_a_run_has_its_own_labels(tiny_model_dir: Path, tickets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"training": {"max_steps": 1}, "model": {"quantization": "none"}}
    train(str(tickets), base_model=str(tiny_model_dir), output_dir=run, settings=settings)
    found = inspect("--run", run)
    fresh = inspect("--base-model", tiny_model_dir, "--data", tickets)
    for part in ("labels", "trie", "template"):
        assert found[part] == fresh[part]
    assert not found["prompt"]["sampled_texts"]
    assert inspect("--run", run, "--data", tickets)["prompt"] == fresh["prompt"]
    assert inspect("--run", run, "--template", "chat")["template"] == "chat"


def test_77_labels_fit_a_terminal_of_80_columns(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{kind}_{'not_' * (n % 3)}recognised_after_bank_transfer_{n}" for n in range(26) for kind in "abc"][:77]
    monkeypatch.setenv("COLUMNS", "80")
    result = invoke("--base-model", tiny_model_dir, "--labels", ",".join(names), "--set", "prompt.max_length=8192")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) < 77
    assert [line for line in lines if cell_len(line.rstrip()) > 80 and not line.startswith("77 labels")] == []
    assert "The 12 costliest of 77 labels" in result.stdout
    assert "best-first" in result.stdout


def test_every_suggestion_is_printed(tiny_model_dir: Path) -> None:
    arguments = ("--base-model", tiny_model_dir, "--labels", "good,goodbye,bad", "--text-tokens", 2)
    plain = " ".join(invoke(*arguments).stdout.split())
    for suggestion in inspect(*arguments)["suggestions"]:
        assert suggestion in plain


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--labels", "a,b", "--data", "x.csv"),
        ("--labels", "a,b", "--run", "x"),
        ("--run", "x", "--base-model", "y"),
    ],
    ids=["nothing", "labels and data", "labels and run", "run and model"],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert not result.stdout


def test_problems_are_the_users_to_fix(tiny_model_dir: Path) -> None:
    for arguments, said in (
        (("--labels", "a"), "at least two"),
        (("--labels", "a,b", "--template", "chta"), "Did you mean 'chat'"),
        (("--labels", "a,b", "--template", "few_shot"), "training split"),
    ):
        result = invoke("--base-model", tiny_model_dir, *arguments)
        assert isinstance(result.exception, LlmclsError)
        assert said in str(result.exception)
