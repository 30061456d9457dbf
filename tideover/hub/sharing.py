"""A delivery's share of the calls that all workers together may have under way at a system (`limits.in_flight`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

from tideover.errors import HubUnavailable
from tideover.hub.line import Line
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US
from tideover.staging.shares import Ask

TTL_S = 10.0  # so long nobody else takes a share that was not asked for again, besides its longest call


@dataclass(slots=True)
class _Grant:
    calls: int
    asked_at: float  # monotonic


class Sharing:
    """Asks for the shares of a delivery's lines, and holds the lines to them. Lines without a cap are left alone.

    A share that could not be renewed for `TTL_S` counts no more: then no call begins. Those under way may last as long
    as a call can, which the row in the database outlives.
    """

    def __init__(self, rt: Runtime, lines: Mapping[str, Line]) -> None:
        self._rt, self._worker = rt, uuid4().hex
        caps = {name: rt.system(name).limits.in_flight for name in lines}
        self._caps = {name: cap for name, cap in caps.items() if cap is not None}
        self._lines = lines
        self._grants: dict[str, _Grant] = {}

    async def begin(self) -> None:
        """No call begins before there is a share. Raises `HubUnavailable`."""
        for name in self._caps:
            self._lines[name].set_ceiling(0)
        await self.renew()

    async def renew(self) -> None:
        """Ask for each share again, and hold the lines to it. Raises `HubUnavailable`."""
        for name in self._caps:
            try:
                await self._renew(name)
            except HubUnavailable:
                grant = self._grants.get(name)
                if grant is None or self._rt.monotonic() >= grant.asked_at + TTL_S:
                    self._lines[name].set_ceiling(0)
                raise

    async def _renew(self, name: str) -> None:
        line, before = self._lines[name], self._grants.get(name)
        settings = self._rt.system(name)
        asked_at = self._rt.monotonic()
        ask = Ask(
            name,
            self._worker,
            self._caps[name],
            # One that has nothing to do leaves the rest to others, and is ready for what comes.
            wanted=1 if line.is_idle else settings.limits.concurrency,
            held=max(before.calls if before is not None else 0, line.busy),
            ttl_us=int((TTL_S + settings.timeouts.total) * SECOND_US),
        )
        calls = await self._rt.store.share(ask)
        self._grants[name] = _Grant(calls, asked_at)
        if before is None or calls != before.calls:
            line.set_ceiling(calls)

    async def end(self) -> None:
        """Nothing is under way any more: let others have it."""
        for name in self._grants:
            with suppress(HubUnavailable):
                await self._rt.store.give_up_share(name, self._worker)
