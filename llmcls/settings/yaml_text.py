"""YAML as others may have written it: parsed within limits, whatever its aliases stand for.

    compose(text, yaml.SafeLoader(text), "Settings file 'run.yaml'")       # the root node, or None
    load_plain(text, "Settings of run 'runs/tickets'")                      # as yaml.safe_load

Ten lines of aliases to aliases stand for a billion values, which is nothing to YAML, but much to
whoever walks them.
"""

from __future__ import annotations

from typing import Any

import yaml

from llmcls.errors import LlmclsError

LONGEST_YAML = 16 * 1024 * 1024
"""Bytes of a YAML file: some 100,000 labels with their descriptions."""

MOST_VALUES = 1_000_000
"""Values of a YAML text with its aliases written out."""


def compose(loader: Any, source: str) -> yaml.Node | None:
    """The root node of a loader's text, which stands for a limited number of values.

    Args:
        loader: a fresh `yaml.SafeLoader`.
        source: what to call the text in errors.

    Raises:
        yaml.YAMLError: when it is not YAML.
        LlmclsError: when it is nested too deeply or within itself, or stands for too many values.
    """
    try:
        node: yaml.Node | None = loader.get_single_node()
        if node is not None and _count(node, {}, set()) > MOST_VALUES:
            raise LlmclsError(
                f"{source} stands for more than {MOST_VALUES:,} values once its aliases are written out; take out the "
                "aliases (*name)."
            )
    except RecursionError:
        raise LlmclsError(f"{source} is nested too deeply, or within itself; write it out.") from None
    return node


def _count(node: yaml.Node, known: dict[int, int], within: set[int]) -> int:
    """The values that a node stands for; what several aliases name is walked once."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in within:
        raise RecursionError
    count, within = 1, within | {id(node)} if isinstance(node, yaml.CollectionNode) else within
    if isinstance(node, yaml.SequenceNode):
        count += sum(_count(item, known, within) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        count += sum(_count(part, known, within) for pair in node.value for part in pair)
    known[id(node)] = count
    return count


def load_plain(text: str, source: str) -> Any:
    """The value of a YAML text, as `yaml.safe_load` has it.

    Raises:
        LlmclsError: as `compose`, and when it is not YAML, or a value has no meaning, such as 2024-99-99.
    """
    loader = yaml.SafeLoader(text)  # the one in C dies of 100,000 brackets
    try:
        node = compose(loader, source)
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LlmclsError(f"{source} is not usable YAML: {' '.join(str(error).split())}.") from error
