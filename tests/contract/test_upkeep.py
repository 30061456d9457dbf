"""Retention, audit, outlook and ledger, in pieces: that a piece's end is nobody's loss, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import orjson
import pytest

from tests.databases import sql
from tideover.model import SECOND_US, Accepted, Broken, Lease, NewRecord, Order, Outcome, Rejected, Unknown, Unsent
from tideover.policy.breaker import BreakerRule
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging import ledger, reports, systems, upkeep
from tideover.staging.database import open_database
from tideover.staging.parking import Selection
from tideover.staging.restaging import Remapped
from tideover.staging.settle import Settlement
from tideover.staging.stage import Batch
from tideover.staging.store import Store
from tideover.staging.wishes import Claim

ROUTE, OTHER, ERP = "orders", "customers", "erp"
RULE = BreakerRule(failures=100, rejections=100, open_for_s=5, max_open_s=60, successes=2)
RETRY = RetryRule(max_attempts=3, base_s=1, cap_s=60, max_age_s=None)


class Hub:
    """A store whose clock a test moves, and one system that gets everything."""

    def __init__(self, url: str) -> None:
        self.url, self.ahead_us = url, 0
        self.store = Store(open_database(url, lambda now_us: now_us + self.ahead_us), spread=lambda: 0.5)

    def move(self, seconds: float) -> None:
        self.ahead_us += int(seconds * SECOND_US)

    async def stage(self, *pairs: tuple[str, object], route: str = ROUTE) -> None:
        records = [NewRecord(key, orjson.dumps(body)) for key, body in pairs]
        await self.store.stage(Batch(route, "crm", records))

    async def claim(self, route: str = ROUTE, order: Order = Order.BLOCK, lanes: int = 100) -> Sequence[Lease]:
        wish = Claim(route, {ERP: lanes}, order, depth=10, lease_us=60 * SECOND_US)
        return (await self.store.claim(wish)).leases

    async def settle(
        self, leases: Sequence[Lease], outcome: Outcome, order: Order = Order.BLOCK, doubt: int = 0
    ) -> None:
        told = [
            LaneReport(
                lease.lane,
                lease.token,
                [Attempt(record, Kind.SEND, outcome, 1000, 500) for record in lease.records],
                doubt=doubt,
                doubted_us=1 if doubt else 0,
            )
            for lease in leases
        ]
        rules = {ROUTE: RouteRule(order, RETRY), OTHER: RouteRule(order, RETRY)}
        await self.store.settle(Settlement(ERP, told, rules, RULE))

    async def deliver(self, route: str = ROUTE, order: Order = Order.BLOCK) -> None:
        while leases := await self.claim(route, order):
            await self.settle(leases, Accepted("ref"), order)

    async def rows(self, table: str, what: str = "*") -> list[tuple[object, ...]]:
        return await sql(self.url, f"select {what} from {table}")


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    it = Hub(database_url)
    await it.store.migrate()
    yield it
    await it.store.close()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that everything takes several."""
    monkeypatch.setattr(upkeep, "PIECE", 8)
    monkeypatch.setattr(ledger, "_PIECE", 3)
    monkeypatch.setattr(systems, "_PIECE", 2)
    monkeypatch.setattr(reports, "_STRETCH", 2)


# --- retention ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
async def test_purge_in_many_pieces_removes_one_routes_old_rows_and_says_how_far_it_is(hub: Hub) -> None:
    for route in (ROUTE, OTHER):
        await hub.stage(*((f"k{n}", n) for n in range(20)), *(("big", n) for n in range(30)), route=route)
        await hub.deliver(route)
    hub.move(100)
    told: list[int] = []
    assert await hub.store.purge(ROUTE, 50 * SECOND_US, told.append) == 121  # 50 records and attempts, 21 lanes
    assert told == sorted(told)
    assert told[-1] == 121
    assert len(told) > 5
    assert await hub.rows("lane", "count(*)") == [(21,)]
    assert {row[0] for row in await hub.rows("attempt", "distinct route")} == {OTHER}
    assert await hub.rows("record", "count(*)") == [(50,)]
    assert [(a.difference, a.faults) for a in await hub.store.audit([ROUTE])] == [(0, ()), (0, ())]


