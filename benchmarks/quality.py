"""How good trained classifiers are on real data sets, beside linear models on the same rows.

    python benchmarks/quality.py --data ../shared/data --output quality           # works off benchmarks/quality.yaml
    python benchmarks/quality.py --data ../shared/data --output quality --groups sets curves
    python benchmarks/quality.py --output quality --table

Each job of the plan draws its rows by seed, trains one classifier by a recipe under `examples/` and evaluates it on
test rows that chose nothing, next to TF-IDF (word 1-2 grams) with logistic regression and with a linear SVM, C of both
chosen on the validation rows. A finished job is one JSON file with its settings, its machine and every prediction; an
interrupted one goes on from its last checkpoint. Several of these commands may work on one folder at a time: each takes
the first job that is not taken. `untrained` jobs ask the base model as it is.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from llmcls import Classifier, train
from llmcls.cli.shared import start
from llmcls.console import Reporter
from llmcls.data.splits import DataSplits, load_training_data
from llmcls.evaluation.baseline import fit_words
from llmcls.files import replacing
from llmcls.model.hardware import hardware_name
from llmcls.processes.stopping import StoppedError
from llmcls.records import Example
from llmcls.settings import load_settings

HERE = Path(__file__).resolve().parent
# What a data set itself asks for; everything else is the recipe's.
OPTIONS: dict[str, dict[str, Any]] = {
    "demo": {},
    "tweet_sentiment": {},
    "ag_news": {},
    "banking77": {},
    "imdb": {},
    "arxiv_top5": {"data.text_columns": ["title", "abstract"], "data.label_column": "label_name"},
    "goemotions": {"task": "multi_label", "data.label_separator": "|"},
}
SPLITS = ("train", "validation", "test")
COSTS = (0.01, 0.1, 1, 10, 100)
RESAMPLES = 1000


@dataclass(frozen=True)
class Job:
    """One line of the plan, for one seed.

    Attributes:
        group, data_set, name: what it is called.
        seed: of the rows that are drawn, and of the training.
        rows: how many of each split, all where absent.
        per_class: training rows of each label, instead of `rows["train"]`.
        recipes: files of settings, later ones win.
        assignments: further settings.
        untrained: whether the base model is evaluated, as it was before the first step.
    """

    group: str
    data_set: str
    name: str
    seed: int
    rows: dict[str, int]
    per_class: int | None
    recipes: tuple[Path, ...]
    assignments: tuple[str, ...]
    untrained: bool

    @property
    def key(self) -> str:
        """A relative path."""
        return f"{self.group}/{self.data_set}/{self.name}/{self.seed}"


def main() -> None:
    """Work the plan off, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data sets' folders")
    parser.add_argument("--plan", type=Path, default=HERE / "quality.yaml")
    parser.add_argument("--output", type=Path, default=Path("quality"), help="folder of the results")
    parser.add_argument("--groups", nargs="+", help="only these of the plan")
    parser.add_argument("--sets", nargs="+", choices=OPTIONS, help="only these")
    parser.add_argument("--table", action="store_true", help="train nothing, print what the output folder holds")
    options = parser.parse_args()
    jobs = [
        job
        for job in read_plan(options.plan)
        if job.group in (options.groups or [job.group]) and job.data_set in (options.sets or [job.data_set])
    ]
    if options.table:
        print_tables(jobs, options.output)
        return
    if options.data is None:
        parser.error("--data is needed to train and to predict")
    reporter = start(quiet=False)
    for job in jobs:
        result = options.output / f"{job.key}.json"
        result.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(result.with_suffix(".lock"), timeout=0):
                if not result.exists():
                    measured = measure(job, options.data, options.output / job.key, reporter)
                    with replacing(result) as file:
                        json.dump(measured, file, indent=1)
                    print(*table_of([job], options.output), sep="\n", flush=True)
        except Timeout:
            continue  # another process has it
        except StoppedError as stop:
            raise SystemExit(str(stop)) from None


def read_plan(path: Path) -> list[Job]:
    """Every job, in the order of the file."""
    jobs = []
    for group, entries in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for entry in entries:
            for name in entry["sets"]:
                for seed in entry.get("seeds", [1]):
                    recipes = tuple(HERE.parent / recipe for recipe in entry["recipes"])
                    assignments = tuple(f"{key}={json.dumps(value)}" for key, value in entry.get("set", {}).items())
                    rows, per_class = entry.get("rows", {}), entry.get("per_class")
                    untrained = entry.get("untrained", False)
                    jobs.append(Job(group, name, entry["name"], seed, rows, per_class, recipes, assignments, untrained))
    return jobs


