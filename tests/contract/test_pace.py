"""How fast records come and go, read from what was written down, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.hub.overview import audit
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US, Rejected
from tideover.staging import pace
from tideover.staging.parking import Selection


class Clock:
    ahead_us = 0

    def __call__(self, now_us: int) -> int:
        return now_us + self.ahead_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def erp() -> FakeSystem:
    return FakeSystem()


@pytest.fixture
async def rt(database_url: str, erp: FakeSystem, clock: Clock) -> AsyncIterator[Runtime]:
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as runtime:
        yield runtime


async def stage_and_deliver(rt: Runtime, count: int, first: int = 0) -> None:
    await intake.stage_records(rt, "orders", [{"id": f"k{n}"} for n in range(first, first + count)])
    await Delivery(rt, "erp").run()


async def totals(rt: Runtime) -> tuple[int, int]:
    """Gone and come in the last minute."""
    found = await rt.store.report(lambda tx: pace.samples(tx, ["orders"]))
    return sum(s.gone for s in found), sum(s.come for s in found)


async def test_samples_are_of_the_last_minute_only(rt: Runtime, clock: Clock) -> None:
    await stage_and_deliver(rt, 10)
    assert await totals(rt) == (10, 10)
    clock.ahead_us = 30 * SECOND_US
    await stage_and_deliver(rt, 5, first=10)
    assert await totals(rt) == (15, 15)
    clock.ahead_us = 80 * SECOND_US
    assert await totals(rt) == (5, 5)
    assert await rt.store.report(lambda tx: pace.come_in_an_hour(tx, ["orders"])) == 15


async def test_parked_records_are_gone_and_come_again_when_they_are_replayed(rt: Runtime, erp: FakeSystem) -> None:
    erp.answer = lambda r: Rejected(f"BAD-{r.key}")
    await stage_and_deliver(rt, 2)
    assert await totals(rt) == (2, 2)
    await rt.store.replay([parked.id for parked in await rt.store.parked(Selection())])
    assert await totals(rt) == (2, 4)


async def test_compacting_keeps_the_pace_and_sums_what_is_old(rt: Runtime, clock: Clock, database_url: str) -> None:
    for hours in (0, 1, 2):
        clock.ahead_us = hours * 3_600 * SECOND_US
        await stage_and_deliver(rt, 20, first=20 * hours)
    before = await totals(rt)
    assert await rt.store.compact() > 0
    assert await totals(rt) == before == (20, 20)
    clock.ahead_us += 1_800 * SECOND_US
    await rt.store.compact()
    assert await rt.store.report(lambda tx: pace.come_in_an_hour(tx, ["orders"])) == 20
    clock.ahead_us += 7_200 * SECOND_US
    await rt.store.compact()
    assert await sql(database_url, "select staged, delivered from ledger") == [(60, 60)]
    (book,) = await audit(rt)
    assert (book.accepted, book.delivered, book.faults) == (60, 60, ())


async def test_calls_are_counted_once_however_many_records_they_carry(rt: Runtime, erp: FakeSystem) -> None:
    erp.size = 10
    await stage_and_deliver(rt, 40)
    bulk = (await rt.store.report(pace.calls))["erp"]
    assert bulk.call_s > 0
    assert 0 < bulk.under_way <= 4.01  # there were four
    assert bulk.failed == 0
    assert "crm" not in await rt.store.report(pace.calls)
