"""Which device and number formats are chosen, on machines that are not here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.model.hardware import (
    Formats,
    choose_device,
    choose_formats,
    device_name,
    exact_dtype,
    forked_random,
    hardware_name,
    multiplies_bfloat16,
    peak_memory,
)
from llmcls.settings import make_settings

PLAIN = {"model": {"quantization": "none"}}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`machine("xpu")`: torch finds such an accelerator."""

    def has(kind: str | None) -> None:
        device = None if kind is None else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
        for module, name in ((torch.cuda, "cuda"), (torch.xpu, "xpu")):
            monkeypatch.setattr(module, "is_bf16_supported", lambda **_: True)
            monkeypatch.setattr(module, "get_device_name", lambda device, name=name: f"the {name}")
            monkeypatch.setattr(module, "max_memory_allocated", lambda device: 7)

    return has


@pytest.mark.parametrize(
    ("found", "chosen"), [(None, "cpu"), ("cuda", "cuda:1"), ("xpu", "xpu:1"), ("mps", "mps"), ("mtia", "cpu")]
)
def test_the_accelerator_is_chosen(
    machine: Any, monkeypatch: pytest.MonkeyPatch, found: str | None, chosen: str
) -> None:
    machine(found)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device() == torch.device(chosen)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_device() == torch.device("cpu")


def test_formats_of_every_kind(machine: Any) -> None:
    found = {}
    for kind in ("cuda", "xpu", "mps", None):
        machine(kind)
        formats = choose_formats(make_settings(PLAIN), training=True)
        found[kind] = (formats.dtype, formats.mixed_precision)
    assert found["cuda"] == found["xpu"] == (torch.bfloat16, "bf16")
    assert found["mps"] == found[None] == (torch.float32, "no")
    machine("mps")
    asked = make_settings({**PLAIN, "training": {"mixed_precision": "bf16"}})
    assert choose_formats(asked, training=True).mixed_precision == "bf16"
    assert choose_formats(asked).mixed_precision == "no", "predictions are computed without autocast"


@pytest.mark.parametrize(
    ("capability", "avx512", "amx", "has"),
    [
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX512", False, False, False),
        ("AVX512_VNNI", True, True, True),
        ("AVX2", True, True, False),
        ("DEFAULT", True, True, False),
    ],
)
def test_bfloat16_on_a_cpu_by_its_features(
    machine: Any, monkeypatch: pytest.MonkeyPatch, capability: str, avx512: bool, amx: bool, has: bool
) -> None:
    machine(None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert multiplies_bfloat16() is has
    settings, expected = make_settings(PLAIN), "bf16" if has else "no"
    trained = choose_formats(settings, training=True)
    assert (trained.dtype, trained.mixed_precision) == (torch.float32, expected)
    assert trained.describe() == f"CPU, unquantised base weights, float32, {'bf16' if has else 'no'} autocast"
    assert choose_formats(settings).arithmetic == "float32, no autocast", "predictions are the same everywhere"
    assert choose_formats(settings, training=True, deepspeed=True).mixed_precision == "no"
    off = make_settings({**PLAIN, "training": {"mixed_precision": "no"}})
    assert choose_formats(off, training=True).mixed_precision == "no"
    machine("mps")
    assert choose_formats(settings, training=True).mixed_precision == "no", "of the CPU alone"


def test_what_was_never_tried_is_said(machine: Any) -> None:
    machine("cuda")
    assert choose_formats(make_settings({})).describe().startswith("the cuda, 4-bit")
    machine("xpu")
    said = choose_formats(make_settings({})).describe()
    assert said.startswith("the xpu (xpu, untested: llmcls has not been run on such a device), 4-bit base weights, bf")
    assert "untested" not in Formats(torch.device("cpu"), torch.float32, "no", "none").describe()


def test_4_bit_is_refused_where_bitsandbytes_has_none(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cpu", "cuda", "xpu"})
    for kind, refused in (("mps", True), ("xpu", False), (None, False)):
        machine(kind)
        for quantization in ("4bit", "8bit", "none"):
            settings = make_settings({"model": {"quantization": quantization}})
            if refused and quantization != "none":
                with pytest.raises(
                    LlmclsError, match=rf"'{quantization}' needs .* 'mps', only cpu, cuda, xpu; use --q"
                ):
                    choose_formats(settings)
            else:
                assert choose_formats(settings).quantization == quantization


def test_names_and_memory(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("xpu")
    xpu, mps, cpu = torch.device("xpu", 0), torch.device("mps"), torch.device("cpu")
    assert (device_name(xpu), device_name(mps), device_name(cpu)) == ("the xpu", "MPS", "CPU")
    assert (peak_memory(xpu), peak_memory(mps), peak_memory(cpu)) == (7, None, None)
    assert hardware_name(xpu, 4) == "4 x the xpu"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert hardware_name(cpu, 3).endswith(", 2 threads in each of 3 processes")
    assert (exact_dtype(mps), exact_dtype(xpu)) == (torch.float32, torch.float64)


@pytest.mark.parametrize("kind", [None, "mps"])
def test_random_numbers_are_left_alone(machine: Any, monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    machine(kind)
    states: list[Any] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "before")
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with forked_random():
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)
    assert states == (["before"] if kind == "mps" else [])


def test_what_concerns_training_is_not_asked_at_prediction(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    trained = make_settings({**PLAIN, "training": {"mixed_precision": "bf16"}})
    assert choose_formats(trained).arithmetic == choose_formats(trained, asked=False).arithmetic
    assert choose_formats(trained).arithmetic == "float16, no autocast"
    with pytest.raises(LlmclsError, match=r"no bfloat16; set training\.mixed_precision"):
        choose_formats(trained, training=True)
    machine(None)
    fp16 = make_settings({**PLAIN, "training": {"mixed_precision": "fp16"}})
    assert choose_formats(fp16, asked=False).arithmetic == "float32, no autocast"


@pytest.mark.parametrize(
    ("kind", "model", "found", "says"),
    [
        ("cuda", {"quantization": "none", "dtype": "bfloat16"}, "float16", "bfloat16 .* this GPU has none"),
        ("cuda", {"bnb_4bit_compute_dtype": "bfloat16"}, "float16", "this GPU has none"),
        (None, {"quantization": "none", "dtype": "float16"}, "float32", "float16 .* several times more slowly"),
        (None, {"bnb_4bit_compute_dtype": "float16"}, "float32", "--dtype .* chooses another type"),
    ],
)
def test_a_run_s_number_format_gives_way(
    machine: Any, monkeypatch: pytest.MonkeyPatch, kind: str | None, model: Any, found: str, says: str
) -> None:
    machine(kind)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    settings = make_settings({"model": model})
    with pytest.warns(LlmclsWarning, match=says):
        assert choose_formats(settings, asked=False).dtype_name == found
    if kind is None:
        assert choose_formats(settings).dtype_name == "float16", "what is asked for now is done"
    else:
        with pytest.raises(LlmclsError, match=r"This GPU has no bfloat16, which .* --dtype asks for; use float16"):
            choose_formats(settings)
