"""One system's connections: at most so many, the last one used first, and whoever waits longest gets the next one.

A place in the pool belongs to a connection, or to the exchange that is about to open or to use one. It is handed on,
never given up and taken anew, so nobody overtakes those who wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

from tideover.connectors.http.dial import Dialer
from tideover.connectors.http.message import Origin
from tideover.connectors.http.protocol import Connection
from tideover.model import Unsent

_NO_PLACE = Unsent("pool", "no free connection in time")
_CLOSED = Unsent("pool", "closed here")

Given = Connection | Unsent | None  # None: a place for a connection


class Pool:
    """Implements `Owner`. `most`: connections of all origins together, those that are being opened included."""

    def __init__(self, dialer: Dialer, most: int, read_s: float, cap: int) -> None:
        self._dialer, self._most, self._read_s, self._cap = dialer, most, read_s, cap
        self._count = 0
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[asyncio.Future[Given], Origin]] = deque()
        self._is_closed = False

    def take(self, origin: Origin) -> Connection | None:
        """The connection to `origin` that was used last, if one is idle."""
        for connection in reversed(self._idle):
            if connection.origin == origin and connection.is_open:
                self._idle.remove(connection)
                connection.is_idle, connection.is_promised = False, True
                return connection
        return None

    async def get(self, origin: Origin, until: float) -> Connection | Unsent:
        """A connection to `origin`, or why there is none by `until` (the loop's clock)."""
        if self._count < self._most:
            self._count += 1
        elif self._idle:
            self._pass_on(self._idle[0])
        else:
            connection = await self._wait(origin, until)
            if isinstance(connection, Unsent) or (connection is not None and connection.is_open):
                return connection
        return await self._connect(origin, until)

    def take_back(self, connection: Connection) -> None:
        if self._is_closed:
            connection.close()
            return
        while self._waiting:
            waiter, origin = self._waiting.popleft()
            if waiter.done():
                continue
            if connection.origin == origin:
                connection.is_promised = True
                waiter.set_result(connection)
            else:
                self._pass_on(connection)
                waiter.set_result(None)
            return
        connection.is_idle = True
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection.is_idle:
            connection.is_idle = False
            self._idle.remove(connection)
        if not connection.is_promised:
            self._free()

    async def close(self) -> None:
        """Closes every connection. Exchanges under way end, later ones have connections that are not kept."""
        self._is_closed = True
        while self._waiting:
            waiter, _ = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(_CLOSED)
        for connection in tuple(self._open):
            connection.close()
        await asyncio.sleep(0)  # transports close their sockets in the next turn

    def _pass_on(self, connection: Connection) -> None:
        """Closes it and keeps its place, for one to another origin."""
        connection.is_promised = True
        connection.close()

    def _free(self) -> None:
        while self._waiting:
            waiter, _ = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._count -= 1

    async def _wait(self, origin: Origin, until: float) -> Given:
        waiter: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
        entry = waiter, origin
        self._waiting.append(entry)
        try:
            async with asyncio.timeout_at(until):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._give_back(waiter.result())
            elif entry in self._waiting:
                self._waiting.remove(entry)
            if isinstance(error, TimeoutError):
                return _NO_PLACE
            raise

    def _give_back(self, given: Given) -> None:
        """What a waiter was given and can't use any more."""
        if isinstance(given, Connection) and given.is_open:
            given.is_promised = False
            self.take_back(given)
        elif not isinstance(given, Unsent):
            self._free()

    async def _connect(self, origin: Origin, until: float) -> Connection | Unsent:
        connected: Connection | Unsent | None = None
        try:
            connected = await self._dialer.dial(
                origin, lambda: Connection(self, origin, self._read_s, self._cap), until
            )
        finally:
            if not isinstance(connected, Connection):
                self._free()
        if isinstance(connected, Connection):
            self._open.add(connected)
        return connected
