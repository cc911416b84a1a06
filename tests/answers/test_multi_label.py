"""Several labels a text, from the CSV file to the report: Python and the command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from llmcls import Classifier, LlmclsError, train
from llmcls.answers import Wanted, form_named
from llmcls.answers.yes_no import YesNoPredictor
from llmcls.console import Reporter
from llmcls.data.splits import load_training_data
from llmcls.evaluation.thresholds import Thresholds
from llmcls.labels import LabelSet
from llmcls.records import Example
from llmcls.runs.run import Run
from llmcls.settings import make_settings
from llmcls.training.preparation import resolve_class_weights
from llmcls.training.progress import ProgressCallback

from ..cli.conftest import call

LABELS = ("anger", "joy", "two words")
ROWS = [(f"text {n}", "|".join(name for at, name in enumerate(LABELS) if n >> at & 1)) for n in range(40)]
YES_NO = form_named("yes_no")
TEXTS = ["text 3", "something else entirely", ""]
SHORT = ("--set", "training.max_steps=3", "--set", "training.learning_rate=0.02", "--set", "data.label_separator=|")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("text,labels\n" + "".join(f"{text},{labels}\n" for text, labels in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def _trained(rows: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "several"
    where = ("--data", rows, "--base-model", tiny_model_dir, "--output-dir", path)
    done = call("train", "--task", "multi_label", *where, *SHORT)
    assert done.code == 0, done
    return path


@pytest.fixture
def run(_trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_trained, tmp_path / "several"))


def test_the_run(run: Path) -> None:
    opened = Run.open(run)
    assert opened.card["task"] == opened.settings.task == "multi_label"
    assert opened.settings.prompt.template == "multi_label" and opened.settings.training.objective == "label"
    assert opened.labels.names == LABELS and opened.label_separator == "|"
    assert len(opened.decision["values"]) == 3 and opened.decision["rows"] == 4
    card = json.loads((run / "run.json").read_text(encoding="utf-8"))
    card["decision"]["values"][0] = 0.01
    (run / "run.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(LlmclsError, match=r"run\.json has changed"):
        Run.open(run)


def test_the_classifier(run: Path) -> None:
    classifier = Classifier.load(run)
    p = classifier.predict_proba(TEXTS)
    assert p.shape == (3, 3) and ((p > 0) & (p < 1)).all()
    assert abs(p.sum(axis=1) - 1).min() > 1e-3
    least = np.array(classifier.thresholds.values)
    expected = [tuple(np.array(LABELS)[row >= least].tolist()) for row in p]
    assert classifier.predict(TEXTS) == expected
    slow = make_settings({"prediction": {"method": "reference", "threshold": 0.0}}).prediction
    reference = Classifier.load(run, prediction=slow)
    assert reference.predict_proba(TEXTS) == pytest.approx(p, abs=1e-4)
    assert reference.predict(TEXTS) == [LABELS] * 3
    for prediction, row in zip(classifier.classify([Example(text) for text in TEXTS]), p, strict=True):
        assert prediction.labels is not None and prediction.label == "|".join(prediction.labels)
        decided = [p if name in prediction.labels else 1 - p for name, p in zip(LABELS, row, strict=True)]
        assert prediction.probability == pytest.approx(np.prod(decided), abs=1e-6)
    with pytest.raises(LlmclsError, match="Label mass is for single labels"):
        classifier.classify([Example("x")], label_mass=True)
    with classifier.untrained() as before:
        assert abs(before.predict_proba(TEXTS) - p).max() > 1e-3
    with pytest.raises(LlmclsError, match="'greedy' does not answer yes or no"):
        Classifier.load(run, prediction=make_settings({"prediction": {"method": "greedy"}}).prediction)


def test_packed_and_padded_training_agree(rows: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    found = []
    for packing in (True, False):
        settings: dict[str, Any] = {
            "task": "multi_label",
            "data": {"label_separator": "|"},
            "model": {"base_model": str(tiny_model_dir), "quantization": "none"},
            "lora": {"lora_dropout": 0.0},
            "training": {
                **{"packing": packing, "max_steps": 3, "learning_rate": 0.01, "logging_steps": 1},
                **{"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "class_weights": "balanced"},
            },
        }
        made = train(str(rows), settings=settings, output_dir=tmp_path / str(packing), reporter=Reporter(quiet=True))
        log = [json.loads(line) for line in (made.path / "log.jsonl").read_text().splitlines()]
        found.append([entry.get("loss", entry.get("eval_loss")) for entry in log][:4])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "logged"),
    [("micro_f1", "micro_f1"), ("subset_accuracy", "subset_accuracy"), ("accuracy", "subset_accuracy")],
)
def test_the_best_checkpoint_by_what_is_logged(
    rows: Path, tiny_model_dir: Path, tmp_path: Path, metric: str, logged: str
) -> None:
    settings: dict[str, Any] = {
        "task": "multi_label",
        "data": {"label_separator": "|"},
        "model": {"base_model": str(tiny_model_dir)},
        "training": {
            **{"max_steps": 4, "learning_rate": 0.02, "eval_strategy": "steps", "eval_steps": 1},
            **{"save_strategy": "steps", "save_steps": 1},
            **{"load_best_model_at_end": True, "metric_for_best_model": metric},
        },
    }
    made = train(str(rows), settings=settings, output_dir=tmp_path / "run", reporter=Reporter(quiet=True))
    log = [json.loads(line) for line in (made.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [entry[f"eval_{logged}"] for entry in log if f"eval_{logged}" in entry]
    assert len(found) == 4 and not any("eval_accuracy" in entry for entry in log)
    assert {"eval_precision", "eval_recall", "eval_micro_precision", "eval_micro_recall", "eval_roc_auc"} <= {*log[1]}
    assert max(found) > min(found) or logged != "micro_f1"
    held_out = load_training_data(made.settings, str(rows)).validation
    half = make_settings({"prediction": {"threshold": 0.5}}).prediction
    report = Classifier.load(made, prediction=half).evaluate(held_out)
    assert getattr(report, logged) == pytest.approx(max(found))


def test_predict(run: Path, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    done = call("predict", "--run", run, "--input", rows, "--output", output, "--probabilities", "--threshold", "0.3")
    assert done.code == 0, done
    with output.open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(ROWS)
    for row in found:
        chosen = [name for name in LABELS if float(row[f"p({name})"]) >= 0.3]
        assert row["predicted"] == "|".join(chosen)
    done = call("predict", "--run", run, "a text", "--json", "--threshold", "0")
    assert json.loads(done.out)["predicted"] == list(LABELS)
    assert "there is no --margin: a text may have several" in call("predict", "--run", run, "x", "--margin").err
    # The task is the run's, also where only the command line is looked at.
    assert "does not go with training.objective 'label'" in call("predict", "--run", run, "x", "--method", "list").err


def test_evaluate(run: Path, rows: Path) -> None:
    done = call("evaluate", "--run", run, "--data", rows, "--before", "--baseline", "--json")
    assert done.code == 0, done
    result = json.loads(done.out)
    assert {"micro_f1", "subset_accuracy", "hamming_loss", "mean_average_precision"} < result.keys()
    assert {entry["threshold"] for entry in result["before"]["per_class"]} == {0.5}
    (folder,) = (run / "evaluation").iterdir()
    assert {file.name for file in folder.iterdir()} == {
        *("metrics.json", "metrics-before.json", "metrics-baseline.json", "predictions.csv")
    }
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    exact = sum(row["correct"] == "true" for row in found) / len(found)
    assert exact == pytest.approx(result["subset_accuracy"])
    assert [row["label"] for row in found] == [labels for _, labels in ROWS]
    shown = call("evaluate", "--run", run, "--data", rows)
    assert "Hamming loss" in shown.out and "threshold" in shown.out and "Confusion" not in shown.out
    other = json.loads(call("evaluate", "--run", run, "--data", rows, "--threshold", "0.3", "--json").out)
    assert {entry["threshold"] for entry in other["per_class"]} == {0.3}


def test_other_commands(run: Path) -> None:
    call("evaluate", "--run", run, "--quiet")
    listed = call("runs", "list", run.parent)
    assert listed.code == 0 and "several" in listed.out
    assert "subset accuracy" in call("runs", "show", run).out
    shown = call("templates", "show", "--run", run, "--row", "1")
    assert "one of 3 questions is shown" in shown.out
    tokens = json.loads(call("templates", "show", "--run", run, "--row", "1", "--json").out)["tokens"]
    (learnt,) = [token for token in tokens if token["loss"]]
    assert learnt == tokens[-1]
    assert "a text may have several" in call("labels", "inspect", "--run", run).err


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_classification_head(rows: Path, tiny_model_dir: Path, tmp_path: Path, tuning: str) -> None:
    losses = []
    for packing in ("true", "false"):
        path = tmp_path / f"head-{packing}"
        chosen = ("training.objective=head", f"training.tuning={tuning}", f"training.packing={packing}")
        options = [part for setting in (*chosen, "lora.lora_dropout=0") for part in ("--set", setting)]
        where = ("--data", rows, "--base-model", tiny_model_dir, "--output-dir", path, "--quantization", "none")
        done = call("train", "--task", "multi_label", *where, *SHORT, *options)
        assert done.code == 0, done
        log = map(json.loads, (path / "log.jsonl").read_text(encoding="utf-8").splitlines())
        losses += [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    classifier = Classifier.load(path)
    p = classifier.predict_proba(TEXTS)
    assert p.shape == (3, 3) and classifier.thresholds is not None and classifier.thresholds.rows == 4
    slow = make_settings({"prediction": {"method": "reference"}}).prediction
    assert Classifier.load(path, prediction=slow).predict_proba(TEXTS) == pytest.approx(p, abs=1e-4)
    # The head is transformers' own: a logit a label, and the sigmoid of it is the probability.
    model = classifier._model.eval()
    prompts = [prompt.input_ids for prompt in classifier.encoder.encode([Example(text) for text in TEXTS])]
    with torch.no_grad():
        logits = torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in prompts])
    assert logits.shape == (3, 4) and (logits[:, 3] == 0).all()
    assert torch.sigmoid(logits[:, :3]).numpy() == pytest.approx(p, abs=1e-4)
    done = call("evaluate", "--run", path, "--data", rows, "--before")
    assert done.code == 0 and "untrained head" in done.out
    shown = call("templates", "show", "--run", path, "--json")
    labels = ROWS[int(json.loads(shown.out)["row"].removeprefix("rows.csv:")) - 2][1].split("|")
    assert [token["text"] for token in json.loads(shown.out)["tokens"] if token["loss"]] == [x for x in labels if x]
    assert "yes or no about each of 3 labels" in call("templates", "show", "--run", path).out
    if tuning == "full":
        plain = AutoModelForSequenceClassification.from_pretrained(path / "model")
        assert plain.config.problem_type == "multi_label_classification"
        with torch.no_grad():
            logits = torch.cat([plain(torch.tensor([ids])).logits for ids in prompts])
        assert torch.sigmoid(logits).numpy() == pytest.approx(p, abs=1e-4)


def test_answers_that_list_the_labels(rows: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    losses = []
    for packing in ("true", "false"):
        path = tmp_path / f"lists-{packing}"
        chosen = ("prediction.method=list", f"training.packing={packing}", "lora.lora_dropout=0")
        options = [part for setting in chosen for part in ("--set", setting)]
        where = ("--data", rows, "--base-model", tiny_model_dir, "--output-dir", path, "--quantization", "none")
        done = call("train", "--task", "multi_label", *where, *SHORT, *options)
        assert done.code == 0, done
        losses += [
            entry["eval_loss"]
            for entry in map(json.loads, (path / "log.jsonl").read_text(encoding="utf-8").splitlines())
            if "eval_loss" in entry
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    classifier = Classifier.load(path)
    assert classifier.form.rules.name == "listed" and classifier.thresholds is None
    for said in classifier.predict(TEXTS):
        assert said == tuple(name for name in LABELS if name in said)
    with pytest.raises(LlmclsError, match="A list of labels has no probabilities"):
        classifier.predict_proba(TEXTS)
    done = call("evaluate", "--run", path, "--data", rows, "--before")
    assert done.code == 0 and "subset accuracy" in done.out
    done = call("predict", "--run", path, "a text", "--json", "--method", "list")
    found = json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(found["predicted"]) <= set(LABELS) and found["probability"] is None
    shown = json.loads(call("templates", "show", "--run", path, "--row", "9", "--json").out)
    labels = ROWS[int(shown["row"].removeprefix("rows.csv:")) - 2][1].split("|")
    assert "".join(token["text"] for token in shown["tokens"] if token["loss"]) == f" {', '.join(labels)}</s>"
    for options, message in (
        (("--threshold", "0.5"), "is for yes or no"),
        (("--method", "exact"), "does not go with training.objective 'sft'"),
        (("--probabilities", "--margin"), "there is no --margin and no --probabilities: a list of labels has no"),
    ):
        assert message in call("predict", "--run", path, "a text", *options).err


def test_zero_shot(tiny_model_dir: Path) -> None:
    settings = make_settings({"task": "multi_label"})
    classifier = Classifier.zero_shot(str(tiny_model_dir), ["a", "b"], settings=settings)
    assert classifier.encoder.template.name == "multi_label"
    p = classifier.predict_proba(["x"])[0]
    assert classifier.predict(["x"]) == [tuple(np.array(["a", "b"])[p >= 0.5].tolist())]
    done = call("predict", "--base-model", tiny_model_dir, "--labels", "a,b", "--task", "multi_label", "x", "--json")
    assert json.loads(done.out)["predicted"] == list(classifier.predict(["x"])[0])
    single = make_settings({"prediction": {"threshold": 0.5}})
    with pytest.raises(LlmclsError, match=r"prediction\.threshold is for yes or no"):
        Classifier.zero_shot(str(tiny_model_dir), ["a", "b"], settings=single)


def test_class_weights() -> None:
    from llmcls.labels import LabelSet

    examples = [Example("x", "", labels=labels) for labels in [("a",), ("a", "b"), (), ("a",)]]
    labels = LabelSet.from_names(["a", "b"])
    assert resolve_class_weights("balanced", labels, examples, YES_NO) == (1 / 3, 3.0)
    assert resolve_class_weights({"b": 2.0}, labels, examples, YES_NO) == (1.0, 2.0)
    every = [Example("x", "", labels=("a", "b"))] * 2
    assert resolve_class_weights("balanced", labels, every, YES_NO) == (0.5, 0.5)
    with pytest.raises(LlmclsError, match="label 'b' has no training rows"):
        resolve_class_weights("balanced", labels, examples[:1], YES_NO)


def test_settings() -> None:
    assert make_settings({}).training.objective == "label" and make_settings({}).task == "single_label"
    chosen = make_settings({"task": "multi_label", "prompt": {"template": "mine.j2"}})
    assert chosen.prompt.template == "mine.j2" and chosen.training.objective == "label"
    assert make_settings(chosen.model_dump()) == chosen
    with pytest.raises(LlmclsError) as refused:
        make_settings(
            {
                "task": "multi_label",
                "training": {"objective": "sft"},
                "prediction": {"method": "greedy"},
                "data": {"max_per_class": {"train": 3}},
            }
        )
    for part in ("must be 'auto', 'exact', 'reference' or 'list', not 'greedy'", "max_per_class"):
        assert part in str(refused.value)
    with pytest.raises(LlmclsError, match=r"method 'auto' does not go with training\.objective 'sft'"):
        make_settings({"task": "multi_label", "training": {"objective": "sft"}})
    with pytest.raises(LlmclsError, match="'list' is for task multi_label"):
        make_settings({"prediction": {"method": "list"}})
    for task, metric in (
        ("single_label", "micro_f1"),
        ("single_label", "subset_accuracy"),
        ("multi_label", "balanced_accuracy"),
    ):
        by = {"metric_for_best_model": metric, "early_stopping_patience": 1}
        with pytest.raises(LlmclsError, match=f"'{metric}' is for .*; choose '(accuracy|subset_accuracy)'"):
            make_settings({"task": task, "training": by})
    lists = make_settings({"task": "multi_label", "prediction": {"method": "list"}})
    assert lists.training.objective == "sft" and lists.form.name == "listed"
    assert make_settings(lists.model_dump()) == lists


def test_solved_examples_are_refused(rows: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LlmclsError, match="does not suit the task multi_label"):
        train(
            str(rows),
            base_model=str(tiny_model_dir),
            template="few_shot",
            settings={"task": "multi_label", "data": {"label_separator": "|"}},
            output_dir=tmp_path / "run",
            reporter=Reporter(quiet=True),
        )


def test_the_estimator_learns_one_label() -> None:
    from llmcls import LLMClassifier

    for y in ([[1, 0], [1, 1]], [("a", "b"), ("a",)], [[], ["a"]]):
        with pytest.raises(ValueError, match="y has several labels a row"):
            LLMClassifier("nano").fit(["one", "two"], y)
    with pytest.raises(LlmclsError, match="settings has task"):
        LLMClassifier("nano", settings={"task": "multi_label"}).fit(["one", "two"], ["a", "b"])


def test_a_lone_mark_is_text() -> None:
    from llmcls.settings import load_settings

    for mark in "|;,#/-:>&*":
        assert load_settings((), [f"data.label_separator={mark}"]).data.label_separator == mark
    assert load_settings((), ["data.label_column=~"]).data.label_column is None


@pytest.mark.parametrize(
    ("row", "labels", "probability"),
    [
        ((0.9, 0.2, 0.6), ("joy", "fear"), 0.9 * 0.8 * 0.6),
        ((0.1, 0.2, 0.4), (), 0.9 * 0.8 * 0.6),
        ((1.0, 0.0, 1.0), ("joy", "fear"), 1.0),
        ((1.0, 1.0, 1.0), ("joy", "anger", "fear"), 1.0),
        ((0.75, 0.75, 0.75), ("joy", "anger", "fear"), 0.75**3),
    ],
)
def test_the_probability_is_that_of_exactly_these_labels(
    row: tuple[float, ...], labels: tuple[str, ...], probability: float
) -> None:
    scorer: Any = SimpleNamespace(score=lambda *_, **__: torch.tensor([row]).log())
    names = LabelSet.from_names(["joy", "anger", "fear"])
    predictor = YesNoPredictor(names, "|", Thresholds.untuned(3), scorer)
    prompt: Any = SimpleNamespace(input_ids=[1], truncated=False)
    (found,) = predictor.predict([prompt], Wanted())
    assert found.labels == labels
    assert found.probability == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ({"eval_loss": 1.0, "eval_accuracy": 0.5}, "validation loss 1.0000, accuracy 0.5000"),
        (
            {"eval_loss": 1.0, "eval_macro_f1": 0.25, "eval_accuracy": 0.5},
            "validation loss 1.0000, accuracy 0.5000, macro-F1 0.2500",
        ),
        ({"eval_loss": 1.0, "eval_subset_accuracy": 0.25}, "validation loss 1.0000, subset accuracy 0.2500"),
        ({"eval_loss": 1.0}, "validation loss 1.0000"),
        ({"loss": 2.0, "accuracy": 0.75}, "loss 2.0000, accuracy 0.7500"),
    ],
)
def test_the_line_of_an_evaluation(logs: dict[str, float], said: str) -> None:
    lines: list[str] = []
    reporter: Any = SimpleNamespace(say=lines.append, draws_bars=True)
    state = SimpleNamespace(global_step=1, max_steps=2, epoch=0.5)
    ProgressCallback(reporter).on_log(None, state, None, logs=logs)
    assert [line.split(": ", 1)[1] for line in lines] == [said]
