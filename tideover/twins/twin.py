"""One twin, put together: a vendor's manners, its memory, its fault switch and its port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from tideover.twins.carriers import CarrierA, CarrierB
from tideover.twins.crm import Crm
from tideover.twins.erp import Erp
from tideover.twins.faults import Fault, FaultSwitch, parse_fault
from tideover.twins.marketing import Marketing
from tideover.twins.port import Port
from tideover.twins.refusal import TwinRefused
from tideover.twins.store import Store
from tideover.twins.support import Support
from tideover.twins.surface import Surface
from tideover.twins.vendor import Vendor

VENDORS: dict[str, type[Vendor]] = {v.name: v for v in (Crm, Erp, Marketing, Support, CarrierA, CarrierB)}


class Twin:
    """`down` is the one fault that is not in the calls but in the port."""

    def __init__(
        self, name: str, folder: Path, address: str, port: int, *, seed: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self._store = Store(folder / f"{name}.sqlite")
        try:
            self.vendor = VENDORS[name](self._store, clock)
            self.switch = FaultSwitch(Random(f"{seed} {name}"), self._fault_ended)
            self.surface = Surface(self.vendor, self.switch)
            self.port = Port(self.surface, address, port, self.surface.stopped)
        except BaseException:
            self._store.close()
            raise
        self._turning = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen."""
        await self.port.open()
        self.surface.connections = self.port.connections

    async def break_(self, content: Mapping[str, Any]) -> None:
        """Put a fault, in place of any other. Raises `TwinRefused`."""
        fault = parse_fault(self.name, content)
        async with self._turning:
            self.switch.put(fault)
            await self._follow()

    async def mend(self) -> None:
        """End the active fault; nothing happens if there is none."""
        async with self._turning:
            self.switch.clear()
            await self._follow()

    async def close(self) -> None:
        """Drop every call and close port and memory. Ends within seconds, whatever is held."""
        self.switch.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.port.close()
        self._store.close()

    @property
    def crm(self) -> Crm:
        """The source, if this twin is one. Raises `TwinRefused` (422)."""
        if not isinstance(self.vendor, Crm):
            raise TwinRefused(422, f"{self.name} is no source: it can't be seeded", ["crm"])
        return self.vendor

    def ledger(self) -> dict[str, Any]:
        """The counts of its ledger; of a source, also what it holds."""
        held = {"source": self.vendor.held()} if isinstance(self.vendor, Crm) else {}
        return {"twin": self.name, **self.vendor.ledger.totals(), **held}

    def object_name(self, name: str | None) -> str:
        """One of the twin's objects; its main one for `None`. Raises `TwinRefused` (404)."""
        if name is None:
            return self.vendor.objects[0]
        if name not in self.vendor.objects:
            raise TwinRefused(404, f"{self.name} has no {name!r}", self.vendor.objects)
        return name

    def status(self) -> dict[str, Any]:
        """What the control server shows of it."""
        active = self.switch.active
        return {
            "name": self.name,
            "url": self.port.url,
            "state": "up" if active is None or active.is_used_up else "down" if not self.port.is_open else "faulty",
            "fault": None if active is None else active.as_json(),
            "calls": dict(self.surface.calls),
            "settings": self.vendor.settings.model_dump(),
            "ledger": self.ledger(),
        }

    def _fault_ended(self, fault: Fault) -> None:
        if fault.kind == "down":
            task = asyncio.get_running_loop().create_task(self._reopen())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reopen(self) -> None:
        async with self._turning:
            await self._follow()

    async def _follow(self) -> None:
        """Make the port as the active fault wants it."""
        active = self.switch.active
        if active is not None and active.fault.kind == "down":
            await self.port.shut()
        else:
            await self.open()
