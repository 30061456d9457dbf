"""What the sink can take at all: a client that parses nothing, over raw connections.

Both figures are of the same kilobyte-sized POST that everything else sends. *One at a time* waits for each answer
before it sends the next on that connection, as HTTP clients do. *Pipelined* writes many ahead, which no client of a
business system does: it is where the sink's own process ends, and nothing that delivers to it can be faster.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from bench.places import record
from bench.sink import ACCEPTED

CONNECTIONS = 32
AHEAD = 32


class _Connection(asyncio.Protocol):
    """Sends `left` requests, `ahead` of them before the first answer; counts answers by their length."""

    def __init__(self, request: bytes, left: int, ahead: int) -> None:
        self._request, self._left, self._ahead = request, left, ahead
        self._awaited, self._seen = left * len(ACCEPTED), 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._send(self._ahead)

    def _send(self, count: int) -> None:
        count = min(count, self._left)
        self._left -= count
        if count:
            self._transport.write(self._request * count)

    def data_received(self, data: bytes) -> None:
        before = self._seen // len(ACCEPTED)
        self._seen += len(data)
        self._send(self._seen // len(ACCEPTED) - before)
        if self._seen == self._awaited:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the sink closed the connection"))


async def posts_per_s(url: str, total: int, *, ahead: int = 1) -> float:
    """How many POSTs a second the sink answers over raw connections."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    body = record("k1", 1).payload
    head = f"host: {parts.netloc}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    request = f"POST /one HTTP/1.1\r\n{head}\r\n\r\n".encode() + body
    loop, each = asyncio.get_running_loop(), total // CONNECTIONS
    began = time.perf_counter()
    connections = []
    for _ in range(CONNECTIONS):
        _, protocol = await loop.create_connection(
            lambda: _Connection(request, each, ahead), parts.hostname, parts.port
        )
        connections.append(protocol.done)
    await asyncio.gather(*connections)
    return each * CONNECTIONS / (time.perf_counter() - began)
