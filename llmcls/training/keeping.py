"""What a finished training leaves behind: weights, tokenizer, log, and the card that says how it came about.

save_weights(trainer, folder / "adapter")
write_run(folder, trainer, assembly, settings, describe(settings, splits, assembly, metrics, ...))
"""

from __future__ import annotations

import csv
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.data.examples import BadRow
from llmcls.data.splits import DataSplits
from llmcls.figures import to_json
from llmcls.plugin.manager import describe_plugins, load_plugins
from llmcls.runs.assembly import Assembly
from llmcls.runs.remains import STATE
from llmcls.runs.run import write_card
from llmcls.settings import Settings

if TYPE_CHECKING:
    from llmcls.training.trainer import LabelTrainer

LIBRARIES = ("llmcls", "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers")


def save_weights(trainer: LabelTrainer, folder: Path) -> None:
    """PEFT's or transformers' own save, safetensors; ZeRO-3 and FSDP gather the shards first, on all ranks."""
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(folder, state_dict=state)
        if (written := folder / "adapter_config.json").is_file():
            _sort_sets(written, model.peft_config["default"])
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; run.json describes the run


def _sort_sets(file: Path, config: Any) -> None:
    """Give what PEFT keeps as sets one order: it writes them as they come, which differs from process to process."""
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {name: sorted(value) for name, value in vars(config).items() if isinstance(value, set)}
    file.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def write_run(
    folder: Path, trainer: LabelTrainer, assembly: Assembly, settings: Settings, card: dict[str, Any]
) -> None:
    """Write everything but the weights, and seal the run."""
    assembly.tokenizer.save_pretrained(folder / "tokenizer")
    # Sorted, as a checkpoint gives them back: the log of a run that was interrupted looks like any other.
    lines = [to_json(dict(sorted(entry.items()))) for entry in trainer.state.log_history]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if (events := folder / "trainer" / "runs").is_dir():
        shutil.move(events, folder / "tensorboard")
    write_card(folder, card, settings, assembly.encoder.template, assembly.encoder.shots, unsealed=STATE)


def write_bad_rows(folder: Path, rows: Sequence[BadRow]) -> None:
    """List the training rows that were left out, if there are any, in `bad_rows.csv`."""
    if rows:
        # Half characters, which no file can hold, are one reason for a row to be here.
        with (folder / "bad_rows.csv").open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(BadRow._fields)
            writer.writerows(rows)


def describe(
    settings: Settings,
    splits: DataSplits,
    assembly: Assembly,
    metrics: dict[str, float],
    truncated: int,
    cost: dict[str, Any],
) -> dict[str, Any]:
    """The card of a run, but for its seal.

    Args:
        settings: as resolved.
        splits: the data.
        assembly: base model and encoder.
        metrics: of the training, as transformers gives them.
        truncated: training texts that were cut.
        cost: see `llmcls.training.cost.describe_cost`.
    """
    encoder, base = assembly.encoder, assembly.base
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": settings.task,
        "labels": [asdict(label) for label in encoder.labels],
        "template": encoder.template.name,
        "base_model": {
            "name": base.name,
            "checkpoint": base.checkpoint,
            "adapter": base.adapter.name,
            "opening": encoder.frame.opening,
            "revision": base.config.get("_commit_hash") or base.revision,
            "fingerprint": base.fingerprint,
        },
        "data": {
            "source": settings.data.source,
            "rows": {split: len(splits[split]) for split in ("train", "validation", "test")},
            "cut": dict(splits.cut),
            "fingerprint": splits.fingerprint,
            "text_columns": list(splits.columns.text),
            "label_column": splits.columns.label,
            "truncated": truncated,
        },
        "seed": settings.seed,
        "training": {
            **metrics,
            "peak_gpu_memory_bytes": cost["peak_memory_bytes"] if cost["memory"] == "device" else None,
        },
        "cost": cost,
        "plugins": {info.name: f"{info.distribution} {info.version}" for info in describe_plugins(load_plugins())},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }
