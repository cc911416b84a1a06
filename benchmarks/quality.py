"""How good nano gets on real data sets, before and after training, next to TF-IDF + logistic regression.

    python benchmarks/quality.py --data ../shared/data --output quality.json
    python benchmarks/quality.py --data ../shared/data --sets ag_news --seeds 1 2 3 --name label --skip-before \
        --set training.objective=label
    python benchmarks/quality.py --output quality.json --table
    python benchmarks/quality.py --output quality.json --data ../shared/data --speed 200

Configurations are chosen by the validation column; the test split is evaluated on and nothing else. Rows are printed as
they come and kept in the JSON file, so that an interrupted benchmark goes on where it stopped; `--table` prints means
and standard deviations over the seeds of everything in that file. `--speed` lets the configurations of a data set, one
run of each, predict the same test rows in turns, for rows per second that can be compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

from llmcls import Classifier, train
from llmcls.cli.shared import start
from llmcls.data.splits import load_training_data
from llmcls.evaluation.baseline import evaluate_baseline
from llmcls.settings import Settings, load_settings

# What a data set itself asks for; everything else is the same for all.
OPTIONS = {
    "arxiv_top5": {
        "data.text_columns": ["title", "abstract"],
        "data.label_column": "label_name",
        "prompt.max_length": 256,
    },
    "imdb": {"prompt.max_length": 256},
    "banking77": {"prompt.max_length": 1280},
}
FIGURES = ("accuracy", "macro_f1", "nll", "ece")
KINDS = ("before", "validation", "after", "baseline")
SETS = ("tweet_sentiment", "ag_news", "banking77", "arxiv_top5", "imdb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data sets' folders")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", default="default", help="what to call this configuration in the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--output", type=Path, default=Path("quality.json"))
    parser.add_argument("--skip-before", action="store_true", help="leave out the base model before training")
    parser.add_argument("--table", action="store_true", help="train nothing, print what the output file holds")
    parser.add_argument("--speed", type=int, metavar="ROWS", help="train nothing, predict this many test rows in turns")
    arguments = parser.parse_args()
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if arguments.table:
        print_table(results)
        return
    if arguments.data is None:
        parser.error("--data is needed to train and to predict")
    if arguments.speed is not None:
        compare_speed(arguments, results)
        return
    measure(arguments, results)


def measure(arguments: argparse.Namespace, results: dict[str, dict]) -> None:
    """Train and evaluate what the results do not hold yet."""
    reporter = start(quiet=False)
    for name in arguments.sets:
        for seed in arguments.seeds:
            key = f"{name}/{arguments.name}/{seed}"
            if key in results:
                continue
            settings = settings_for(name, seed, arguments)
            begun = time.monotonic()
            run = train(settings=settings, output_dir=arguments.runs / key, overwrite=True, reporter=reporter)
            trained = time.monotonic() - begun
            splits = load_training_data(settings)
            classifier = Classifier.load(run)
            reports = {}
            if not arguments.skip_before:
                with classifier.untrained() as untrained:
                    reports["before"] = untrained.evaluate(splits.test, reporter=reporter)
            reports["validation"] = classifier.evaluate(splits.validation, reporter=reporter)
            reports["after"] = classifier.evaluate(splits.test, reporter=reporter)
            reports["baseline"] = evaluate_baseline(splits.train, splits.test, splits.labels)
            results[key] = {
                kind: {figure: getattr(report, figure) for figure in FIGURES} for kind, report in reports.items()
            }
            results[key] |= {
                "train_seconds": trained,
                "train_rows": len(splits.train),
                "truncated": run.card["data"]["truncated"],
            }
            arguments.output.write_text(json.dumps(results, indent=1))
            print(format_row(key, results[key]), flush=True)


def settings_for(name: str, seed: int, arguments: argparse.Namespace) -> Settings:
    """What the data set asks for, and the command line."""
    always = {"data.source": str(arguments.data / name), "seed": seed, "training.eval_strategy": "no"}
    return load_settings((), arguments.assignments, always | OPTIONS.get(name, {}))


def compare_speed(arguments: argparse.Namespace, results: dict[str, dict]) -> None:
    """All probabilities of the same test rows by one run of each configuration, the fastest of three turns."""
    runs = {key.rpartition("/")[0]: arguments.runs / key for key in results}
    for name in arguments.sets:
        classifiers = {key: Classifier.load(run) for key, run in runs.items() if key.partition("/")[0] == name}
        rows = load_training_data(settings_for(name, arguments.seeds[0], arguments)).test[: arguments.speed]
        texts = [row.text for row in rows]
        seconds = dict.fromkeys(classifiers, float("inf"))
        for _ in range(3):
            for key, classifier in classifiers.items():
                begun = time.perf_counter()
                classifier.predict_proba(texts)
                seconds[key] = min(seconds[key], time.perf_counter() - begun)
        for key, least in seconds.items():
            print(f"| {key} | {len(rows) / least:.0f} rows/s |", flush=True)


def format_row(key: str, result: dict) -> str:
    """One line of a Markdown table: accuracy and macro-F1 of each evaluation, and how long training took."""
    cells = [
        f"{kind} {result[kind]['accuracy']:.3f}, {result[kind]['macro_f1']:.3f}" for kind in KINDS if kind in result
    ]
    return f"| {key} | {' | '.join(cells)} | {result['train_seconds']:.0f} s |"


def print_table(results: dict[str, dict]) -> None:
    """Mean and standard deviation over the seeds, one line for each data set and configuration."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for key, result in results.items():
        groups[key.rpartition("/")[0]].append(result)
    print("| data set | configuration | seeds | validation accuracy | test accuracy | macro-F1 | NLL | ECE | TF-IDF |")
    print("|---|---|---|---|---|---|---|---|---|")
    for group, runs in groups.items():
        name, _, configuration = group.partition("/")
        cells = [_spread([run["validation"]["accuracy"] for run in runs])]
        cells += [_spread([run["after"][figure] for run in runs]) for figure in FIGURES]
        baseline = runs[0]["baseline"]["accuracy"]
        print(f"| {name} | {configuration} | {len(runs)} | {' | '.join(cells)} | {baseline:.3f} |")


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
