"""Two providers with fault switches in a process of their own, on a port each.

`POST /one` books a record under its `id`, `GET /find/KEY` says whether it did, `GET /health` that it is well. A line on
stdin is a command, and each is answered with a line of JSON:

    PROVIDER MODE    from now on: well, closed, hang, reset or limit:N
    forget           what was booked
    tell             what each provider has seen since the last `tell`

`closed`: the port is closed, connections are dropped. `hang`: a booking is neither done nor answered. `reset`: it is
done, and the connection is dropped in the middle of the answer. Under `hang` and `reset` look-ups and probes are
answered. `limit:N`: of the bookings in any second, wherever it begins, N are done, and the others get a 429 with
`Retry-After: 1`. All times are of the monotonic clock, which is one for the whole machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import orjson

from bench.sink import Sink, free_port

PROVIDERS = ("primary", "backup")
_CUT_SHORT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n{"
_TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


@dataclass
class Seen:
    """What a provider saw. `accepted_at`, `last_at`: its first and its newest booking that it confirmed, `gap_s` the
    longest time between two; `spoilt`: bookings that it did not confirm; `doubled`: those of an `id` that it had."""

    accepted_at: float | None = None
    last_at: float = 0.0
    gap_s: float = 0.0
    accepted: int = 0
    spoilt: int = 0
    doubled: int = 0

    @property
    def calls(self) -> int:
        """Bookings that came in."""
        return self.accepted + self.spoilt

    def accept(self) -> None:
        now = time.monotonic()
        if self.accepted_at is None:
            self.accepted_at = self.last_at = now
        self.accepted += 1
        self.gap_s, self.last_at = max(self.gap_s, now - self.last_at), now


@dataclass
class Provider:
    port: int
    mode: str = "well"
    seen: Seen = field(default_factory=Seen)
    booked: set[str] = field(default_factory=set)
    connections: set[asyncio.WriteTransport] = field(default_factory=set)
    server: asyncio.Server | None = None
    limit: int | None = None
    recent: deque[float] = field(default_factory=deque)

    async def turn(self, mode: str) -> None:
        """Change the mode."""
        self.mode, _, limit = mode.partition(":")
        self.limit = int(limit) if limit else None
        if mode != "closed" and self.server is None:
            make = partial(Counter, self)
            self.server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", self.port)
        if mode == "closed" and self.server is not None:
            self.server.close()
            self.server = None
            for connection in list(self.connections):
                connection.abort()

    def is_over_limit(self) -> bool:
        """Whether one more booking is too many now; one that is not, counts."""
        if self.limit is None:
            return False
        now = time.monotonic()
        while self.recent and self.recent[0] <= now - 1:
            self.recent.popleft()
        if len(self.recent) >= self.limit:
            return True
        self.recent.append(now)
        return False


class Counter(Sink):
    """One connection to a provider."""

    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self._provider = provider

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._provider.connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider.connections.discard(self._transport)

    def _answer(self, path: bytes, body: bytes) -> None:
        provider, seen = self._provider, self._provider.seen
        if path == b"/health":
            self._write(b'{"status":"ok"}')
        elif path.startswith(b"/find/"):
            self._write(b'{"found":%s}' % (b"true" if path[6:].decode() in provider.booked else b"false"))
        elif provider.mode == "hang":
            seen.spoilt += 1
        elif provider.is_over_limit():
            seen.spoilt += 1
            self._transport.write(_TOO_MANY)
        else:
            key = orjson.loads(body)["id"]
            seen.doubled += key in provider.booked
            provider.booked.add(key)
            if provider.mode == "reset":
                seen.spoilt += 1
                self._transport.write(_CUT_SHORT)
                self._transport.close()
                return
            seen.accept()
            self._write(b'{"id":1}')


class Carriers:
    """The other end of the process."""

    def __init__(self, process: asyncio.subprocess.Process, urls: dict[str, str]) -> None:
        self._process, self.urls = process, urls

    async def turn(self, provider: str, mode: str) -> float:
        """Change a provider's mode; returns when it was done."""
        return float(await self._ask(f"{provider} {mode}"))

    async def begin(self) -> None:
        """Both are well, and have booked nothing."""
        for name in PROVIDERS:
            await self.turn(name, "well")
        await self._ask("forget")

    async def tell(self) -> dict[str, Seen]:
        """What each has seen since this was asked the last time."""
        return {name: Seen(**seen) for name, seen in (await self._ask("tell")).items()}

    async def _ask(self, command: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\n".encode())
        return orjson.loads(await stdout.readline())


@asynccontextmanager
async def running_carriers() -> AsyncIterator[Carriers]:
    """Both providers, well, while the block lasts."""
    ports = {name: free_port() for name in PROVIDERS}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.carriers",
        *(str(port) for port in ports.values()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    carriers = Carriers(process, {name: f"http://127.0.0.1:{port}" for name, port in ports.items()})
    try:
        await carriers.begin()
        yield carriers
    finally:
        process.terminate()
        await process.wait()


async def _serve(ports: list[int]) -> None:
    providers = {name: Provider(port) for name, port in zip(PROVIDERS, ports, strict=True)}
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while command := (await commands.readline()).decode().split():
        answer: object = None
        if command == ["tell"]:
            answer = {name: asdict(provider.seen) for name, provider in providers.items()}
            for provider in providers.values():
                provider.seen = Seen()
        elif command == ["forget"]:
            for provider in providers.values():
                provider.booked.clear()
        else:
            await providers[command[0]].turn(command[1])
            answer = time.monotonic()
        sys.stdout.write(orjson.dumps(answer).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve([int(port) for port in sys.argv[1:]]))
