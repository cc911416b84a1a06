"""Where a run finds its data again: from every directory, and whatever the path was typed like."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcls import train
from llmcls.console import Reporter
from llmcls.data.paths import locate_data, shorten_path
from llmcls.data.splits import load_training_data
from llmcls.settings import make_settings
from llmcls.training.checkpoints import describe_run


def test_what_is_there_is_absolute_and_all_else_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.csv", "a.xlsx", "demo", "hub:b.csv"):
        (tmp_path / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for spec in ("a.csv", "a.xlsx:Sheet 2", "folder", "hub:b.csv", "demo"):
        assert locate_data(spec) == f"{tmp_path}/{spec}" == locate_data(f"{tmp_path}/{spec}")
        assert shorten_path(locate_data(spec)) == spec
    assert locate_data("folder/../a.csv").endswith("a.csv") and locate_data("folder/") == f"{tmp_path}/folder"
    for spec in ("demo:", "hub:a.csv", "hub:folder", "none.csv", "none.xlsx:x"):
        assert locate_data(spec) == spec == shorten_path(spec)
    monkeypatch.chdir(tmp_path / "folder")
    assert shorten_path(f"{tmp_path}/a.csv") == "a.csv"


def test_the_place_of_data_is_not_what_a_run_is() -> None:
    one, other = (make_settings({"data": {"source": source}}) for source in ("a.csv", "/b/a.csv"))
    assert one != other and "data.source" not in _identity(one) and _identity(one) == _identity(other)


def _identity(settings: object) -> dict[str, object]:
    class Alone:
        size, backend = 1, "single"

    return describe_run(settings, "rows", "model", Alone())  # type: ignore[arg-type]


def test_a_run_finds_its_data_from_another_directory(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(8))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = {"model": {"quantization": "none"}, "training": {"max_steps": 1}, "data": {"validation_size": 0}}
    run = train(
        "rows.csv", base_model=str(tiny_model_dir), output_dir=tmp_path / "run", settings=settings,
        reporter=Reporter(quiet=True),
    )  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.settings.data.source == run.card["data"]["source"] == str(tmp_path / "rows.csv")
    assert load_training_data(run.settings).fingerprint == run.card["data"]["fingerprint"]
