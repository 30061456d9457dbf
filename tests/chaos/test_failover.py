"""Workers that deliver to a failover group die and freeze while the preferred carrier books parcels and says nothing.
In the end each order has one standing parcel."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from tests.chaos.processes import TwinsProcess, WorkerProcess, eventually
from tests.chaos.report import injected, proved
from tests.chaos.scene import KILLS, MARGIN_S, SEED, TROUBLES
from tests.databases import sql
from tests.twinhubs import SHIPMENTS, SHIPPING, SHORT, TwinSecrets, write_hub
from tideover.bootstrap import open_hub
from tideover.hub import overview

A, B = CARRIERS = ("carrier-a", "carrier-b")
LEASE_S = 1 + MARGIN_S
IMPATIENT = dict.fromkeys(("crm", *CARRIERS), SHORT)
PATIENT = {"base": "20ms", "cap": "200ms", "max_attempts": 1000}  # nothing is to be given up, however often it fails
ROUTES = {"orders": {**SHIPMENTS, "retry": PATIENT, "on_unknown": "reroute", "max_hold": "3s"}}


class Depot:
    """A hub in several processes over two carriers, and orders that nobody has seen before."""

    def __init__(self, folder: Path, url: str, twins: TwinsProcess) -> None:
        self.url, self.twins = url, twins
        self._folder = folder
        self._file = write_hub(folder, url, ROUTES, IMPATIENT, {"shipping": SHIPPING})
        self.workers: list[WorkerProcess] = []
        self._started = self.orders = 0

    async def migrate(self) -> None:
        os.environ["TIDEOVER_TEST_URL"] = self.url
        async with open_hub(self._file, secrets=TwinSecrets(self.twins.urls), migrate=True):
            pass

    async def start_worker(self) -> WorkerProcess:
        self._started += 1
        log = self._folder / f"worker-{self._started}.log"
        worker = WorkerProcess(self._file, self.twins.urls, MARGIN_S, log, self.url)
        self.workers.append(worker)
        await worker.until_told("ready")
        return worker

    def kill(self, worker: WorkerProcess) -> None:
        injected("worker killed")
        worker.kill()
        self.workers.remove(worker)

    async def order(self, count: int) -> None:
        first, self.orders = self.orders, self.orders + count
        records = [{"id": f"order-{n}", "customerId": "c", "total": 1} for n in range(first, self.orders)]
        await self.twins.control.upsert("orders", records)

    async def number(self, statement: str) -> int:
        """One number out of the database; -1 while it can't be read."""
        try:
            return int((await sql(self.url, statement))[0][0] or 0)
        except TROUBLES:
            return -1

    async def after_effects(self, count: int) -> None:
        """Wait until the carriers booked so many more: a moment in the middle of delivering."""

        async def effects() -> int:
            return sum([int((await self.twins.control.ledger(name))["effects"]) for name in CARRIERS])

        aim = await effects() + count

        async def is_there() -> bool:
            return await effects() >= aim

        await eventually(is_there, f"{count} more parcels")

    async def prove(self) -> None:
        """Everything is delivered, no case is open, the books balance, and each order stands once."""

        async def is_over() -> bool:
            delivered = await self.number("select sum(delivered) from ledger")
            return delivered == self.orders and await self.open_cases() == 0

        await eventually(is_over, "everything is delivered, and asked about", 90)
        while self.workers:
            await self.workers.pop().stop()
        async with open_hub(self._file, secrets=TwinSecrets(self.twins.urls)) as rt:
            [audit] = await overview.audit(rt)
        assert (audit.faults, audit.accepted, audit.delivered) == ((), self.orders, self.orders)
        standing = Counter[str]()
        for name in CARRIERS:
            async for effect in self.twins.control.effects(name):
                standing[effect["key"]] += not effect["voided"]
        expected = Counter({f"order-{n}": 1 for n in range(self.orders)})
        await proved(self.url, expected, standing)
        assert standing == expected

    async def open_cases(self) -> int:
        return await self.number("select count(*) from reconciliation where closed_us = 0")


@asynccontextmanager
async def open_depot(folder: Path, url: str) -> AsyncIterator[Depot]:
    twins = TwinsProcess(folder / "twins", ("crm", *CARRIERS))
    depot = Depot(folder, url, twins)
    try:
        await twins.start()
        await depot.migrate()
        yield depot
    finally:
        while depot.workers:
            depot.workers.pop().kill()
        await twins.close()


