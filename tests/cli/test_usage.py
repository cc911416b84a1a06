"""No option is ignored without a word, and none counts only in its last copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from llmcls.cli.shared import refuse_repeats, split_labels
from llmcls.processes.launching import _going_on, _with_settings

RUN = ("--run", "runs/x")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("train", "--data", "a", "--data", "b"), "--data"),
        (("train", "--data", "a", "--data=a"), "--data"),
        (("train", "--data", "a", "--seed", "1"), "No such option"),  # click's own words come first
        (("train", "--output-dir", "a", "--data", "d", "--output-dir", "b"), "--output-dir"),
        (("train", "--task", "single_label", "--task", "multi_label"), "--task"),
        (
            ("train", "--data", "a", "--template", "x", "--data", "b", "--template", "y"),
            "--data, --template",
        ),
        (("predict", *RUN, *RUN, "text"), "--run"),
        (("predict", *RUN, "--threshold", "0.1", "text", "--threshold", "0.2"), "--threshold"),
        (("predict", "--labels", "a,b", "--labels", "c", "text"), "--labels"),
        (("evaluate", *RUN, "--split", "test", "--split", "train"), "--split"),
        (("labels", "inspect", "--labels", "a,b", "--labels", "c,d"), "--labels"),
        (("labels", "inspect", "--rows", "1", "--rows", "2"), "--rows"),
        (("templates", "show", "chat", "--row", "1", "--row", "2"), "--row"),
        (("launch", "slurm", "--nodes", "1", "--nodes", "2", "train"), "--nodes"),
        (("launch", "command", "--launch", "ddp", "--launch", "zero2", "train"), "--launch"),
    ],
)
def test_an_option_given_twice_is_wrong_usage(llmcls: Callable[..., Any], arguments: Any, option: str) -> None:
    done = llmcls(*arguments)
    assert done.code == 2 and done.out == ""
    assert option in done.err
    assert option == "No such option" or f"{option} takes one value but is given several times; keep one." in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("config", "show", "--set", "seed=1", "--set", "lora.r=2"),
        ("config", "show", "--json", "--json"),
        ("train", "--data", "a", "--data", "b", "--help"),
        ("launch", "command", "--num-processes", "2", "train", "--set", "a=1", "--set", "b=2"),
    ],
)
def test_what_may_be_repeated(llmcls: Callable[..., Any], arguments: Any) -> None:
    assert llmcls(*arguments).code == 0


def test_commands_of_plugins_are_held_to_it() -> None:
    @click.group()
    def outer() -> None: ...

    @outer.command()
    @click.option("--to")
    def inner(to: str) -> None: ...

    with pytest.raises(click.UsageError, match="--to takes one value"):
        refuse_repeats(outer, click.Context(outer), "outer", ["inner", "--to", "a", "--to", "b"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--data", "d", "--num-processes", "2"), "--num-processes: of use with --launch NAME only"),
        (("train", "--data", "d", "--num-machines", "2"), "--num-machines: of use with --launch NAME only"),
        (("train", "--data", "d", "--machine-rank", "0"), "--machine-rank: of use with --launch NAME only"),
        (("train", "--data", "d", "--main-process-port", "1"), "--main-process-port: of use with --launch NAME"),
        (("train", "--data", "d", "--main-process-ip", "h"), "--main-process-ip: of use with --launch NAME"),
        (("train", "--data", "d", "--force", "--resume", "never", "--output-dir", "r"), "--resume never begins anew"),
        (("train", "--data", "d", "--force"), "--force: of use with --output-dir only"),
        (("train", "--data", "d", "--overwrite"), "--overwrite: of use with --output-dir only"),
        (("train", "--data", "d", "--resume", "auto"), "--resume: of use with --output-dir only"),
        (("train", "--data", "d", "--set", "data.source=e"), "data.source is given by an option and by --set"),
        (("train", "d", "--data", "d"), "The data is given twice, as 'd' and by --data 'd'; keep one."),
        (("train", "d", "e"), "unexpected extra argument (e)"),
        (("train", "d", "--set", "data={source: e}"), "data.source is given by an option and by --set"),
        (("train", "d", "--epochs", "2", "--max-steps", "3"), "--epochs 2 has no effect, for training.max_steps is 3"),
        (("train", "d", "--epochs", "2", "--set", "training.max_steps=3"), "--epochs 2 has no effect"),
        (("train", "d", "--epochs", "2", "--set", "training.num_train_epochs=2"), "training.num_train_epochs is given"),
        (("train", "d", "--max-steps", "2", "--set", "training={max_steps: 3}"), "training.max_steps is given by an"),
        (("train", "d", "--batch-size", "2", "--batch-size", "3"), "--batch-size takes one value"),
        (("predict", *RUN, *RUN, "-5 degrees"), "--run takes one value"),
        (("predict", *RUN, "--hello"), "goes after --, behind all options. Did you mean '--help'?"),
        (("train", "--base-model", "m", "--set", "model.base_model=m"), "model.base_model is given by an option"),
        (("predict", *RUN, "--text-column", "a", "text"), "are for --input FILE"),
        (("predict", *RUN, "--label-column", "a", "--input", "-"), "are for --input FILE"),
        (("predict", *RUN, "--resume", "never", "--input", "a.csv"), "--resume is for --output FILE"),
        (("evaluate", *RUN, "--text-column", "a"), "are for --data"),
        (("evaluate", *RUN, "--label-column", "a"), "are for --data"),
        (("labels", "inspect", "--labels", "a,b", "--json", "--top", "3"), "leave --top out"),
        (("labels", "inspect", "--labels", "", "--run", "r"), "Give --labels, or --data, or --run"),
        (("labels", "inspect", "--labels", "a\n,b"), "cannot be read"),
        (("labels", "inspect", "--labels", '"a,b'), "a quote is not closed"),
        (("predict", "--labels", 'x,"a,b', "text"), "a quote is not closed"),
    ],
)
def test_an_option_without_effect_is_wrong_usage(llmcls: Callable[..., Any], arguments: Any, says: str) -> None:
    done = llmcls(*arguments)
    assert done.code == 2 and done.out == ""
    assert says in done.err


@pytest.mark.parametrize("texts", [("a text",), ("--input", "-")])
@pytest.mark.parametrize("setting", ["data.encoding=cp1252", "data.delimiter=tab", "data.quoting=plain"])
def test_a_format_of_files_is_not_for_other_texts(
    llmcls: Callable[..., Any], run: Path, texts: tuple[str, ...], setting: str
) -> None:
    done = llmcls("predict", "--run", run, "--set", setting, *texts)
    assert done.code == 2 and done.out == ""
    assert f"{setting.partition('=')[0]}: of use with --input FILE only" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--launch", "ddp", "--main-process-ip", "h"), "--main-process-ip h is for several machines"),
        (("--launch", "single", "--main-process-ip", "h"), "--main-process-ip h is for several machines"),
        (("--launch", "single", "--main-process-port", "1"), "needs no --main-process-port; leave it out"),
    ],
)
def test_machines_that_are_not_there(refuse: Callable[..., str], arguments: Any, says: str) -> None:
    assert says in refuse("train", "--data", "demo:", *arguments)


def test_a_prompt_is_shown_of_the_data_in_the_settings(llmcls: Callable[..., Any], tickets: Path, here: Path) -> None:
    (here / "run.yaml").write_text(f"data: {{source: '{tickets}'}}\n", encoding="utf-8")
    for given in (("--config", "run.yaml"), ("--set", f"data.source={tickets}"), ("--data", tickets)):
        assert "(tickets.csv:" in llmcls("templates", "show", "instruction", *given).out
    assert "tickets.csv" not in llmcls("templates", "show", "instruction").out


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train", "--resume", "never"], ["train", "--resume", "auto"]),
        (["train", "--resume=never", "-q"], ["train", "--resume=auto", "-q"]),
        (["train", "--data", "never"], ["train", "--data", "never"]),
        (["train", "--data", "d"], ["train", "--data", "d"]),
    ],
)
def test_a_second_attempt_goes_on(command: list[str], expected: list[str]) -> None:
    assert _going_on(command) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train d", "train d --set training.per_device_train_batch_size=2"),
        ("train --batch-size 4 d", "train d --set training.per_device_train_batch_size=2"),
        ("train --batch-size=4 -q -- d", "train -q --set training.per_device_train_batch_size=2 -- d"),
    ],
)
def test_a_second_attempt_has_smaller_batches(command: str, expected: str) -> None:
    assert _with_settings(command.split(), {"per_device_train_batch_size": 2}) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b", ["a", "b"]),
        ('"a,b",c', ["a,b", "c"]),
        ('a, "b, c" ,d', ["a", "b, c", "d"]),
        ('"say ""hi""",b', ['say "hi"', "b"]),
        ("010,null, 1.10", ["010", "null", "1.10"]),
        ("it's,b", ["it's", "b"]),
    ],
)
def test_labels_on_the_command_line(llmcls: Callable[..., Any], text: str, expected: list[str]) -> None:
    assert split_labels(text) == expected
    done = llmcls("labels", "inspect", "--labels", text, "--json")
    assert [entry["label"] for entry in json.loads(done.out)["labels"]] == expected
