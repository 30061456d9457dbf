"""How far a stream has been read: the cursor that is stored with the records, and what moves it. Pure.

A listing is complete or it counts for nothing: `since_us` moves when the last page was read, never before and never
back. It moves to the largest `modified` seen, but not past the instant at which the listing began (`Date` of its first
page: the system's own clock). What changes *while* a long listing runs may stand on a page already read; a later record
on a later page must not hide it. The same bound keeps a record that is dated in the future from hiding everything
until then. Without a `Date`, which RFC 9110 6.6.1 asks of every server with a clock, there is no such bound.

Loops are found by Brent's method in constant memory: the token and content of one page are remembered, and at pages
1, 2, 4, 8, ... replaced by the current ones. Any cycle meets its remembered page again, also across restarts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Literal

import orjson

from tideover.connectors.http.pagination import Token
from tideover.model import SECOND_US

Format = Literal["iso", "epoch_s", "epoch_ms"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS: dict[str, tuple[type, ...]] = {"next": (str, int), "token_mark": (str,), "page_mark": (str,), "of": (str,)}
_LAST_US = 253_402_300_799 * SECOND_US  # the year 9999
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?")


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor. `next` is the token of the next page while a listing is under way, and `None` between listings.

    `of`: the listing that the token is of.
    """

    since_us: int | None = None
    next: Token | None = None
    high_us: int | None = None
    started_us: int | None = None
    pages: int = 0
    token_mark: str = ""
    page_mark: str = ""
    of: str = ""

    @property
    def is_under_way(self) -> bool:
        return self.next is not None

    def restarted(self) -> Place:
        """The place from which the listing under way began."""
        return Place(since_us=self.since_us)

    def begun(self, now_us: int | None) -> Place:
        """With the system's time at the listing's first page."""
        return self if self.pages else replace(self, started_us=now_us)

    def turned(self, token: Token, content: str, high_us: int | None) -> Place:
        """After a page that is not the last. `token`: of the next page; `content`: what tells this page from others."""
        pages, token_mark = self.pages + 1, fingerprint(str(token).encode())
        place = replace(self, next=token, high_us=_later(self.high_us, high_us), pages=pages)
        if pages & (pages - 1):
            return place
        return replace(place, token_mark=token_mark, page_mark=content)

    def is_seen(self, token: Token, content: str) -> bool:
        """Whether this next token is the one just used or remembered, or this page the remembered one."""
        if token == self.next or (content and content == self.page_mark):
            return True
        return self.token_mark == fingerprint(str(token).encode())

    def completed(self, high_us: int | None) -> Place:
        """After the last page."""
        high = _later(self.high_us, high_us)
        if high is not None and self.started_us is not None:
            high = min(high, self.started_us)
        return Place(since_us=_later(self.since_us, high))

    def dump(self) -> str:
        """The opaque text that is stored."""
        known = {name: value for name, value in asdict(self).items() if value not in (None, "", 0)}
        if self.next is not None:
            known["next"] = self.next  # an offset may be 0
        return orjson.dumps(known).decode()


def load(cursor: str | None) -> Place:
    """The place that `dump` wrote. Raises `ValueError` if it did not."""
    if cursor is None:
        return Place()
    members = orjson.loads(cursor)
    if not isinstance(members, dict) or set(members) - set(Place.__slots__):
        raise ValueError("is no cursor of this connector")
    for name, value in members.items():
        kinds = _KINDS.get(name, (int,))
        if type(value) not in kinds:
            raise ValueError("is no cursor of this connector")
    return Place(**members)


def fingerprint(content: bytes) -> str:
    """8 bytes, as hex, that tell one token or page from another."""
    return blake2b(content, digest_size=8).hexdigest()


def parse(value: object, written: Format) -> int | None:
    """Microseconds since the epoch of an instant as the system writes it, or `None` for what is none.

    ISO 8601 without an offset is UTC. Numbers may come as strings.
    """
    if isinstance(value, bool):
        return None
    if written == "iso":
        return _parse_iso(value) if isinstance(value, str) else None
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value.strip()) else None
    if not isinstance(value, int | float) or not -_LAST_US <= value <= _LAST_US:
        return None
    us = round(value * (SECOND_US if written == "epoch_s" else 1000))
    return us if 0 <= us <= _LAST_US else None


def written_as(us: int, overlap_s: float, written: Format) -> str:
    """The instant `overlap_s` before, as the system writes it: rounded down to its unit, not before 1970."""
    back = max(us - round(overlap_s * SECOND_US), 0)
    if written == "epoch_ms":
        return str(back // 1000)
    seconds = back // SECOND_US
    if written == "epoch_s":
        return str(seconds)
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def latest(instants: Iterable[int | None]) -> int | None:
    return max((us for us in instants if us is not None), default=None)


def _parse_iso(value: str) -> int | None:
    try:
        parsed = datetime.fromisoformat(value.strip())
        aware = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
        us = (aware - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None
    return us if 0 <= us <= _LAST_US else None


def _later(one: int | None, other: int | None) -> int | None:
    return latest((one, other))