@pytest.fixture
async def depot(tmp_path: Path, database_url: str) -> AsyncIterator[Depot]:
    async with open_depot(tmp_path, database_url) as opened:
        yield opened


async def test_f24_f32_workers_killed_while_a_carrier_books_and_hangs_leave_one_parcel_an_order(depot: Depot) -> None:
    dice = Random(SEED)
    for _ in range(2):
        await depot.start_worker()
    await depot.twins.control.fault(A, "commit_then_hang")
    for _ in range(KILLS):
        await depot.order(60)
        await depot.after_effects(dice.randint(5, 40))
        depot.kill(dice.choice(depot.workers))
        await depot.start_worker()
    await _kill_all_under_leases(depot)
    await depot.start_worker()
    await depot.order(20)
    await asyncio.sleep(LEASE_S + 3)  # past the leases of the dead, and past `max_hold`
    await eventually(lambda: _has_expired(depot), "a lease of the dead is taken over")
    await eventually(lambda: _has_cases(depot), "what was in doubt is rerouted")
    await depot.twins.control.clear(A)
    await depot.order(20)
    await depot.prove()
    assert await depot.number("select count(*) from attempt where kind = 'expired'") > 0
    assert await depot.number("select count(*) from reconciliation where state = 'voided'") > 0


async def test_f24_workers_killed_again_and_again_across_failover_and_failback_leave_one_parcel_an_order(
    depot: Depot,
) -> None:
    dice = Random(SEED + 1)
    for _ in range(2):
        await depot.start_worker()
    for turn in range(2 * KILLS):
        await depot.twins.control.clear(A)
        if turn % 2:
            await depot.twins.control.fault(
                A, dice.choice(["commit_then_drop", "commit_then_hang", "drop", "error_500"])
            )
        await depot.order(60)
        await depot.after_effects(dice.randint(5, 50))
        depot.kill(dice.choice(depot.workers))
        await depot.start_worker()
    await depot.twins.control.clear(A)
    await depot.prove()


async def test_f12_f32_worker_frozen_past_its_leases_while_a_carrier_books_and_hangs_settles_nothing_late(
    depot: Depot,
) -> None:
    frozen = await depot.start_worker()
    await depot.twins.control.fault(A, "commit_then_hang")
    await depot.order(60)

    async def is_frozen_well() -> bool:
        """It holds leases and no lock, as a lock is the database's business."""
        frozen.freeze()
        if await depot.number("select count(*) from lane where lease_until_us > 0") > 0 and await _can_write(depot):
            return True
        frozen.thaw()
        return False

    await eventually(is_frozen_well, "the worker is frozen while it holds leases")
    healthy = await depot.start_worker()
    await asyncio.sleep(LEASE_S + 3)  # its leases are over, and what it had in doubt is rerouted
    await depot.order(20)
    await eventually(lambda: _delivered_at_least(depot, 40), "the other worker goes on")
    frozen.thaw()
    await depot.twins.control.clear(A)
    await depot.order(20)
    await depot.prove()
    assert healthy.count("refused") == 0


async def _kill_all_under_leases(depot: Depot) -> None:
    """Kill every worker at one moment in which at least one of them holds leases, whatever the dice did before."""
    for name in CARRIERS[1:]:  # so that calls are under way most of the time
        await depot.twins.control.fault(name, "slow", delay_s=0.2, only="writes")
    await depot.order(60)

    async def are_stopped_under_leases() -> bool:
        for worker in depot.workers:
            worker.freeze()
        if await depot.number("select count(*) from lane where lease_until_us > 0") > 0:
            return True
        for worker in depot.workers:
            worker.thaw()
        return False

    await eventually(are_stopped_under_leases, "a worker is stopped while it holds leases")
    for worker in list(depot.workers):
        depot.kill(worker)
    for name in CARRIERS[1:]:
        await depot.twins.control.clear(name)


async def _has_expired(depot: Depot) -> bool:
    return await depot.number("select count(*) from attempt where kind = 'expired'") > 0


async def _has_cases(depot: Depot) -> bool:
    return await depot.number("select count(*) from reconciliation") > 0


async def _delivered_at_least(depot: Depot, count: int) -> bool:
    return await depot.number("select sum(delivered) from ledger") >= count


async def _can_write(depot: Depot) -> bool:
    """Whether nobody is in the middle of a transaction."""
    from tests.chaos.test_workers import _holds_a_lock

    return not await _holds_a_lock(depot.url)
