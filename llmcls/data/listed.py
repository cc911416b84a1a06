"""Labels that come as a list: written as text by Python, JSON, NumPy or PostgreSQL, or as a vector of zeros and ones.

read_list("['joy', 'fun']", ",")        # ["joy", "fun"]; the same for ["joy", "fun"], {joy,fun} and ['joy' 'fun']
name_hot([1.0, 0.0, 1.0], ("joy", "fear", "fun"))        # ["joy", "fun"]
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

_CLOSING = {"[": "]", "(": ")", "{": "}"}
# What Python and NumPy write around a list: array(['a'], dtype=object), frozenset({'a'}), list(['a']).
_WRAPPED = re.compile(r"(?:np\.|numpy\.)?(?:array|set|frozenset|list|tuple)\((.*?)(?:,\s*dtype=[^\])}]*)?\)", re.DOTALL)
# What NumPy 2 writes around each item: [np.str_('a'), np.int64(1)].
_NUMPY = re.compile(r"\bnp\.(?:str|bool|int|float)[0-9]*_?\(([^()]*)\)")
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_ITEM = re.compile(rf"\s*(?:({_QUOTED})|({_NUMBER}|None|null|nan|NaN|True|true|False|false)(?=[\s,]|$))\s*", re.DOTALL)
_WORDS = {
    "None": None,
    "null": None,
    "nan": None,
    "NaN": None,
    "True": True,
    "true": True,
    "False": False,
    "false": False,
}
_ZEROS_AND_ONES = re.compile(r"[01](?:\.0*)?(?:[\s,;|]+[01](?:\.0*)?)+")


def read_list(text: str, separator: str | None = None) -> list[Any] | None:
    """The items of a list that is written as text; None for text that is not a list.

    Args:
        text: a cell.
        separator: what stands between labels outside lists; names without quotes are a list only with it.

    Raises:
        ValueError: for what looks like a list and cannot be read as one without a guess.
    """
    text = _NUMPY.sub(r"\1", text.strip())
    if found := _WRAPPED.fullmatch(text):
        text = found[1].strip() or "[]"
    if not text or text[0] not in _CLOSING:
        return None
    inner = text[1:-1].strip()
    if text[-1] != _CLOSING[text[0]] or len(text) < 2:
        if inner[:1] in {"'", '"'}:
            raise ValueError(f"the labels {_short(text)} look like a list whose end is missing; write it whole")
        return None
    if not inner:
        return []
    items = _split(inner, spaces=text[0] == "[")
    if items is not None:
        # [0, 18] is a name, too, where labels are not separated by commas.
        named = "," in inner and separator != "," and not any(isinstance(item, str) for item in items)
        return None if named else items
    if text[0] == "{" and not re.search(r"[\[\](){}:]", inner):  # PostgreSQL; names with blanks have quotes there
        return [_unquote(item.strip()) for item in inner.split(",")]
    if inner[0] in {"'", '"'} or (separator and separator in inner and not re.search(r"[\[\](){}]", inner)):
        raise ValueError(
            f"the labels {_short(text)} look like a list that cannot be read; write each name in quotation marks, with "
            "commas between them"
        )
    return None


def looks_listed(text: str) -> bool:
    """Whether a label is plainly a list of names in quotes, or an empty one, and not a name."""
    try:
        items = read_list(text)
    except ValueError:
        return True
    if items is None:
        return False
    quoted = re.search("['\"]", text) is not None
    return text.strip() == "[]" or (any(isinstance(item, str) for item in items) and (quoted or len(items) > 1))


def is_hot(values: Sequence[Any], names: Collection[str] = (), *, indices: bool = False) -> bool:
    """Whether these values are zeros and ones that say of every label whether it applies, rather than labels.

    True for truth values, fractions such as 1.0 and numbers that come again, which no list of labels does; for other
    zeros and ones only where neither is one of the `names`, there are as many as of these, and they are not `indices`.
    """
    if len(values) < 2 or not all(_bit(value) is not None for value in values):
        return False
    if names and all(name in names for name in {str(_bit(value)) for value in values}):
        return False
    repeated = len({_bit(value) for value in values}) < len(values)
    return (
        repeated
        or (len(values) == len(names) and not indices)
        or any(isinstance(value, bool | float) for value in values)
    )


def name_hot(values: Sequence[Any], names: Sequence[str]) -> list[str]:
    """The names whose place holds a one.

    Raises:
        ValueError: when there are not as many names as values.
    """
    if len(values) != len(names):
        has = f"there are {len(names)} labels" if names else "the names of the labels are not known"
        shown = _short(", ".join(map(str, values)))
        raise ValueError(
            f"the labels {shown} are {len(values)} zeros and ones, but {has}; give data.labels with "
            "one name for each of them, in their order"
        )
    return [name for value, name in zip(values, names, strict=True) if _bit(value)]


def read_hot(text: str) -> list[int] | None:
    """Zeros and ones that are written as text, such as 1,0,1 or [1. 0. 1.]; None for anything else."""
    bare = text.strip().strip("[](){}").strip()
    return [int(digit[0]) for digit in re.split(r"[\s,;|]+", bare)] if _ZEROS_AND_ONES.fullmatch(bare) else None


def _bit(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value.strip()) if value.strip() in {"0", "1"} else None
    return int(value == 1) if isinstance(value, Real) and value in (0, 1) else None


def _split(inner: str, *, spaces: bool) -> list[Any] | None:
    """The items in quotes and the numbers, between commas, or all between blanks; None where other text is."""
    items: list[Any] = []
    gaps: set[bool] = set()
    place = 0
    while place < len(inner):
        found = _ITEM.match(inner, place)
        if found is None:
            return None
        quoted, other = found.groups()
        items.append(_unquote(quoted) if quoted else _WORDS[other] if other in _WORDS else _number(other))
        place = found.end()
        if place < len(inner):
            comma = inner[place] == ","
            gaps.add(comma)
            place += comma
            if not comma and not inner[place - 1].isspace():
                return None
    return items if not gaps or gaps == {True} or (spaces and gaps == {False}) else None


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else float(text)


def _unquote(item: str) -> str:
    if len(item) < 2 or item[0] not in "'\"" or item[-1] != item[0]:
        return item
    for read in (json.loads, ast.literal_eval):  # JSON's escapes are not all Python's
        try:
            return str(read(item))
        except (ValueError, SyntaxError):  # single quotes in JSON; a line end within it in Python
            continue
    return item[1:-1]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
