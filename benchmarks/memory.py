"""Peak memory of one training step against the length of the text and the size of the vocabulary.

    python benchmarks/memory.py
    python benchmarks/memory.py --lengths 512 2048 --rows 4

Forward and backward of LoRA on a random Llama (42M parameters and the embeddings, float32): once packed, as llmcls
trains, with logits at the label's tokens only; once padded with logits at every token, as most trainers do
(`padded_loss`, the reference that the tests hold the packed path to). Every measurement is a process of its own; what
counts is how much it grew over what it held when the model was loaded. *per token*: by how many bytes the larger
vocabulary makes a token of text dearer; 0 means that no term of sequence times vocabulary is left.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

VOCABULARIES = (32_000, 128_256)
WAYS = ("packed", "padded")
ANSWERS = [[11, 12, 2], [11, 13, 2], [14, 2]]


def measure_one(way: str, vocabulary: int, length: int, rows: int) -> int:
    """Bytes by which this process grows in a step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from workloads import random_llama

    from llmcls.engine import LabelTrie, Objective, packed_batch, packed_loss, padded_batch, padded_loss
    from llmcls.engine.packing import cut_rows

    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(random_llama(vocabulary), lora).train()
    draw = random.Random(0)
    prompts = [[1, *(draw.randrange(3, vocabulary) for _ in range(length - 1))] for _ in range(rows)]
    labels, trie, goal = [row % len(ANSWERS) for row in range(rows)], LabelTrie(ANSWERS), Objective("sft")
    torch.set_num_threads(1)
    before = reset_peak()
    if way == "padded":
        padded_loss(model, padded_batch(prompts, labels, trie, goal, pad_token_id=0)).backward()
    else:
        for part in cut_rows([length] * rows, 1, 512):
            batch = packed_batch([prompts[at] for at in part], [labels[at] for at in part], trie, goal)
            packed_loss(model, batch).backward()
    return peak() - before


def reset_peak() -> int:
    """Let the kernel forget the process's peak; its memory now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak()


def peak() -> int:
    """The process's largest resident memory since `reset_peak`, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(*which: object) -> int:
    """`measure_one` in a new process."""
    command = [sys.executable, __file__, "--one", json.dumps(which)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr or f"the process ended with {done.returncode}: memory full?")
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048], help="tokens of a text")
    parser.add_argument("--rows", type=int, default=1, help="texts of the step")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure_one(*json.loads(options.one)))
        return
    columns = [f"{way}, {size:,} entries" for way in WAYS for size in VOCABULARIES]
    print(f"| tokens | {' | '.join(columns)} | {' | '.join(f'{way}, per token' for way in WAYS)} |")
    print("|---" * (len(columns) + len(WAYS) + 1) + "|")
    for length in options.lengths:
        grown = {(way, size): measure(way, size, length, options.rows) for way in WAYS for size in VOCABULARIES}
        small, large = VOCABULARIES
        each = [(grown[way, large] - grown[way, small]) / (length * options.rows) for way in WAYS]
        cells = [f"{bytes_ / 2**20:.0f} MiB" for bytes_ in grown.values()] + [f"{extra:,.0f} B" for extra in each]
        print(f"| {length:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
