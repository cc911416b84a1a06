"""How much memory a training needs at its peak, by formula: before any weight is loaded.

    found = estimate(shape, load, held)
    found.total, found.parts                 # bytes, together and by name: {"program": ..., "activations": ..., ...}

What the sum is of: on a GPU of the tensors on it, which is what torch calls allocated. On a CPU of all that the process
has resident, the libraries and the data included, which is what the system calls its peak. Each is the figure that the
line `Cost:` gives when the training has ended.

With T tokens in the largest forward pass, L layers of width h, heads of width a together, MLPs of width i, N weights of
which M are trained, s bytes for a number in the type of computation, and Q bytes for a weight at rest, it is

    program        resident when the rows are encoded, + 0.16 GB for the libraries that only training needs; GPU: none
    rows           24 bytes for each token of all rows: the table that rows are drawn from; GPU: none
    weights        Q N, + 4 M for LoRA weights;  Q: 4, 2, 1.06 (8-bit), 0.53 (4-bit; the output layer is not quantised)
    gradients      4 M, and 4 M more where processes exchange them
    optimizer      8 M (AdamW), or what `OPTIMIZER_BYTES` says
    activations    T L (8 h + s (2 h + 4 a + 4 i)), kept for the backward pass
                     + s T L 2 h, where all weights are trained
                     + T (s r + (4 + mask) in) over the layers with LoRA weights of rank r and width in, where
                       lora_dropout keeps a copy of their inputs, and a mask of 4 bytes (GPU: 1); then - s T L (2 h + i)
                     + s T^2 L for the attention mask
                     all times 1.45 on a CPU, where the allocator of the C library keeps that much more than is asked
                     with gradient_checkpointing: s T L h, and all of the above for one layer alone
    logits         (s + 12) V for each scored place, V the size of the vocabulary or the number of a head's labels

The numbers of the activations are those that autograd keeps of Llama's layers (counted with
`torch.autograd.graph.saved_tensors_hooks` in float32); families with other layers differ.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

LIBRARIES = 160_000_000
"""Bytes that PEFT, TRL, accelerate, bitsandbytes, and the first step add to a process."""

ROW_TOKEN = 24
"""Bytes for each token of the rows: 8 in the Arrow table, the rest while it is made."""

KEPT_BY_ALLOCATOR = {"cpu": 1.45}
"""Measured on Linux: resident bytes for each byte of the activations, 1.43 to 1.5 with packs of 256 to 1,024 tokens."""

WEIGHT_BYTES = {"8bit": 1 + 4 / 64, "4bit": 0.5 + 1 / 32}
"""Of a quantised weight, its share of the constants included."""

OPTIMIZER_BYTES = {
    **{"sgd": 0.0, "lomo": 0.0, "adalomo": 0.0, "adafactor": 0.1, "adagrad": 4.0, "rmsprop": 4.0},
    **{"lion": 4.0, "adamw_torch_8bit": 2.0, "adamw_torch_4bit": 1.0},
}
"""Of the state for a trained weight, by the optimizer's name or how it begins; others keep two float32 numbers."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory; widths and counts.

    Attributes:
        weights: all of them, LoRA's aside.
        quantizable: those of the linear layers that bitsandbytes quantises.
        trained: those that are trained: LoRA's, or all.
        layers, hidden, attention, intermediate: L, h, a and i.
        outputs: V.
        ranks: the sum of r over all layers with LoRA weights.
        adapted: the sum of their inputs' widths.
    """

    weights: int
    quantizable: int
    trained: int
    layers: int
    hidden: int
    attention: int
    intermediate: int
    outputs: int
    ranks: int = 0
    adapted: int = 0


@dataclass(frozen=True)
class Load:
    """What one forward and backward pass holds at most, and the rows.

    Attributes:
        tokens: T.
        mask: the attention mask's elements: T^2, or in padded batches those of all rows.
        places: where logits are computed.
        row_tokens: of all rows together.
    """

    tokens: int
    mask: int
    places: int
    row_tokens: int = 0


@dataclass(frozen=True)
class Held:
    """How numbers are held.

    Attributes:
        device: the torch device type.
        quantization: of the base weights: none, 8bit or 4bit.
        weight_bytes: of a weight that is not quantised.
        compute_bytes: s.
        optim: the optimizer, as transformers names it.
        dropout: whether LoRA layers drop inputs out.
        full: whether all weights are trained.
        checkpointing: whether activations are computed again.
        processes: how many there are.
        backend: how they work together; ZeRO and FSDP share out what they have in common.
        resident: bytes of the process when the rows are encoded.
    """

    device: str
    quantization: str
    weight_bytes: int
    compute_bytes: int
    optim: str = "adamw_torch"
    dropout: bool = False
    full: bool = False
    checkpointing: bool = False
    processes: int = 1
    backend: str = "single"
    resident: int = 0


@dataclass(frozen=True)
class Footprint:
    """Bytes at the peak, by what they are for."""

    program: float
    rows: float
    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by name, the largest first."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return dict(sorted(found.items(), key=lambda part: -part[1]))

    @property
    def total(self) -> int:
        """Bytes of all together."""
        return round(sum(self.parts.values()))


def estimate(shape: Shape, load: Load, held: Held) -> Footprint:
    """The peak of a training, in bytes; see the module.

    Args:
        shape: the model's.
        load: of the largest forward pass.
        held: how numbers are held.
    """
    on_cpu = held.device == "cpu"
    quantized = shape.quantizable if held.quantization in WEIGHT_BYTES else 0
    weights = (
        quantized * WEIGHT_BYTES.get(held.quantization, 0.0)
        + (shape.weights - quantized) * held.weight_bytes
        + (0 if held.full else 4 * shape.trained)
    )
    stage = {"zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}.get(held.backend, 0)
    shared = [held.processes if stage >= wanted else 1 for wanted in (1, 2, 3)]
    exchanged = held.processes > 1 and stage < 2
    return Footprint(
        program=held.resident + LIBRARIES if on_cpu else 0,
        rows=ROW_TOKEN * load.row_tokens if on_cpu else 0,
        weights=weights / shared[2],
        gradients=4 * shape.trained * (1 + exchanged) / shared[1],
        optimizer=optimizer_bytes(held.optim) * shape.trained / shared[0],
        activations=_activations(shape, load, held) * KEPT_BY_ALLOCATOR.get(held.device, 1.0),
        logits=load.places * shape.outputs * (held.compute_bytes + 12),
    )


def optimizer_bytes(optim: str) -> float:
    """Of an optimizer's state for each trained weight.

    >>> optimizer_bytes("adamw_torch"), optimizer_bytes("paged_adamw_8bit"), optimizer_bytes("sgd")
    (8.0, 2.0, 0.0)
    """
    if optim in OPTIMIZER_BYTES:
        return OPTIMIZER_BYTES[optim]
    named = [size for name, size in OPTIMIZER_BYTES.items() if name in optim]
    usual = named[0] if named else 8.0
    return usual / 4 if "8bit" in optim else usual


def _activations(shape: Shape, load: Load, held: Held) -> float:
    """What autograd keeps of the decoder's layers, in bytes."""
    size, layers = held.compute_bytes, shape.layers
    kept = 8 * shape.hidden + size * (2 * shape.hidden + 4 * shape.attention + 4 * shape.intermediate)
    if held.full:
        kept += size * 2 * shape.hidden
    adapters = size * shape.ranks
    if held.dropout and shape.adapted:
        kept -= size * (2 * shape.hidden + shape.intermediate)
        adapters += (4 + (4 if held.device == "cpu" else 1)) * shape.adapted
    every = load.tokens * (kept * layers + adapters) + size * load.mask * layers
    if not held.checkpointing:
        return every
    return size * load.tokens * layers * shape.hidden + every / layers
