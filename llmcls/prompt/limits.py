"""What a template of others may cost: a few are tried out in a child process first, all others cannot cost much.

    if not is_simple(environment.parse(source)):
        try_out(lambda: template.render(...), "Template 'triage'")     # at most 10 s and 1 GiB, in a child process

Jinja's sandbox keeps a template from everything but time and memory: `{{ 'a' * 30000000000 }}`, loops in loops. A
template without these, which nearly all are, is known for it by its syntax, within a tenth of a millisecond.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmcls.errors import LlmclsError

SECONDS = 10
"""Processor time that rendering a prompt may take in the child process; a long one takes milliseconds."""

MEMORY = 1 << 30
"""Bytes that it may take there, besides what the process has already."""

PATIENCE = 120
"""Seconds by the clock, for a machine that is busy with other things."""

LOOPS = 1_000_000
"""Passes through loops for one prompt, where a template has more than simple ones: less than a second."""

LONGEST_PRODUCT = 1_000_000
"""Characters or items of what a template multiplies, and of numbers their bits."""

_SIMPLE_SOURCE = 16_384
_SIMPLE_CONSTANT = 1_000
_SIMPLE_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.For, nodes.If, nodes.CondExpr,
    nodes.Filter, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.List, nodes.Tuple, nodes.Test, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Add, nodes.Sub, nodes.Concat, nodes.Keyword,
    nodes.Call,
)  # fmt: skip
_SIMPLE_FILTERS = {
    "abs", "capitalize", "count", "d", "default", "e", "escape", "first", "float", "int", "items", "join", "last",
    "length", "list", "lower", "map", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "sort",
    "string", "title", "tojson", "trim", "truncate", "unique", "upper", "wordcount",
}  # fmt: skip
_SIMPLE_METHODS = {"strip", "lstrip", "rstrip", "lower", "upper", "title", "capitalize", "startswith", "endswith"}
# `'%1000000000d' % 5` is a gigabyte.
_WIDTH = re.compile(r"%[^a-zA-Z%]*(\d{6}|\*)")


def is_simple(tree: nodes.Template, source: str, lists: Collection[str]) -> bool:
    """Whether rendering costs no more than reading the lists that it is given once or twice.

    Args:
        tree: the syntax tree.
        source: what it was parsed from.
        lists: the variables that are lists, over which a simple loop goes.
    """
    if len(source) > _SIMPLE_SOURCE:
        return False
    return all(_simple(node) for node in _walk(tree)) and all(
        _loops_once(loop, lists, ()) for loop in tree.iter_child_nodes() if isinstance(loop, nodes.Node)
    )


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _simple(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Const):
        value = node.value
        return len(value) <= _SIMPLE_CONSTANT if isinstance(value, str) else not isinstance(value, int) or value < 10**9
    if isinstance(node, nodes.Filter):
        return node.name in _SIMPLE_FILTERS
    if isinstance(node, nodes.Call):
        return isinstance(node.node, nodes.Getattr) and node.node.attr in _SIMPLE_METHODS
    return isinstance(node, _SIMPLE_NODES)


def _loops_once(node: nodes.Node, lists: Collection[str], inside: tuple[str, ...]) -> bool:
    """Whether loops go over the lists, and loops in them over what an item holds (`label.aliases`)."""
    if isinstance(node, nodes.For):
        if node.recursive or len(inside) > 1:
            return False
        over = node.iter
        if inside:
            own = isinstance(over, nodes.Getattr) and isinstance(over.node, nodes.Name) and over.node.name == inside[0]
        else:
            own = isinstance(over, nodes.Name) and over.name in lists
        # Filters that walk a list within a loop over it cost the square of its length.
        walked = inside or any(isinstance(node, nodes.Name) and node.name in lists for node in _body(node))
        if not own or (walked and not inside) or not isinstance(node.target, nodes.Name):
            return False
        inside = (*inside, node.target.name)
    return all(_loops_once(child, lists, inside) for child in node.iter_child_nodes())


def _body(loop: nodes.For) -> Iterator[nodes.Node]:
    for child in (*loop.body, *loop.else_, *([loop.test] if loop.test else [])):
        yield from _walk(child)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which products are bounded and, with `counts`, the passes through all loops of a rendering.

    Args:
        counts: whether to count; simple templates need not be slowed down.
        options: see `jinja2.Environment`.
    """

    # Operators named here are not computed while a template is compiled, either.
    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self, *, counts: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._counts, self._left = counts, LOOPS
        self.filters["counted by llmcls"] = self._count

    def begin(self) -> None:
        """Begin another rendering."""
        self._left = LOOPS

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For) if self._counts else ():
            loop.iter = nodes.Filter(loop.iter, "counted by llmcls", [], [], None, None, lineno=loop.lineno)
        return tree

    def _count(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._left -= 1
            if self._left < 0:
                raise LlmclsError(f"it goes through its loops more than {LOOPS:,} times; no prompt needs that")
            yield item

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """As Jinja's, within limits."""
        if operator == "*" and _size(left, right) > LONGEST_PRODUCT:
            raise LlmclsError(f"it multiplies up to more than {LONGEST_PRODUCT:,} characters; no prompt needs that")
        if operator == "**" and _bits(left) * _bits(right, itself=True) > LONGEST_PRODUCT:
            raise LlmclsError("it computes a number of more digits than any prompt needs")
        if operator == "%" and isinstance(left, str) and _WIDTH.search(left):
            raise LlmclsError("it formats to a width that no prompt needs")
        return super().call_binop(context, operator, left, right)


def _size(left: Any, right: Any) -> int:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple | bytes) and isinstance(times, int):
            return len(many) * times
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    return 0


def _bits(number: Any, itself: bool = False) -> int:
    if not isinstance(number, int):
        return 0
    return abs(number) if itself else number.bit_length()


def try_out(action: Callable[[], object], what: str) -> None:
    """Do something in a child process, within limits; whatever it raises there is left to be raised here.

    Where the system has no `fork` nothing is tried out.

    Args:
        action: uses neither threads nor devices.
        what: what it is, at the beginning of a sentence: `Template 'triage'`.

    Raises:
        LlmclsError: when it exceeds the limits.
    """
    if not hasattr(os, "fork"):
        return
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads, whose locks the child might wait for: it takes none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_tried(action)
    try:
        status = _wait(child)
    except ChildProcessError:  # whoever started this process lets the system forget how children end
        return
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return
    what_for = f"{MEMORY / 2**30:g} GiB of memory" if os.WIFEXITED(status) else f"{SECONDS} s"
    raise LlmclsError(
        f"{what} takes more than {what_for}, which no prompt needs; use another one, or take out what multiplies or "
        "repeats."
    )


def _be_tried(action: Callable[[], object]) -> None:
    """The child: never returns, and leaves nothing of the parent's to be written twice."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _limit()
        action()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the parent will meet all others, too, and say what they are
        code = int(isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError))
    finally:
        os._exit(code)


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if sys.platform == "linux":  # elsewhere the address space cannot be limited
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        size = pages * resource.getpagesize() + MEMORY
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (size if hard < 0 else min(size, hard), hard))


def _wait(child: int) -> int:
    """How the child ended; one that waits for ever is ended."""
    pause, until = 0.0005, time.monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
