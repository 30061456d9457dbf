"""Texts from outside, made fit for logs and tables: one short line without secrets and without the record's values.

A text is looked at as a whole, hidden values are blanked, and only then it is cut: a value that is cut first is not
found, and what is left of it stays. Of a long value any piece of 31 characters is blanked, and of 16 at its beginning
and end; a shorter one as a whole. They are found in one pass over the text, by what they begin with, so that a batch of
thousands is no different from one record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator

from tideover.connectors.http.answer import Undecodable, decode

MAX_DETAIL = 200
_RAW, _READ = 8000, 4000  # characters of a text that are looked at, before and after its blanks are made one
_EDGE = 64  # of a text that goes on, its last ones may be the beginning of what can't be told yet
_SHORTEST = 4  # shorter values are words like "no" that a message holds anyway
_LONG = 32  # from here on a value is found by its pieces, since a provider may repeat a part of it
_PIECE = 16
_MOST_ALIKE = 32  # values with a piece in common that are compared; of more, all that follows it is blanked
_PATIENCE = 200_000  # comparisons within one text; after that, the rest of it is blanked
_BLANK = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
_CODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/ -]{0,63}")

Span = tuple[int, int]


class Hidden:
    """The values that no text about a call may hold, whatever their case and blanks. `find` is asked once, and only
    where there is a text."""

    __slots__ = ("_find", "_lengths", "_pieces", "_whole")

    def __init__(self, find: Callable[[], Iterable[str]]) -> None:
        self._find: Callable[[], Iterable[str]] | None = find
        self._whole: set[str] = set()
        self._lengths: dict[str, set[int]] = {}  # of the short values, by what they begin with
        self._pieces: dict[str, list[tuple[str, int]]] = {}  # of the long ones: whose, and where in it

    def cover(self, line: str, keep: int | None = None) -> str:
        """The line, or its first `keep` characters, with each hidden value as `***`."""
        self._learn()
        text = _folded(line)
        made, at, end = [], 0, len(line) if keep is None else keep
        for start, stop in sorted([*self._short(text), *self._long(text)]):
            if start >= end:
                break
            if start > at or (start == at == 0):
                made += [line[at:start], "***"]
            at = max(at, stop)
        return "".join([*made, line[at:end]])

    def _learn(self) -> None:
        find, self._find = self._find, None
        for value in find() if find is not None else ():
            for text in _forms(value):
                if len(text) >= _SHORTEST and text not in self._whole:
                    self._whole.add(text)
                    self._note(text)

    def _note(self, text: str) -> None:
        if len(text) < _LONG:
            self._lengths.setdefault(text[:_SHORTEST], set()).add(len(text))
            return
        for at in {*range(0, len(text) - _PIECE + 1, _PIECE), len(text) - _PIECE}:
            self._pieces.setdefault(text[at : at + _PIECE], []).append((text, at))

    def _short(self, text: str) -> Iterator[Span]:
        for at in range(len(text) - _SHORTEST + 1):
            for length in self._lengths.get(text[at : at + _SHORTEST], ()):
                if text[at : at + length] in self._whole:
                    yield at, at + length

    def _long(self, text: str) -> Iterator[Span]:
        patience = _PATIENCE
        seen: dict[tuple[str, int], int] = {}  # how far a value is compared already, by where it would begin
        for at in range(len(text) - _PIECE + 1) if self._pieces else ():
            alike = self._pieces.get(text[at : at + _PIECE], ())
            if len(alike) > _MOST_ALIKE or patience < 0:
                yield at, len(text)
                return
            for value, place in alike:
                if seen.get((value, at - place), 0) >= at + _PIECE:
                    continue
                start, stop = _widened(text, at, value, place)
                patience -= stop - start
                seen[value, at - place] = stop
                yield start, stop


nothing = Hidden(lambda: ())  # of an exchange that carries no record and no secret


def tidy(text: str, hidden: Hidden = nothing) -> str:
    """The text on one line, its hidden values as `***`, at most `MAX_DETAIL` characters."""
    line = _one_line(text[:_RAW])
    is_more = len(text) > _RAW or len(line) > _READ
    line = line[:_READ]
    line = hidden.cover(line, max(len(line) - _EDGE, 0) if is_more else None)
    return line if len(line) <= MAX_DETAIL and not is_more else line[: MAX_DETAIL - 1] + "…"


def code_or(code: str | None, default: str, hidden: Hidden = nothing) -> str:
    """The code, if it looks like one and names nothing hidden; a sentence may name a record, and is no code."""
    if code is None or not _CODE.fullmatch(code) or hidden.cover(code) != code:
        return default
    return code


def values(payload: bytes) -> Iterator[str]:
    """The strings and numbers that a record's JSON holds, at any depth, as a message would quote them."""
    try:
        waiting = [decode(payload)]
    except Undecodable:
        return
    while waiting:
        match waiting.pop():
            case dict() as members:
                waiting.extend(members.values())
            case list() as items:
                waiting.extend(items)
            case str() as value:
                yield value
            case bool() | None:
                pass
            case number:
                yield str(number)


def _widened(text: str, at: int, value: str, place: int) -> Span:
    """How far a text and a value agree around a piece that they have in common."""
    start, first = at, place
    while start > 0 and first > 0 and text[start - 1] == value[first - 1]:
        start, first = start - 1, first - 1
    stop, last = at + _PIECE, place + _PIECE
    while stop < len(text) and last < len(value) and text[stop] == value[last]:
        stop, last = stop + 1, last + 1
    return start, stop


def _forms(value: str) -> Iterable[str]:
    """A value as it is and as it stands in JSON within a text, on one line and without its case."""
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:  # almost all of them
        return (_one_line(value).lower() if " " in value else value.lower(),)
    forms = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return [_folded(_one_line(form)) for form in forms]


def _one_line(text: str) -> str:
    return _BLANK.sub(" ", text).strip()


def _folded(text: str) -> str:
    """Without its case, each character at its place: some are two when they are small, or others at a word's end."""
    if text.isascii():
        return text.lower()
    return "".join(low if len(low := each.lower()) == 1 else each for each in text)
