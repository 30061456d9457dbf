"""Texts from outside, made fit for logs and tables: one short line without secrets and without the record's values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tideover.connectors.http.answer import Undecodable, decode

Hidden = Callable[[], Iterable[str]]  # the values that no text may hold; asked only where there is a text

MAX_DETAIL = 200
_READ = 4000  # characters of a text that are looked at; far more than is kept
_SHORTEST = 4  # shorter values are words like "no" that a message holds anyway
_LONGEST = 200  # of a longer value, its beginning is looked for
_MOST = 2000  # values of one record that are looked for
_BLANK = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
_CODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/ -]{0,63}")


def nothing() -> Iterable[str]:
    """The `Hidden` of an exchange that carries no record and no secret."""
    return ()


def tidy(text: str, hidden: Hidden = nothing) -> str:
    """The text on one line, its hidden values as `***`, at most `MAX_DETAIL` characters.

    Hidden values are found before the text is cut, so that no half of one is left at its end.
    """
    line = _without(_one_line(text[:_READ]), hidden)
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"


def code_or(code: str | None, default: str, hidden: Hidden = nothing) -> str:
    """The code, if it looks like one and names nothing hidden; a sentence may name a record, and is no code."""
    if code is None or not _CODE.fullmatch(code) or _without(code, hidden) != code:
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


def _one_line(text: str) -> str:
    return _BLANK.sub(" ", text).strip()


def _without(line: str, hidden: Hidden) -> str:
    if not line:
        return line
    lowered = line.lower()
    pieces = {_one_line(value[:_LONGEST]).lower() for value in islice(hidden(), _MOST)}
    found = sorted((p for p in pieces if len(p) >= _SHORTEST and p in lowered), key=len, reverse=True)
    if not found:
        return line
    return re.sub("|".join(map(re.escape, found)), "***", line, flags=re.IGNORECASE)
