"""What a system's answers say of the quota that is left, before it has to refuse a call.

| header | read as |
| --- | --- |
| `RateLimit: "default";r=0;t=30` (draft-ietf-httpapi-ratelimit-headers) | nothing for 30 s |
| `RateLimit-Remaining: 0`, `X-RateLimit-Remaining`, `X-Rate-Limit-Remaining`, with a `-Reset` | nothing until then |
| `X-HubSpot-RateLimit-Remaining: 0` with `-Interval-Milliseconds` | nothing until the interval is over |
| HubSpot's `-Secondly-Remaining: 0` and `-Daily-`, Xero's `X-MinLimit-Remaining` and `X-DayLimit-` | for a window |
| `X-Shopify-Shop-Api-Call-Limit: 40/40` | nothing until the bucket has leaked |
| `Sforce-Limit-Info: api-usage=100/100` | nothing for a while: the window of 24 hours rolls |

Where nothing says when there is more, nothing follows from it: the next 429 tells. Of a day's window nobody says when
it began: the pause is the longest that there is, and asked for again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from tideover.connectors.http.answer import Headers
from tideover.connectors.http.throttle import MAX_DELAY_S, capped, rate_limit_s, seconds_of, server_time

_USED = re.compile(r"(?:^|[=\s])(\d{1,12})/(\d{1,12})(?:$|[\s,;(])")
_COUNT = re.compile(r"[0-9]{1,18}")
_MOST = 32  # headers of one answer that are looked at, and remembered of one system
_LEAKS_S = 1.0  # a leaky bucket of 40 leaks two a second
_ROLLS_S = 900.0
_WINDOWS_S = {"second": 1.0, "min": 60.0, "hour": MAX_DELAY_S, "day": MAX_DELAY_S, "daily": MAX_DELAY_S}
_BUCKETS = {"x-shopify-shop-api-call-limit": _LEAKS_S, "sforce-limit-info": _ROLLS_S}


class Allowance:
    """The last word of one system on its quota. Times are monotonic seconds."""

    def __init__(self, reset_headers: Sequence[str] = ()) -> None:
        """`reset_headers`: the vendor's own names for when there is more, besides the usual ones."""
        self._reset_headers = tuple(name.lower() for name in reset_headers)
        self._until = 0.0
        self._last: dict[str, tuple[int, float]] = {}  # by header: what was left, and since when its window runs

    def hear(self, headers: Headers, now: float) -> None:
        """Take note of an answer's headers."""
        for name in islice((name for name in headers if "limit" in name), _MOST):
            wait_s = self._wait_s(name, headers, now)
            if wait_s is not None:
                self._until = max(self._until, now + capped(wait_s))

    def pause_s(self, now: float) -> float:
        """For how long no call should be made; 0 while there is quota left."""
        return max(self._until - now, 0.0)

    def _wait_s(self, name: str, headers: Headers, now: float) -> float | None:
        """For how long nothing is left by one header; None where something is, or it does not say."""
        value = _short(headers, name)
        if name == "ratelimit":
            return rate_limit_s(headers, only_spent=True)
        if name in _BUCKETS:
            return _BUCKETS[name] if any(int(used) >= int(most) for used, most in _USED.findall(value)) else None
        left = _number(headers, name) if name.endswith("remaining") else None
        if left is None:
            return None
        began = self._began(name, left, headers, now)
        return self._until_more_s(name, headers, now - began) if left == 0 else None

    def _began(self, name: str, left: int, headers: Headers, now: float) -> float:
        """Since when a header's window runs: what is left leapt up then. Answers out of order don't leap."""
        before, began = self._last.get(name, (left, now))
        most = _number(headers, name.replace("remaining", "max")) or _number(
            headers, name.replace("remaining", "limit")
        )
        if left - before > (most or 0) / 2:
            began = now
        if name in self._last or len(self._last) < _MOST:
            self._last[name] = left, began
        return began

    def _until_more_s(self, name: str, headers: Headers, age_s: float) -> float | None:
        server_now = server_time(headers)
        resets = (name.replace("remaining", "reset"), *self._reset_headers, "ratelimit-reset", "retry-after")
        for reset in resets:
            found = [seconds_of(value, server_now) for value in headers.some(reset)]
            if known := [seconds for seconds in found if seconds is not None]:
                return max(known)
        if interval_ms := _number(headers, name.replace("remaining", "interval-milliseconds")):
            interval_s = interval_ms / 1000
            return interval_s - age_s if age_s < interval_s else interval_s
        return next((window_s for word, window_s in _WINDOWS_S.items() if word in name), None)


def _number(headers: Headers, name: str) -> int | None:
    value = _short(headers, name)
    return int(value) if _COUNT.fullmatch(value) else None


def _short(headers: Headers, name: str) -> str:
    return next((value.strip() for value in headers.some(name)), "")