async def test_purge_keeps_the_version_that_shows_what_a_parked_one_was_passed_by(hub: Hub) -> None:
    """Else a replay of what was parked at intake would undo it, however long ago it was delivered."""
    await hub.store.stage(Batch(ROUTE, "crm", [], [Broken("k", b"{}", "mapping", "")]))
    for version in (1, 2):
        hub.move(1)
        await hub.stage(("k", version))
        await hub.deliver()
    hub.move(10_000)
    await hub.store.purge(ROUTE, 50 * SECOND_US)
    assert await hub.rows("record", "seq") == [(2,)]
    [parked] = await hub.store.parked(Selection())
    mapped = NewRecord("k", b"0")
    assert await hub.store.remap(parked.id, mapped, Order.SKIP, is_named=False) is Remapped.PASSED
    assert await hub.store.remap(parked.id, mapped, Order.SKIP, is_named=True) is Remapped.STAGED
    assert await hub.store.remap(parked.id, mapped, Order.SKIP, is_named=True) is Remapped.GONE


@pytest.mark.usefixtures("small_pieces")
async def test_purge_of_a_lane_that_lives_on_takes_its_settled_records_only(hub: Hub) -> None:
    await hub.stage(*(("busy", n) for n in range(20)))
    await hub.deliver()
    hub.move(100)
    await hub.stage(("busy", "new"))
    await hub.store.purge(ROUTE, 50 * SECOND_US)
    assert await hub.rows("record", "seq") == [(21,)]
    assert await hub.rows("attempt") == []
    [lease] = await hub.claim()
    assert [r.payload for r in lease.records] == [b'"new"']


async def test_record_that_its_source_still_lists_after_the_retention_is_not_new(hub: Hub) -> None:
    """Each day it is listed, and what was not listed since yesterday would go."""
    await hub.stage(("listed", 1), ("gone", 1))
    await hub.deliver()
    for _ in range(5):
        hub.move(86_400)
        await hub.stage(("listed", 1))
        await hub.store.purge(ROUTE, 2 * 86_400 * SECOND_US)
    assert await hub.claim() == []
    assert await hub.rows("lane", "key") == [("listed",)]
    assert await hub.rows("record", "count(*)") == [(0,)], "what was delivered long ago goes all the same"


async def test_lane_that_is_listed_again_and_again_is_marked_once_a_day(hub: Hub) -> None:
    await hub.stage(("k", 1))
    await hub.deliver()
    [(due_us,)] = await hub.rows("lane", "due_us")
    for _ in range(20):
        hub.move(3_600)
        await hub.stage(("k", 1))
    assert await hub.rows("lane", "due_us") == [(due_us,)]
    hub.move(5 * 3_600)
    await hub.stage(("k", 1))
    assert await hub.rows("lane", "due_us") > [(due_us,)]


async def test_lane_that_waits_keeps_its_turn_when_it_is_listed_again(hub: Hub) -> None:
    await hub.stage(("k", 1))
    before = await hub.rows("lane", "due_us, state")
    hub.move(3 * 86_400)
    await hub.stage(("k", 1))
    assert await hub.rows("lane", "due_us, state") == before


async def test_purge_counts_from_the_delivery_not_from_the_staging(hub: Hub) -> None:
    await hub.stage(("k", 1), ("k", 2))
    hub.move(100)
    await hub.deliver()
    await hub.stage(("k", 3))
    assert await hub.store.purge(ROUTE, 50 * SECOND_US) == 0
    hub.move(100)
    assert await hub.store.purge(ROUTE, 50 * SECOND_US) == 4
    assert await hub.rows("record", "seq") == [(3,)]


@pytest.mark.usefixtures("small_pieces")
async def test_purge_takes_superseded_records_with_the_one_that_was_delivered(hub: Hub) -> None:
    for n in range(30):
        await hub.stage(("k", n))
    await hub.deliver(order=Order.LATEST)
    hub.move(100)
    await hub.stage(("k", "new"))
    await hub.store.purge(ROUTE, 50 * SECOND_US)
    assert await hub.rows("record", "seq") == [(31,)]
    [audit] = await hub.store.audit([ROUTE])
    assert (audit.superseded, audit.delivered, audit.waiting, audit.faults) == (29, 1, 1, ())


async def test_purge_keeps_what_is_parked_or_in_doubt_with_its_attempts(hub: Hub) -> None:
    await hub.stage(("parked", 1))
    await hub.settle(await hub.claim(), Rejected("422", "no"))
    await hub.stage(("doubt", 1))
    await hub.settle(await hub.claim(), Unknown("reset"), doubt=1)
    hub.move(100)
    assert await hub.store.purge(ROUTE, 50 * SECOND_US) == 0
    assert len(await hub.rows("record")) == len(await hub.rows("attempt")) == 2


@pytest.mark.usefixtures("small_pieces")
async def test_tidy_removes_old_announced_events_and_keeps_the_others(hub: Hub) -> None:
    await hub.stage(*((f"k{n}", n) for n in range(20)))
    await hub.settle(await hub.claim(), Rejected("422", "no"))
    found = await hub.store.unannounced()
    await hub.store.mark_announced([event.id for event in found][:15])
    hub.move(100)
    assert await hub.store.tidy(50 * SECOND_US) >= 15
    assert len(await hub.store.unannounced()) == len(await hub.rows("event")) == len(found) - 15


