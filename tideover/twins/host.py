"""All twins of a folder in one event loop, each on its own port, with the control server beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tideover.twins.control import control_app
from tideover.twins.port import Port
from tideover.twins.refusal import TwinRefused
from tideover.twins.trap import Trap
from tideover.twins.twin import VENDORS, Twin

NAMES: tuple[str, ...] = tuple(VENDORS)
LARGEST_LISTING = 10_000
_SEEDED_AT_ONCE = 2_000


class TwinHost:
    """Runs twins while its block lasts. `urls` holds each one's address, `control_url` the control server's.

    `ports` gives fixed ports by name; every other twin takes a free one. Twins listen on `address`. `seed` drives
    faults with a probability; `clock` is the wall clock that tokens, idempotency keys and `updatedAt` go by.
    The methods do what the control server does, and raise `TwinRefused` where it answers 404 or 422.
    """

    def __init__(
        self,
        folder: Path | str,
        names: Sequence[str] | None = None,
        control_port: int = 0,
        ports: Mapping[str, int] | None = None,
        *,
        address: str = "127.0.0.1",
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.names = tuple(NAMES if names is None else names)
        self._ports = dict(ports or {})
        for name in (*self.names, *self._ports):
            if name not in VENDORS:
                raise TwinRefused(404, f"there is no twin {name!r}", NAMES)
        self._folder, self._control_port, self._address = Path(folder), control_port, address
        self._seed, self._clock = seed, clock
        self._twins: dict[str, Twin] = {}
        self._stack = AsyncExitStack()
        self.urls: dict[str, str] = {}
        self.control_url = ""
        self.trap = Trap()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            control = Port(control_app(self, self.trap), self._address, self._control_port)
            stack.push_async_callback(control.close)
            self.control_url = control.url
            for name in self.names:
                twin = Twin(
                    name, self._folder, self._address, self._ports.get(name, 0), seed=self._seed, clock=self._clock
                )
                stack.push_async_callback(twin.close)
                twin.surface.trap = f"{control.url}/trap"
                self._twins[name], self.urls[name] = twin, twin.port.url
                await twin.open()
            await control.open()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def fault(self, name: str, kind: str, **options: Any) -> dict[str, Any]:
        """Break a twin; its status. The options are those of `tideover.twins.faults.Fault`."""
        twin = self._twin(name)
        await twin.break_({"kind": kind, **options})
        return twin.status()

    async def clear(self, name: str) -> dict[str, Any]:
        """End a twin's fault, if it has one; its status."""
        twin = self._twin(name)
        await twin.mend()
        return twin.status()

    def configure(self, name: str, **settings: Any) -> dict[str, Any]:
        """Change a twin's settings, such as `rate_limit`, `token_lifetime_s` or `key_horizon_s`; its status."""
        twin = self._twin(name)
        twin.vendor.configure(settings)
        return twin.status()

    async def seed(self, object_name: str, count: int, start: int = 1) -> int:
        """Create or replace `count` sample records in the CRM, numbered from `start`; how many."""
        crm = self._twin("crm").crm
        if count < 0 or start < 0:
            raise TwinRefused(422, "`count` and `start` must be at least 0")
        done = 0
        for first in range(start, start + count, _SEEDED_AT_ONCE):
            done += crm.seed(object_name, range(first, min(first + _SEEDED_AT_ONCE, start + count)))
            await asyncio.sleep(0)
        return done

    def upsert(self, object_name: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Create or replace records in the CRM by `id`; how many."""
        return self._twin("crm").crm.upsert(object_name, records)

    def ledger(self, name: str) -> dict[str, Any]:
        """Counts of a twin: received, keys, effects, duplicates, standing_duplicates, voided; and per object."""
        return self._twin(name).ledger()

    def keys(
        self, name: str, *, object_name: str | None = None, after: str = "", limit: int = 1000
    ) -> list[dict[str, Any]]:
        """The same counts per business key, in key order, after a key; with `last_hash` and `last_seq`."""
        twin = self._twin(name)
        return twin.vendor.ledger.tallies(twin.object_name(object_name), after, min(limit, LARGEST_LISTING))

    def effects(
        self, name: str, *, object_name: str | None = None, key: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Effects with their payloads in the order in which they happened, of one key or of all."""
        twin = self._twin(name)
        found = twin.vendor.ledger.log(twin.object_name(object_name), key, after, min(limit, LARGEST_LISTING))
        return [effect.as_json() for effect in found]

    def status(self, name: str) -> dict[str, Any]:
        """Name, url, state, active fault, calls, settings and ledger of one twin."""
        return self._twin(name).status()

    def statuses(self) -> list[dict[str, Any]]:
        """The status of every twin."""
        return [twin.status() for twin in self._twins.values()]

    def _twin(self, name: str) -> Twin:
        if name not in self._twins:
            raise TwinRefused(404, f"there is no twin {name!r} here", self._twins)
        return self._twins[name]
