"""Where a run may be written, what it is called by itself, and where its base model is found again."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from llmcls import LlmclsError
from llmcls.data.splits import load_data
from llmcls.errors import LlmclsWarning
from llmcls.model.loading import locate
from llmcls.runs.claim import claiming
from llmcls.runs.writing import CARD, check_free, default_path, writing
from llmcls.settings import ModelSettings, Settings, make_settings
from llmcls.training.preparation import read_data


def nothing(path: Path) -> None:
    del path


def empty(path: Path) -> None:
    path.mkdir()


def a_file(path: Path) -> None:
    path.touch()


def a_thesis(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").touch()


def a_hidden_file(path: Path) -> None:
    path.mkdir()
    (path / ".gitkeep").touch()


def a_run(path: Path) -> None:
    path.mkdir()
    card = {"format": 2, "created": "2030", "base_model": {}, "labels": [], "seal": {}}
    (path / CARD).write_text(json.dumps(card), encoding="utf-8")


def a_link(path: Path) -> None:
    path.with_name("other").mkdir()
    path.symlink_to(path.with_name("other"), target_is_directory=True)


@pytest.mark.parametrize(
    ("make", "overwrite", "says"),
    [
        (nothing, False, None),
        (nothing, True, None),
        (empty, False, None),
        (empty, True, None),
        (a_run, True, None),
        (a_run, False, "exists already; choose another --output-dir, or replace it with --overwrite."),
        (a_thesis, False, "exists already and is not a run directory; choose another --output-dir."),
        (a_thesis, True, "is not a run directory, so --overwrite will not delete it; choose another."),
        (a_file, False, "exists already and is not a run directory; choose another --output-dir."),
        (a_hidden_file, False, "exists already and is not a run directory"),
        (a_link, False, "exists already and is a link; choose another --output-dir."),
    ],
)
def test_where_a_run_may_be_written(tmp_path: Path, make: Any, overwrite: bool, says: str | None) -> None:
    path = tmp_path / "run"
    make(path)
    if says is not None:
        with pytest.raises(LlmclsError) as caught:
            check_free(path, overwrite)
        assert str(caught.value) == f"'{path}' {says}" or says in str(caught.value)
        assert "--overwrite" not in says or make is not a_thesis or overwrite, "advice that leads round in a circle"
        return
    with writing(path, overwrite) as folder:
        (folder / "done").touch()
    assert [file.name for file in path.iterdir()] == ["done"]
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_mounted_disk_cannot_be_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.ismount", lambda _: True)
    with pytest.raises(LlmclsError, match="exists already and is a mounted disk"):
        check_free(tmp_path, overwrite=False)


@pytest.mark.parametrize("path", [".", "..", "runs/..", "/", ""])
def test_a_run_needs_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LlmclsError, match="has no name of its own; name a folder"), claiming(path):
        pass


def test_runs_that_begin_together_have_names_of_their_own() -> None:
    paths = [default_path(make_settings({"data": {"source": "a/tickets.csv"}})) for _ in range(20)]
    assert len(set(paths)) == 20
    assert all(path.parent == Path("runs") and path.name.startswith("tickets-nano-2") for path in paths)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("models/mine", "HERE/models/mine"),
        ("./models/mine", "HERE/models/mine"),
        ("models/../models/mine", "HERE/models/../models/mine"),
        ("HERE/models/mine", "HERE/models/mine"),
        ("nano", "nano"),  # a short name wins over a folder, as when it is loaded
        ("owner/name", "owner/name"),
        ("models/gone", "models/gone"),
    ],
)
def test_a_folder_with_a_base_model_is_kept_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("models/mine", "nano"):
        (tmp_path / folder).mkdir(parents=True)
    here = str(tmp_path)
    found = locate(ModelSettings(base_model=typed.replace("HERE", here), revision="main"))
    assert found == ModelSettings(base_model=expected.replace("HERE", here), revision="main")


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def say(self, message: str) -> None:
        self.notes.append(message)


SAME = [{"text": "same", "label": label} for label in "ab"]
ROWS = [{"text": f"{label} {n}", "label": label} for n in range(4) for label in "ab"]


@pytest.mark.parametrize(
    ("data", "settings", "fact"),
    [
        (ROWS + SAME, {}, "texts with more than one label"),
        ({"train": ROWS, "test": ROWS[:1]}, {}, "1 of 1 texts are in train, too"),
        ({"train": ROWS, "test": [{"text": "x", "label": None}]}, {}, "no row has a label, so this split is left out"),
        (ROWS, {"task": "multi_label"}, "no training row has two labels"),
        (ROWS, {"data": {"labels": ["a", "b", "c"]}}, "labels without a training row: c"),
        (ROWS, {}, "no test split"),
    ],
)
@pytest.mark.parametrize("action", ["always", "ignore"])
def test_a_fact_of_the_data_is_said_once(data: Any, settings: Any, fact: str, action: Any) -> None:
    heard = Heard()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action, LlmclsWarning)
        resolved: Settings = make_settings(settings)
        read = read_data(resolved, data)
        read.tell(heard)  # type: ignore[arg-type]
    said = [*heard.notes, *(str(warning.message) for warning in caught)]
    doubt = action == "ignore" and "two labels" in fact  # which is a warning only
    assert sum(fact in message for message in said) == (0 if doubt else 1)
    assert len(said) == len(set(said)) >= len(read.splits.notes)
    assert all(fact in note for note in read.splits.notes if note in fact)


def test_reading_data_by_itself_warns_as_ever() -> None:
    with pytest.warns(LlmclsWarning, match="more than one label"):
        load_data(ROWS + SAME)
