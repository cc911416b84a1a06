"""Every traceback is a fault: whatever is broken, a user gets one sentence with what is wrong, and an exit code.

Exit code 1 is a problem of what was given, 2 of how the command was written.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmcls import LlmclsError, hookimpl
from llmcls.cli import build_cli
from llmcls.data.reader import dataset_readers
from llmcls.plugin.manager import new_manager
from llmcls.processes import launching
from llmcls.prompt.template import prompt_templates

from .conftest import call, change_json, reseal

Args = tuple[object, ...]


@dataclass(frozen=True)
class Place:
    """Where a case may break things: a folder of its own with copies of what it asks for."""

    folder: Path
    sources: Mapping[str, Path]

    def copy(self, name: str) -> Path:
        target = self.folder / name
        return Path(shutil.copytree(self.sources[name], target)) if not target.exists() else target

    @property
    def lora(self) -> Path:
        return self.copy("lora")

    @property
    def whole(self) -> Path:
        return self.copy("whole")

    @property
    def base(self) -> Path:
        return self.copy("base")

    @property
    def tickets(self) -> Path:
        return self.sources["tickets"]

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return path


Break = Callable[[Place], Args]


def predict_with(run: Path, *more: object) -> Args:
    return ("predict", "--run", run, *more, "a text")


def in_run(name: str, content: bytes | str | None, whole: bool = False) -> Break:
    """A file of a run replaced (None: gone), and the run sealed again."""

    def broken(place: Place) -> Args:
        run = place.whole if whole else place.lora
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return predict_with(reseal(run))

    return broken


def card(**changes: Any) -> Break:
    """Entries of a run's card replaced (`...`: gone), and the run sealed again, where it can be."""

    def broken(place: Place) -> Args:
        file = place.lora / "run.json"
        content = json.loads(file.read_bytes())
        for key, value in changes.items():
            content[key] = value
            if value is ...:
                del content[key]
        file.write_text(json.dumps(content), encoding="utf-8")
        if "seal" not in changes:
            reseal(place.lora)
        return predict_with(place.lora)

    return broken


def raw_card(content: bytes | str) -> Break:
    def broken(place: Place) -> Args:
        (place.lora / "run.json").write_bytes(content.encode() if isinstance(content, str) else content)
        return predict_with(place.lora)

    return broken


def run_settings(**sections: Any) -> Break:
    def broken(place: Place) -> Args:
        file = place.lora / "settings.yaml"
        values = yaml.safe_load(file.read_text(encoding="utf-8")) | sections
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return predict_with(reseal(place.lora))

    return broken


def run_json(name: str, whole: bool = False, **changes: Any) -> Break:
    def broken(place: Place) -> Args:
        run = place.whole if whole else place.lora
        change_json(run / name, changes)
        return predict_with(reseal(run))

    return broken


def base(name: str, content: bytes | str | None = None, **changes: Any) -> Break:
    """A base model with a broken file."""

    def broken(place: Place) -> Args:
        file = place.base / name
        if changes:
            change_json(file, changes)
        elif content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return ("predict", "--base-model", place.base, "--labels", "a,b", "--quantization", "none", "a text")

    return broken


def data(name: str, content: bytes | str, *more: object) -> Break:
    return lambda place: ("train", "--data", place.file(name, content), "--output-dir", place.folder / "out", *more)


def given(name: str, content: bytes | str) -> Break:
    """A file to predict."""
    return lambda place: ("predict", "--run", place.lora, "--input", place.file(name, content))


def config(content: bytes | str, *more: object) -> Break:
    return lambda place: (
        "train", "--data", place.tickets, "--output-dir", place.folder / "out",
        "--config", place.file("run.yaml", content), *more,
    )  # fmt: skip


def template(content: bytes | str) -> Break:
    return lambda place: predict_with(place.lora, "--template", place.file("own.j2", content))


def words(*arguments: object) -> Break:
    return lambda place: tuple(
        str(word)
        .replace("LORA", str(place.lora))
        .replace("TICKETS", str(place.tickets))
        .replace("HERE", str(place.folder))
        for word in arguments
    )


