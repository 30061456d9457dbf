"""Hearing at once that records were staged, instead of asking again and again.

A wake-up is a hint and nothing more: whoever waits for one looks at the tables from time to time as well, so that one
that is lost, with a connection or a crash, costs a moment and never a record. On PostgreSQL it is a NOTIFY in the
transaction that staged, heard by all processes; on SQLite it reaches those that share the database object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

CHANNEL = "tideover_staged"
RECONNECT_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Subscriber:
    routes: frozenset[str]
    wake: Callable[[], None]


class Wakeups:
    """Calls each subscriber when records of its routes were staged."""

    def __init__(self) -> None:
        self._subscribers: set[_Subscriber] = set()

    def subscribe(self, routes: Collection[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called; returns what ends that."""
        subscriber = _Subscriber(frozenset(routes), wake)
        self._subscribers.add(subscriber)
        return lambda: self._subscribers.discard(subscriber)

    def wake(self, route: str | None = None) -> None:
        """Call the subscribers of a route, or all of them."""
        for subscriber in list(self._subscribers):
            if route is None or route in subscriber.routes:
                subscriber.wake()

    async def close(self) -> None:
        self._subscribers.clear()


class Listening(Protocol):
    """A driver's connection, as far as listening needs it (asyncpg)."""

    async def add_listener(self, channel: str, callback: Callable[[Any, int, str, str], None]) -> None: ...

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None: ...


class Notifications(Wakeups):
    """Wake-ups by NOTIFY, over one connection of its own that is made again when it breaks."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Listening]]) -> None:
        super().__init__()
        self._connect = connect
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, routes: Collection[str], wake: Callable[[], None]) -> Callable[[], None]:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._listen_forever())
        return super().subscribe(routes, wake)

    async def close(self) -> None:
        await super().close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen_forever(self) -> None:
        while True:
            with suppress(Exception):  # whatever it was, the tables are still looked at; try again
                await self._listen()
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        broken = asyncio.Event()
        async with self._connect() as connection:
            connection.add_termination_listener(lambda _: broken.set())
            await connection.add_listener(CHANNEL, lambda _connection, _pid, _channel, route: self.wake(route))
            self.wake()  # what was staged before, nobody told us
            await broken.wait()