@pytest.mark.usefixtures("small_pieces")
async def test_compact_in_pieces_leaves_every_sum_as_it_was(hub: Hub) -> None:
    for n in range(10):
        await hub.stage((f"k{n}", n), route=ROUTE if n % 2 else OTHER)
    sums = "route, sum(staged), sum(delivered)"
    before = await sql(hub.url, f"select {sums} from ledger group by route order by route")
    hub.move(10_000)
    assert await hub.store.compact() > 0
    assert await sql(hub.url, f"select {sums} from ledger group by route order by route") == before


# --- the audit and the status ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
async def test_audit_in_stretches_sees_each_lane_once_and_every_route(hub: Hub) -> None:
    await hub.stage(*((f"k{n}", n) for n in range(5)))
    await hub.stage(("k", 1), ("k", 2), route=OTHER)
    told: list[int] = []
    audits = await hub.store.audit([ROUTE], told.append)
    assert told == [2, 4, 6]
    assert [(a.route, a.accepted, a.waiting, a.faults) for a in audits] == [(ROUTE, 5, 5, ()), (OTHER, 2, 2, ())]
    await sql(hub.url, "delete from record where key = 'k3'")
    assert ["waiting records" in fault for fault in (await hub.store.audit([ROUTE]))[0].faults] == [True]


async def test_status_tells_the_oldest_that_waits(hub: Hub) -> None:
    await hub.stage(("first", 1))
    hub.move(100)
    await hub.stage(("second", 1))
    [first] = await sql(hub.url, "select staged_us from record where key = 'first'")
    [status] = await hub.store.report(lambda tx: reports.status(tx, [ROUTE]))
    assert (status.waiting, status.oldest_us) == (2, first[0])


# --- the outlook ----------------------------------------------------------------------------------------------


async def test_outlook_with_nothing_waiting_has_nothing_to_say(hub: Hub) -> None:
    outlook = await hub.store.outlook([ROUTE], [ERP])
    assert (outlook.due_us, outlook.is_pinned) == (None, False)


async def test_outlook_of_lanes_under_lease_is_when_the_lease_ends(hub: Hub) -> None:
    await hub.stage(("k", 1))
    await hub.claim()
    outlook = await hub.store.outlook([ROUTE], [ERP])
    assert outlook.due_us is not None
    assert 0 < outlook.due_us - outlook.now_us <= 60 * SECOND_US
    await hub.stage(("free", 1))
    outlook = await hub.store.outlook([ROUTE, OTHER], [ERP])
    assert outlook.due_us is not None
    assert outlook.due_us <= outlook.now_us


async def test_outlook_of_what_backed_off_is_when_it_is_due(hub: Hub) -> None:
    await hub.stage(("k", 1))
    await hub.settle(await hub.claim(), Unsent("refused"))
    outlook = await hub.store.outlook([ROUTE], [ERP])
    assert [(outlook.due_us,)] == await hub.rows("lane", "due_us")


async def test_outlook_of_lanes_in_doubt_depends_on_their_system(hub: Hub) -> None:
    await hub.stage(("k", 1))
    await hub.settle(await hub.claim(), Unknown("reset"), doubt=1)
    outlook = await hub.store.outlook([ROUTE], [])
    assert (outlook.due_us, outlook.is_pinned) == (None, True)
    outlook = await hub.store.outlook([ROUTE], [ERP])
    assert outlook.due_us is not None
    assert not outlook.is_pinned


# --- what backed off --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
async def test_make_due_in_pieces_beside_stage_and_claim_leaves_nothing_backed_off(hub: Hub) -> None:
    await hub.stage(*((f"k{n}", n) for n in range(40)))
    await hub.settle(await hub.claim(), Unsent("refused"))
    assert await hub.claim() == []
    staging = (hub.stage(*((f"k{n}", f"again {turn}") for n in range(40))) for turn in range(5))
    await asyncio.gather(hub.store.make_due([ROUTE]), *staging)
    assert len(await hub.claim()) == 40


async def test_lane_table_on_postgresql_is_vacuumed_by_the_number_of_dead_rows(hub: Hub) -> None:
    await hub.store.database.vacuum("lane")
    if hub.url.startswith("sqlite"):
        return  # it reuses room by itself
    [(options,)] = await sql(hub.url, "select reloptions from pg_class where relname = 'lane'")
    assert {"fillfactor=60", "autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=25000"} <= set(options)  # type: ignore[call-overload]
