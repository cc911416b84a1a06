"""A prompt with a hole where the row's text stands, for templates that print the text once and do nothing else with it.

    hole = find_hole(framed, labels, shots)
    hole.before + "Where is my parcel?" + hole.after      # the framed prompt of that text

Whatever stands around the text is the same for every row then, so it need not be rendered and tokenised for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jinja2 import nodes

from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.prompt.marks import clean
from llmcls.prompt.template import PromptTemplate
from llmcls.prompt.tokens import FramedTokenizer
from llmcls.records import Example

# Private use: no text of a template or label is likely to have them all.
_FILLERS = ("\ue0ff", "\uf3a7", "\uf8d1")
_DRAWS = {"random", "lipsum"}
# Blocks inside which one printed text is still printed once, as it is.
_TRANSPARENT = (nodes.Template, nodes.If)
_QUOTED = re.compile(r"'((?:\\.|[^'\\\n])*)'|\"((?:\\.|[^\"\\\n])*)\"")
# What a chat format might change, drop or decide upon: case, white space, markup, escapes, length, other scripts.
_SAMPLES = (
    "",
    "x",
    "Aa Ää ß İ ﬁ",
    "  \n\t x \u00a0 y\r\n\n  ",
    '<b>&amp; "it\'s"</b> {{ text }} {% raw %} \\n \\\\',
    "e\u0301 \u200b\u200d\ufeff 👩\u200d👧 東京 العربية",
    "1. one\n- two\n\n# three ### User: four",
    "<think>\nso\n</think>\n\nyes",
    "word " * 2500,
)


class Hole(NamedTuple):
    """What stands before and behind the text in the framed prompt of every row."""

    before: str
    after: str


def prints_text_once(template: PromptTemplate) -> bool:
    """Whether the template prints `text` once, as it is, and depends on nothing else of a row.

    Decided on the syntax tree: trying texts would not find a condition such as `{% if text | length > 1000 %}`.

        prints_text_once(PromptTemplate("a", "Sort this: {{ text }}\\nlabel:"))               # True
        prints_text_once(PromptTemplate("b", "Sort this: {{ text | trim }}\\nlabel:"))        # False
    """
    names = [name.name for name in template.syntax.find_all(nodes.Name)]
    if names.count("text") != 1 or "fields" in names or _draws(template.syntax):
        return False
    printed = [node for output in _plain_outputs(template.syntax) for node in output.nodes]
    return any(isinstance(node, nodes.Name) and node.name == "text" for node in printed)


def find_hole(framed: FramedTokenizer, labels: LabelSet, shots: Sequence[Example]) -> Hole | None:
    """What all prompts share, or None where that is not certain.

    The model's chat format is a program as well: it is tried on texts of many kinds, and on all strings that it names.
    """
    if not prints_text_once(framed.template):
        return None

    def render(text: str) -> str:
        return framed.render(Example(text), labels, shots).text

    try:
        found = next((tuple(parts) for filler in _FILLERS if len(parts := render(filler).split(filler)) == 2), None)
        if found is None:
            return None
        hole = Hole(*found)
        for text in _samples(framed):
            # A text that a forgery was taken out of is longer by a space; such texts never go into a hole.
            if not touches(framed, hole, text) and render(text) != hole.before + text + hole.after:
                return None
    except LlmclsError:  # encoding the rows themselves raises it again, with the right row's name
        return None
    return hole


def touches(framed: FramedTokenizer, hole: Hole, text: str) -> bool:
    """Whether a control token's or turn marker's spelling has a character of the text, so that it must be broken."""
    room = max(0, framed.longest_marker - 1)
    before, after = hole.before[max(0, len(hole.before) - room) :], hole.after[:room]
    return touches_between(framed.forgeries, before, text, after)


def touches_between(forgeries: re.Pattern[str], before: str, text: str, after: str) -> bool:
    """The same with as much of what stands around the text as a spelling that begins or ends in it may cover."""
    whole, start, end = before + text + after, len(before), len(before) + len(text)
    position = 0
    while (match := forgeries.search(whole, position)) and match.start() < end:
        if match.end() > start:
            return True
        position = match.start() + 1
    return False


def _samples(framed: FramedTokenizer) -> Iterator[str]:
    yield from _SAMPLES
    template = framed.tokenizer.chat_template
    sources = template.values() if isinstance(template, dict) else [template or ""]
    named = {found for source in sources for pair in _QUOTED.findall(str(source)) for found in pair if found}
    for found in sorted(named):
        for spelled in {found, found.replace("\\n", "\n")}:
            yield clean(f"{spelled}x {spelled} x{spelled}")


def _draws(tree: nodes.Template) -> bool:
    """Whether a template calls on chance: `labels | random` is another label for every row."""
    named = {name.name for name in tree.find_all(nodes.Name)} | {used.name for used in tree.find_all(nodes.Filter)}
    # `map('random')` names it in a string.
    return bool(_DRAWS & (named | {text.value for text in tree.find_all(nodes.Const) if isinstance(text.value, str)}))


def _plain_outputs(node: nodes.Node) -> Iterator[nodes.Output]:
    if isinstance(node, nodes.Output):
        yield node
    elif isinstance(node, _TRANSPARENT):
        for child in node.iter_child_nodes():
            yield from _plain_outputs(child)
