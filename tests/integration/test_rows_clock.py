"""Row 64 of the failure catalogue, the database's own clock: it jumps by an hour in the middle of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tests.twinhubs import all_delivered, audited, deliver_until, until
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US

HOUR_US = 3600 * SECOND_US


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


async def stage(rt: Runtime, count: int) -> None:
    await intake.stage_records(rt, "orders", [{"id": f"k{n}"} for n in range(count)])


@pytest.mark.parametrize("jump_us", [HOUR_US, -HOUR_US], ids=["forward", "back"])
async def test_f64_jump_of_the_databases_clock_during_calls_leaves_one_effect_each(
    rt: Runtime, erp: FakeSystem, clock: Clock, jump_us: int
) -> None:
    """Forward, every lease is over at once: others take over, and what the first ones settle late is refused."""
    await stage(rt, 5)
    erp.open.clear()
    first = asyncio.create_task(Delivery(rt, "erp").run())
    await until(lambda: erp.in_flight == 5)
    clock.ahead_us = jump_us
    second = asyncio.create_task(Delivery(rt, "erp").run())
    if jump_us > 0:
        await until(lambda: erp.in_flight == 10)
    erp.open.set()
    await asyncio.gather(first, second)
    clock.ahead_us = abs(jump_us)
    await deliver_until(rt, all_delivered(rt, 5))
    assert sorted(erp.count().values()) == [1] * 5
    assert (await audited(rt)).waiting == 0
