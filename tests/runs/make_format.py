"""Makes the small runs of `formats/N` with the code as it is: once for each format, when it is released.

python tests/runs/make_format.py tests/runs/formats/2
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from llmcls import Classifier, train
from llmcls.console import Reporter
from llmcls.testing import build_tiny_model

TEXTS = ["where is my parcel?", "you took the money twice, please hurry", "ünïcode 🙂 text", ""]
ROWS = [
    *((f"parcel number {n} is late", "delivery") for n in range(8)),
    *((f"I paid {n} euros twice", "billing") for n in range(8)),
    *((f"thanks a lot, {n} times", "praise") for n in range(8)),
]
ONE = [{"text": text, "label": label} for text, label in ROWS]
MANY = [{"text": text, "labels": label if n % 3 else f"{label}|urgent"} for n, (text, label) in enumerate(ROWS)]
SEVERAL = {"task": "multi_label", "data": {"label_separator": "|"}}
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "single_label": (ONE, {"data": {"label_aliases": {"billing": ["invoice"]}}}),
    "yes_no": (MANY, SEVERAL),
    "listed": (MANY, SEVERAL | {"prediction": {"method": "list"}}),
    "head": (
        ONE,
        {
            "model": {"quantization": "none"},
            "prompt": {"template": "text"},
            "training": {"objective": "head", "tuning": "full"},
        },
    ),
}
SMALL: dict[str, Any] = {
    "model": {"base_model": "base"},
    "lora": {"r": 1, "target_modules": ["q_proj", "v_proj"]},
    "training": {"max_steps": 6, "learning_rate": 0.05, "save_minutes": 0},
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chdir(folder)  # so that the runs name the base model by `base` alone
    build_tiny_model(Path("base"))
    for name, (rows, changes) in RUNS.items():
        settings = {**changes, **{key: value | changes.get(key, {}) for key, value in SMALL.items()}}
        run = train(rows, settings=settings, output_dir=name, reporter=Reporter(quiet=True))
        classifier = Classifier.load(run)
        known = {
            "texts": TEXTS,
            "labels": classifier.predict(TEXTS),
            "probabilities": None if classifier.form.lacks.get("probabilities") else classifier.predict_proba(TEXTS),
        }
        text = json.dumps(known, indent=1, ensure_ascii=False, default=lambda array: array.tolist())
        Path(f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
