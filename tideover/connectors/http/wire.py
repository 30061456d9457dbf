"""One system's private way to the network: an exchange is an answer, or why there is none.

HTTP/1.1 over asyncio's transports, llhttp reading the answers (ADR on dependencies). What matters here is certainty
about *sent*: `Connection.exchange` has the one line before which a request certainly was not sent, and from which on it
may have been processed. One call is one try: nothing is ever written a second time.

An idle connection that the other side closes at the moment of a write makes that request fail as reset, hence unknown.
Connections idle for `KEEPALIVE_S` are given up, so that this stays rare.
"""

from __future__ import annotations

import asyncio

from tideover.config.rest import Limits, Timeouts
from tideover.connectors.http.answer import Answer
from tideover.connectors.http.dial import Dialer
from tideover.connectors.http.message import Request, origin_of, written
from tideover.connectors.http.pool import Pool
from tideover.connectors.http.protocol import KEEPALIVE_S
from tideover.model import Unknown, Unsent

__all__ = ["KEEPALIVE_S", "SPARE_CONNECTIONS", "Request", "Wire"]

SPARE_CONNECTIONS = 4  # beside `limits.concurrency`: tokens, probes and look-ups are not held up by deliveries


class Wire:
    """A connection pool of one system's own, opened at the first exchange. No cookies, proxies, redirects, retries."""

    def __init__(self, timeouts: Timeouts, limits: Limits) -> None:
        self._total_s = timeouts.total
        self._dialer = Dialer(timeouts.connect, timeouts.total)
        self._pool = Pool(self._dialer, limits.concurrency + SPARE_CONNECTIONS, timeouts.read, limits.response)

    def trust(self, certificates: str) -> None:
        """Trust these certificates (PEM) too, from the next connection on. Raises `ValueError` if they are none."""
        self._dialer.trust(certificates)

    async def exchange(self, request: Request, deadline: float | None = None) -> Answer | Unsent | Unknown:
        """One request, sent at most once. Ends by `deadline` (the loop's clock; default: `timeouts.total` from now).

        An answer whose body ends badly is still an answer, with its `trouble`: the status is known.
        """
        until = asyncio.get_running_loop().time() + self._total_s if deadline is None else deadline
        try:
            message, origin = written(request), origin_of(request.url)
        except ValueError as error:
            return Unsent("invalid_request", type(error).__name__)
        connection = self._pool.take(origin) or await self._pool.get(origin, until)
        if isinstance(connection, Unsent):
            return connection
        return await connection.exchange(message, until, is_head=request.method == "HEAD")

    async def close(self) -> None:
        await self._pool.close()
