"""How long a throttled answer asks to wait. Pure: an instant in a header is read against the answer's own `Date`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tideover.connectors.http.answer import Headers

DEFAULT_DELAY_S = 30.0  # where a throttled answer says nothing
MIN_DELAY_S = 0.1  # "Retry-After: 0" must not become a busy loop
MAX_DELAY_S = 3600.0  # a longer wait is asked for again; a typing error must not stop a system for a year

_NUMBER = re.compile(r"\d{1,18}(\.\d{1,9})?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.?)*+"?')  # one that is not closed goes to the end: else each quote is tried
_RESET = re.compile(r"(?:;|,|^)\s*+(?:t|reset)\s*+=\s*+(\d{1,18})")
_WINDOW = re.compile(r";\s*+w\s*+=\s*+(\d{1,18})")
_REMAINING = re.compile(r"(?:;|,|^)\s*+(?:r|remaining)\s*+=\s*+(\d{1,18})")
_EPOCH_S = 10**9  # numbers from here on are Unix seconds, from 10**12 on milliseconds


def delay_s(headers: Headers, reset_headers: Iterable[str] = ()) -> float | None:
    """The seconds to wait, capped, or `None` where no header says.

    In this order: `Retry-After` (RFC 9110 10.2.3), `RateLimit`, `RateLimit-Reset`, the vendor's own `reset_headers`,
    and the shortest window of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers). A header that is repeated
    counts with its longest wait; one that makes no sense does not count.
    """
    now = server_time(headers)
    found = retry_after_s(headers)
    if found is None:
        found = rate_limit_s(headers)
    for name in ("ratelimit-reset", *reset_headers):
        if found is None:
            found = _longest(seconds_of(value, now) for value in headers.some(name))
    if found is None:
        policies = (_unquoted(value) for value in headers.some("ratelimit-policy"))
        found = min((float(window) for policy in policies for window in _WINDOW.findall(policy)), default=None)
    return None if found is None else capped(found)


def retry_after_s(headers: Headers) -> float | None:
    """What `Retry-After` says, as seconds or as an HTTP date, uncapped; `None` without one that makes sense."""
    now = server_time(headers)
    return _longest(seconds_of(value, now) for value in headers.some("retry-after"))


def capped(seconds: float) -> float:
    return min(max(seconds, MIN_DELAY_S), MAX_DELAY_S)


def server_time(headers: Headers) -> datetime | None:
    """The answer's `Date`: the other side's clock, the only one that its own instants can be compared with."""
    dates = headers.some("date")
    return _http_date(dates[-1]) if dates else None


def rate_limit_s(headers: Headers, *, only_spent: bool = False) -> float | None:
    """`RateLimit: "default";r=0;t=30`: the longest reset of the policies that are used up; else of all, but with
    `only_spent`.

    Older drafts write `limit=100, remaining=0, reset=30` in one header.
    """
    resets: list[tuple[bool, float]] = []
    for value in headers.some("ratelimit"):
        bare = _unquoted(value)
        for policy in bare.split(",") if ";" in bare else [bare]:
            remaining, reset = _REMAINING.search(policy), _RESET.search(policy)
            if reset:
                resets.append((remaining is not None and int(remaining[1]) == 0, float(reset[1])))
    spent = [reset for is_spent, reset in resets if is_spent]
    return max(spent or ([] if only_spent else [reset for _, reset in resets]), default=None)


def seconds_of(value: str, now: datetime | None) -> float | None:
    """Seconds from `now`, of a number of them, of a Unix time or of an HTTP date; None for what makes no sense."""
    value = value.strip()
    if _NUMBER.fullmatch(value):
        return _from_number(float(value), now)
    instant = _http_date(value)
    return None if instant is None or now is None else max((instant - now).total_seconds(), 0.0)


def _from_number(number: float, now: datetime | None) -> float | None:
    if number < _EPOCH_S:
        return number
    instant = number / 1000 if number >= _EPOCH_S * 1000 else number
    return None if now is None else max(instant - now.timestamp(), 0.0)


def _http_date(value: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, LookupError):
        return None


def _longest(waits: Iterable[float | None]) -> float | None:
    return max((wait for wait in waits if wait is not None), default=None)


def _unquoted(value: str) -> str:
    return _QUOTED.sub("", value)
