"""YAML as it was written: what stands where a setting takes text keeps its source text, all else is YAML's value.

    read_tree("training: {class_weights: {010: 5}}", "Settings file 'run.yaml'")
    # {"training": {"class_weights": {"010": 5}}}, where YAML 1.1 reads 010 as the number 8
    read_value("010", ["data", "labels"], "--set data.labels=010")      # "010"

YAML decides by its looks what a bare scalar is: `no` is false, `1.10` is 1.1, `2024-01-01` a date. The type of the
setting knows better. Keys are always text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from llmcls.errors import LlmclsError, several
from llmcls.settings.schema import Settings
from llmcls.settings.task import dependent
from llmcls.settings.yaml_text import compose

_CORE = "tag:yaml.org,2002:"
# What YAML 1.1 makes of a bare scalar by its looks; any other tag was written by hand.
_BY_LOOKS = {_CORE + name for name in ("null", "bool", "int", "float", "timestamp", "merge", "value", "str")}
# YAML 1.1 wants a point and a sign, and reads 2e-4 and 1.5e3 as text.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
# YAML reads | as an empty block, # as a comment, - as a list; but a lone mark is text, such as a separator.
_LONE_MARK = re.compile(r"[^\w\s~]")
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[\d_]+(:[0-5]?\d)+(\.[\d_]*)?)")


def read_tree(text: str, source: str) -> Any:
    """The settings in a YAML text, nested; not yet checked against the schema.

    Args:
        text: the YAML.
        source: what to call it in errors.

    Raises:
        yaml.YAMLError: when it is not YAML.
        LlmclsError: for keys that are written twice or are not text, and numbers that mean something else to YAML.
    """
    return _Reader(text, source).read(Settings, ())


def read_value(text: str, path: Sequence[str], source: str) -> Any:
    """The value of one setting, as written behind `--set key=`; where it takes text, only quotes mean something.

    Args:
        text: what stands behind the equals sign.
        path: the names that lead to the setting, as `route` gives them.
        source: what to call it in errors.

    Raises:
        LlmclsError: as `read_tree`.
    """
    kind = _kind_at(path)
    if _LONE_MARK.fullmatch(text):
        return text
    try:
        reader = _Reader(text, source)
        if not _takes_text(kind) or _is_yaml(reader.node, text, kind, path):
            return reader.read(kind, path)
    except yaml.YAMLError:
        return text
    return text.strip()


def route(key: str) -> list[str]:
    """The names that lead to a setting: dots separate sections, but belong to the name of a label.

    `route("data.label_descriptions.cs.AI")` is `["data", "label_descriptions", "cs.AI"]`.
    """
    rest, names = key.split("."), list[str]()
    while rest:
        keyed = [get_args(part) for part in _parts(_kind_at(names)) if get_origin(part) is dict]
        take = len(rest) if keyed and keyed[0][1] is not Any else 1
        names.append(".".join(rest[:take]))
        rest = rest[take:]
    return names


class _Reader:
    """One YAML text, walked along the types of the settings."""

    def __init__(self, text: str, source: str) -> None:
        self._loader = yaml.SafeLoader(text)
        self._source = source
        self._problems: list[str] = []
        self._seen: set[int] = set()
        self.node: yaml.Node | None = compose(self._loader, source)

    def read(self, kind: Any, path: Sequence[str]) -> Any:
        """The value; all problems of the text in one error."""
        try:
            value = None if self.node is None else self._convert(self.node, kind, tuple(path))
        except RecursionError:
            raise LlmclsError(f"{self._source} is nested too deeply, or within itself; write it out.") from None
        except ValueError as error:  # a date such as 2024-99-99, a number of thousands of digits
            raise LlmclsError(
                f"{self._source} holds a value that YAML cannot read: {str(error).partition(';')[0]}; correct it."
            ) from error
        if self._problems:
            raise LlmclsError(several(list(dict.fromkeys(self._problems)), self._source))
        return value

    def _convert(self, node: yaml.Node, kind: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return [self._convert(item, _item(kind), (*path, "")) for item in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
            self._check_keys(node, path)
            return {
                key.value: self._convert(value, _kind_below(kind, key.value), (*path, key.value))
                for key, value in node.value
                if isinstance(key, yaml.ScalarNode)
            }
        return self._loader.construct_object(node, deep=True)

    def _scalar(self, node: yaml.ScalarNode, kind: Any, path: tuple[str, ...]) -> Any:
        text = str(node.value)
        bare = node.style is None and node.tag in _BY_LOOKS
        if bare and _takes_text(kind):
            nothing = node.tag == _CORE + "null" and (not text or _nullable(kind, path))
            return None if nothing else text
        if bare and _EXPONENT.fullmatch(text):
            return float(text)
        value = self._loader.construct_object(node)
        if bare and isinstance(value, (int, float)) and _OTHER_BASE.fullmatch(text):
            self._problems.append(
                f"{_line(node)}: {_name(path)} is {text}, which YAML reads as {value}; write {value} if that is meant"
            )
        return value

    def _check_keys(self, node: yaml.MappingNode, path: tuple[str, ...]) -> None:
        """Find keys that are not text or occur twice, then resolve merges (`<<`), which may repeat keys."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        lines: dict[str, list[str]] = defaultdict(list)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problems.append(f"{_line(key)}: {_name(path)} has a list or mapping as a key; keys are names")
            elif key.tag != _CORE + "merge":
                lines[key.value].append(str(key.start_mark.line + 1))
        for name, found in lines.items():
            if len(found) > 1:
                places = f"lines {', '.join(found[:-1])} and {found[-1]}"
                self._problems.append(f"'{_name((*path, name))}' is written {len(found)} times ({places}); keep one")
        self._loader.flatten_mapping(node)


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _name(path: Sequence[str]) -> str:
    return ".".join(part for part in path if part) or "the file"


