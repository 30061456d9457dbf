"""What a delivery does by the clock, beside claiming: tell what happened, end drains, and keep what others count on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from tideover.errors import HubUnavailable
from tideover.hub.line import Line
from tideover.hub.progress import Episodes
from tideover.hub.runtime import Runtime
from tideover.hub.sharing import Sharing
from tideover.hub.sweeps import rest_s
from tideover.model import SECOND_US

TICK_S = 0.5  # events are announced, and the drain's end looked for, this often


class Chores:
    """Of one delivery, once it has its lines."""

    def __init__(
        self, rt: Runtime, group: str, lines: Mapping[str, Line], episodes: Episodes, on_tick: Callable[[], None]
    ) -> None:
        """`group`: the failover group; empty where the target is a single system. `on_tick` is called at each tick."""
        self._rt, self._group, self._lines, self._episodes, self._on_tick = rt, group, lines, episodes, on_tick
        self._sharing = Sharing(rt, lines)
        self._drain_rest_until = 0.0

    async def begin(self) -> None:
        """Hold the lines to their shares of the calls. Raises `HubUnavailable`."""
        await self._sharing.begin()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run beside the claimer; none of them ever returns."""
        return [self._tick_forever(), self._keep_forever()]

    async def end(self) -> None:
        """Tick once more, and let others have the shares; once nothing is under way."""
        try:
            with suppress(HubUnavailable):
                await self._tick(is_last=True)
        finally:
            await self._sharing.end()

    async def _tick_forever(self) -> None:
        while True:
            await self._rt.sleep(TICK_S)
            with suppress(HubUnavailable):  # the claimer meets it too, and decides
                await self._tick()

    async def _keep_forever(self) -> None:
        """What others count on in time, and which must not wait behind a long look."""
        while True:
            await self._rt.sleep(TICK_S)
            for line in self._lines.values():
                line.give_back_overdue()
            with suppress(HubUnavailable):
                await self._sharing.renew()

    async def _tick(self, *, is_last: bool = False) -> None:
        if is_last or self._rt.monotonic() >= self._drain_rest_until:
            await self._end_drains()
        for episode in self._episodes.first_served():
            ago_us = int((self._rt.monotonic() - episode.served_at) * SECOND_US)
            await self._rt.store.note_service(self._group, episode.after, ago_us)
            episode.has_served = True
        await self._rt.announce_events()
        self._on_tick()

    async def _end_drains(self) -> None:
        """Where something old is far behind in a long line, looking for it takes a while: then less often."""
        began = self._rt.monotonic()
        for system in self._lines:
            if await self._rt.store.is_undrained(system):
                await self._rt.store.end_drain(system, self._rt.routes_through(system))
        now = self._rt.monotonic()
        self._drain_rest_until = now + rest_s(now - began)
