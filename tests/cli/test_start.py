"""What a command imports: nothing large for a mistake, and for a prediction only what it needs."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from llmcls import cli
from llmcls.cli import build_cli
from llmcls.cli.quiet import VARIABLES
from llmcls.model.wrapped import compiling_late, is_adapted, is_wrapped
from llmcls.processes import collector
from llmcls.training import names

FORMATS = Path(__file__).parents[1] / "runs" / "formats" / "2"
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "sklearn", "scipy", "accelerate", "pandas")

# Each mistake: the words, the exit code, and a part of what is said.
MISTAKES: list[tuple[str, int, str]] = [
    # settings and options
    ("train --data ok.csv --set training.max_step=3", 1, "training.max_step"),
    ("train --data ok.csv --set training.learning_rate=fast", 1, "learning_rate"),
    ("train --data ok.csv --set training.optim=adamw_troch", 1, "Did you mean 'adamw_torch'?"),
    ("train --data ok.csv --set training.lr_scheduler_type=linaer", 1, "Did you mean 'linear'?"),
    ("train --data ok.csv --set training.report_to=[tensorbord]", 1, "Did you mean 'tensorboard'?"),
    ("train --data ok.csv --set training.report_to=[dagshub]", 1, "'dagshub' is not installed"),
    ("train --data ok.csv --set training.tuning=full --quantization 4bit", 1, "set model.quantization to none"),
    ("train --data ok.csv --config nope.yaml", 1, "nope.yaml"),
    ("train --data ok.csv --quantization 2bit", 2, "'2bit' is not one of"),
    ("train --data ok.csv --task nope", 2, "'nope' is not one of"),
    ("train --data ok.csv --nope", 2, "No such option"),
    ("train --data ok.csv --force", 2, "of use with --output-dir only"),
    ("train --data ok.csv --launch nope", 1, "Unknown launch configuration 'nope'"),
    ("train --data ok.csv --launch ddp --num-processes 2 --label-column nope", 1, "Unknown column 'nope'"),
    ("train", 1, "There is no data to train on"),
    ("train ok.csv --data ok.csv", 2, "The data is given twice"),
    ("train nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("train ok.csv --epochs 2 --max-steps 3", 2, "--epochs 2 has no effect"),
    # output
    ("train --data ok.csv --output-dir run", 1, "'run' exists already"),
    ("train --data ok.csv --output-dir other", 1, "not a run directory"),
    ("predict --run run --input ok.csv --output out.csv", 1, "out.csv"),
    ("predict --run run --input ok.csv --output out.nope", 1, "out.nope"),
    ("predict --base-model owner/model --labels a,b --input ok.csv --output out.csv", 1, "out.csv"),
    ("evaluate --run run --data known.csv --output-dir ok.csv", 1, "cannot be written to 'ok.csv'"),
    # data
    ("train --data nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("train --data empty.csv", 1, "'empty.csv' is empty"),
    ("train --data header.csv", 1, "there are no rows"),
    ("train --data ok.csv --label-column nope", 1, "Unknown column 'nope'"),
    ("train --data ok.csv --text-column nope", 1, "Unknown column 'nope'"),
    ("train --data ok.csv --labels x,z", 1, "label 'y' is not one of the 2 known labels"),
    ("train --data ok.csv --labels x,x", 1, "label 'x' occurs 2 times"),
    ("train --data ok.csv --set 'training.class_weights={z: 2}'", 1, "Unknown label 'z'"),
    ("train --data nope:rows", 1, "nope:rows"),
    ("predict --run run --input nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("predict --run run --input empty.csv", 1, "'empty.csv' is empty"),
    ("predict --run run --input ok.csv --text-column nope", 1, "Unknown column 'nope'"),
    ("predict --base-model nano --labels a,b --input nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("predict --base-model owner/model --labels a,b --input nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("evaluate --run run --data nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("evaluate --run run --data empty.csv", 1, "'empty.csv' is empty"),
    ("evaluate --run run --data ok.csv", 1, "label 'x' is not one of"),
    ("evaluate --run run --data ok.csv --label-column nope", 1, "Unknown column 'nope'"),
    ("evaluate --run run --data ok.csv --split tset", 1, "Unknown split 'tset'"),
    ("labels inspect --data nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("labels inspect --labels a,a", 1, "label 'a' occurs 2 times"),
    ("labels inspect --run run --data nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("templates show chat --data nope.csv", 1, "No such file or folder: 'nope.csv'"),
    ("templates show --run run --data empty.csv", 1, "'empty.csv' is empty"),
    # names
    ("train --data ok.csv --template nope", 1, "Unknown template 'nope'"),
    ("train --data ok.csv --template nope.j2", 1, "nope.j2"),
    ("train --data ok.csv --base-model nope", 1, "Unknown base model 'nope'"),
    ("train --data ok.csv --set model.adapter=nope", 1, "Unknown base-model adapter 'nope'"),
    ("predict --run nope text", 1, "There is no run directory 'nope'"),
    ("predict --run other text", 1, "'other' is not a run directory"),
    ("predict --run run --template nope text", 1, "Unknown template 'nope'"),
    ("predict --run run --template few_shot text", 1, "shows solved examples"),
    ("predict --run run --base-model nope text", 1, "Unknown base model 'nope'"),
    ("predict --run run --labels a,a text", 1, "label 'a' occurs 2 times"),
    ("predict --run run --set lora.r=3 text", 1, "lora.r cannot be changed now"),
    ("predict --run head --label-mass text", 1, "leave --label-mass out"),
    ("predict --run run", 2, "Give either texts or --input FILE"),
    ("predict text", 2, "Give --run DIR, or --labels"),
    ("predict --base-model nope --labels a,b text", 1, "Unknown base model 'nope'"),
    ("predict --labels a,a text", 1, "label 'a' occurs 2 times"),
    ("predict --labels a,b --template nope text", 1, "Unknown template 'nope'"),
    ("predict --labels a,b --min-probability 2 text", 2, "2.0 is not in the range"),
    ("evaluate --run nope", 1, "There is no run directory 'nope'"),
    ("evaluate --run run --data known.csv --templates nope", 1, "Unknown template 'nope'"),
    ("evaluate --run run --data known.csv --templates chat chat", 1, "given 2 times"),
    ("evaluate --run run --data known.csv --base-model nope", 1, "Unknown base model 'nope'"),
    ("evaluate --run head --data known.csv --free 3", 1, "has no free answers"),
    ("evaluate --run run --free 0", 2, "0 is not in the range"),
    ("labels inspect --run nope", 1, "There is no run directory 'nope'"),
    ("labels inspect --run head", 1, "to a classification head labels are numbers"),
    ("labels inspect --labels a,b --base-model nope", 1, "Unknown base model 'nope'"),
    ("labels inspect --labels a,b --template nope", 1, "Unknown template 'nope'"),
    ("labels inspect", 2, "Give --run DIR, or labels"),
    ("templates show nope", 1, "Unknown template 'nope'"),
    ("templates show --run nope", 1, "There is no run directory 'nope'"),
    ("templates show", 2, "Give a template's NAME"),
    ("runs show nope", 1, "There is no run directory 'nope'"),
    ("runs show other", 1, "'other' is not a run directory"),
    ("launch show nope", 1, "Unknown launch configuration 'nope'"),
    ("launch slurm train --data ok.csv", 1, "--output-dir"),
    ("config nope", 2, "No such command 'nope'"),
    ("nope", 2, "No such command 'nope'"),
    # what is right, and needs none of them either
    ("--version", 0, "version"),
    ("--help", 0, "Classify texts."),
    ("train --help", 0, "Train a classifier"),
    ("runs list", 0, ""),
    ("runs show run", 0, "seal intact"),
    ("templates list", 0, "chat"),
    ("readers list", 0, "csv"),
    ("models list", 0, "nano"),
    ("plugins", 0, "nano"),
    ("launch list", 0, "zero2"),
]

# All in one process: what is imported stays, so only the first of several that import a library is to blame.
PROGRAM = """
import contextlib, io, json, os, shlex, sys
from llmcls.cli import main
mistakes, heavy = json.load(sys.stdin)
sys.stdin = open(os.devnull)  # a pipe would hold texts to predict
for words in mistakes:
    before, out = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(shlex.split(words))
        except SystemExit as end:
            code = end.code
    loaded = [name for name in heavy if name in sys.modules and name not in before]
    print(json.dumps([code, out.getvalue(), loaded]))
