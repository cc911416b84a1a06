"""How good nano gets with 4-bit QLoRA on real data sets, before and after, next to TF-IDF + logistic regression.

    python benchmarks/quality.py --data ../shared/data --output quality.json
    python benchmarks/quality.py --data ../shared/data --sets ag_news --seeds 1 2 3 --set training.objective=label

Test splits are only ever evaluated on; hyper-parameters are the same for all sets. Rows are printed as they come and
kept in the JSON file, so that an interrupted benchmark goes on where it stopped.
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

COLUMNS = {"arxiv_top5": {"text_columns": ["title", "abstract"], "label_column": "label_name"}}
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
    parser.add_argument("--split", default="test", help="validation while choosing, test for the report")
    arguments = parser.parse_args()
    reporter = start(quiet=False)
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.sets:
        for seed in arguments.seeds:
            key = f"{name}/{arguments.name}/{seed}/{arguments.split}"
            if key in results:
                continue
            settings = load_settings(
                (),
                arguments.assignments,
                {"data.source": str(arguments.data / name), "seed": seed, "training.eval_strategy": "no"}
                | {f"data.{column}": value for column, value in COLUMNS.get(name, {}).items()},
            )
            begun = time.monotonic()
            run = train(settings=settings, output_dir=arguments.runs / key, overwrite=True, reporter=reporter)
            trained = time.monotonic() - begun
            splits = load_training_data(settings)
            rows = list(splits[arguments.split])
            classifier = Classifier.load(run)
            with classifier.untrained():
                before = classifier.evaluate(rows, reporter=reporter)
            begun = time.monotonic()
            after = classifier.evaluate(rows, reporter=reporter)
            predicted = time.monotonic() - begun
            baseline = evaluate_baseline(splits.train, rows, splits.labels)
            results[key] = {
                kind: {"accuracy": r.accuracy, "macro_f1": r.macro_f1, "nll": r.nll, "ece": r.ece}
                for kind, r in (("before", before), ("after", after), ("baseline", baseline))
            } | {
                "train_seconds": trained,
                "train_rows": len(splits.train),
                "rows_per_second": len(rows) / predicted,
                "truncated": run.card["data"]["truncated"],
            }
            arguments.output.write_text(json.dumps(results, indent=1))
            print(format_row(key, results[key]), flush=True)


def format_row(key: str, result: dict) -> str:
    """One line of the Markdown table."""
    cells = [
        f"{result[kind][figure]:.3f}" for kind in ("before", "after", "baseline") for figure in ("accuracy", "macro_f1")
    ]
    return f"| {key} | {' | '.join(cells)} | {result['train_seconds']:.0f} s | {result['rows_per_second']:.0f}/s |"


if __name__ == "__main__":
    main()
