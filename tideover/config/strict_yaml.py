"""A strict reader of YAML: a file becomes a JSON value, and every key and value remembers where it stood.

It takes the part of YAML that people mean: mappings, lists and scalars. Anchors, aliases, tags, merge keys,
directives, duplicate keys and second documents are refused (an alias bomb of 430 bytes fills the memory of a loader
that is merely safe). Only PyYAML's node graph is used; nothing is ever constructed.

Of the plain scalars, these mean something: `true`, `false`, `null` or nothing at all, and numbers as JSON writes them.
All others are text: `NO`, `on`, `0x1F`, `007`, `1_000`, `12:30:00`, `2024-01-01`. A quoted scalar is always text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path as FilePath

from yaml.error import Mark, MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from tideover.config.document import Document, Path, Place, Spot, dotted
from tideover.config.yaml_syntax import MAX_DEPTH, Enough, StrictComposer, TooDeep, explain_syntax
from tideover.errors import ConfigError, Problem
from tideover.model import JsonObject

MAX_BYTES = 1_000_000
MAX_KEY = 200
_MAX_TABS = 10  # lines with tabs that are reported one by one

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_TAB = re.compile(r"^[ ]*\t", re.MULTILINE)
_LINE_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")  # as PyYAML counts lines
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "": None}


def read_yaml(path: FilePath | Traversable) -> Document:
    """The document in a file. Raises `ConfigError` with every problem of its syntax."""
    file = str(path)
    try:
        if path.is_dir():
            raise _refusal(file, "is a directory", "name the file in it, such as hub.yaml")
        if not path.is_file():
            if isinstance(path, FilePath) and path.exists():
                raise _refusal(file, "is no regular file", "name a file such as hub.yaml")
            raise _refusal(file, "there is no such file", "check the path, or make one with `tideover init`")
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise _refusal(file, f"can't be read: {reason}", "check its path and permissions") from error
    return parse_yaml(raw, file)


def parse_yaml(raw: bytes, file: str) -> Document:
    """The document in these bytes; `file` is the name that problems carry. Raises `ConfigError`."""
    text = _decode(raw, file)
    tabs = [
        Problem(file, *_place_at(text, match.end() - 1), "", "a tab in the indentation", "indent with spaces")
        for match in _TAB.finditer(text)
    ]
    if tabs:
        raise ConfigError(tabs[:_MAX_TABS])
    composer, root, fatal = None, None, []
    try:
        composer = StrictComposer(text)
        root = composer.document()
    except ReaderError as error:
        what = f"holds the control character U+{error.character:04X}"
        fatal = [Problem(file, *_place_at(text, error.position), "", what, "remove it, or save the file as UTF-8")]
    except TooDeep as error:
        what = f"is nested more than {MAX_DEPTH} levels deep"
        fatal = [Problem(file, *_place(error.mark), "", what, "nothing in a hub is that deep; look for a stray `[`")]
    except Enough:
        pass  # `refused` says it all
    except MarkedYAMLError as error:
        mark, what, mend = explain_syntax(error)
        fatal = [Problem(file, *_place(mark), "", what, mend)]
    refused = composer.refused if composer else []
    problems = [Problem(file, *_place(mark), "", what, mend) for mark, what, mend in refused] + fatal
    if problems:
        raise ConfigError(problems)
    return _Reading(file).document(root)


def _decode(raw: bytes, file: str) -> str:
    if len(raw) > MAX_BYTES:
        raise _refusal(file, f"is larger than {MAX_BYTES // 1_000_000} MB", "a hub's configuration is a few pages")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = raw[error.start]
        line, column = _place_at(raw[: error.start].decode("utf-8-sig", "replace"), None)
        what = f"is not UTF-8: byte 0x{start:02X}"
        raise ConfigError([Problem(file, line, column, "", what, "save the file as UTF-8")]) from None


def _place_at(text: str, position: int | None) -> Place:
    before = text[:position]
    breaks = list(_LINE_BREAK.finditer(before))
    return len(breaks) + 1, len(before) - (breaks[-1].end() if breaks else 0) + 1


def _place(mark: Mark | None) -> Place:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _refusal(file: str, what: str, mend: str) -> ConfigError:
    return ConfigError([Problem(file, 0, 0, "", what, mend)])


class _Reading:
    """One walk over a node graph: collects values, their spots, and every problem on the way."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._spots: dict[Path, Spot] = {}
        self._problems: list[Problem] = []

    def document(self, root: Node | None) -> Document:
        """The document under this node. Raises `ConfigError`."""
        if root is None or (isinstance(root, ScalarNode) and root.style is None and root.value in ("", "null")):
            what, mend = "is empty", "a hub needs `name`, `systems` and `routes`; `tideover init` writes an example"
            raise ConfigError([Problem(self._file, 1, 1, "", what, mend)])
        if not isinstance(root, MappingNode):
            what, mend = "is no mapping", "write keys and values, such as `name: acme-hub`"
            raise ConfigError([Problem(self._file, *_place(root.start_mark), "", what, mend)])
        self._spots[()] = Spot(self._file, (), _place(root.start_mark), _place(root.start_mark))
        value = self._mapping(root, ())
        if self._problems:
            raise ConfigError(self._problems)
        return Document(self._file, value, self._spots)

    def _value(self, node: Node, path: Path, key: Place) -> object:
        is_empty = isinstance(node, ScalarNode) and node.style is None and not node.value
        self._spots[path] = Spot(self._file, path, key, key if is_empty else _place(node.start_mark))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            items: list[Node] = node.value
            return [self._value(item, (*path, n), _place(item.start_mark)) for n, item in enumerate(items)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> JsonObject:
        return {key: self._value(item, (*path, key), place) for key, place, item in self._entries(node, path)}

    def _entries(self, node: MappingNode, path: Path) -> Iterator[tuple[str, Place, Node]]:
        """The usable entries of a mapping; the others become problems."""
        seen: dict[str, int] = {}
        for key_node, item in node.value:
            place = _place(key_node.start_mark)
            key = self._key(key_node, path, place)
            if key is None:
                continue
            if key in seen:
                what = f"is there twice; the first is in line {seen[key]}"
                self._problem(place, (*path, key), what, "keep one: the other would be lost silently")
                continue
            seen[key] = place[0]
            yield key, place, item

    def _key(self, node: Node, path: Path, place: Place) -> str | None:
        if not isinstance(node, ScalarNode):
            mend = "quote it if it is text; there is no template engine, so `{{ ... }}` means nothing"
            self._problem(place, path, "a list or mapping stands where a key is expected", mend)
            return None
        key: str = node.value
        if node.style is None and key == "<<":
            self._problem(place, path, "`<<` is a merge key", "write the keys out; what is shared belongs in a preset")
        elif not key:
            self._problem(place, path, "a value has no key", "write the key before the colon")
        elif len(key) > MAX_KEY:
            self._problem(place, path, f"a key is longer than {MAX_KEY} characters", "is a colon or a quote missing?")
        elif _UNSTORABLE.search(key) or not key.isprintable():
            self._problem(place, path, "a key holds an unprintable character", "remove it")
        else:
            return key
        return None

    def _scalar(self, node: Node, path: Path) -> object:
        text: str = node.value
        if _UNSTORABLE.search(text):
            what = "holds a NUL or half a surrogate pair, which is no text"
            self._problem(_place(node.start_mark), path, what, "remove the escape")
            return ""
        if node.style is not None:  # type: ignore[attr-defined]
            return text
        if text in _WORDS:
            return _WORDS[text]
        if not _NUMBER.fullmatch(text):
            return text
        is_whole = _INTEGER.fullmatch(text) is not None
        number = int(text) if is_whole and len(text) <= 20 else float(text)
        if not math.isfinite(number) or (is_whole and abs(number) >= 2**63):
            what = "is a number beyond 64 bits"
            self._problem(_place(node.start_mark), path, what, "quote it if it is text, such as an account number")
            return 0
        return number

    def _problem(self, place: Place, path: Path, what: str, mend: str) -> None:
        self._problems.append(Problem(self._file, *place, dotted(path), what, mend))
