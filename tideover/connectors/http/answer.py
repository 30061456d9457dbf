"""An HTTP answer as values: status, headers, capped body, and what its JSON is."""

from __future__ import annotations

import codecs
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import orjson

Trouble = Literal["timeout", "unreadable", "oversize"]

MOST_VALUES = 50_000  # about one record, or a hundred
MOST_MEMBERS = 1000  # of a gzip body; each takes as long as a page of text
MAX_FIELD = 1024  # characters of a header that says something of time or quota
MAX_REPEATED = 8
ACCEPT_ENCODING = "gzip, deflate"  # exactly what `Inflater` understands
_LONG_INTEGER = re.compile(rb"\d{19}")


class Undecodable(ValueError):
    """The body is no JSON text in UTF-8, is nested too deeply, or holds a number that no double can. `what` says it in
    two words."""

    what = "not JSON"


class Overfull(Undecodable):
    """It holds more values than are looked at."""

    what = "too many values"


class Garbled(Exception):
    """The body is not in the encoding that its headers name."""


class Oversize(Exception):
    """The body is over its cap."""


class Headers:
    """An answer's headers, by their names in any case; the values of a repeated one keep their order."""

    __slots__ = ("_values",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in fields:
            self._values.setdefault(name.lower(), []).append(value)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        """The names, in lower case, each once."""
        return iter(self._values)

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        values = self._values.get(name.lower())
        return None if values is None else values[0]

    def some(self, name: str) -> Sequence[str]:
        """The values of a header that is read as a number, a date or a short list: the first few, none too long to be
        one. Whoever writes more than that wants something else than to say it."""
        return [value for value in self._values.get(name.lower(), ())[:MAX_REPEATED] if len(value) <= MAX_FIELD]

    def all(self, name: str) -> Sequence[str]:
        """Every value of a header; none if it is not there."""
        return self._values.get(name.lower(), ())


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `trouble`: why the body is not whole; then `body` is the part that came."""

    status: int
    headers: Headers
    body: bytes
    trouble: Trouble | None = None
    _read: list[object] = field(default_factory=list, init=False, repr=False, compare=False)

    def value(self) -> object:
        """The JSON value of what is said about one record (`decode_one`), read once. Raises `Undecodable`."""
        if not self._read:
            try:
                self._read.append(decode_one(self.body))
            except Undecodable as error:
                self._read.append(error)
        [found] = self._read
        if isinstance(found, Undecodable):
            raise type(found)
        return found


def decode(body: bytes) -> object:
    """The JSON value of `body`. Integers are exact at any length; fractions are doubles (RFC 8259 6).

    Raises `Undecodable`. orjson turns integers over 64 bits into doubles without a word, so a body with a long run
    of digits is read again by the standard library, which keeps them. A byte order mark is tolerated (RFC 8259 8.1).
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        value: object = orjson.loads(body)
        if _LONG_INTEGER.search(body):
            value = json.loads(body, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Undecodable(type(error).__name__) from None
    return value


def decode_one(body: bytes, records: int = 1) -> object:
    """The JSON value of what is said about so many records. Raises `Undecodable` also for more values than anybody says
    about those: a few million of them, though within the cap, keep an expression busy for seconds, and all others wait.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MOST_VALUES * (1 + records // 100):
        raise Overfull
    return decode(body)


def is_json(answer: Answer) -> bool:
    try:
        answer.value()
    except Undecodable:
        return False
    return True


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(_number: str) -> NoReturn:
    raise ValueError("a number that no double can hold")


class Inflater:
    """Undoes a content coding piece by piece; never holds more than one byte over the cap.

    `produced` counts the decoded bytes. Raises `Oversize` at the first byte over `cap`, `Garbled` for a broken or
    unknown coding. A gzip body may have several members (RFC 1952 2.2); "deflate" is zlib, or bare as some send it.
    """

    def __init__(self, coding: str, cap: int) -> None:
        self.produced = 0
        self._cap = cap
        self._coding = coding.strip().lower()
        if self._coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Garbled("unknown content coding")
        self._is_plain = self._coding in ("", "identity")
        self._stream: zlib._Decompress | None = None
        self._members = 0

    def feed(self, piece: bytes) -> bytes:
        """The decoded bytes of one piece of the raw body."""
        if self._is_plain:
            return self._count(piece)
        out = bytearray()
        while piece:
            stream = self._member(piece)
            try:
                made = stream.decompress(piece, self._cap - self.produced + 1)
            except zlib.error:
                raise Garbled("broken content coding") from None
            out += self._count(made)
            piece = stream.unconsumed_tail or stream.unused_data
        return bytes(out)

    def finish(self) -> None:
        """Raises `Garbled` if the coded body ends early. No body at all is whole."""
        if self._stream is not None and not self._stream.eof:
            raise Garbled("the coded body ends early")

    def _member(self, piece: bytes) -> zlib._Decompress:
        """The stream that `piece` goes on with, or begins."""
        if self._stream is not None and not self._stream.eof:
            return self._stream
        if self._coding == "deflate":
            if self._stream is not None:
                raise Garbled("something follows the coded body")
            is_zlib = piece[0] & 0x0F == 8 and piece[0] >> 4 <= 7
            self._stream = zlib.decompressobj(wbits=15 if is_zlib else -15)
        else:
            self._members += 1
            if self._members > MOST_MEMBERS:
                raise Garbled("too many members")
            self._stream = zlib.decompressobj(wbits=31)
        return self._stream

    def _count(self, made: bytes) -> bytes:
        self.produced += len(made)
        if self.produced > self._cap:
            raise Oversize
        return made
