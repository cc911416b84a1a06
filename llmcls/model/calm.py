"""Keeps the libraries' notices, warnings and bars away from whoever calls llmcls from Python, and only while it works.

with calm_libraries():
    AutoModelForCausalLM.from_pretrained(...)       # no "Loading weights" bar, no notice of kernels that are missing

Errors are shown, and so is the bar of a download. Afterwards everything is as it was; who has set a logger to say more
than libraries usually do hears more. The command line silences them for the whole process: `llmcls.cli.quiet`.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

LOGGERS = ("transformers", "bitsandbytes", "torch", "datasets", "accelerate", "peft", "trl", "kernels")
"""Their notices are not the user's business."""

_USUAL = (logging.NOTSET, logging.WARNING)  # what libraries have; anything else is somebody's choice
# Of torch only what is about its future: others of its warnings, such as a driver too old for it, are worth reading.
_WARNINGS = (
    (UserWarning, r"(transformers|trl|peft|bitsandbytes|accelerate|kernels)\."),
    (FutureWarning, r"(transformers|trl|peft|bitsandbytes|accelerate|kernels|huggingface_hub|torch)\."),
    (DeprecationWarning, r"(transformers|trl|peft|bitsandbytes|accelerate|kernels|huggingface_hub|torch)\."),
)
_LOCK = threading.Lock()
_depth = 0
_restoring = ExitStack()


@contextmanager
def calm_libraries() -> Iterator[None]:
    """Let libraries say errors only, and draw no bars, for the block; blocks may lie within each other and in threads.

    Imports transformers, so mistakes that are found without it are to be found before.
    """
    global _depth
    with _LOCK:
        if _depth == 0:
            _calm_down(_restoring)
        _depth += 1
    try:
        yield
    finally:
        with _LOCK:
            _depth -= 1
            if _depth == 0:
                _restoring.close()


def _calm_down(restoring: ExitStack) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    for name in LOGGERS:
        logger = logging.getLogger(name)
        if logger.level in _USUAL:
            restoring.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
    # DeepSpeed sets its own level when it is imported, which may be within the block.
    deepspeed = logging.getLogger("DeepSpeed")
    deepspeed.addFilter(_is_error)
    restoring.callback(deepspeed.removeFilter, _is_error)
    restoring.enter_context(warnings.catch_warnings())
    for category, module in _WARNINGS:
        warnings.filterwarnings("ignore", category=category, module=module)
    if transformers_logging.is_progress_bar_enabled():
        downloads = not are_progress_bars_disabled()
        transformers_logging.disable_progress_bar()
        if downloads:
            enable_progress_bars()
        else:
            restoring.callback(disable_progress_bars)  # which the next one, called before it, enables
        restoring.callback(transformers_logging.enable_progress_bar)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
