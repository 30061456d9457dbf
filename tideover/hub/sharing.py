"""A delivery's share of the calls that all workers together may have under way at a system (`limits.in_flight`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from uuid import uuid4

from tideover.errors import HubUnavailable
from tideover.hub.line import Line
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US
from tideover.staging.shares import Ask

TTL_S = 10.0  # so long nobody else takes a share that was not asked for again, besides its longest call


class Sharing:
    """Asks for the shares of a delivery's lines, and holds the lines to them. Lines without a cap are left alone.

    A share that could not be renewed for `TTL_S` counts no more: then no call begins, until there is one again. Those
    under way may last as long as a call can, which the row in the database outlives. A timer sees to it, as asking may
    take longer than that to fail.
    """

    def __init__(self, rt: Runtime, lines: Mapping[str, Line]) -> None:
        self._rt, self._worker = rt, uuid4().hex
        caps = {name: rt.system(name).limits.in_flight for name in lines}
        self._caps = {name: cap for name, cap in caps.items() if cap is not None}
        self._lines = lines
        self._granted: dict[str, int] = {}
        self._lapses: dict[str, asyncio.TimerHandle] = {}

    async def begin(self) -> None:
        """No call begins before there is a share. Raises `HubUnavailable`."""
        for name in self._caps:
            self._lines[name].set_ceiling(0)
        await self.renew()

    async def renew(self) -> None:
        """Ask for each share again, and hold the lines to it. Raises `HubUnavailable`."""
        for name in self._caps:
            await self._renew(name)

    async def _renew(self, name: str) -> None:
        line = self._lines[name]
        settings = self._rt.system(name)
        asked_at = self._rt.monotonic()
        ask = Ask(
            name,
            self._worker,
            self._caps[name],
            # One that has nothing to do leaves the rest to others, and is ready for what comes.
            wanted=1 if line.is_idle else settings.limits.concurrency,
            held=max(self._granted.get(name, 0), line.busy),
            ttl_us=int((TTL_S + settings.timeouts.total) * SECOND_US),
        )
        calls = await self._rt.store.share(ask)
        self._hold(name, calls, TTL_S - (self._rt.monotonic() - asked_at))

    def _hold(self, name: str, calls: int, for_s: float) -> None:
        self._forget(name)
        self._granted[name] = calls
        self._lines[name].set_ceiling(calls)
        self._lapses[name] = asyncio.get_running_loop().call_later(max(for_s, 0.0), self._lapse, name)

    def _lapse(self, name: str) -> None:
        self._forget(name)
        self._lines[name].set_ceiling(0)

    def _forget(self, name: str) -> None:
        self._granted.pop(name, None)
        if (lapse := self._lapses.pop(name, None)) is not None:
            lapse.cancel()

    async def end(self) -> None:
        """Nothing is under way any more: let others have it."""
        for name in self._caps:
            self._forget(name)
            with suppress(HubUnavailable):
                await self._rt.store.give_up_share(name, self._worker)
