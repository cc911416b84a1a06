"""Files of any size: bad rows set aside, constant memory, and interrupted predictions that are gone on with."""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcls.classifier import Classifier
from llmcls.cli import main, outputs, predictions
from llmcls.data.inputs import BadRow, load_examples
from llmcls.processes.world import ALONE, World
from llmcls.records import Example, Prediction

LABELS = ("--labels", "billing,delivery")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def zero_shot(tiny_model_dir: Path) -> Classifier:
    return Classifier.zero_shot(str(tiny_model_dir), ["billing", "delivery"])


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch, zero_shot: Classifier) -> None:
    """Eight rows a batch, saved after each, and a model that is loaded already."""
    monkeypatch.setattr(predictions, "ROWS_AT_ONCE", {"cpu": 8})
    monkeypatch.setattr(outputs, "SAVE_EVERY", 0)
    monkeypatch.setattr("llmcls.cli.predict._load", lambda *_: zero_shot)


@pytest.fixture
def many(here: Path) -> Path:
    """300 rows, every tenth of which has no text."""
    path = here / "many.csv"
    texts = (f"row {n} " + "word " * (n % 7) if n % 10 else "" for n in range(300))
    path.write_text("id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)), encoding="utf-8")
    return path


def fail_after(monkeypatch: pytest.MonkeyPatch, batches: int, error: BaseException) -> None:
    """Let the prediction fail after some batches."""
    inner = Classifier.stream
    left = iter(range(batches))

    def stream(self: Classifier, *arguments: Any, **options: Any) -> Iterator[Prediction]:
        if next(left, None) is None:
            raise error
        return inner(self, *arguments, **options)

    monkeypatch.setattr(Classifier, "stream", stream)


# Bad rows


def test_bad_rows_are_listed_with_place_problem_and_row(llmcls: Callable[..., Any], run: Path, here: Path) -> None:
    (here / "new.csv").write_bytes(
        b'id,text\n1,ok\n2,too,many\n3,fine\n4,x\0y\n5,caf\xe9\n6,"torn\n7,"whole"\n8,\n9,"two\nlines"\n10,few,"\n11,"\n12,end\n'
    )
    command = ("predict", "--run", run, "--input", "new.csv", "--output", "out.csv")
    done = llmcls(*command)
    assert done.code == 0
    assert [row["id"] for row in rows_of(here / "out.csv")] == ["1", "3", "7", "9", "12"]
    listed = rows_of(here / "out.csv.errors.csv")
    assert list(listed[0]) == ["source", "problem", "raw"]
    assert [(row["source"], row["raw"]) for row in listed] == [
        ("new.csv:3", "2,too,many"),
        ("new.csv:5", "4,x\0y"),
        ("new.csv:6", "5,caf\\xe9"),
        ("new.csv:7", '6,"torn'),
        ("new.csv:9", '{"id": "8", "text": ""}'),
        ("new.csv:12", '10,few,"\n11,"'),
    ]
    assert "the quote opened here ends in the middle of line 8" in listed[3]["problem"]
    assert listed[4]["problem"] == "the row has no text"
    assert "it runs to line 13" in listed[5]["problem"]
    assert "Predicted 5 of 11 rows into " in done.err and " rows/s." in done.err
    assert "6 rows have no prediction: see 'out.csv.errors.csv'; the first: new.csv:3: the row has 3 cells" in done.err
    assert names(here) == ["new.csv", "out.csv", "out.csv.errors.csv"]

    (here / "new.csv").write_text("id,text\n1,ok\n", encoding="utf-8")
    assert llmcls(*command, "--overwrite").code == 0
    assert names(here) == ["new.csv", "out.csv"], "an old list does not outlive its prediction"


def test_json_lines_of_other_shapes(llmcls: Callable[..., Any], run: Path, here: Path) -> None:
    lines = ['{"text": "fine", "n": 1}'] * 1001
    lines += ['{"text": "new key", "n": 2, "later": true}', '{"text": ["a list"]}', "{broken", '{"n": 3}', '"x"']
    (here / "new.jsonl").write_text("\n".join(lines) + '\n{"text": "half \\ud800 ", "n": 4}', encoding="utf-8")
    done = llmcls("predict", "--run", run, "--input", "new.jsonl", "--output", "out.csv", "-q")
    assert done.code == 0
    assert "left out of the CSV: later; write .jsonl to keep all" in done.err
    found = rows_of(here / "out.csv")
    assert len(found) == 1002 and list(found[-1]) == ["text", "n", "predicted", "probability"]
    assert [row["problem"].partition(";")[0] for row in rows_of(here / "out.csv.errors.csv")] == [
        "column 'text' holds a list, not text",
        "the line is no JSON: Expecting property name enclosed in double quotes (column 2)",
        "the row has no text",
        "the line holds a JSON string",
        "column 'text' holds half a character (U+D800), which is no valid Unicode",
    ]
    assert llmcls("predict", "--run", run, "--input", "new.jsonl", "--output", "out.jsonl", "-q").code == 0
    kept = [json.loads(line) for line in (here / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(kept[-1]) == ["text", "n", "later", "predicted", "probability"]


def test_a_template_that_fails_on_some_rows(
    llmcls: Callable[..., Any], refuse: Callable[..., str], run: Path, here: Path
) -> None:
    (here / "t.j2").write_text("{{ 6 // (fields.n | int - 5) }} {{ text }}\nlabel:", encoding="utf-8")
    command = ("predict", "--run", run, "--template", "./t.j2", "--input", "new.csv", "--output", "out.csv", "-q")
    (here / "new.csv").write_text("n,text\n1,a\n5,b\n2,\n", encoding="utf-8")
    done = llmcls(*command)
    assert done.code == 0
    assert [row["n"] for row in rows_of(here / "out.csv")] == ["1", "2"], (
        "no text is no problem where columns are shown"
    )
    (bad,) = rows_of(here / "out.csv.errors.csv")
    assert bad["source"] == "new.csv:3" and "division" in bad["problem"] and json.loads(bad["raw"])["text"] == "b"

    (here / "new.csv").write_text("n,text\n5,a\n5,b\n", encoding="utf-8")
    assert "division" in refuse(*command, "--overwrite"), "not one row that works: the command is wrong, not the rows"
    assert not list(here.glob("*.partial*"))


def test_a_text_without_text(llmcls: Callable[..., Any], run: Path) -> None:
    done = llmcls("predict", "--run", run, "-q", "hello", " ")
    assert done.code == 0 and done.out.count("\n") == 2
    assert "1 row has no prediction: text 2: the row has no text" in done.err


# Interruptions


def command(many: Path, output: Path, *more: str) -> list[str]:
    return ["predict", *LABELS, "--input", str(many), "--output", str(output), "--probabilities", *more]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "tsv.gz", "parquet"])
def test_killed_anywhere_it_ends_as_if_never_interrupted(
    llmcls: Callable[..., Any], many: Path, here: Path, suffix: str
) -> None:
    whole, output = here / f"whole.{suffix}", here / f"out.{suffix}"
    journal = here / f"out.{suffix}.partial.json"
    assert llmcls(*command(many, whole)).code == 0
    luck = random.Random(suffix)
    safe, kills = 0, 0
    while kills < 12:
        child = os.fork()
        if child == 0:
            _die_at(luck.randrange(1, 25), torn=luck.choice([b"", b'"half a li', b'9,"', "é".encode()[:1]]))
            try:
                main([*command(many, output), "-q"])
            finally:
                os._exit(0)
        luck.random(), luck.random()  # what the child has drawn
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
        assert not output.exists()
        if journal.exists():
            before, safe = safe, json.loads(journal.read_text())["tally"]["rows"]
            assert safe >= before
    assert kills >= 4
    if not output.exists():
        done = llmcls(*command(many, output))
        assert done.code == 0
        assert f"Going on after row {safe:,} of an earlier attempt." in done.err
    assert output.read_bytes() == whole.read_bytes()
    assert (here / f"out.{suffix}.errors.csv").read_bytes() == (here / f"whole.{suffix}.errors.csv").read_bytes()
    assert not list(here.glob("*.partial*"))


def _die_at(flush: int, torn: bytes) -> None:
    """SIGKILL this process at its n-th flush: before it, or after it with a torn line behind it."""
    sync, left = os.fsync, iter(range(flush))

    def fsync(file: int) -> None:
        sync(file)
        if next(left, None) is None:
            with suppress(OSError):  # a folder's own flush takes no line
                os.write(file, torn)
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_interrupted_it_says_how_to_go_on(
    llmcls: Callable[..., Any], many: Path, here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    assert llmcls(*command(many, here / "whole.csv")).code == 0
    with monkeypatch.context() as patch:
        fail_after(patch, 5, error)
        if isinstance(error, KeyboardInterrupt):
            done = llmcls(*command(many, here / "out.csv"))
            assert done.code == 130
            assert "The same command will go on after row 40.\n" in done.err and done.err.endswith("Interrupted.\n")
        else:
            with pytest.raises(RuntimeError):
                main(command(many, here / "out.csv"))
    done = llmcls(*command(many, here / "out.csv"))
    assert "Going on after row 40" in done.err and "Predicted 270 of 300 rows" in done.err
    assert (here / "out.csv").read_bytes() == (here / "whole.csv").read_bytes()


@pytest.mark.usefixtures("small_steps")
def test_interrupted_while_saving_it_says_what_the_journal_says(
    llmcls: Callable[..., Any], many: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, names_given = Path.replace, []

    def replaced(self: Path, target: Path) -> Path:
        made = replace(self, target)
        names_given.append(target.name)
        if names_given.count("out.csv.partial.json") == 3:
            raise KeyboardInterrupt  # the journal, empty at first, is on the disk, and nothing else has happened since
        return made

    monkeypatch.setattr(Path, "replace", replaced)
    done = llmcls(*command(many, here / "out.csv"))
    assert done.code == 130 and "The same command will go on after row 16.\n" in done.err


@pytest.mark.usefixtures("small_steps")
def test_a_full_disk(llmcls: Callable[..., Any], many: Path, here: Path) -> None:
    assert llmcls(*command(many, here / "whole.csv")).code == 0
    child = os.fork()
    if child == 0:
        code = 99
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            main([*command(many, here / "out.csv"), "-q"])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    done = llmcls(*command(many, here / "out.csv"))
    assert done.code == 0 and "Going on after row" in done.err
    assert (here / "out.csv").read_bytes() == (here / "whole.csv").read_bytes()


@pytest.mark.usefixtures("small_steps")
def test_another_prediction_begins_anew(
    llmcls: Callable[..., Any], many: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = here / "out.csv"

    def interrupt() -> None:
        with monkeypatch.context() as patch:
            fail_after(patch, 3, KeyboardInterrupt())
            assert llmcls(*command(many, output, "--overwrite")).code == 130
        assert (here / "out.csv.partial.json").exists()

    def again(*more: str, without: str = "") -> str:
        interrupt()
        done = llmcls(*(part for part in command(many, output, "--overwrite", *more) if part != without))
        assert done.code == 0 and not list(here.glob("*.partial*"))
        return str(done.err)

    anew = f"beginning anew, not using '{output}.partial': "
    assert anew + "it is of another prediction (columns)." in again(without="--probabilities")
    assert anew + "it is of another prediction (columns)." in again("--prompt")
    assert anew + "it is of another prediction (prediction)." in again("--set", "prediction.method=greedy")
    assert anew + "--resume never." in again("--resume", "never")
    assert "Going on after row 24" in again("--set", "prediction.pack_tokens=64")
    assert "Going on after row 24" in again("-q", without="-q") and anew not in again("-q")

    interrupt()
    (here / "out.csv.partial.json").write_text('{"llmcls": "journal of an unfinished prediction", "tally": 1}')
    assert anew + "its state cannot be understood." in llmcls(*command(many, output, "--overwrite")).err
    interrupt()
    (here / "out.csv.partial").write_text("x")
    assert anew + "rows of it are missing." in llmcls(*command(many, output, "--overwrite")).err
    interrupt()
    many.write_text("id,text\n1,other\n", encoding="utf-8")
    assert anew + "it is of another prediction (input)." in llmcls(*command(many, output, "--overwrite")).err
    assert len(rows_of(output)) == 1


@pytest.mark.usefixtures("small_steps")
def test_two_cannot_write_one_file(refuse: Callable[..., str], many: Path, here: Path) -> None:
    first = outputs.FileOutput(here / "out.csv", outputs.Reporter(quiet=True))
    with first:
        assert "Another process is writing" in refuse(*command(many, here / "out.csv"))
        assert (here / "out.csv.partial").exists()
    assert names(here) == ["many.csv"]


@pytest.mark.usefixtures("small_steps")
def test_what_cannot_be_told_apart_is_not_gone_on_with(
    llmcls: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after(monkeypatch, 1, KeyboardInterrupt())
    texts = [f"text {n}" for n in range(20)]
    monkeypatch.setattr(Classifier, "warm_up", lambda _: None)
    assert llmcls("predict", *LABELS, "--output", "out.csv", *texts).code == 130
    assert names(here) == []


@pytest.mark.slow
def test_the_real_command_killed_and_interrupted(
    llmcls: Callable[..., Any], run: Path, many: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, then SIGINT, each after some rows are safe; the third attempt ends it."""
    arguments = ["predict", "--run", str(run), "--input", str(many), "--output"]
    program = (
        "from llmcls.cli import main, outputs, predictions\n"
        "import signal, time; inner = outputs.FileOutput.add\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "outputs.SAVE_EVERY, predictions.ROWS_AT_ONCE = 0, {'cpu': 8, 'cuda': 8}\n"
        "outputs.FileOutput.add = lambda *given: (inner(*given), time.sleep(0.05))\n"
        f"main({[*arguments, 'out.csv']!r})"
    )
    journal, rows = here / "out.csv.partial.json", 0
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        process = subprocess.Popen([sys.executable, "-c", program], cwd=here, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and (not journal.exists() or _safe_rows(journal) < rows + 16):
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        rows = _safe_rows(journal)
    assert f"The same command will go on after row {rows}." in errors
    monkeypatch.setattr(predictions, "ROWS_AT_ONCE", {"cpu": 8, "cuda": 8})
    assert f"Going on after row {rows} " in llmcls(*arguments, "out.csv").err
    assert llmcls(*arguments, "whole.csv").code == 0
    assert (here / "out.csv").read_bytes() == (here / "whole.csv").read_bytes()


def _safe_rows(journal: Path) -> int:
    return int(json.loads(journal.read_text())["tally"]["rows"])


# Memory


@dataclass(frozen=True)
class Stub:
    """A classifier that says "a" of everything, at once."""

    world: World = ALONE
    encoder: Any = field(default_factory=lambda: SimpleNamespace(template=SimpleNamespace(uses=lambda _: False)))

    def stream(self, examples: Iterable[Example], **_: object) -> Iterator[Prediction]:
        for example in examples:
            yield Prediction("a", 0.75, (0.75, 0.25), 1.0, truncated=len(example.text) > 10_000)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        source, output = tmp_path / f"{rows}.csv", tmp_path / f"{rows}.out.csv"
        with source.open("w", encoding="utf-8") as stream:
            stream.write("id,text\n")
            for number in range(rows):
                stream.write(f"{number},text of row {number}\n" if number % 50 else f"{number},bad,row\n")
        tracemalloc.start()
        given = predictions.Input.of_data(str(source), (), None)
        tally = predictions.Tally()
        with outputs.FileOutput(output, outputs.Reporter(quiet=True)) as written:
            written.begin(["id", "text", "predicted"], identity=given.identity)
            for batch in predictions.predict_batches(given.rows(0), Stub(), size=128):  # type: ignore[arg-type]
                tally = tally.plus(batch)
                written.add(({**v, "predicted": found.label} for v, found in batch.results), batch.bad, tally)
            written.finish(tally)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (tally.rows, tally.bad) == (rows, rows // 50)
        with output.open(encoding="utf-8") as stream:
            assert sum(1 for _ in stream) == 1 + tally.predicted
        return highest

    assert peak(200_000) < peak(20_000) + 100_000


def test_rows_from_any_place(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('text\none\n"torn\ntwo\n\nthree\n', encoding="utf-8")
    stream = load_examples(path)
    rows = list(stream.rows())
    assert [type(row) is BadRow for row in rows] == [False, True, False, False]
    assert all(list(stream.rows(start)) == rows[start:] for start in range(5))
    assert stream.count() == 4
