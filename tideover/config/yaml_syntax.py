"""YAML's syntax, narrowed: a composer that refuses what `strict_yaml` has no place for, and plain words for errors.

The composer checks each event before a node is made of it, so that an alias is never followed.
"""

from __future__ import annotations

import re
from typing import Any

from yaml.composer import Composer
from yaml.error import Mark, MarkedYAMLError
from yaml.events import AliasEvent, StreamEndEvent
from yaml.nodes import Node, ScalarNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

MAX_DEPTH = 32
MAX_REFUSED = 100  # a bomb has thousands; nobody reads more than the first few
_TEXT = "tag:yaml.org,2002:str"

Refusal = tuple[Mark | None, str, str]
"""Where, what, and how to mend it."""


class TooDeep(Exception):
    """The document is nested deeper than `MAX_DEPTH`."""

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        super().__init__()


class Enough(Exception):
    """`MAX_REFUSED` things were refused: the rest is not read."""


class StrictComposer(Reader, Scanner, Parser, Composer, BaseResolver):
    """Makes nodes; `refused` collects what was not allowed, in file order. Scalars are not resolved."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.refused: list[Refusal] = []
        self._depth = 0

    def document(self) -> Node | None:
        """The root of the only document, None when there is none. Raises `MarkedYAMLError`, `TooDeep`, `Enough`."""
        self._next()  # the start of the stream
        if self.check_event(StreamEndEvent):
            return None
        start = self._next()
        if start.version or start.tags:
            self._refuse(start.start_mark, "a `%` directive", "remove the line")
        root = self.compose_node(None, None)
        self._next()  # the end of the document
        if not self.check_event(StreamEndEvent):
            self._refuse(self._peek().start_mark, "a second document begins here", "keep one document in a file")
        return root

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        """As PyYAML's, but for aliases, anchors, tags and depth. Raises `TooDeep` and `Enough`."""
        event = self._peek()
        if self.check_event(AliasEvent):
            self._next()
            mend = "write the value out; if the text begins with `*`, quote it"
            self._refuse(event.start_mark, f"`*{_brief(event.anchor)}` is an alias", mend)
            return ScalarNode(_TEXT, "", event.start_mark, event.end_mark, "'")
        if event.anchor is not None:
            mend = "remove it; if the text begins with `&`, quote it"
            self._refuse(event.start_mark, f"`&{_brief(event.anchor)}` is an anchor", mend)
            event.anchor = None
        if event.tag is not None:
            mend = "remove it; if the text begins with `!`, quote it"
            self._refuse(event.start_mark, f"`{_brief(event.tag)}` is a tag", mend)
            event.tag, event.implicit = None, (True, True) if hasattr(event, "value") else True
        if self._depth == MAX_DEPTH:
            raise TooDeep(event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        assert isinstance(node, Node)
        return node

    def _next(self) -> Any:  # PyYAML's events share no type that has their fields
        return self.get_event()  # type: ignore[no-untyped-call]

    def _peek(self) -> Any:
        return self.peek_event()  # type: ignore[no-untyped-call]

    def _refuse(self, mark: Mark | None, what: str, mend: str) -> None:
        self.refused.append((mark, what, mend))
        if len(self.refused) == MAX_REFUSED:
            raise Enough


def _brief(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


_QUOTE_IT = "quote the text if the character belongs to it"
_ERRORS: list[tuple[str, bool, str, str]] = [
    # a piece of PyYAML's text, whether the place is where the construct began, what, how to mend it
    (r"mapping values are not allowed", False, "a colon where no key can stand",
     "quote the text if the colon belongs to it; else check the indentation, and the line above for its colon"),
    (r"could not find expected ':'", True, "a key without a colon", "write `key: value`; check the indentation"),
    (r"character '\\t'", False, "a tab outside quotes", "use spaces"),
    (r"character '(?P<found>.)' that cannot start", False, "text can't begin with `{found}` unless it is quoted",
     "write it in quotes"),
    (r"end of stream.*quoted|quoted.*end of stream", True, "a quote that is never closed", "close it"),
    (r"document separator", True, "a quote that is never closed", "close it before `---`"),
    (r"unknown escape character '(?P<found>.)'", False, "`\\{found}` is no escape in double quotes",
     "write two backslashes, or use single quotes"),
    (r"expected ',' or '(?P<found>[]}])'", True, "a bracket that is never closed, or a comma is missing",
     "close it with `{found}`; separate its items by commas"),
    (r"expected <block end>, but found '(-|<block sequence start>)'", False,
     "a list item where a key is expected", "check the indentation: keys of one mapping stand below each other"),
    (r"expected <block end>", False, "does not line up with what is above", "check the indentation and the quotes"),
    (r"expected '<document start>'", False, "does not line up with what is above",
     "begin each key of the file in the first column"),
    (r"expected the node content, but found '<stream end>'", False, "the file ends where a value is expected",
     "is a bracket above never closed?"),
    (r"expected the node content", False, "a value is missing here", "write it, or `null`"),
    (r"sequence entries are not allowed", False, "a list item where none can stand",
     "begin the list on a line of its own"),
    (r"block scalar|comment or a line break", False, "text after `|` or `>`", "begin the text on the next line"),
    (r"mapping keys are not allowed", False, "a `?` key", "write `key: value`"),
    (r"directive|tag handle|incompatible YAML|alphabetic", False, "a tag, anchor or directive", _QUOTE_IT),
]  # fmt: skip


def explain_syntax(error: MarkedYAMLError) -> Refusal:
    """Where a syntax error is, what it is and how to mend it, in plain words."""
    text = f"{error.context or ''}: {error.problem or ''}"
    for pattern, at_start, what, mend in _ERRORS:
        if match := re.search(pattern, text):
            mark = error.context_mark if at_start and error.context_mark else error.problem_mark
            return mark, what.format(**match.groupdict()), mend.format(**match.groupdict())
    return error.problem_mark or error.context_mark, f"is no YAML: {error.problem}", _QUOTE_IT