def measure(job: Job, data: Path, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Draw rows, train, evaluate, compare."""
    options = OPTIONS[job.data_set]
    source = "demo:" if job.data_set == "demo" else str(data / job.data_set)
    splits = load_training_data(load_settings((), (), {"data.source": source, "seed": 0, **options}))
    drawn = {split: draw(splits[split], job, split) for split in SPLITS}
    write_rows(drawn, folder / "data", several="task" in options)
    always = {"data.source": str(folder / "data"), "data.labels": list(splits.labels.names), "seed": job.seed}
    always |= {"training.eval_strategy": "no"} | ({"training.max_steps": 1} if job.untrained else {})
    always |= {key: value for key, value in options.items() if "column" not in key}
    settings = load_settings(job.recipes, job.assignments, always)
    begun = time.monotonic()
    classifier = Classifier.load(train(settings=settings, output_dir=folder / "run", reporter=reporter))
    trained = time.monotonic() - begun
    with classifier.untrained() if job.untrained else nullcontext(classifier) as asked:
        report = {split: evaluate(asked, drawn[split], reporter) for split in ("validation", "test")}
    result = {
        "machine": hardware_name(classifier.formats.device, 1),
        "rows": {split: len(rows) for split, rows in drawn.items()},
        "labels": list(splits.labels.names),
        "true": names_of(drawn["test"]),
        "validation_true": names_of(drawn["validation"]),
        "train_seconds": round(trained),
        "settings": explicit(job),
        "validation": report["validation"],
        "methods": {"llmcls": report["test"]},
    }
    for kind in ("logistic regression", "linear SVM"):
        result["methods"][f"TF-IDF + {kind}"] = fit_linear(kind, drawn, splits)
    if job.group == "sets" and len(drawn["train"]) < len(splits.train):
        everything = {**drawn, "train": list(splits.train)}
        result["methods"]["TF-IDF + linear SVM, all rows"] = fit_linear("linear SVM", everything, splits)
    return result


def draw(rows: Sequence[Example], job: Job, split: str) -> list[Example]:
    """Rows of a split: the same number of each label, or any, by seed; test and validation rows by one seed for all."""
    shuffled = random.Random(f"{split} {job.seed if split == 'train' else 0}").sample(list(rows), len(rows))
    if split != "train" or job.per_class is None:
        return shuffled[: job.rows.get(split, len(rows))]
    taken: dict[str, int] = defaultdict(int)
    kept = []
    for row in shuffled:
        if taken[row.names[0]] < job.per_class:
            taken[row.names[0]] += 1
            kept.append(row)
    return kept


def write_rows(drawn: dict[str, list[Example]], folder: Path, several: bool) -> None:
    """A folder of CSV files, as a user has it."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in drawn.items():
        if rows:
            with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["text", "labels" if several else "label"])
                writer.writerows([row.text, "|".join(row.names)] for row in rows)


def names_of(rows: Sequence[Example]) -> list[list[str]]:
    """The labels of each row, one or several."""
    return [list(row.names) for row in rows]


def evaluate(classifier: Classifier, rows: list[Example], reporter: Reporter) -> dict[str, Any]:
    """Predicted labels and the figures that need probabilities."""
    predictions = classifier.classify(rows, reporter=reporter)
    report = classifier.report(rows, predictions)
    nll = report.log_loss if hasattr(report, "log_loss") else report.nll
    predicted = [[p.label] if p.labels is None else list(p.labels) for p in predictions]
    return {"predicted": predicted, "nll": nll, "ece": getattr(report, "ece", None)}


