"""What llmcls has not made is never deleted or replaced, what is read is never written, and no byte is mixed in."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls.classifier import Classifier
from llmcls.cli import outputs
from llmcls.cli.outputs import FileOutput, ThroughOutput
from llmcls.cli.places import is_batch_file, is_metrics, is_table_of_rows, refuse_foreign, refuse_read, writes_through
from llmcls.cli.predictions import Tally
from llmcls.console import Reporter
from llmcls.data.inputs import BadRow
from llmcls.errors import LlmclsError
from llmcls.files import locked, replacing
from llmcls.runs.writing import CARD, IDENTITY, MARK, MARKED, check_free, check_not_read, check_unfinished, writing

QUIET = Reporter(quiet=True)
LABELS = ("--labels", "billing,delivery")
CARD_OF_A_RUN = {"format": 2, "created": "2030", "base_model": {}, "labels": [], "seal": {"adapter/weights": "0"}}


@pytest.fixture(scope="module")
def zero_shot(tiny_model_dir: Path) -> Classifier:
    return Classifier.zero_shot(str(tiny_model_dir), ["billing", "delivery"])


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, zero_shot: Classifier) -> None:
    """A model that is loaded already."""
    monkeypatch.setattr("llmcls.cli.predict._load", lambda *_: zero_shot)


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "SAVE_EVERY", 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def attempt(path: Path, rows: int, *, whole: bool = False, **options: Any) -> Tally:
    """A prediction of so many rows, every third one bad, that is killed in a polite way unless it is `whole`."""
    with FileOutput(path, QUIET, **options) as output:
        tally = output.begin(["text"], identity={"input": "the same"})
        for number in range(tally.rows, rows):
            bad = [BadRow(f"row {number}", "it is bad", "x")] if number % 3 == 0 else []
            tally = Tally(number + 1, tally.bad + len(bad), "it is bad")
            output.add([] if bad else [{"text": f"text {number}"}], bad, tally)
        if whole:
            output.finish(tally)
    return tally


# What was written is what is gone on with.


@pytest.mark.usefixtures("saving")
@pytest.mark.parametrize("part", ["out.csv.partial", "out.csv.errors.csv.partial"])
def test_an_edited_part_is_noticed(tmp_path: Path, part: str) -> None:
    path, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    attempt(whole, 9, whole=True)
    attempt(path, 6)
    before = (tmp_path / part).read_bytes()
    (tmp_path / part).write_bytes(
        before.replace(b"text" if b"text" in before else b"bad", b"edit"[: 4 if b"text" in before else 3], 1)
    )
    there = contents(tmp_path)
    with pytest.raises(LlmclsError, match=rf"{part}' has been changed since it was written.*--resume never"):
        attempt(path, 9, whole=True)
    assert contents(tmp_path) == there
    (tmp_path / part).write_bytes(before)
    attempt(path, 9, whole=True)
    assert path.read_bytes() == whole.read_bytes()
    assert (tmp_path / "out.csv.errors.csv").read_bytes() == (tmp_path / "whole.csv.errors.csv").read_bytes()


@pytest.mark.usefixtures("saving")
def test_what_came_behind_the_safe_rows_is_cut_off(tmp_path: Path) -> None:
    attempt(tmp_path / "whole.csv", 9, whole=True)
    attempt(tmp_path / "out.csv", 6)
    with (tmp_path / "out.csv.partial").open("ab") as file:
        file.write(b'"half a li')
    attempt(tmp_path / "out.csv", 8)
    attempt(tmp_path / "out.csv", 9, whole=True)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.usefixtures("saving")
def test_an_attempt_of_an_older_version_goes_on(tmp_path: Path) -> None:
    attempt(tmp_path / "whole.csv", 9, whole=True)
    attempt(tmp_path / "out.csv", 6)
    journal = tmp_path / "out.csv.partial.json"
    written = json.loads(journal.read_text(encoding="utf-8"))
    tally = {name: value for name, value in written["tally"].items() if name != "failed"}
    old = {"tally": tally, "sizes": written["sizes"], "identity": written["identity"]}
    journal.write_text(json.dumps(old), encoding="utf-8")
    assert attempt(tmp_path / "out.csv", 9, whole=True).rows == 9
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    # Killed before it had saved anything, it left its lock behind, and no journal.
    (tmp_path / "new.csv.partial").write_text('"text"\n', encoding="utf-8")
    (tmp_path / "new.csv.partial.lock").write_text("process 1 on host", encoding="utf-8")
    attempt(tmp_path / "new.csv", 9, whole=True)
    assert (tmp_path / "new.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.usefixtures("loaded")
def test_no_usable_row_is_no_success(llmcls: Callable[..., Any], refuse: Callable[..., str], here: Path) -> None:
    (here / "in.csv").write_text('id,text\n1,""\n2," "\n', encoding="utf-8")
    said = refuse("predict", *LABELS, "--input", "in.csv", "--output", "out.csv")
    assert (
        said
        == "None of the 2 rows has a prediction: see 'out.csv.errors.csv'; the first: in.csv:2: the row has no text."
    )
    assert sorted(contents(here)) == ["in.csv", "out.csv", "out.csv.errors.csv"]
    assert "The only row has no prediction: text 1: the row has no text." in refuse(
        "predict", "-q", *LABELS, "--json", " "
    )
    (here / "in.csv").write_text("id,text\n", encoding="utf-8")
    assert llmcls("predict", *LABELS, "--input", "in.csv", "--output", "none.csv").code == 0


# Files that are not ours.


@pytest.mark.parametrize(
    "name", ["p.csv.partial", "p.csv.errors.csv.partial", "p.csv.partial.json", "p.csv.errors.csv"]
)
@pytest.mark.parametrize("content", ["my notes\n", "{}", '{"identity": 1}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_files_of_others_beside_a_prediction(tmp_path: Path, name: str, content: str, overwrite: bool) -> None:
    (tmp_path / "p.csv").write_text("old", encoding="utf-8") if overwrite else None
    (tmp_path / name).write_text(content, encoding="utf-8")
    before = contents(tmp_path)
    wanted = (
        "exists already" if name == "p.csv.errors.csv" and not overwrite else "was not written by llmcls, but would"
    )
    with pytest.raises(LlmclsError, match=rf"{name}' {wanted}"):
        attempt(tmp_path / "p.csv", 3, whole=True, overwrite=overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["p.csv.partial", "p.csv.partial.json", "p.csv.partial.lock"])
def test_links_beside_a_prediction(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    (tmp_path / name).symlink_to("mine")
    with pytest.raises(LlmclsError, match=name):
        attempt(tmp_path / "p.csv", 3, whole=True)
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine" and (tmp_path / name).is_symlink()


def test_a_file_called_like_a_lock_or_a_draft(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    lock.write_text("my notes", encoding="utf-8")
    with pytest.raises(LlmclsError, match="is not a lock of llmcls"), locked(lock):
        pass
    assert lock.read_text(encoding="utf-8") == "my notes"
    lock.write_text("process 12345 on host", encoding="utf-8")  # a killed process's
    with locked(lock):
        pass
    (tmp_path / ".out.json.tmp").write_text("mine", encoding="utf-8")
    with replacing(tmp_path / "out.json", held=True) as file:
        file.write("{}")
    assert contents(tmp_path) == {".out.json.tmp": b"mine", "out.json": b"{}"}


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with FileOutput(path, QUIET) as output:
        output.begin(["text"], identity={"a": 1})
        output.add([{"text": "one"}], [], Tally(1))
        path.write_text("somebody's", encoding="utf-8")
        with pytest.raises(LlmclsError, match="exists already"):
            output.finish(Tally(1))
    assert path.read_text(encoding="utf-8") == "somebody's"
    path.unlink()
    with FileOutput(path, QUIET) as output:
        assert output.begin(["text"], identity={"a": 1}).rows == 1
        output.finish(Tally(1))
    assert path.read_text(encoding="utf-8") == '"text"\n"one"\n'


def test_side_files_that_collide(tmp_path: Path) -> None:
    with FileOutput(tmp_path / "x.csv", QUIET) as output:
        output.begin(["text"], identity={"a": 1})
        with pytest.raises(LlmclsError, match="Another process is writing"):
            attempt(tmp_path / "x.csv.errors.csv", 3, whole=True)
        output.add([], [BadRow("row 1", "it is bad", "x")], Tally(1, 1))
        output.finish(Tally(1, 1))
    with pytest.raises(LlmclsError, match="exists already"):
        attempt(tmp_path / "x.csv.errors.csv", 3, whole=True)
    attempt(tmp_path / "y.csv.errors.csv", 3, whole=True)
    with pytest.raises(LlmclsError, match=r"y.csv.errors.csv' exists already"):
        attempt(tmp_path / "y.csv", 3, whole=True)
    with pytest.raises(LlmclsError, match=r"y.csv.errors.csv' was not written by llmcls"):
        attempt(tmp_path / "y.csv", 3, whole=True, overwrite=True)


# The input, and what is no file.


def test_the_input_by_any_path(refuse: Callable[..., str], run: Path, here: Path) -> None:
    (here / "data").mkdir()
    source = here / "data" / "p.csv"
    source.write_text("text\nhello\n", encoding="utf-8")
    for name in ("p.csv.partial", "p.csv.partial.json", "p.csv.errors.csv", "p.csv"):
        link = here / name
        for make in (link.symlink_to, link.hardlink_to):
            make(source)
            said = refuse("predict", "--run", run, "--input", source, "--output", "p.csv", "--overwrite")
            assert f"'{name}' is read by this prediction, which would replace it" in said
            link.unlink()
    (here / "all").symlink_to("data")
    said = refuse("predict", "--run", run, "--input", "all/p.csv", "--output", "data/p.csv", "--overwrite")
    assert "is read by this prediction" in said
    sealed = run / "shots.jsonl"
    (run / "settings.csv").hardlink_to(run / "settings.yaml")
    said = refuse("predict", "--run", run, "--output", run / "settings.csv", "--overwrite", "hello")
    assert "settings.csv' is read by this prediction" in said and not sealed.exists()
    assert source.read_text(encoding="utf-8") == "text\nhello\n"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link.csv", tmp_path / "there" / "real.csv"
    link.symlink_to(target)
    attempt(link, 2, whole=True)
    assert link.is_symlink() and target.read_text(encoding="utf-8") == '"text"\n"text 1"\n'
    assert sorted(contents(tmp_path / "there")) == ["real.csv", "real.csv.errors.csv"]
    with pytest.raises(LlmclsError, match=r"real.csv' exists already"):
        attempt(link, 3, whole=True)
    attempt(link, 3, whole=True, overwrite=True)
    assert link.is_symlink() and target.read_text(encoding="utf-8").count("\n") == 3
    with replacing(link) as file:
        file.write("through")
    assert link.is_symlink() and target.read_text(encoding="utf-8") == "through"


@pytest.mark.usefixtures("loaded")
def test_devices_and_pipes(llmcls: Callable[..., Any], refuse: Callable[..., str], here: Path) -> None:
    device = Path("/dev/null").stat()
    (here / "in.csv").write_text('text\nhello\n""\n', encoding="utf-8")
    done = llmcls("predict", *LABELS, "--input", "in.csv", "--output", "/dev/null")
    assert done.code == 0 and "1 row has no prediction: in.csv:3" in done.err
    assert Path("/dev/null").stat().st_ino == device.st_ino and stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert not list(Path("/dev").glob("null?*"))
    with replacing("/dev/null") as file:
        file.write("nothing")
    os.mkfifo("pipe.csv")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe.csv").read_text(encoding="utf-8")))
    reader.start()
    assert llmcls("predict", *LABELS, "--input", "in.csv", "--output", "pipe.csv").code == 0
    reader.join(10)
    assert read[0].startswith('"text","predicted","probability"\n"hello",') and read[0].count("\n") == 2
    assert sorted(path.name for path in here.iterdir()) == ["in.csv", "pipe.csv"]
    assert "written through and never replaced" in refuse(
        "predict", *LABELS, "--output", "pipe.csv", "--overwrite", "x"
    )
    os.mkfifo("pipe.parquet")
    with pytest.raises(LlmclsError, match="cannot be written through it"), ThroughOutput(Path("pipe.parquet"), QUIET):
        pass
    assert writes_through(Path("/dev/stdout")) and writes_through(Path("/dev/fd/1")) and not writes_through(here)


# Run directories.


def thesis(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis.txt").write_text("three years", encoding="utf-8")
    return folder


def a_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights").write_text("w", encoding="utf-8")
    (folder / "evaluation").mkdir()
    (folder / CARD).write_text(json.dumps(CARD_OF_A_RUN), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"run": 1}', '{"created": 1, "seal": {}, "labels": []}', "{" * 9999]
)
def test_overwrite_deletes_no_folder_with_some_run_json(tmp_path: Path, content: str) -> None:
    (thesis(tmp_path / "book") / CARD).write_text(content, encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(LlmclsError, match="not a run directory"):
            check_free(tmp_path / "book", overwrite)


@pytest.mark.parametrize("place", ["thesis.txt", "adapter/thesis.txt", "notes/thesis.txt"])
def test_overwrite_deletes_nothing_foreign_in_a_run(tmp_path: Path, place: str) -> None:
    thesis((a_run(tmp_path / "run") / place).parent)
    with pytest.raises(LlmclsError, match=r"run' holds '.*', which llmcls did not write"):
        check_free(tmp_path / "run", overwrite=True)
    shutil.rmtree(tmp_path / "run")
    check_free(a_run(tmp_path / "run"), overwrite=True)
    (tmp_path / "link").symlink_to("run")
    with pytest.raises(LlmclsError, match="is a link, so --overwrite will not delete it"):
        check_free(tmp_path / "link", overwrite=True)


def test_the_folder_of_others_where_an_unfinished_run_would_be(refuse: Callable[..., str], here: Path) -> None:
    thesis(here / "book.unfinished")
    (here / "t.csv").write_text("text,label\n" + "one,a\ntwo,b\n" * 8, encoding="utf-8")
    said = refuse("train", "--data", "t.csv", "--output-dir", "book", "-q")
    assert said == (
        "'book.unfinished' was not made by llmcls, but a run is written there until it is finished as 'book'; "
        "move it away, or choose another --output-dir."
    )
    (here / "book.unfinished" / MARK).write_text(MARKED, encoding="utf-8")
    assert "'book.unfinished' holds 'thesis.txt', which llmcls did not write" in refuse(
        "train", "--data", "t.csv", "--output-dir", "book", "-q", "--resume", "never"
    )
    (here / "book.unfinished" / MARK).unlink()
    (here / "book.unfinished" / IDENTITY).write_text('{"a": 1}', encoding="utf-8")
    assert "was not made by llmcls" in refuse("train", "--data", "t.csv", "--output-dir", "book", "-q")
    assert (here / "book.unfinished" / "thesis.txt").read_text(encoding="utf-8") == "three years"


def test_unfinished_runs_are_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "run.unfinished"
    check_unfinished(tmp_path / "run")
    (folder / "trainer").mkdir(parents=True)
    check_unfinished(tmp_path / "run")  # nothing would be lost
    (folder / IDENTITY).write_text('{"effective batch": 8, "rows of data": "x"}', encoding="utf-8")
    check_unfinished(tmp_path / "run")  # as older versions have left it
    with writing(tmp_path / "run") as made:
        assert made == folder and (folder / MARK).read_text(encoding="utf-8").startswith("An unfinished run of llmcls")
        (folder / CARD).write_text(json.dumps(CARD_OF_A_RUN), encoding="utf-8")
        check_unfinished(tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == [CARD]
    a_run(folder)  # a finished run may be called so
    with pytest.raises(LlmclsError, match=r"run\.unfinished' was not made by llmcls"):
        check_unfinished(tmp_path / "run")
    shutil.rmtree(folder)
    folder.symlink_to(thesis(tmp_path / "other"))
    with pytest.raises(LlmclsError, match="is not a folder of llmcls"):
        check_unfinished(tmp_path / "run")


def test_a_run_that_is_read_is_not_replaced(refuse: Callable[..., str], run: Path, here: Path) -> None:
    rows = run / "evaluation" / "rows.csv"
    rows.parent.mkdir(exist_ok=True)
    rows.write_text("text,label\n" + "one,a\ntwo,b\n" * 8, encoding="utf-8")
    said = refuse("train", "--data", rows, "--output-dir", run, "--overwrite", "-q")
    assert said.endswith(f"lies in '{run}', which would be replaced; choose another --output-dir.")
    check_not_read(run, ["nano", None, "\0", "here.csv"])
    with pytest.raises(LlmclsError, match="is read by this training"):
        check_not_read(run, ["nano", str(run / "adapter")])
    check_not_read(here / "new", [str(here)])


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_during_training_is_kept(tmp_path: Path, overwrite: bool) -> None:
    def train() -> None:
        with writing(tmp_path / "run", overwrite) as folder:
            (folder / CARD).write_text(json.dumps(CARD_OF_A_RUN), encoding="utf-8")
            thesis(tmp_path / "run")

    with pytest.raises(LlmclsError, match=r"the finished run stays in '.*run\.unfinished'; move it"):
        train()
    assert sorted(contents(tmp_path)) == ["run.unfinished/run.json", f"run.unfinished/{MARK}", "run/thesis.txt"]


# Other commands that write files.


def test_evaluate_keeps_what_it_reads_and_what_others_wrote(refuse: Callable[..., str], run: Path, here: Path) -> None:
    out = here / "out"
    out.mkdir()
    rows = "text,label\none,billing\n"
    (out / "predictions.csv").write_text(rows, encoding="utf-8")
    asked = ("evaluate", "--run", run, "-q", "--output-dir", out)
    assert "predictions.csv' is read by this evaluation" in refuse(*asked, "--data", out / "predictions.csv")
    (here / "in.csv").write_text(rows, encoding="utf-8")
    for name in ("predictions.csv", "metrics.json", "metrics-before.json"):
        (out / name).write_text("{}" if "json" in name else rows, encoding="utf-8")
        said = refuse(*asked, "--data", "in.csv", "--before")
        assert said.startswith(f"'{out / name}' was not written by llmcls, but would be replaced; move it away, or")
        assert (out / name).exists()
        (out / name).unlink()


def test_what_evaluations_write_is_recognised(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content, is_own, own in (
        ('"source","text","label","predicted"\n', is_table_of_rows, True),
        ('"text","label"\n', is_table_of_rows, False),
        ('{"labels": [], "per_class": {}, "rows": 1}', is_metrics, True),
        ('{"rows": 1}', is_metrics, False),
        ("#!/bin/bash\n#SBATCH --job-name=llmcls\n", is_batch_file, True),
        ("#!/bin/bash\nrm -rf llmcls\n", is_batch_file, False),
    ):
        file.write_text(content, encoding="utf-8")
        if own:
            refuse_foreign(file, is_own)
        else:
            with pytest.raises(LlmclsError, match="was not written by llmcls"):
                refuse_foreign(file, is_own)
    with pytest.raises(LlmclsError, match=r"is read by this evaluation, .*another --output-dir"):
        refuse_read([file], [tmp_path], "--output-dir")


def test_a_batch_file_replaces_only_one(llmcls: Callable[..., Any], refuse: Callable[..., str], here: Path) -> None:
    asked = ("launch", "slurm", "--output", "job.sbatch", "train", "--data", "t.csv", "--output-dir", "r")
    (here / "job.sbatch").write_text("#!/bin/bash\n", encoding="utf-8")
    assert "'job.sbatch' was not written by llmcls" in refuse(*asked)
    (here / "job.sbatch").unlink()
    assert llmcls(*asked).code == 0 and llmcls(*asked).code == 0
