"""A hub in several processes over twins in another one: what is fed at the source, and the proof from both ends.

The source holds some hot keys, whose every round is a new version, and some fresh keys a round. The ERP gets each
version (resolved by key); the carrier, which books a parcel a call and honours no keys, gets each key once (resolved
by look-up).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tests.chaos.processes import TwinsProcess, WorkerProcess, eventually
from tests.chaos.report import injected, proved
from tests.databases import sql
from tests.twinhubs import ORDERS, SHORT, TwinSecrets, write_hub
from tideover.bootstrap import open_hub
from tideover.hub import overview
from tideover.hub.runtime import Runtime

KILLS = int(os.environ.get("CHAOS_KILLS", "3"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "0"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))

TWINS = ("crm", "erp", "carrier-a")
TARGETS = ("erp", "carrier-a")
ROUTES: dict[str, Any] = {
    "orders": ORDERS,
    "parcels": {
        **ORDERS,
        "mapping": {"fields": {"external_shipment_id": "id"}},
        "target": {"system": "carrier-a", "operation": "create-shipment"},
    },
}
MARGIN_S = 1.0  # beside calls of 1 s at most: a lease is over after 2 s
MOST_WAITING = 300
TROUBLES = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
)  # of a database that is away


@dataclass
class Fed:
    """What the source was given: for each key, the versions that the ERP must get, in order."""

    hot: int = 6
    fresh: int = 14
    rounds: int = 0
    versions: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def next_round(self) -> list[dict[str, Any]]:
        self.rounds += 1
        keys = [f"hot-{n}" for n in range(self.hot)] + [f"fresh-{self.rounds}-{n}" for n in range(self.fresh)]
        for key in keys:
            self.versions[key].append(self.rounds)
        return [{"id": key, "customerId": "customer-1", "total": self.rounds} for key in keys]

    @property
    def expected(self) -> dict[str, int]:
        """Records per route."""
        return {"orders": sum(map(len, self.versions.values())), "parcels": len(self.versions)}


class Scene:
    """Made by `scene`. Workers are numbered in the order in which they were started."""

    def __init__(self, folder: Path, url: str, twins: TwinsProcess, file: Path) -> None:
        self.url, self.twins, self.fed = url, twins, Fed()
        self._folder, self._file = folder, file
        self.workers: list[WorkerProcess] = []
        self._started = 0

    @asynccontextmanager
    async def hub(self) -> AsyncIterator[Runtime]:
        """The hub in the test's own process."""
        os.environ["TIDEOVER_TEST_URL"] = self.url
        async with open_hub(self._file, secrets=TwinSecrets(self.twins.urls), migrate=True) as rt:
            yield rt

    # --- workers --------------------------------------------------------------------------------------------

    def launch(self) -> WorkerProcess:
        """A new worker, on its way up."""
        self._started += 1
        log = self._folder / f"worker-{self._started}.log"
        worker = WorkerProcess(self._file, self.twins.urls, MARGIN_S, log, self.url)
        self.workers.append(worker)
        return worker

    async def start_worker(self) -> WorkerProcess:
        worker = self.launch()
        await worker.until_told("ready")
        return worker

    def kill(self, worker: WorkerProcess) -> None:
        injected("worker killed")
        worker.kill()
        self.workers.remove(worker)

    async def stop_workers(self) -> None:
        while self.workers:
            await self.workers.pop().stop()

    def end_workers(self) -> None:
        """Whatever state they are in."""
        while self.workers:
            self.workers.pop().kill()

    # --- the source -----------------------------------------------------------------------------------------

    async def feed(self) -> None:
        """One more round of changes, and wait until each is staged, so that every version is a record."""
        changes = self.fed.next_round()

        async def is_taken() -> bool:
            with suppress(httpx.TransportError):  # the twins may be dead; the same change again is no change
                return await self.twins.control.upsert("orders", changes) > 0
            return False

        await eventually(is_taken, "the source takes a round of changes")
        await eventually(self.is_staged, "a round of changes is staged")

    async def is_staged(self) -> bool:
        """Whether everything fed so far is on the hub's books."""
        expected = self.fed.expected
        return all([await self.ledger(route, "staged") >= count for route, count in expected.items()])

    @asynccontextmanager
    async def feeding(self) -> AsyncIterator[None]:
        """Round after round beside the block, as long as not too much waits; at least until `SECONDS` are over."""
        until = time.monotonic() + SECONDS
        stop = asyncio.Event()

        async def go_on() -> None:
            while not stop.is_set():
                if await self.waiting() < MOST_WAITING:
                    await self.feed()
                await asyncio.sleep(0.01)

        task = asyncio.create_task(go_on())
        try:
            yield
            while time.monotonic() < until:
                assert not task.done(), "the source has failed"
                await asyncio.sleep(0.1)
        finally:
            stop.set()
            await task

    # --- watching -------------------------------------------------------------------------------------------

    async def number(self, statement: str) -> int:
        """One number out of the database; -1 while it is away."""
        try:
            return int((await sql(self.url, statement))[0][0] or 0)
        except TROUBLES:
            return -1

    async def ledger(self, route: str, column: str) -> int:
        return await self.number(f"select coalesce(sum({column}), 0) from ledger where route = '{route}'")

    async def waiting(self) -> int:
        return await self.number("select sum(staged - delivered - parked - superseded) from ledger")

    async def expired(self) -> int:
        """How many records were under a lease that ran out."""
        return await self.number("select count(*) from attempt where kind = 'expired'")

    async def effects(self) -> int:
        """How much the targets did so far."""
        return sum([int((await self.twins.control.ledger(name))["effects"]) for name in TARGETS])

    async def after_effects(self, count: int) -> None:
        """Wait until the targets did so much more: a moment in the middle of delivering."""
        aim = await self.effects() + count

        async def is_there() -> bool:
            return await self.effects() >= aim

        await eventually(is_there, f"{count} more effects")

    async def until_delivered(self, timeout_s: float = 120) -> None:
        async def is_delivered() -> bool:
            return await self.is_staged() and await self.waiting() == 0

        await eventually(is_delivered, "everything is delivered", timeout_s)

    # --- the proof ------------------------------------------------------------------------------------------

    async def prove(self) -> None:
        """Let everything be delivered, stop the workers, and hold both ends against what was fed."""
        await self.until_delivered()
        await self.stop_workers()
        async with self.hub() as rt:
            audits = {audit.route: audit for audit in await overview.audit(rt)}
        orders, parcels = await self._seen("erp", "total"), await self._seen("carrier-a", "external_shipment_id")
        fed = Counter({("erp", key, version): 1 for key, versions in self.fed.versions.items() for version in versions})
        fed.update({("carrier-a", key, key): 1 for key in self.fed.versions})
        seen = Counter(("erp", key, version) for key, versions in orders.items() for version in versions)
        seen.update(("carrier-a", key, parcel) for key, booked in parcels.items() for parcel in booked)
        await proved(self.url, fed, seen)
        assert [audit.faults for audit in audits.values()] == [(), ()]
        expected = self.fed.expected
        assert {route: (a.accepted, a.delivered) for route, a in audits.items()} == {
            route: (count, count) for route, count in expected.items()
        }
        assert orders == dict(self.fed.versions), "the ERP got something twice, out of order or not at all"
        assert parcels == {key: [key] for key in self.fed.versions}, "a parcel was booked twice or not at all"
        for name in TARGETS:
            assert (await self.twins.control.ledger(name))["duplicates"] == 0

    async def _seen(self, name: str, what: str) -> dict[str, list[Any]]:
        """One field of every effect, by key, in the order in which they happened."""
        seen: dict[str, list[Any]] = defaultdict(list)
        async for effect in self.twins.control.effects(name):
            seen[effect["key"]].append(effect["payload"][what])
        return dict(seen)


@asynccontextmanager
async def open_scene(folder: Path, url: str) -> AsyncIterator[Scene]:
    """Twins that run, and a migrated database; everything that was started is ended with the block."""
    twins = TwinsProcess(folder / "twins", TWINS)
    scene = Scene(folder, url, twins, write_hub(folder, url, ROUTES, dict.fromkeys(TWINS, SHORT)))
    try:
        await twins.start()
        async with scene.hub():
            pass
        yield scene
    finally:
        scene.end_workers()
        await twins.close()
