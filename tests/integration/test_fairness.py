"""Routes that share a target: what an import leaves for live traffic, and how long lanes drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake, overview
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Ending
from tideover.hub.runtime import Runtime
from tideover.model import Outcome, Outgoing
from tideover.staging.claiming import Claimed
from tideover.staging.wishes import Claim

IMPORTED = 5_000


async def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "the condition never came true"
        await asyncio.sleep(0.005)


async def stage(rt: Runtime, route: str, *keys: str) -> None:
    await intake.stage_records(rt, route, [{"id": key, "n": number} for number, key in enumerate(keys)])


@asynccontextmanager
async def importing(url: str, limits: dict[str, Any], **routes: Any) -> AsyncIterator[tuple[Runtime, FakeSystem]]:
    """A hub whose delivery works off a large import; the way to its system is open."""
    erp = FakeSystem()
    given = {"import": {}, "orders": {}, **routes}
    config = hub_config(systems={"erp": {"limits": limits}}, routes=given)
    async with running(config, url, {"crm": FakeSystem(), "erp": erp}) as rt:
        for start in range(0, IMPORTED, 1_000):
            await stage(rt, "import", *(f"i{start + n}" for n in range(1_000)))
        stop = asyncio.Event()
        running_delivery = asyncio.create_task(Delivery(rt, "erp", linger_s=600, stop=stop).run())
        try:
            await until(lambda: len(erp.effects) > 20)
            yield rt, erp
        finally:
            stop.set()
            progress = await asyncio.wait_for(running_delivery, 60)
        assert progress.ending is Ending.STOPPED
        assert all(route.faults == () for route in await overview.audit(rt))


async def overtaken_by(rt: Runtime, erp: FakeSystem, orders: int) -> list[int]:
    """Of some orders, one after the other: how many imported records were sent before each."""
    found = []
    for number in range(orders):
        key, before = f"o{number}", len(erp.effects)
        await stage(rt, "orders", key)
        await until(lambda: any(effect.key == key for effect in erp.effects[before:]))  # noqa: B023 - awaited here
        sent: list[Outgoing] = erp.effects[before:]
        found.append(next(at for at, effect in enumerate(sent) if effect.key == key))
    return found


@pytest.mark.parametrize("priority", [3, "`3`"])
async def test_import_under_a_rate_limit_leaves_live_orders_their_turn(database_url: str, priority: int | str) -> None:
    limits = {"rate": "20/1s", "concurrency": 4}
    async with importing(database_url, limits, **{"import": {"priority": priority}}) as (rt, erp):
        waits = await overtaken_by(rt, erp, 10)
        assert len(erp.effects) < IMPORTED
    assert max(waits) <= 12, "an order waited for more than a few claims of the import"


async def test_routes_alike_share_a_short_quota_evenly(database_url: str) -> None:
    async with importing(database_url, {"rate": "20/1s", "concurrency": 4}) as (rt, erp):
        await stage(rt, "orders", *(f"o{n}" for n in range(200)))
        await until(lambda: "o0" in erp.keys_in_order())
        before = len(erp.effects)
        await until(lambda: len(erp.effects) >= before + 60)
        orders = sum(effect.key.startswith("o") for effect in erp.effects[before : before + 60])
    assert 24 <= orders <= 36


async def test_import_without_a_limit_leaves_live_orders_their_turn(database_url: str) -> None:
    async with importing(database_url, {"concurrency": 4}) as (rt, erp):
        [waited] = await overtaken_by(rt, erp, 1)
    assert waited <= IMPORTED // 2


async def test_thousand_records_of_one_key_need_far_fewer_claims_and_keep_their_order(database_url: str) -> None:
    erp = FakeSystem()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, "orders", *["k"] * 1_000)
        runs: list[int] = []
        claim = rt.store.claim

        async def counting(wish: Claim) -> Claimed:
            claimed = await claim(wish)
            runs.extend(len(lease.records) for lease in claimed.leases)
            return claimed

        rt.store.claim = counting  # type: ignore[method-assign]
        progress = await asyncio.wait_for(Delivery(rt, "erp").run(), 120)
        [audit] = await overview.audit(rt)
    assert (progress.delivered, audit.delivered, audit.faults) == (1_000, 1_000, ())
    assert [int(effect.payload.split(b'"n":')[1][:-1]) for effect in erp.effects] == list(range(1_000))
    assert runs[0] == 10
    assert max(runs) > 10
    assert len(runs) < 100


async def test_long_lane_at_a_system_that_nobody_can_ask_keeps_short_runs(database_url: str) -> None:
    erp = FakeSystem()
    config = hub_config(systems={"erp": {"resolve": "none"}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, "orders", *["k"] * 60)
        longest = 0
        claim = rt.store.claim

        async def watching(wish: Claim) -> Claimed:
            nonlocal longest
            claimed = await claim(wish)
            longest = max([longest, *(len(lease.records) for lease in claimed.leases)])
            return claimed

        rt.store.claim = watching  # type: ignore[method-assign]
        assert (await asyncio.wait_for(Delivery(rt, "erp").run(), 120)).delivered == 60
    assert longest == 10


async def test_key_without_an_order_goes_out_side_by_side(database_url: str) -> None:
    erp = FakeSystem()
    config = hub_config(systems={"erp": {"limits": {"concurrency": 8}}}, routes={"orders": {"order": "none"}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, "orders", *["k"] * 40)
        erp.open.clear()
        delivering = asyncio.create_task(Delivery(rt, "erp").run())
        await until(lambda: erp.in_flight > 1)
        erp.open.set()
        assert (await asyncio.wait_for(delivering, 60)).delivered == 40
        assert set(erp.count().values()) == {1}
        [audit] = await overview.audit(rt)
        assert (audit.delivered, audit.faults) == (40, ())
        assert [traced.seq for traced in await overview.trace(rt, "k")] == list(range(1, 41))


async def test_staging_under_latest_supersedes_what_waits(database_url: str) -> None:
    erp = FakeSystem()
    config = hub_config(routes={"orders": {"order": "latest"}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        for _ in range(3):
            await stage(rt, "orders", *(f"k{n % 5}" for n in range(50)))
        [before] = await overview.audit(rt)
        assert (before.superseded, before.waiting, before.faults) == (145, 5, ())
        assert (await asyncio.wait_for(Delivery(rt, "erp").run(), 60)).delivered == 5
        assert erp.calls == 5


class Unhurried(FakeSystem):
    """Takes 50 ms a call."""

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> list[Outcome]:
        await asyncio.sleep(0.05)
        return list(await super().send(operation, batch, deadline))


@pytest.mark.parametrize("staged_first", ["calm", "urgent"])
async def test_record_behind_more_urgent_ones_is_not_in_doubt_for_waiting(database_url: str, staged_first: str) -> None:
    """Its lease would run out in the hand, and nobody can be asked about it: it would be parked without ever being
    sent."""
    erp = Unhurried()
    config = hub_config(
        systems={"erp": {"resolve": "none", "limits": {"concurrency": 2}}},
        routes={"urgent": {"priority": 1}, "calm": {"priority": 5}},
    )
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        stop = asyncio.Event()
        if staged_first == "calm":
            await stage(rt, "calm", *(f"c{n}" for n in range(8)))
        delivery = asyncio.create_task(Delivery(rt, "erp", linger_s=600, lease_margin_s=1.0, stop=stop).run())
        if staged_first == "calm":
            await until(lambda: len(erp.effects) > 0)  # the others are in the hand
        await stage(rt, "urgent", *(f"u{n}" for n in range(250)))  # six seconds' work; a lease lasts for three
        await stage(rt, "calm", *(f"d{n}" for n in range(3)))
        count = 261 if staged_first == "calm" else 253
        await until(lambda: len(erp.effects) >= count)
        stop.set()
        progress = await delivery
        assert (progress.delivered, progress.parked, progress.refused) == (count, 0, 0)
        lapsed = await sql(database_url, "select count(*) from attempt where kind = 'expired'")
        assert lapsed == [(0,)]
