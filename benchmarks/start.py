"""How long a command takes from its start to its end: small work, ten mistakes, the help.

    python benchmarks/start.py --repeats 5
    python benchmarks/start.py --against ../other-checkout

Each command is a process of its own, run in turn with all others, and so is that of the other checkout. Seconds are
medians: from the start to the first byte that is said on either stream, to the end, and of CPU time, which other work
on the machine does not change much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = {
    "predict, one text": "predict --run run hello",
    "predict, 1,000 texts": "predict --run run --input texts.csv",
    "train, 30 steps": "train --data demo: --quantization none --set training.max_steps=30 --output-dir n --overwrite",
    "help": "--help",
    "version": "--version",
    "wrong column": "train --data ok.csv --label-column nope",
    "missing file": "train --data nope.csv",
    "empty file": "train --data empty.csv",
    "wrong setting": "train --data ok.csv --set training.max_step=3",
    "wrong label": "train --data ok.csv --labels x,z",
    "unknown template": "train --data ok.csv --template nope",
    "bad option value": "predict --run run --min-probability 2 hello",
    "unknown run": "predict --run nope hello",
    "missing input": "predict --run run --input nope.csv",
    "other rows' labels": "evaluate --run run --data ok.csv",
}
# What no prediction in this stack can be faster than: torch, transformers and the base model, loaded as llmcls does
# (garbage collection put off), one forward, no answer written.
FLOOR = """
import gc; gc.disable()
import os, pathlib, torch, transformers, llmcls_nano
folder = pathlib.Path(llmcls_nano.__file__).parent / "model"
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
with torch.no_grad():
    model(**tokenizer("hello", return_tensors="pt"))
print("loaded", flush=True)
os._exit(0)
"""
COMMANDS["the floor: torch, transformers, nano"] = FLOOR
PREPARE = (
    "train --data demo: --quantization none --set training.tuning=lora --set training.max_steps=1 --output-dir run -q"
)


class Seconds(NamedTuple):
    """Of one process."""

    first: float
    end: float
    cpu: float


def measure(words: str, checkout: Path, folder: Path) -> Seconds:
    """Run `llmcls WORDS` of a checkout, or the floor."""
    command = ["-c", FLOOR] if words == FLOOR else ["-m", "llmcls", *words.split()]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.read(1)
    first = time.perf_counter() - begun
    said += process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    end = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    if process.returncode < 0 or b"Traceback" in said:
        raise SystemExit(f"llmcls {words} of '{checkout}' failed:\n{said.decode()}")
    return Seconds(first, end, usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout of llmcls")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="ROW")
    options = parser.parse_args()
    checkouts = {"": ROOT} | ({"against, ": options.against.resolve()} if options.against else {})
    seconds: dict[tuple[str, str], list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "ok.csv").write_text("text,label\na b,x\nc d,y\n", encoding="utf-8")
        (folder / "texts.csv").write_text(
            "text\n" + "".join(f"where is parcel {n}, please\n" for n in range(1000)), encoding="utf-8"
        )
        (folder / "empty.csv").touch()
        measure(PREPARE, ROOT, folder)
        for _ in range(options.repeats):
            for name in options.only:
                for which, checkout in checkouts.items():
                    seconds.setdefault((name, which), []).append(measure(COMMANDS[name], checkout, folder))
    heads = [f"{which}{what}" for which in checkouts for what in ("first word", "end", "CPU")]
    print(f"\nSeconds, medians of {options.repeats}.\n")
    print(f"| llmcls | {' | '.join(heads)} |")
    print(f"|---|{'---|' * len(heads)}")
    for name in options.only:
        columns = [column for which in checkouts for column in zip(*seconds[name, which], strict=True)]
        print(f"| {name} | {' | '.join(f'{statistics.median(column):.2f}' for column in columns)} |")


if __name__ == "__main__":
    main()
