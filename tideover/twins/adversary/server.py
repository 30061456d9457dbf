"""An HTTP server of bare asyncio streams that does what it is told, byte by byte, and remembers what it received.

    async with Adversary() as server:
        server.on("/orders", acts.reply(503), acts.reply(201, {"id": 7}))   # one after the other; the last one stays
        ...
        assert server.received[0].body == b"{}"

It knows no more of HTTP than it needs to read a request with a length: what it says, right or wrong, is up to `acts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit


@dataclass
class Received:
    """One request, as its bytes were. `headers` has lower-case names; a repeated one keeps its last value."""

    method: str
    target: str
    headers: dict[str, str]
    names: list[str]
    connection: int
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path


class Way(Protocol):
    """The way back to a client: what an `asyncio.StreamWriter` can do of it."""

    @property
    def transport(self) -> asyncio.WriteTransport: ...

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Talk:
    """What a behaviour has in hand: the request so far, and both directions of the connection. Without a `reader`, the
    request is read."""

    request: Received
    reader: asyncio.StreamReader | None
    writer: Way
    closing: asyncio.Event
    is_over: bool = False  # set: the connection is not read again

    async def read_body(self, at_most: int | None = None) -> None:
        """The body by its length, or its first bytes."""
        if self.reader is None:
            return
        length = int(self.request.headers.get("content-length", "0"))
        self.request.body = await self.reader.readexactly(length if at_most is None else min(length, at_most))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """A TCP reset instead of an orderly end."""
        sock = self.writer.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        self.is_over = True

    def end(self) -> None:
        """An orderly end."""
        self.writer.close()
        self.is_over = True


Behaviour = Callable[[Talk], Awaitable[None]]


@dataclass
class Adversary:
    """Listens on a loopback port. `context`: serve TLS. Leaves nothing behind, whatever a client did."""

    context: ssl.SSLContext | None = None
    host: str = "localhost"
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    _scripts: dict[str, deque[Behaviour]] = field(default_factory=lambda: defaultdict(deque))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _closing: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.context else 'http'}://{host}:{self.port}"

    def on(self, path: str, *behaviours: Behaviour) -> None:
        """What requests for this path meet, one after the other; the last behaviour stays. `*`: any other path."""
        self._scripts[path] = deque(behaviours)

    def at(self, path: str) -> list[Received]:
        """The requests for this path, in order of arrival."""
        return [request for request in self.received if request.path == path]

    def stop_listening(self) -> None:
        """Refuses new connections from now on; those that stand go on."""
        assert self._server is not None
        self._server.close()

    async def until(self, count: int) -> None:
        """Waits until so many requests have arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._server = await asyncio.start_server(
            self._accept, self.host, 0, family=family, ssl=self.context, limit=2**20
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer, self.connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._one(reader, writer, connection):
                    pass
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        request = _parse(await reader.readuntil(b"\r\n\r\n"), connection)
        talk = Talk(request, reader, writer, self._closing)
        script = self._scripts.get(request.path) or self._scripts["*"]
        assert script, f"nobody said what {request.path} does"
        behaviour = script.popleft() if len(script) > 1 else script[0]
        async with self._arrived:
            self.received.append(request)
            self._arrived.notify_all()
        await behaviour(talk)
        return not talk.is_over


def _parse(head: bytes, connection: int) -> Received:
    line, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _version = line.split(" ")
    pairs = [(name.lower(), value.strip()) for name, _, value in (entry.partition(":") for entry in rest)]
    return Received(method, target, dict(pairs), [name for name, _ in pairs], connection)


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A loopback port that nobody listens on, kept from others by being bound."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
