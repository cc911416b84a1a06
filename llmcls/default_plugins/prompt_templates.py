"""The built-in prompt templates: every `.j2` file of the shipped `templates/` folder."""

from __future__ import annotations

from llmcls.files import shipped
from llmcls.plugin.hookspecs import hookimpl
from llmcls.prompt.template import PromptTemplate


@hookimpl
def register_prompt_templates() -> list[PromptTemplate]:
    """One for each file, under the file's name."""
    return [PromptTemplate.from_file(path) for path in sorted(shipped("templates").glob("*.j2"))]
