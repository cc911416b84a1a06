"""What every test starts from: no network, one thread, no trace left in the environment.

The fixtures of `llmcls.testing` are loaded by pytest's options in pyproject.toml.
"""

import os
import platform
from pathlib import Path

import hypothesis
import pytest

# Before anything imports huggingface_hub, tokenizers or torch, which read these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if platform.machine() in ("x86_64", "AMD64"):
    # The same sums on every machine, in this process and all that tests start: CPUs with bfloat16 would train in it.
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

# How long an example takes says nothing where other tests share the cores.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data sets and tokenizers beside the checkout; a public checkout has none."""
    folder = Path(os.environ.get("LLMCLS_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("the real data sets and tokenizers are not beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own settings must not decide a test."""
    for name in ("LLMCLS_DISABLE_PLUGINS", "HF_TOKEN", "WANDB_PROJECT", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
