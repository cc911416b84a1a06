"""Draws what the other scripts measured, as SVG; needs `pip install matplotlib`.

python benchmarks/plot.py labels labels.json benchmarks/labels.svg      # what many_labels.py wrote
python benchmarks/plot.py batches batches.json benchmarks/batches.svg   # what train.py wrote
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def draw_labels(figures: list[dict[str, Any]], axes: Any) -> None:
    """Milliseconds a row against tokens read, a point for each number of labels."""
    for method, marker in (("exact", "o"), ("best-first", "s")):
        points = [figure for figure in figures if figure["method"] == method]
        tokens = [figure["own"] + figure["fed"] for figure in points]
        axes.plot(tokens, [figure["ms_per_row"] for figure in points], marker=marker, label=method)
        for figure, at in zip(points, tokens, strict=True):
            name = f"{figure['labels']:,}"
            axes.annotate(name, (at, figure["ms_per_row"]), textcoords="offset points", xytext=(6, -12))
    (floor,) = (figure["ms_per_row"] for figure in figures if figure["method"] == "floor")
    axes.axhline(floor, linestyle=":", color="gray", label="the text alone")
    axes.set(xscale="log", yscale="log", xlabel="tokens read a row", ylabel="ms a row")
    axes.set_title("Cost of a row with 100, 1,000 and 10,000 labels", fontsize=11)


def draw_batches(figures: list[dict[str, Any]], axes: Any) -> None:
    """How many times faster than TRL, against the rows of a step."""
    batches = sorted({figure["batch"] for figure in figures})

    def seconds(batch: int, method: str) -> float:
        return min(f["seconds"] for f in figures if f["batch"] == batch and f["method"] == method and "seconds" in f)

    for rival, marker, above in (("trl (a)", "o", 8), ("trl (b)", "s", -15)):
        ratios = [seconds(batch, rival) / seconds(batch, "llmcls") for batch in batches]
        axes.plot(batches, ratios, marker=marker, label=f"against {rival}")
        for batch, ratio in zip(batches, ratios, strict=True):
            place = {"textcoords": "offset points", "xytext": (0, above), "ha": "center"}
            axes.annotate(f"{ratio:.1f}x", (batch, ratio), **place)
    axes.axhline(1, linestyle=":", color="gray")
    axes.set(xscale="log", xlabel="rows a step", ylabel="times faster")
    axes.set_xticks(batches, map(str, batches))
    axes.minorticks_off()
    axes.margins(0.1, 0.15)
    axes.set_title("Training on 77 intents: llmcls against TRL", fontsize=11)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["labels", "batches"])
    parser.add_argument("figures", type=Path, help="JSON")
    parser.add_argument("drawing", type=Path, help="SVG")
    options = parser.parse_args()
    # The same figures make the same file, and letters stay letters.
    plt.rcParams |= {"svg.hashsalt": "llmcls", "svg.fonttype": "none"}
    figure, axes = plt.subplots(figsize=(6.4, 4))
    draw = {"labels": draw_labels, "batches": draw_batches}[options.what]
    draw(json.loads(options.figures.read_text(encoding="utf-8")), axes)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(options.drawing, metadata={"Date": None})


if __name__ == "__main__":
    main()