def folder_as(name: str, *arguments: object) -> Break:
    """A folder where a file is expected."""

    def broken(place: Place) -> Args:
        (place.folder / name).mkdir()
        return words(*arguments)(place)

    return broken


def folder_in_run(name: str) -> Break:
    def broken(place: Place) -> Args:
        (place.lora / name).unlink()
        (place.lora / name).mkdir()
        return predict_with(reseal(place.lora))

    return broken


def parquet(metadata: str) -> Break:
    """A file whose metadata of Hugging Face datasets is odd."""

    def broken(place: Place) -> Args:
        import pyarrow
        from pyarrow import parquet as writer

        table = pyarrow.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
        writer.write_table(table, place.folder / "a.parquet")
        return ("train", "--data", place.folder / "a.parquet", "--output-dir", place.folder / "out")

    return broken


def launcher(content: str) -> Break:
    return lambda place: ("train", "--data", place.tickets, "--launch", place.file("launch.yaml", content))


DEEP = "[" * 100_000
ROW = "text,label\n"
BINARY = bytes(range(256)) * 40
NOT_A_TABLE = b"PK\x03\x04" + BINARY

CASES: dict[str, tuple[Break, str]] = {
    # The card
    "card empty": (raw_card(""), "run.json cannot be read (it is empty)"),
    "card binary": (raw_card(BINARY), "run.json cannot be read (it is text in another encoding"),
    "card UTF-16": (raw_card("{}".encode("utf-16")), "run.json cannot be read (it is UTF-16, not UTF-8"),
    "card a list": (raw_card("[]"), "its run.json is not one that llmcls wrote"),
    "card a number": (raw_card("1"), "its run.json is not one that llmcls wrote"),
    "card torn": (raw_card('{"format": 2, '), "run.json cannot be read (it is not JSON: "),
    "card deep": (raw_card(DEEP), "run.json cannot be read (it is nested too deeply)"),
    "card NaN": (raw_card('{"format": NaN}'), "NaN is not a number of JSON"),
    "card huge": (raw_card('{"format": 1e999}'), "1e999 is too large a number"),
    "card digits": (raw_card('{"format": ' + "1" * 5000 + "}"), "not usable JSON: "),
    "card NUL": (raw_card('{"a": "\0"}'), "holds NULs"),
    "card without labels": (card(labels=...), "its run.json is not one that llmcls wrote"),
    "card without template": (card(template=...), "its run.json is damaged (template: field required)"),
    "card without data": (card(data=...), "its run.json is damaged (data: field required)"),
    "card without training": (card(training=...), "its run.json is damaged (training: field required)"),
    "card of the future": (card(format=99), "has run format 99, this llmcls reads up to"),
    "card of a strange format": (card(format="x"), "has run format 'x', this llmcls reads up to"),
    "card of a strange version": (card(format=99, versions=[]), "use llmcls of its time"),
    "labels a number": (card(labels=3), "its run.json is damaged (labels: "),
    "labels texts": (card(labels=["a", "b"]), "its run.json is damaged (labels.0: "),
    "labels without names": (card(labels=[{"description": ""}] * 2), "labels.0.name: field required"),
    "label names numbers": (card(labels=[{"name": 1, "description": ""}] * 2), "labels.0.name: "),
    "label half a character": (card(labels=[{"name": "\ud800", "description": ""}] * 2), "labels.0.name: "),
    "labels twice": (card(labels=[{"name": "a", "description": ""}] * 2), "label 'a' occurs 2 times"),
    "one label": (card(labels=[{"name": "a", "description": ""}]), "a classifier needs at least two"),
    "aliases a text": (card(labels=[{"name": n, "description": "", "aliases": n} for n in "ab"]), "labels.0.aliases: "),
    "base model a text": (card(base_model="nano"), "base_model: "),
    "base model of numbers": (card(base_model={"name": 1, "adapter": 2, "fingerprint": 3}), "base_model.name: "),
    "text columns a number": (
        card(data={"source": None, "fingerprint": "", "text_columns": 3, "label_column": None}), "data.text_columns: ",
    ),
    "decision a list": (card(decision=[1]), "decision: "),
    "origin a text": (card(started_from="x"), "started_from: "),
    "cost a text": (card(cost="x"), "cost: "),
    "seal a list": (card(seal=[]), "its run.json is damaged (seal: "),
    "seal of numbers": (card(seal={"run.json": 3}), "its run.json is damaged (seal.run.json: "),
    "seal empty": (card(seal={}), "does not match its seal"),
    # The other files of a run
    "settings empty": (in_run("settings.yaml", ""), "hold no sections such as 'training:'"),
    "settings a list": (in_run("settings.yaml", "[1]"), "hold no sections such as 'training:'"),
    "settings binary": (in_run("settings.yaml", BINARY), "cannot be read: it is text in another encoding"),
    "settings torn": (in_run("settings.yaml", "a: ["), "is not usable YAML"),
    "settings with a tag": (in_run("settings.yaml", "a: !!python/name:os.system"), "is not usable YAML"),
    "settings with numbers as keys": (in_run("settings.yaml", "1: 2"), "hold no sections such as 'training:'"),
    "settings with a section that is a list": (run_settings(data=[1]), "hold a section 'data' that is not a mapping"),
    "settings with another such section": (run_settings(training=[1]), "cannot be used by this llmcls"),
    "settings with a wrong type": (run_settings(seed="x"), "cannot be used by this llmcls. Settings: seed = 'x'"),
    "settings with an unknown one": (run_settings(nonsense=1), "there is no setting 'nonsense'"),
    "settings of all weights": (run_settings(training={"tuning": "full"}), "no weights as safetensors"),
    "settings gone": (in_run("settings.yaml", None), "settings.yaml is not sealed"),
    "template binary": (in_run("template.j2", BINARY), "it is not UTF-8; restore the run"),
    "template empty": (in_run("template.j2", ""), "uses neither 'text' nor 'fields'"),
    "template torn": (in_run("template.j2", "{{ text"), "Template 'instruction', line 1: "),
    "template with an unknown filter": (in_run("template.j2", "{{ text | nonsense }}"), "No filter named 'nonsense'"),
    "template a folder": (folder_in_run("template.j2"), "template.j2 is not sealed"),
    "shots empty": (in_run("shots.json", ""), "it is empty; restore it"),
    "shots a list": (in_run("shots.json", "[]"), "holds no solved examples as llmcls writes them"),
    "shots of numbers": (in_run("shots.json", '{"examples": [1], "spares": []}'), "holds no solved examples"),
    "shots without labels": (in_run("shots.json", '{"examples": [{"text": "a"}], "spares": []}'), "holds no solved"),
    "adapter pickled": (
        in_run("adapter/adapter_model.safetensors", pickle.dumps({"a": 1})), "are damaged, or do not fit",
    ),
    "adapter empty": (in_run("adapter/adapter_model.safetensors", b""), "are damaged, or do not fit the model"),
    "adapter with a broken header": (
        in_run("adapter/adapter_model.safetensors", b"\xff" * 8 + b"{}"), "are damaged, or do not fit the model",
    ),
    "adapter without weights": (
        in_run("adapter/adapter_model.safetensors", b"\x02\0\0\0\0\0\0\0{}"), "Found missing adapter keys",
    ),
    "adapter gone": (in_run("adapter/adapter_model.safetensors", None), "no weights as safetensors"),
    "adapter config a list": (in_run("adapter/adapter_config.json", "[]"), "holds a JSON list, not an object"),
    "adapter config gone": (
        in_run("adapter/adapter_config.json", None), "adapter_config.json' cannot be read: No such file",
    ),
    "adapter for other modules": (
        run_json("adapter/adapter_config.json", target_modules=["nothing"]), "are damaged, or do not fit the model",
    ),
    "adapter of another rank": (run_json("adapter/adapter_config.json", r=3), "are damaged, or do not fit the model"),
    "adapter of another task": (run_json("adapter/adapter_config.json", task_type="NONSENSE"), "task"),
    "tokenizer empty": (in_run("tokenizer/tokenizer.json", ""), "tokenizer' cannot be loaded: "),
    "tokenizer torn": (in_run("tokenizer/tokenizer.json", '{"version": "1.0"'), "tokenizer' cannot be loaded: "),
    "tokenizer a list": (in_run("tokenizer/tokenizer.json", "[]"), "tokenizer' cannot be loaded: "),
    "tokenizer of nothing": (in_run("tokenizer/tokenizer.json", "{}"), "tokenizer' cannot be loaded: "),
    "tokenizer gone": (in_run("tokenizer/tokenizer.json", None), "tokenizer' cannot be loaded: "),
    "tokenizer config a list": (in_run("tokenizer/tokenizer_config.json", "[]"), "holds a JSON list, not an object"),
    "tokenizer config deep": (in_run("tokenizer/tokenizer_config.json", DEEP), "it is nested too deeply; restore it"),
    "tokenizer class a number": (run_json("tokenizer/tokenizer_config.json", tokenizer_class=3), "cannot be loaded: "),
    "chat template a number": (run_json("tokenizer/tokenizer_config.json", chat_template=3), "chat template"),
    "chat template torn": (
        run_json("tokenizer/tokenizer_config.json", chat_template="{{"), "The model's chat template fails",
    ),
    "chat template of several": (
        run_json("tokenizer/tokenizer_config.json", chat_template=[{"x": 1}]), "cannot be loaded: ",
    ),
    "pad token gone": (
        run_json("tokenizer/tokenizer_config.json", pad_token=None),
        "has no pad token, as those of runs have",
    ),
    "end token gone": (run_json("tokenizer/tokenizer_config.json", eos_token=None), "no end-of-sequence token"),
    # Checkpoints
    "model config a list": (in_run("model/config.json", "[]", whole=True), "holds a JSON list, not an object"),
    "model config empty": (in_run("model/config.json", "", whole=True), "it is empty; restore it"),
    "model config of nothing": (in_run("model/config.json", "{}", whole=True), "model' cannot be loaded: "),
    "model config of an unknown model": (
        run_json("model/config.json", whole=True, model_type="nonsense"), "cannot be loaded: ",
    ),
    "model config with a wrong type": (
        run_json("model/config.json", whole=True, hidden_size="x"), "cannot be loaded: ",
    ),
    "model config of another size": (run_json("model/config.json", whole=True, hidden_size=64), "cannot be loaded: "),
    "weights broken": (in_run("model/model.safetensors", b"\xff" * 100, whole=True), "cannot be loaded: "),
    "weights empty": (in_run("model/model.safetensors", b"", whole=True), "cannot be loaded: "),
    "generation config a list": (in_run("model/generation_config.json", "[]", whole=True), "cannot be loaded: "),
    "base model without config": (base("config.json"), "cannot be loaded: "),
    "base model with a broken config": (base("config.json", "{"), "it is not JSON"),
    "base model binary": (base("config.json", BINARY), "cannot be read: it is text in another encoding"),
    "base model without tokenizer": (base("tokenizer.json"), "cannot be loaded: "),
    "base model with a broken tokenizer": (base("tokenizer.json", "{}"), "cannot be loaded: "),
    "base model without weights": (base("model.safetensors"), "cannot be loaded: "),
    "base model with broken weights": (base("model.safetensors", "x"), "cannot be loaded: "),
    "base model a classifier without labels": (
        base("config.json", architectures=["LlamaForSequenceClassification"], id2label={"x": "a"}),
        "cannot be loaded: ",
    ),
    "base model a file": (words("predict", "--base-model", "TICKETS", "--labels", "a,b", "x"), "cannot be loaded: "),
    "base model with a NUL": (words("predict", "--base-model", "a\0/b", "--labels", "a,b", "x"), "cannot be loaded: "),
    # Data
    "data empty": (data("a.csv", ""), "is empty; it needs a header line"),
    "data of a header": (data("a.csv", ROW), "there are no rows, only column names"),
    "data binary": (data("a.csv", BINARY), "the row holds a NUL character"),
    "data UTF-16": (data("a.csv", (ROW + "a,b\n").encode("utf-16")), "is encoded as UTF-16"),
    "data NUL": (data("a.csv", ROW + "a\0,b\nc,d\n"), "the row holds a NUL character"),
    "data truncated gzip": (data("a.csv.gz", gzip.compress(ROW.encode() * 999)[:-20]), "Cannot unpack"),
    "data no gzip": (data("a.csv.gz", ROW), "Cannot unpack"),
    "data empty gzip": (data("a.csv.gz", b""), "is empty; it needs a header line"),
    "data JSON lines of lists": (data("a.jsonl", "[1]\n[2]\n"), "each line needs an object"),
    "data JSON lines deep": (data("a.jsonl", DEEP + "\n"), "no usable JSON"),
    "data JSON lines empty": (data("a.jsonl", ""), "is empty; it needs one JSON object a line"),
    "data JSON lines of nothing": (data("a.jsonl", "{}\n{}\n"), "are empty; each needs keys"),
    "data JSON half a character": (
        data("a.jsonl", '{"text": "\\ud800", "label": "a"}\n{"text": "b", "label": "b"}\n'), "holds half a character",
    ),
    "data JSON digits": (data("a.jsonl", '{"text": ' + "1" * 5000 + ', "label": "a"}\n'), "no usable JSON"),
    "data JSON infinite": (
        data("a.json", '[{"text": "a", "label": 1e999}, {"text": "b", "label": NaN}]'),
        "row 2: the label is missing",
    ),
    "data JSON deep": (data("a.json", DEEP), "is not usable JSON"),
    "data JSON empty": (data("a.json", ""), "is empty; it needs a list of objects"),
    "data JSON a number": (data("a.json", "3"), "holds a JSON int"),
    "data JSON mixed": (data("a.json", '[{"text": "a"}, 3]'), "Cannot tell which column"),
    "data JSON of columns": (
        data("a.json", '{"text": ["a"], "label": ["b", "c"]}'),
        "The columns of a dict are equally long",
    ),
    "data Parquet text": (data("a.parquet", "x" * 100), "is no Parquet file, or a damaged one"),
    "data Parquet empty": (data("a.parquet", b""), "is no Parquet file, or a damaged one"),
    "data Parquet with torn metadata": (parquet("{"), "metadata (huggingface) that cannot be read"),
    "data Parquet with metadata that is a list": (parquet("[]"), "metadata (huggingface) that cannot be read"),
    "data Parquet with odd metadata": (
        parquet('{"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}}'),
        "the class names of column 'label' are not a list of texts",
    ),
    "data Excel text": (data("a.xlsx", "x" * 100), "is not an Excel workbook, or a damaged one"),
    "data Excel torn": (data("a.xlsx", NOT_A_TABLE), "is not an Excel workbook, or a damaged one"),
    "data Excel empty": (data("a.xlsx", b""), "is not an Excel workbook, or a damaged one"),
    "data a folder": (folder_as("a.csv", "train", "--data", "HERE/a.csv"), "has no split files"),
    "data an empty folder": (folder_as("a", "train", "--data", "HERE/a"), "has no split files"),
    "data with a NUL": (words("train", "--data", "a\0.csv"), "the name holds a NUL character"),
    "data with a name too long": (words("train", "--data", "a" * 5000 + ".csv"), "File name too long"),
    "data twice a column": (data("a.csv", "text,text,label\na,b,c\n"), "column 'text' occurs 2 times"),
    "texts to predict binary": (given("a.csv", BINARY), "the row holds a NUL character"),
    "texts to predict empty": (given("a.jsonl", ""), "is empty; it needs one JSON object a line"),
    "texts to predict no table": (given("a.parquet", NOT_A_TABLE), "is no Parquet file"),
    "texts to predict of no kind": (given("a.doc", "x"), "No dataset reader is meant for"),
    # Settings and templates of the user
    "config binary": (config(BINARY), "cannot be read: it is text in another encoding"),
    "config UTF-16": (config("seed: 1".encode("utf-16")), "it is UTF-16, not UTF-8"),
    "config half a character": (config("seed: \ud800"), "it is text in another encoding"),
    "config a list": (config("- 1"), "must hold sections such as 'training:'"),
    "config torn": (config("a: ["), "is no valid YAML"),
    "config with a tag": (config("seed: !!python/object/apply:os.system [true]"), "is no valid YAML"),
    "config with another tag": (config("seed: !mine x"), "is no valid YAML"),
    "config with a bad character": (config("seed: \x07"), "is no valid YAML"),
    "config with wrong types": (config("training: [1]\nlora: {r: {a: 1}}"), "Settings: 2 problems"),
    "config with a section that is a text": (config("training: x"), "training = 'x'"),
    "config with infinity": (config("training: {learning_rate: .inf}"), "learning_rate"),
    "config with a huge number": (config("lora: {r: 99999999999999999999}"), "lora.r"),
    "config a folder": (
        folder_as("c", "train", "--data", "TICKETS", "--config", "HERE/c"), "cannot be read: Is a directory",
    ),
    "config not there": (words("train", "--data", "TICKETS", "--config", "HERE/none"), "cannot be read: No such file"),
    "own template binary": (template(BINARY), "Template file"),
    "own template a loop of blocks": (template("{% for a in labels %}" * 30 + "{{ text }}"), "Template 'own'"),
    "own template that fails": (template("{{ text / 3 }} label:"), "fails on this row"),
    "own template that includes": (template("{% include 'x' %}{{ text }} label:"), "Template 'own'"),
    "own template of a wrong filter": (template("{{ labels | dictsort }}{{ text }} label:"), "fails on this row"),
    "own template a folder": (
        folder_as("own.j2", "predict", "--run", "LORA", "--template", "HERE/own.j2", "x"), "Is a directory",
    ),
    # Places
    "run not there": (words("predict", "--run", "HERE/none", "x"), "There is no run directory"),
    "run a file": (words("predict", "--run", "TICKETS", "x"), "is a file, not a run directory"),
    "run an empty folder": (folder_as("r", "predict", "--run", "HERE/r", "x"), "it holds no run.json"),
    "run with a NUL": (words("predict", "--run", "a\0b", "x"), "There is no run directory"),
    "run with a name too long": (words("predict", "--run", "a" * 5000, "x"), "There is no run directory"),
    "run to evaluate a file": (words("evaluate", "--run", "TICKETS"), "is a file, not a run directory"),
    "run to inspect a file": (words("labels", "inspect", "--run", "TICKETS"), "is a file, not a run directory"),
    "run whose prompt is shown a file": (
        words("templates", "show", "--run", "TICKETS"), "is a file, not a run directory",
    ),
    "run to show a file": (words("runs", "show", "TICKETS"), "is a file, not a run directory"),
    "output a folder": (
        folder_as("o.csv", "predict", "--run", "LORA", "--input", "TICKETS", "--output", "HERE/o.csv"),
        "cannot be written: it is a folder",
    ),
    "output in a file": (
        words("predict", "--run", "LORA", "--input", "TICKETS", "--output", "TICKETS/o.csv"), "cannot be written: ",
    ),
    "output of a run in a file": (
        words("train", "--data", "TICKETS", "--output-dir", "TICKETS/run"),
        "cannot be created: ",
    ),
    "results in a file": (
        words("evaluate", "--run", "LORA", "--data", "TICKETS", "--output-dir", "TICKETS"),
        "cannot be written to",
    ),
    "checkpoint that is none": (
        words("train", "--data", "TICKETS", "--output-dir", "HERE/out", "--resume", "TICKETS"),
        "cannot be used: there is no such folder",
    ),
    "launcher torn": (launcher("a: ["), "cannot be read: "),
    "launcher deep": (launcher(DEEP), "cannot be read: "),
    "launcher a list": (launcher("[1]"), "is no accelerate configuration"),
    "launcher of a date": (launcher("distributed_type: 2024-99-99"), "cannot be read: month must be in 1..12"),
    "launcher of many": (launcher("distributed_type: MULTI_CPU\nnum_processes: x"), "says num_processes 'x'"),
    "launcher that is none": (
        words("train", "--data", "TICKETS", "--launch", "TICKETS.yaml", "--num-processes", "2"),
        "is no file; `llmcls launch list` shows names",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(_strangers: dict[str, Path], tiny_model_dir: Path, tickets: Path) -> dict[str, Path]:
    return {**_strangers, "base": tiny_model_dir, "tickets": tickets}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_no_traceback(case: str, sources: dict[str, Path], tmp_path: Path) -> None:
    broken, wrong = CASES[case]
    done = call(*broken(Place(tmp_path, sources)))
    before, error, message = f"\n{done.err}".partition("\nError: ")
    assert (done.code, bool(error), done.out) == (1, True, ""), done
    assert wrong in message and "Traceback" not in before + message, message
    assert len(message) < 3000 or "too long" in case


USAGE: dict[str, Args] = {
    "no command": ("nonsense",),
    "no run": ("predict", "x"),
    "texts and a file": ("predict", "--run", "r", "--input", "a.csv", "x"),
    "a method that is none": ("predict", "--run", "r", "--method", "nonsense", "x"),
    "an option twice": ("train", "--data", "a.csv", "--data", "b.csv"),
    "an option without value": ("train", "--data"),
    "a number that is none": ("evaluate", "--run", "r", "--samples", "x"),
    "quotes that stay open": ("predict", "--base-model", "nano", "--labels", '"a,b', "x"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_told_as_such(case: str) -> None:
    done = call(*USAGE[case])
    assert (done.code, done.out) == (2, "") and "Error: " in done.err and "Traceback" not in done.err, done


def test_there_are_many_cases() -> None:
    assert len(CASES) + len(USAGE) >= 160


class _Raises:
    """A plugin that raises wherever it is called."""

    @hookimpl
    def register_prompt_templates(self) -> list[object]:
        raise RuntimeError("the disk of the plugin is full")

    @hookimpl
    def register_dataset_readers(self) -> list[object]:
        return [3]

    @hookimpl
    def register_commands(self, cli: object) -> None:
        raise ZeroDivisionError("division by zero")


def test_a_plugin_that_raises_is_named() -> None:
    manager = new_manager()
    manager.register(_Raises(), name="odd")
    with pytest.raises(LlmclsError, match=r"^Plugin 'odd' fails in register_prompt_templates\(\): RuntimeError"):
        prompt_templates(manager)
    with pytest.raises(
        LlmclsError, match=r"^Plugin 'odd' registers 3 as a dataset reader, which is not a llmcls\.data"
    ):
        dataset_readers(manager)
    with pytest.raises(LlmclsError, match=r"^Plugin 'odd' fails in register_commands\(\): ZeroDivisionError"):
        build_cli(manager)


def test_zero2_without_deepspeed_is_one_sentence(
    tickets: Path, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "find_spec", lambda _name: None)
    message = refuse("train", "--data", tickets, "--launch", "zero2", "--num-processes", "2")
    assert message.startswith("'zero2' needs DeepSpeed, which is not installed: pip install 'llmcls[deepspeed]'")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_one_sentence(sources: dict[str, Path], tmp_path: Path) -> None:
    place = Place(tmp_path, sources)
    (place.lora / "template.j2").chmod(0)
    done = call(*predict_with(place.lora))
    assert done.code == 1 and "template.j2 cannot be read (Permission denied)" in done.err
