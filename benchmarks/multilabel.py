"""Several labels a text: nano with 4-bit QLoRA on goemotions (28 labels), next to TF-IDF + one-vs-rest.

    python benchmarks/multilabel.py --data ../shared/data/goemotions --output-dir runs/goemotions
    python benchmarks/multilabel.py --data ../shared/data/goemotions --rows 4000 --set training.num_train_epochs=1

Both are trained on the same rows, and both tune their thresholds on the same validation rows by the same function. The
test split is evaluated on and nothing else. `--rows` draws that many training rows.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from pathlib import Path

from llmcls import Classifier, train
from llmcls.cli.shared import start
from llmcls.data.splits import DataSplits, load_training_data
from llmcls.evaluation.baseline import evaluate_multilabel_baseline
from llmcls.settings import load_settings

FIGURES = ("micro_f1", "macro_f1", "subset_accuracy", "hamming_loss", "mean_average_precision", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv, validation.csv, test.csv")
    parser.add_argument("--separator", default="|")
    parser.add_argument("--rows", type=int, help="training rows to draw; all when not given")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/multilabel"))
    arguments = parser.parse_args()
    reporter = start(quiet=False)
    always = {
        "task": "multi_label",
        "data.source": str(arguments.data),
        "data.label_separator": arguments.separator,
        "seed": arguments.seed,
        "training.eval_strategy": "no",
    }
    settings = load_settings((), arguments.assignments, always)
    splits = load_training_data(settings)
    if arguments.rows is not None and arguments.rows < len(splits.train):
        always["data.labels"] = splits.labels.names  # a draw may lack one
        settings = load_settings((), arguments.assignments, always)
        splits = replace(splits, train=tuple(random.Random(arguments.seed).sample(splits.train, arguments.rows)))
    begun = time.monotonic()
    run = train(as_rows(splits), settings=settings, output_dir=arguments.output_dir, overwrite=True, reporter=reporter)
    trained = time.monotonic() - begun
    classifier = Classifier.load(run)
    begun = time.monotonic()
    tuned = classifier.evaluate(splits.test, reporter=reporter)
    predicted = time.monotonic() - begun
    print(f"| {len(splits.train)} training rows, seed {arguments.seed} | {' | '.join(FIGURES)} |")
    print(f"|---{'|---' * len(FIGURES)}|")
    baselines = [
        evaluate_multilabel_baseline(splits.train, held_out, splits.test, splits.labels)
        for held_out in (splits.validation, ())
    ]
    for name, report in (
        ("llmcls, tuned thresholds", tuned),
        ("llmcls, threshold 0.5", classifier.untuned().evaluate(splits.test, reporter=reporter)),
        ("TF-IDF, tuned thresholds", baselines[0]),
        ("TF-IDF, threshold 0.5", baselines[1]),
    ):
        print(f"| {name} | {' | '.join(f'{getattr(report, figure):.3f}' for figure in FIGURES)} |")
    print(f"trained in {trained:.0f} s; {len(splits.test) / predicted:.1f} rows/s predicted")


def as_rows(splits: DataSplits) -> dict[str, list[dict[str, object]]]:
    """The splits as Python objects, labels as lists."""
    return {
        split: [{"text": example.text, "labels": list(example.names)} for example in splits[split]]
        for split in ("train", "validation", "test")
    }


if __name__ == "__main__":
    main()