"""


def python(program: str, here: Path, given: object = None) -> list[Any]:
    checkout = str(Path(cli.__file__).parents[2])
    environment = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "PYTHONPATH": checkout}
    command, words = [sys.executable, "-c", program], json.dumps(given)
    done = subprocess.run(command, cwd=here, input=words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    for source, name in {"single_label": "run", "head": "head", "base": "base"}.items():
        shutil.copytree(FORMATS / source, folder / name)
    card = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    labels = [label["name"] for label in card["labels"]]
    for name, content in {
        "ok.csv": "text,label\na b,x\nc d,y\n",
        "known.csv": "text,label\n" + "".join(f'a {name},"{name}"\n' for name in labels),
        "header.csv": "text,label\n",
        "empty.csv": "",
        "out.csv": "mine\n",
    }.items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "other").mkdir()
    (folder / "other" / "file").touch()
    return folder


def test_mistakes_are_found_before_anything_large_is_imported(here: Path) -> None:
    found = python(PROGRAM, here, [[words for words, _, _ in MISTAKES], HEAVY])
    wrong = [
        f"llmcls {words}: {code}, imports {loaded}, says {said}"
        for (words, wanted, part), (code, said, loaded) in zip(MISTAKES, found, strict=True)
        if code != wanted or loaded or part not in said
    ]
    assert not wrong, "\n".join(wrong)


def test_mistakes_in_python_are_found_before_anything_large_is_imported(here: Path) -> None:
    program = f"""
