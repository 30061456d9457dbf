"""The POST of a record, as an async peer and as a threaded one makes it best: connections kept, nothing else done."""

from __future__ import annotations

import http.client
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp

from bench.peers.task import CONCURRENCY

HEADERS = {"content-type": "application/json"}
_LOCAL = threading.local()


@asynccontextmanager
async def posting(url: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """A function that POSTs one record; at most `CONCURRENCY` at once."""
    connections = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with aiohttp.ClientSession(connector=connections, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def post(payload: str) -> None:
            async with session.post(f"{url}/one", data=payload.encode(), headers=HEADERS) as response:
                await response.read()
                response.raise_for_status()

        yield post


def post(url: str, payload: str) -> None:
    """POST one record over this thread's own connection."""
    connection = getattr(_LOCAL, "connection", None)
    if connection is None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection = _LOCAL.connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request("POST", "/one", payload.encode(), HEADERS)
    response = connection.getresponse()
    response.read()
    assert response.status == 200, response.status
