"""`llmcls runs list`: unfinished runs, which runs, in which order, and how wide."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcls import LlmclsError, train
from llmcls.cli.run_list import fold_command, sort_entries
from llmcls.files import locked
from llmcls.runs.begun import find_begun
from llmcls.runs.run import Run
from llmcls.runs.writing import IDENTITY, lock_file
from llmcls.training import train as training

ROWS = [{"text": f"{word} {n}", "label": word} for n in range(4) for word in ("late", "paid")]
SHORT = {"training": {"max_steps": 2, "save_steps": 1, "save_strategy": "steps"}, "data": {"validation_size": 0}}


def begin(path: Path, data: Any, model: Path) -> None:
    """A training that is killed when it has done its last step."""

    def killed(*_: Any) -> None:
        raise LlmclsError("killed")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "_keep", killed)
        with pytest.raises(LlmclsError, match="killed"):
            train(data, base_model=str(model), settings=SHORT, output_dir=path)


@pytest.fixture(scope="module")
def begun(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two unfinished runs: of a file, with a name that a shell would take apart, and of rows."""
    root = tmp_path_factory.mktemp("begun")
    (root / "rows.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS))
    begin(root / "of a file's", str(root / "rows.csv"), tiny_model_dir)
    begin(root / "rows", ROWS, tiny_model_dir)
    return root


def test_unfinished_runs_are_listed_with_their_step(llmcls: Callable[..., Any], begun: Path) -> None:
    entries = {Path(entry["run"]).name: entry for entry in json.loads(llmcls("runs", "list", begun, "--json").out)}
    assert set(entries) == {"of a file's", "rows"}
    for entry in entries.values():
        assert next(iter(entry)) == "run" and entry["fault"] is None and entry["accuracy"] is None
        assert (entry["unfinished"]["step"], entry["unfinished"]["steps"]) == (2, 2)
    assert entries["rows"]["unfinished"]["command"] is None, "nobody else has the rows"
    shown = llmcls("runs", "list", begun).out
    assert shown.count("step 2 of 2") == 2 and "the same call goes on with it" in shown
    with locked(lock_file(begun / "rows")):
        assert f"being trained by process {__import__('os').getpid()}" in llmcls("runs", "list", begun).out
    assert not lock_file(begun / "rows").exists()


def test_the_command_goes_on_with_it(
    llmcls: Callable[..., Any], begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shown = llmcls("runs", "list", ".").out
    assert max(map(len, shown.splitlines())) <= 80
    joined = shown.replace("\\\n", " ")  # as a shell reads it
    (command,) = [line for line in joined.splitlines() if line.startswith("  llmcls train --config")]
    words = shlex.split(command)
    done = llmcls(*words[1:])
    assert done.code == 0 and "Going on from" in done.err, done.err
    run = Run.open(tmp_path / "of a file's")
    assert run.settings.training.max_steps == 2 and run.settings.data.source == str(begun / "rows.csv")
    assert not (run.path / IDENTITY).exists()
    assert [Path(one.path).name for one in find_begun(tmp_path)] == ["rows"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backend": "zero2, 3 processes"}, " --launch zero2 --num-processes 3"),
        ({"effective batch": 32}, " --launch ddp --num-processes 4"),
        ({"model.trust_remote_code": True}, " --trust-remote-code"),
        ({"effective batch": "odd", "backend": None}, "rows' --output-dir rows"),
    ],
)
def test_the_command_says_what_no_file_of_settings_can(
    begun: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = tmp_path / "it.unfinished"
    shutil.copytree(begun / "of a file's.unfinished", folder)
    identity = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    (folder / IDENTITY).write_text(json.dumps({**identity, **changes}), encoding="utf-8")
    (found,) = find_begun(tmp_path)
    plain = f"llmcls train --config {folder}/settings.yaml --output-dir {tmp_path}/it"
    assert found.command == (plain if says.startswith("rows") else plain + says)


def test_torn_remains_do_not_hide_the_others(begun: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(begun / "of a file's.unfinished", tmp_path / f"{name}.unfinished")
    state = tmp_path / "one.unfinished" / "trainer" / "checkpoint-2" / "trainer_state.json"
    state.write_text('{"max_steps": "many"', encoding="utf-8")
    (tmp_path / "one.unfinished" / "settings.yaml").write_text("model: [", encoding="utf-8")
    (tmp_path / "strange.unfinished").mkdir()
    (tmp_path / "strange.unfinished" / IDENTITY).write_text("[]", encoding="utf-8")
    one, two = sorted(find_begun(tmp_path), key=lambda found: found.path)
    assert (one.step, one.steps, one.command, one.data) == (2, None, None, None)
    assert one.base_model == two.base_model, "the file that says what it was begun with has it, too"
    assert two.steps == 2 and two.command is not None


def test_choosing_and_sorting(llmcls: Callable[..., Any], run: Path, begun: Path) -> None:
    root = run.parent
    shutil.copytree(begun / "of a file's.unfinished", root / "more" / "late.unfinished")

    def names(*options: str) -> list[str]:
        return [Path(entry["run"]).name for entry in json.loads(llmcls("runs", "list", root, "--json", *options).out)]

    assert sorted(names()) == ["late", run.name]
    assert names("--data", "TICKETS.csv") == names("--search", "billing") == [run.name]
    assert names("--data", "rows.csv") == names("--search", "more/") == ["late"]
    assert names("--base-model", "nothing") == []
    assert "lists 2 without" in " ".join(llmcls("runs", "list", root, "--base-model", "nothing").out.split())
    assert names("--sort", "run") == ["late", run.name]
    assert names("--sort", "seconds") == names("--sort", "labels") == [run.name, "late"]
    assert llmcls("runs", "list", root, "--sort", "beauty").code == 2


def test_what_has_no_figure_comes_after_those_that_have_and_damaged_runs_last() -> None:
    def entry(run: str, accuracy: float | None, fault: str | None = None) -> dict[str, Any]:
        return {"run": run, "accuracy": accuracy, "fault": fault, "created": None, "base_model": run}

    entries = [entry("x", None, "torn"), entry("a", None), entry("b", 0.5), entry("c", 0.9), entry("d", 0.5)]
    assert [one["run"] for one in sort_entries(entries, "accuracy")] == ["c", "b", "d", "a", "x"]
    assert [one["run"] for one in sort_entries(entries[::-1], "base-model")] == ["a", "b", "c", "d", "x"]


def test_a_folded_command_is_the_command() -> None:
    command = shlex.join(["llmcls", "train", "--config", "a b/" + "c" * 90, "--output-dir", "it's", *["-q"] * 30])
    lines = list(fold_command(command, 80))
    assert len(lines) > 2 and all(len(line) <= 80 for line in lines if "ccc" not in line)
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == shlex.split(command)


@pytest.mark.parametrize(
    "command",
    ["models list", "plugins", "templates list", "readers list", "launch list", "labels inspect --labels {labels}"],
)
def test_tables_fit_80_columns(llmcls: Callable[..., Any], command: str) -> None:
    labels = ",".join(f"{'a very long label ' * 4}{n}" for n in range(3)) + "," + "x" * 120
    done = llmcls(*command.split(" {")[0].split(), *([labels] if "{" in command else []))
    assert done.code == 0 and done.out
    for line in done.out.splitlines():
        assert len(line) <= 80 and line == line.rstrip(), line


def test_runs_fit_80_columns_and_paths_stay_whole(llmcls: Callable[..., Any], run: Path) -> None:
    deep = run.parent / ("a-name-without-a-space-" * 4) / ("another-" * 5)
    shutil.copytree(run, deep)
    shutil.copytree(run, run.parent / "copy")
    for arguments in (("list", run.parent), ("show", deep)):
        lines = llmcls("runs", *arguments).out.splitlines()
        paths = [line for line in lines if len(line) > 80]
        assert all(" " not in line.strip() or line.startswith(str(deep)) for line in paths), paths
        assert any(line.startswith(str(deep)) for line in lines)
