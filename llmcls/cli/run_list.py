"""What `llmcls runs list` knows of runs: finished, unfinished and damaged ones, which of them, in which order.

entries = [*read_entries("runs")]
entries = sort_entries(choose_entries(entries, base_model="llama", data=None, search=None), "accuracy")
for line in lay_out(entries): ...

Every run takes two lines or three: its path, whole, so that it can be copied; its figures, one below the other; and
what it was made from, beside them where there is room.
"""

from __future__ import annotations

import shlex
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.visible import visible

if TYPE_CHECKING:
    from llmcls.runs.begun import Begun

NOTHING = dict.fromkeys(
    ("created", "base_model", "data", "labels", "cost", "accuracy", "split", "fault", "unfinished", "names")
)
_FIGURES = "  {created:16}  {labels:>6}  {seconds:>7}  {result:18}"
_HEADINGS = {"created": "created", "labels": "labels", "seconds": "seconds", "result": "accuracy"}


def read_entries(root: str | Path) -> list[dict[str, Any]]:
    """What there is to say of every run below `root` (two levels), newest first, damaged ones last."""
    from llmcls.runs.begun import find_begun, is_begun
    from llmcls.runs.run import find_runs

    finished = [_entry(path, card) for path, card in find_runs(root) if not is_begun(path)]
    return sort_entries([*map(_unfinished_entry, find_begun(root)), *finished], "created")


def choose_entries(
    entries: Sequence[dict[str, Any]], base_model: str | None, data: str | None, search: str | None
) -> list[dict[str, Any]]:
    """Those whose base model, data and whatever else is listed hold these words; upper and lower case are alike."""
    wanted = {"base_model": base_model, "data": data}
    words = {field: text.casefold() for field, text in wanted.items() if text is not None}
    anywhere = None if search is None else search.casefold()

    def fits(entry: dict[str, Any]) -> bool:
        if any(word not in str(entry[field] or "").casefold() for field, word in words.items()):
            return False
        parts = (entry["run"], entry["base_model"], entry["data"], entry["fault"], *(entry["names"] or ()))
        return anywhere is None or any(anywhere in str(part or "").casefold() for part in parts)

    return [entry for entry in entries if fits(entry)]


SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "created": lambda entry: entry["created"],
    "run": lambda entry: entry["run"],
    "base-model": lambda entry: entry["base_model"],
    "data": lambda entry: entry["data"],
    "labels": lambda entry: entry["labels"],
    "seconds": lambda entry: entry["cost"]["seconds"] if entry["cost"] else None,
    "accuracy": lambda entry: entry["accuracy"],
}
"""What the list can be sorted by."""
_ASCENDING = {"run", "base-model", "data"}


