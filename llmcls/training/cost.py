"""What a training cost: floating-point operations, seconds, hardware, memory, and energy where `codecarbon` is there.

trainer.add_callback(CostCallback())
cost = describe_cost(trainer, formats)          # every process; goes into the run's card
reporter.say(cost_line(cost))
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from llmcls.memory_use import peak_resident
from llmcls.model.hardware import Formats, hardware_name, peak_memory
from llmcls.training.callbacks import the_callback

if TYPE_CHECKING:
    from llmcls.training.trainer import LabelTrainer

ANY_COUNTRY = "USA"
"""codecarbon's offline tracker measures only for some country; without one configured, its CO2 figure is not used."""


class CostCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Measures the time of training, and its energy by `codecarbon` where that is installed.

    The seconds of a run that was interrupted are those of all its parts: a checkpoint keeps them, and what was lost
    behind the last checkpoint is not counted. The energy is that of the last part, on the machine of the first process.

    Attributes:
        seconds: of the parts that have ended.
        energy: of the last part: `kwh`, `seconds`, and where codecarbon knows the country `co2_kg` and `country`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.energy: dict[str, Any] | None = None
        self._begun: float | None = None
        self._tracker: Any = None
        self._country: str | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to measure."""
        self._begun = time.monotonic()
        if state.is_world_process_zero and find_spec("codecarbon"):
            self._start_tracker()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End to measure."""
        self.seconds, self._begun = self._spent(), None
        if self._tracker is not None:
            self._tracker.stop()
            self.energy = self._read_tracker()

    def state(self) -> dict[str, Any]:
        """What `Trainer` writes into a checkpoint."""
        return {"args": {}, "attributes": {"seconds": self._spent()}}

    def _spent(self) -> float:
        return self.seconds + (0.0 if self._begun is None else time.monotonic() - self._begun)

    def _start_tracker(self) -> None:
        """codecarbon's tracker that asks no server where this machine is; the country is codecarbon's own setting."""
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.core.config import get_hierarchical_config

        self._country = get_hierarchical_config().get("country_iso_code")
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=self._country or ANY_COUNTRY,
            save_to_file=False,
            log_level="error",
            allow_multiple_runs=True,  # beside the tracker of `report_to`
        )
        self._tracker.start()

    def _read_tracker(self) -> dict[str, Any] | None:
        """What was measured; None where codecarbon failed, of which it has told itself."""
        data = getattr(self._tracker, "final_emissions_data", None)
        if data is None:
            return None
        found = {"kwh": float(data.energy_consumed), "seconds": round(float(data.duration), 1)}
        return found if self._country is None else {**found, "co2_kg": float(data.emissions), "country": self._country}


def count_weights(model: Any) -> int:
    """Parameters but for embeddings, as transformers' `num_parameters` counts them; also of 4-bit and ZeRO-3 weights.

    With ZeRO-3 each process holds a share of every tensor, of which transformers would count nothing.
    """
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    total = 0
    for name, weight in model.named_parameters():
        if name not in embeddings:
            # A 4-bit weight is stored in words of `element_size` bytes, two weights a byte.
            packed = 2 * weight.element_size() if type(weight).__name__ == "Params4bit" else 1
            total += getattr(weight, "ds_numel", weight.numel()) * packed
    return total


def describe_cost(trainer: LabelTrainer, formats: Formats) -> dict[str, Any]:
    """The cost of a finished training, for the card. Every process must call it.

    Returns:
        `flops`: 6 x weights x tokens that were computed, of all processes and over resumes. It is transformers' rule
        (`Trainer.floating_point_ops`: 2 forward, 4 backward a weight, embeddings aside); in packed batches a shared
        prefix counts once, in padded ones padding counts. `seconds` of training, evaluations and checkpoints
        included, over resumes. `hardware`. `peak_memory_bytes` of the process that needed most, since its last start,
        and `memory`: 'device' or 'process' (resident), which says whose. `energy` where codecarbon measured it, see
        `CostCallback`.
    """
    spent = the_callback(trainer, CostCallback)
    on_device = peak_memory(formats.device)
    peak = peak_resident() if on_device is None else on_device
    if peak is not None:
        mine = torch.tensor([peak], dtype=torch.int64, device=trainer.args.device)
        peak = int(trainer.accelerator.gather(mine).max())
    cost = {
        "flops": float(trainer.state.total_flos),
        "seconds": round(spent.seconds, 1),
        "hardware": hardware_name(formats.device, trainer.args.world_size),
        "peak_memory_bytes": peak,
        "memory": "process" if on_device is None else "device",
    }
    return cost if spent.energy is None else {**cost, "energy": spent.energy}


def cost_line(cost: dict[str, Any]) -> str:
    """One line for the user."""
    parts = [f"Cost: {cost['flops']:.3g} FLOPs in {cost['seconds']:,.1f} s on {cost['hardware']}"]
    if cost["peak_memory_bytes"] is not None:
        parts.append(f"at most {cost['peak_memory_bytes'] / 1e9:.2f} GB of the {cost['memory']}'s memory")
    if energy := cost.get("energy"):
        carbon = f" ({energy['co2_kg']:.3g} kg CO2, {energy['country']})" if "co2_kg" in energy else ""
        parts.append(f"{energy['kwh']:.3g} kWh{carbon}")
    return ", ".join(parts)
