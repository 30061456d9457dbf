"""One HTTP exchange, and the ways to end it badly: reset, cut short, held, dripped."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from tideover.twins.adversary.server import Behaviour, Received, Talk
from tideover.twins.answer import Answer, RawHeaders

_LARGEST_REQUEST_BYTES = 32_000_000
_MOST_UNSENT_BYTES, _DRAIN_S = 1_000_000, 0.005
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Stopped(Exception):
    """The port was shut while the call was held: it is dropped as by a crash."""


class Connection(Protocol):
    """What is needed of a server's connection: who is at the other end, and its transport."""

    client: tuple[str, int] | None
    transport: asyncio.Transport


class Exchange:
    """A request that was read whole, and its way back. `stopped` is set when the port is shut."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, connections: Collection[Connection], stopped: asyncio.Event
    ) -> None:
        self.scope = scope
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.body = b""
        self.stopped = stopped
        self._receive, self._send, self._connections = receive, send, connections

    async def read(self) -> bool:
        """Read the body. False: the caller left before its end, or sent more than anybody would."""
        body, more = bytearray(), True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return False
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _LARGEST_REQUEST_BYTES:
                await self.reset()
                return False
        self.body = bytes(body)
        return True

    async def reply(self, answer: Answer) -> None:
        """Give a whole answer; nothing happens if the caller has left."""
        await answer(self.scope, self._receive, self._send)

    async def stream(self, status: int, headers: RawHeaders, pieces: Iterable[bytes], interval_s: float = 0.0) -> None:
        """Give an answer piece by piece, until the caller leaves. Raises `Stopped`."""
        async with self._running(self._left(), self.stopped.wait()) as ends:
            await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})
            for piece in pieces:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                done, _ = await asyncio.wait(ends, timeout=interval_s)
                if self.stopped.is_set():
                    raise Stopped
                if done:
                    return
            await self._send({"type": "http.response.body", "body": b""})

    async def cut(self, status: int, headers: RawHeaders, start: bytes) -> None:
        """Give the headers of a whole answer and only the start of its body, then close."""
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await self._send({"type": "http.response.body", "body": start, "more_body": True})
        for transport in self._transports():
            transport.close()
        await self.hold()

    async def misbehave(self, behaviour: Behaviour) -> None:
        """Leave what is written to an adversary's behaviour: bytes that no server would send. Then close."""
        for transport in self._transports():
            request = Received(self.scope["method"], self.scope["path"], self.headers, list(self.headers), 1, self.body)
            gone = asyncio.Event()
            async with self._running(self._tell(gone)):
                await behaviour(Talk(request, None, _Raw(transport), gone))
            transport.close()
        if self.stopped.is_set():
            raise Stopped

    async def _tell(self, gone: asyncio.Event) -> None:
        """Say that the caller has left, or that the port is shut."""
        async with self._running(self._left(), self.stopped.wait()) as ends:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        gone.set()

    async def reset(self) -> None:
        """Reset the connection (TCP RST), as a crash of the other side or a firewall does."""
        for transport in self._transports():
            reset_transport(transport)
        await self._left()

    async def hold(self, until: asyncio.Event | None = None) -> None:
        """Wait until the caller leaves, or for `until`. Raises `Stopped`."""
        waits: list[Coroutine[Any, Any, Any]] = [self._left(), self.stopped.wait()]
        if until is not None:
            waits.append(until.wait())
        await self._first(waits)

    async def freeze(self, until: asyncio.Event) -> None:
        """Wait for `until`, whether the caller leaves or not. Raises `Stopped`."""
        await self._first([until.wait(), self.stopped.wait()])

    async def pause(self, seconds: float) -> None:
        """Let time pass, whether the caller leaves or not. Raises `Stopped`."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
        except TimeoutError:
            return
        raise Stopped

    async def _first(self, waits: list[Coroutine[Any, Any, Any]]) -> None:
        async with self._running(*waits) as tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if self.stopped.is_set():
            raise Stopped

    @asynccontextmanager
    async def _running(self, *waits: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
        tasks = [asyncio.create_task(wait) for wait in waits]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _transports(self) -> list[asyncio.Transport]:
        client = self.scope["client"]
        return [c.transport for c in self._connections if c.client is not None and tuple(c.client) == tuple(client)]


class _Raw:
    """Straight on a connection's transport, past the server's own protocol."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait while more is on its way than the other side takes."""
        # A transport tells nobody but its own protocol when it has room.
        while self.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES and not self.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_S)
        await asyncio.sleep(0)

    def close(self) -> None:
        self.transport.close()


def reset_transport(transport: asyncio.Transport) -> None:
    """Close a TCP connection at once, with RST instead of FIN."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
