"""Finds the files shipped with llmcls: inside the package (wheel), or beside it (checkout, editable install).

shipped("templates")   # Path of the folder that holds instruction.j2, chat.j2, few_shot.j2
"""

from __future__ import annotations

from pathlib import Path

from llmcls.errors import LlmclsError


def shipped(folder: str) -> Path:
    """The folder `templates` or `launch` as shipped with this installation.

    Raises:
        LlmclsError: when the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / folder, package.parent / folder):
        if candidate.is_dir():
            return candidate
    raise LlmclsError(f"This installation of llmcls lacks its '{folder}' folder; install it again.")