def _is_yaml(node: yaml.Node | None, text: str, kind: Any, path: Sequence[str]) -> bool:
    """Whether a text setting on the command line is written in YAML's way, rather than being the text itself."""
    if isinstance(node, yaml.ScalarNode):
        null = node.tag == _CORE + "null" and _nullable(kind, path)
        return null or node.style in ("'", '"') or (node.style in ("|", ">") and "\n" in text)
    if isinstance(node, yaml.SequenceNode):
        return _item(kind) is not Any
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        return any(get_origin(part) is dict for part in _parts(kind))
    return not text.strip()  # a mapping is text with a colon, and what has no node is a comment


def _parts(kind: Any) -> Iterator[Any]:
    """The alternatives of a type, without annotations: `Names | None` is `tuple[str, ...]`, `NoneType`."""
    if get_origin(kind) is Annotated:
        yield from _parts(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _parts(part)
    else:
        yield kind


def _item(kind: Any) -> Any:
    """The type of an element of a list."""
    return next((get_args(part)[0] for part in _parts(kind) if get_origin(part) is tuple), Any)


def _takes_text(kind: Any) -> bool:
    """Whether a lone scalar is text there; a single name may stand for a list of one."""
    return any(part is str for part in (*_parts(kind), *_parts(_item(kind))))


def _nullable(kind: Any, path: Sequence[str]) -> bool:
    return NoneType in _parts(kind) or ".".join(path) in dependent()


def _kind_below(kind: Any, name: str) -> Any:
    """The type of what a section or a mapping has under a name; Any where there is no such setting."""
    for part in _parts(kind):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part.model_fields[name].annotation if name in part.model_fields else Any
        if get_origin(part) is dict:
            return get_args(part)[1]
    return Any


def _kind_at(path: Sequence[str]) -> Any:
    kind: Any = Settings
    for name in path:
        kind = _kind_below(kind, name)
    return kind