def sort_entries(entries: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Names from a to z, times and figures from the newest and highest down; last what has none, and damaged runs."""
    key = SORTS[by]
    known = [entry for entry in entries if not entry["fault"] and key(entry) is not None]
    rest = [entry for entry in entries if not entry["fault"] and key(entry) is None]
    return [*sorted(known, key=key, reverse=by not in _ASCENDING), *rest, *(e for e in entries if e["fault"])]


def lay_out(entries: Sequence[dict[str, Any]], width: int) -> Iterator[str]:
    """The lines of the list, of at most `width` characters but for paths and names, which stay whole."""
    from llmcls.data.paths import shorten_path

    yield _FIGURES.format(**_HEADINGS) + "base model, data"
    for entry in entries:
        yield visible(entry["run"], lines=False)
        if entry["fault"]:
            yield from _indented(f"cannot be read: {entry['fault']}.", width)
            continue
        unfinished = entry["unfinished"]
        figures = _FIGURES.format(
            created=entry["created"][:16].replace("T", " "),
            labels="–" if entry["labels"] is None else entry["labels"],
            seconds=f"{entry['cost']['seconds']:,.0f}" if entry["cost"] else "–",
            result=_progress(unfinished) if unfinished else _accuracy_of(entry),
        )
        data = shorten_path(entry["data"]) if entry["data"] else "from Python"
        made_from = visible(f"{entry['base_model'] or '–'}, {data}", lines=False)
        if len(figures) + len(made_from) <= width:
            yield figures + made_from
        else:
            yield figures.rstrip()
            yield f"  {made_from}" if len(made_from) + 2 <= width else f"  {entry['base_model']},"
            if len(made_from) + 2 > width:
                yield f"  {visible(data, lines=False)}"
        if unfinished:
            yield from _ways_on(unfinished, entry["run"], width)


def _progress(unfinished: dict[str, Any]) -> str:
    of = f" of {unfinished['steps']}" if unfinished["steps"] else ""
    return f"step {unfinished['step']}{of}"


def _accuracy_of(entry: dict[str, Any]) -> str:
    return "–" if entry["accuracy"] is None else f"{entry['accuracy']:.3f} {entry['split']}"


def _ways_on(unfinished: dict[str, Any], run: str, width: int) -> Iterator[str]:
    if unfinished["trained_by"]:
        yield from _indented(f"being trained by {unfinished['trained_by']}", width)
    elif unfinished["command"]:
        yield "  unfinished; this goes on with it:"
        yield from fold_command(unfinished["command"], width)
    else:
        yield from _indented(f"unfinished; the same call goes on with it, with output_dir {run}", width)


def _indented(sentence: str, width: int) -> list[str]:
    words = textwrap.TextWrapper(width - 2, break_long_words=False, break_on_hyphens=False)
    return [f"  {visible(line)}" for line in words.wrap(sentence)]


def fold_command(command: str, width: int) -> Iterator[str]:
    """A command in lines that a shell takes as one, each but the last with a backslash at its end."""
    line = ""
    for word in map(shlex.quote, shlex.split(command)):
        if line and len(line) + len(word) + 5 > width:
            yield f"  {visible(line)} \\"
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    yield f"  {visible(line)}"


def _unfinished_entry(begun: Begun) -> dict[str, Any]:
    return {
        "run": str(begun.path),
        **NOTHING,
        "created": begun.touched.isoformat(timespec="seconds"),
        "base_model": begun.base_model,
        "data": begun.data,
        "unfinished": {
            "step": begun.step,
            "steps": begun.steps,
            "command": begun.command,
            "trained_by": begun.trained_by,
        },
    }


def _entry(path: Path, card: dict[str, Any] | str) -> dict[str, Any]:
    """What the list says of a run; of one whose card says odd things, what is wrong with it: the others are listed."""
    if isinstance(card, str):
        return {"run": str(path), **NOTHING, "fault": card}
    try:
        cost, data = card.get("cost"), card["data"]["source"]  # runs of older versions have no cost
        f"{cost['seconds']:,.0f}" if cost else ""
        if data is not None and not isinstance(data, str):
            raise TypeError(f"its data is {data!r}")
        return {
            "run": str(path),
            **NOTHING,
            "created": str(card["created"]),
            "base_model": str(card["base_model"]["name"]),
            "data": data,
            "labels": len(card["labels"]),
            "names": [str(label["name"]) for label in card["labels"]],
            "cost": cost,
            **_accuracy(path),
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return {"run": str(path), **NOTHING, "fault": f"its run.json is odd ({type(error).__name__}: {error})"}


def _accuracy(path: Path) -> dict[str, Any]:
    """The accuracy that was measured on the run's own data, and on which split; test wins over validation."""
    from llmcls.evaluation.files import read_metrics

    for split in ("test", "validation"):
        metrics = path / "evaluation" / split / "metrics.json"
        if not metrics.is_file():
            continue
        try:
            report = read_metrics(metrics)
        except LlmclsError as error:  # one damaged file does not hide the other runs
            warnings.warn(str(error), LlmclsWarning, stacklevel=2)
            continue
        return {"accuracy": float(getattr(report, report.HEADLINES[0])), "split": split}
    return {"accuracy": None, "split": None}