import json, sys
from llmcls import Classifier, LlmclsError, train
for call in (
    lambda: train("ok.csv", label_column="nope"),
    lambda: train("nope.csv"),
    lambda: train("ok.csv", template="nope"),
    lambda: train("ok.csv", settings={{"training": {{"optim": "nope"}}}}),
    lambda: train([{{"text": "a", "label": "x"}}], label_column="nope"),
    lambda: Classifier.load("nope"),
    lambda: Classifier.load("run", template="nope"),
    lambda: Classifier.zero_shot("nope", ["a", "b"]),
    lambda: Classifier.zero_shot("nano", ["a", "a"]),
):
    try:
        call()
    except LlmclsError as error:
        print(json.dumps([str(error), [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    found = python(program, here)
    assert len(found) == 9
    assert [loaded for _, loaded in found] == [[]] * 9
    assert "Unknown column 'nope'" in found[0][0] and "Unknown column 'nope'" in found[4][0]


def test_a_launched_process_finds_mistakes_first(here: Path) -> None:
    program = f"import os\nos.environ |= {{'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1'}}\n{PROGRAM}"
    ((code, said, loaded),) = python(program, here, [["train --data ok.csv --label-column nope"], HEAVY])
    assert code == 1 and "Unknown column 'nope'" in said and not loaded


def test_names_are_those_of_transformers() -> None:
    assert list(names.OPTIMIZERS) == [name.value for name in OptimizerNames]
    assert list(names.SCHEDULERS) == [name.value for name in SchedulerType]
    assert list(names.TRACKERS) == list(INTEGRATION_TO_CALLBACK)


def test_help_says_what_the_commands_say() -> None:
    group = build_cli()
    context = click.Context(group)
    formatter = context.make_formatter()
    group.format_commands(context, formatter)
    brief = formatter.getvalue()
    whole = {name: group.commands[name] for name in cli.COMMANDS}
    assert {name: command.get_short_help_str(100) for name, command in whole.items()} == cli.COMMANDS
    formatter = context.make_formatter()
    click.Group.format_commands(group, context, formatter)
    assert formatter.getvalue() == brief


def test_functions_are_compiled_at_their_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []

    def compile_now(function: Any, **options: Any) -> Any:
        compiled.append(options)
        return lambda *arguments: -function(*arguments)

    monkeypatch.setattr(torch, "compile", compile_now)
    with compiling_late():

        @torch.compile(dynamic=False)
        def add(one: int, other: int) -> int:
            return one + other

        @torch.compile
        def double(one: int) -> int:
            return 2 * one

    assert torch.compile is compile_now and not compiled and add.__name__ == "add"
    assert add(1, 2) == -3 and add(2, 2) == -4 and compiled == [{"dynamic": False}]
    assert double(4) == -8 and len(compiled) == 2


def test_a_model_that_peft_has_wrapped_is_told_from_others(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert not is_wrapped(model) and not any(map(is_adapted, model.modules()))
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert is_wrapped(wrapped) and any(map(is_adapted, wrapped.modules()))


def test_garbage_is_collected_again_once_weights_are_loaded() -> None:
    collector.resume_collection()  # a command that was refused in an earlier test has put it off
    usual = gc.get_threshold()
    collector.resume_collection()  # nothing was put off, so nothing happens
    assert gc.get_threshold() == usual and gc.isenabled()
    collector.put_off_collection()
    try:
        assert gc.get_threshold()[0] == collector.STARTING
        collector.put_off_collection()  # once is enough
    finally:
        collector.resume_collection()
        gc.unfreeze()
    assert gc.get_threshold() == usual


def test_libraries_are_quiet_whenever_they_are_imported(here: Path) -> None:
    program = """
import json, os, sys
from llmcls.cli.shared import start
if EARLY:
    import datasets, transformers
start(quiet=True)
print(json.dumps(sorted({"datasets", "transformers", "huggingface_hub"} & set(sys.modules))))
import datasets
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging
print(json.dumps([
    datasets.utils.are_progress_bars_disabled(),
    are_progress_bars_disabled(),
    logging.is_progress_bar_enabled(),
    logging.get_verbosity() == logging.ERROR,
]))
"""
    late = python(program.replace("EARLY", "False"), here)
    assert late == [[], [True, True, False, True]]
    assert python(program.replace("EARLY", "True"), here)[1] == late[1]
    assert set(VARIABLES) == {"datasets", "huggingface_hub", "transformers"}


def test_a_prediction_imports_what_it_needs(here: Path) -> None:
    program = """
import contextlib, json, io, sys
from llmcls.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        main(["predict", "--base-model", "nano", "--labels", "good,bad", "--quantization", "none", "-q", "fine"])
    except SystemExit as end:
        code = end.code
print(json.dumps([code, sorted({"torch", "peft", "bitsandbytes", "datasets", "sklearn", "trl"} & set(sys.modules))]))
"""
    assert python(program, here) == [[0, ["torch"]]]
