"""Keeps the libraries' own bars and notices from the terminal, without importing the libraries to tell them so.

silence_libraries()          # a library that is imported later finds it in the environment
"""

from __future__ import annotations

import logging
import os
import sys

NOISY = ("bitsandbytes", "torch", "datasets", "accelerate", "peft", "trl")
"""Loggers whose notices are not the user's business; errors still are."""

VARIABLES = {
    "datasets": {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    "huggingface_hub": {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},  # of which transformers takes its own setting, too
    "transformers": {"TRANSFORMERS_VERBOSITY": "error"},
}
"""What each library reads when it is imported."""


def silence_libraries() -> None:
    """Let libraries say errors only, and draw no bars: those that are imported, and those that will be."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed sets its own level when it is imported, and writes to standard output, which is for results.
    logging.getLogger("DeepSpeed").addFilter(_is_error)
    for library, variables in VARIABLES.items():
        if library not in sys.modules:
            os.environ.update(variables)
    # Whoever is there has read its variables already.
    if "datasets" in sys.modules:
        from datasets.utils import disable_progress_bars

        disable_progress_bars()
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()  # huggingface_hub's, too
    elif "huggingface_hub" in sys.modules:
        from huggingface_hub.utils.tqdm import disable_progress_bars as disable_hub_bars

        disable_hub_bars()


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