def fit_linear(kind: str, drawn: dict[str, list[Example]], splits: DataSplits) -> dict[str, Any]:
    """TF-IDF and a linear model, one against the rest where a text has several labels; C chosen on validation rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer
    from sklearn.svm import LinearSVC

    vectorizer, known = fit_words(drawn["train"])
    held_out = {split: vectorizer.transform([row.text for row in drawn[split]]) for split in ("validation", "test")}
    features = {"train": known, **held_out}
    names, several = splits.labels.names, max(len(row.names) for row in splits.train) > 1
    binarizer = MultiLabelBinarizer(classes=names).fit([])
    truth = {split: binarizer.transform(names_of(rows)) for split, rows in drawn.items()}
    best: tuple[float, float, Any, Any] | None = None
    for cost in COSTS:
        logistic = LogisticRegression(C=cost, max_iter=1000, solver="liblinear" if several else "lbfgs")
        model = logistic if kind == "logistic regression" else LinearSVC(C=cost)
        if several:
            model = OneVsRestClassifier(model)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Label not .* is present in all training examples")
            model.fit(features["train"], truth["train"] if several else truth["train"].argmax(axis=1))
        cuts = tune_cuts(scores_of(model, features["validation"]), truth["validation"]) if several else None
        chosen = decide(model, features["validation"], cuts, len(names))
        figure = headline(truth["validation"], chosen)
        if best is None or figure > best[0]:
            best = figure, cost, model, cuts
    assert best is not None
    chosen = decide(best[2], features["test"], best[3], len(names))
    predicted = [[names[label] for label in np.flatnonzero(row)] for row in chosen]
    nll = None
    if kind == "logistic regression":
        p = np.clip(_all_columns(best[2], features["test"], len(names)), 2.2e-16, 1 - 2.2e-16)
        true = truth["test"]
        losses = -np.log(np.where(true == 1, p, 1 - p)).mean(axis=1) if several else -np.log((p * true).sum(axis=1))
        nll = float(losses.mean())
    return {"predicted": predicted, "nll": nll, "ece": None, "C": best[1]}


def scores_of(model: Any, features: Any) -> Any:
    """Of each row and label; larger is likelier."""
    return model.predict_proba(features) if hasattr(model, "predict_proba") else model.decision_function(features)


def _all_columns(model: Any, features: Any, labels: int) -> Any:
    p = np.zeros((features.shape[0], labels))
    p[:, model.classes_] = model.predict_proba(features)
    return p


def tune_cuts(scores: Any, truth: Any) -> Any:
    """The score of each label from which it is predicted, by F1 on the validation rows; as llmcls tunes thresholds."""
    from sklearn.metrics import precision_recall_curve

    cuts = np.full(truth.shape[1], np.inf)  # never, where no validation row shows the label
    for label in np.flatnonzero(truth.any(axis=0)):
        precision, recall, edges = precision_recall_curve(truth[:, label], scores[:, label])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        cuts[label] = edges[f1[:-1].argmax()]
    return cuts


def decide(model: Any, features: Any, cuts: Any, labels: int) -> Any:
    """Zeros and ones, a row a text."""
    if cuts is not None:
        return (scores_of(model, features) >= cuts).astype(int)
    return np.eye(labels, dtype=int)[model.predict(features)]


def headline(true: Any, predicted: Any) -> float:
    """Micro-F1, which is the accuracy where each text has one label."""
    return float(2 * (true & predicted).sum() / max((true.sum() + predicted.sum()), 1))


def explicit(job: Job) -> dict[str, Any]:
    """What the recipe and the plan set."""
    tree: dict[str, Any] = {}
    for recipe in job.recipes:
        for section, values in yaml.safe_load(recipe.read_text(encoding="utf-8")).items():
            tree |= {f"{section}.{key}": value for key, value in values.items()} if isinstance(values, dict) else {}
    return tree | dict(assignment.split("=", 1) for assignment in job.assignments)


def bootstrap(result: dict[str, Any]) -> dict[str, Any]:
    """Headline and macro-F1 of each method with 95 % intervals, and of llmcls less the better linear model's headline.

    Percentiles over `RESAMPLES` draws of the test rows, the same draws for all methods (Efron 1979).
    """
    position = {name: number for number, name in enumerate(result["labels"])}
    rows, labels = len(result["true"]), len(position)

    def table(names: list[list[str]]) -> Any:
        found = np.zeros((rows, labels), dtype=np.int64)
        for row, several in enumerate(names):
            found[row, [position[name] for name in several]] = 1
        return found

    true = table(result["true"])
    weights = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    weights = np.vstack([np.ones(rows, dtype=np.int64), weights])  # the first is the test set itself
    found = {}
    for method, values in result["methods"].items():
        predicted = table(values["predicted"])
        hits, both = weights @ (true & predicted), weights @ (true + predicted)
        micro = 2 * hits.sum(axis=1) / both.sum(axis=1)
        with np.errstate(invalid="ignore"):
            macro = np.nanmean(np.where(both > 0, 2 * hits / both, np.nan), axis=1)
        found[method] = {"micro": micro, "macro": macro}
    linear = [method for method in found if method.startswith("TF-IDF") and "all rows" not in method]
    best = max(linear, key=lambda method: found[method]["micro"][0])
    return {**found, "difference": {"micro": found["llmcls"]["micro"] - found[best]["micro"]}}


def spread(values: Any, signed: bool = False) -> str:
    """The figure and its interval."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    sign = "+" if signed else ""
    return f"{values[0]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def table_of(jobs: Sequence[Job], output: Path) -> list[str]:
    """A line for each method of each finished job."""
    lines = []
    for job in jobs:
        path = output / f"{job.key}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        found = bootstrap(result)
        for method, values in result["methods"].items():
            rows = "all" if "all rows" in method else result["rows"]["train"]
            what = method if method != "llmcls" else f"**llmcls**, {job.name}"
            nll = "" if values["nll"] is None else f"{values['nll']:.3f}"
            ahead = spread(found["difference"]["micro"], signed=True) if method == "llmcls" else ""
            lines.append(
                f"| {job.data_set} | {rows} | {job.seed} | {what} | {spread(found[method]['micro'])} | "
                f"{spread(found[method]['macro'])} | {nll} | {ahead} |"
            )
    return lines


def print_tables(jobs: Sequence[Job], output: Path) -> None:
    """Every group's table; figures in brackets are 95 % intervals over the test rows."""
    for group in dict.fromkeys(job.group for job in jobs):
        lines = table_of([job for job in jobs if job.group == group], output)
        if lines:
            print(f"\n{group}\n")
            head = (
                "| data set | training rows | seed | method | accuracy (micro-F1) | macro-F1 | NLL | ahead of linear |"
            )
            print(head, "|---|---|---|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
