"""Every hook a plugin may implement.

A plugin is a module (or object) with functions marked `@hookimpl`, published under the entry-point group
`llmcls`:

    from llmcls import hookimpl

    @hookimpl
    def register_prompt_templates():
        return [PromptTemplate("triage", Path(__file__).with_name("triage.j2").read_text())]

Hooks return plain lists, so a test can simply call them. What a hook takes is said here in words: the hooks are the
ground that the contracts stand on, and know none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

PROJECT = "llmcls"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_base_models() -> Sequence[Any]:  # type: ignore[empty-body]
    """Return base-model adapters: which checkpoints they fit, their chat format, tokens and LoRA targets.

    Each is a `llmcls.model.adapter.BaseModelAdapter`.
    """


@hookspec
def register_prompt_templates() -> Sequence[Any]:  # type: ignore[empty-body]
    """Return prompt templates: named Jinja sources that turn an example into a prompt.

    Each is a `llmcls.prompt.template.PromptTemplate`.
    """


@hookspec
def register_dataset_readers() -> Sequence[Any]:  # type: ignore[empty-body]
    """Return dataset readers: each says which data specifications it can read, and reads them.

    Each is a `llmcls.data.reader.DatasetReader`.
    """


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add click commands to the `llmcls` command line."""
