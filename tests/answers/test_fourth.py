"""A fourth form of answer is one new file: it registers itself, trains, is sealed, predicts and is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcls import Classifier, LlmclsError, train
from llmcls.answers.form import form_named, unregister
from llmcls.console import Reporter
from llmcls.records import Example
from llmcls.runs.run import Run
from llmcls.settings import Settings, make_settings

from . import fourth

ROWS = [{"text": f"{word} number {n}", "label": label} for n in range(8) for word, label in (("bad", "1"), ("ok", "2"))]
ROWS += [{"text": f"splendid number {n}", "label": "3"} for n in range(8)]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    fourth.join()
    yield
    unregister("stars")


def test_it_trains_and_predicts(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = {"task": "rating", "training": {"max_steps": 3, "learning_rate": 0.05}}
    settings |= {"model": {"base_model": str(tiny_model_dir)}}
    made = train(ROWS, settings=settings, output_dir=tmp_path / "run", reporter=Reporter(quiet=True))
    run = Run.open(made.path)
    assert run.settings.form.name == "stars" and run.settings.training.objective == "sft"
    assert run.template.name == "minimal" and run.decision == {"rows": 2 * 3 - 3}
    classifier = Classifier.load(run)
    assert classifier.encoder.spellings == ("*", "**", "***")
    assert classifier.predict_proba(["ok number 3"]).sum() == pytest.approx(1)
    assert set(classifier.predict(["bad", "ok"])) <= {"1", "2", "3"}
    assert classifier.evaluate([Example(row["text"], row["label"]) for row in ROWS]).rows == 24
    with pytest.raises(LlmclsError, match="Label mass"):
        classifier.classify([Example("x")], label_mass=True)


def test_settings_know_it_without_a_branch() -> None:
    assert make_settings({"task": "rating"}).prompt.template == "minimal"
    assert make_settings({}).task == "single_label"
    assert "rating" in Settings.model_json_schema()["properties"]["task"]["enum"]
    with pytest.raises(LlmclsError, match=r"prompt\.verbalizer 'code' is not for ratings"):
        make_settings({"task": "rating", "prompt": {"verbalizer": "code"}})
    with pytest.raises(LlmclsError, match=r"prediction\.method 'greedy' is for task single_label"):
        make_settings({"task": "rating", "prediction": {"method": "greedy"}})


def test_two_forms_of_one_name_or_method_are_refused() -> None:
    with pytest.raises(LlmclsError, match="two forms of answer 'stars'"):
        fourth.join()

    class Other(fourth.Stars):
        rules = type(fourth.Stars.rules)("other", task="rating", methods=("auto",))

    with pytest.raises(LlmclsError, match="'stars' and 'other' both have the method 'auto'"):
        fourth.register(Other())
    with pytest.raises(KeyError):
        form_named("other")
