"""How good nano gets with 4-bit QLoRA on real data sets, before and after, next to TF-IDF + logistic regression.

    python benchmarks/quality.py --data ../shared/data --output quality.json
    python benchmarks/quality.py --data ../shared/data --sets ag_news --seeds 1 2 3 --set training.objective=label

Configurations are chosen by the validation column; the test split is evaluated on and nothing else. Rows are printed as
they come and kept in the JSON file, so that an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from llmcls import Classifier, train
from llmcls.cli.shared import start
from llmcls.evaluation.baseline import evaluate_baseline
from llmcls.settings import load_settings
from llmcls.training.api import load_training_data

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
SETS = ("tweet_sentiment", "ag_news", "banking77", "arxiv_top5", "imdb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets' folders")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", default="default", help="what to call this configuration in the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--output", type=Path, default=Path("quality.json"))
    arguments = parser.parse_args()
    reporter = start(quiet=False)
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.sets:
        for seed in arguments.seeds:
            key = f"{name}/{arguments.name}/{seed}"
            if key in results:
                continue
            always = {"data.source": str(arguments.data / name), "seed": seed, "training.eval_strategy": "no"}
            settings = load_settings((), arguments.assignments, always | OPTIONS.get(name, {}))
            begun = time.monotonic()
            run = train(settings=settings, output_dir=arguments.runs / key, overwrite=True, reporter=reporter)
            trained = time.monotonic() - begun
            splits = load_training_data(settings)
            classifier = Classifier.load(run)
            with classifier.untrained():
                before = classifier.evaluate(splits.test, reporter=reporter)
            validation = classifier.evaluate(splits.validation, reporter=reporter)
            begun = time.monotonic()
            after = classifier.evaluate(splits.test, reporter=reporter)
            predicted = time.monotonic() - begun
            baseline = evaluate_baseline(splits.train, splits.test, splits.labels)
            results[key] = {
                kind: {"accuracy": r.accuracy, "macro_f1": r.macro_f1, "nll": r.nll, "ece": r.ece}
                for kind, r in (
                    ("before", before),
                    ("validation", validation),
                    ("after", after),
                    ("baseline", baseline),
                )
            } | {
                "train_seconds": trained,
                "train_rows": len(splits.train),
                "rows_per_second": len(splits.test) / predicted,
                "truncated": run.card["data"]["truncated"],
            }
            arguments.output.write_text(json.dumps(results, indent=1))
            print(format_row(key, results[key]), flush=True)


def format_row(key: str, result: dict) -> str:
    """One line of the Markdown table."""
    cells = [
        f"{result[kind][figure]:.3f}"
        for kind in ("before", "validation", "after", "baseline")
        for figure in ("accuracy", "macro_f1")
    ]
    return f"| {key} | {' | '.join(cells)} | {result['train_seconds']:.0f} s | {result['rows_per_second']:.0f}/s |"


if __name__ == "__main__":
    main()
