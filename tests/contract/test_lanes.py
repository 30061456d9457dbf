"""What a route's order does to the lanes, in the tables: `latest` gives way as it is staged, `none` gives each record a
lane of its own, and a claim takes more of a lane where few wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import orjson
import pytest

from tests.databases import sql
from tideover.errors import Refused
from tideover.model import SECOND_US, Accepted, Lease, NewRecord, Order, Outcome, Rejected, Staged, Unknown, lane_id
from tideover.policy.breaker import BreakerRule, State
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging import leases, reports
from tideover.staging.database import open_database
from tideover.staging.parking import Parked, Selection
from tideover.staging.settle import Settled, Settlement
from tideover.staging.stage import Batch
from tideover.staging.store import Store
from tideover.staging.wishes import Claim

ROUTE = "orders"
BREAKER = BreakerRule(failures=3, rejections=3, open_for_s=5, max_open_s=60, successes=2)
RETRY = RetryRule(max_attempts=3, base_s=1, cap_s=60, max_age_s=None)


@dataclass
class Lanes:
    """One route to one system, whose order is set by each test."""

    store: Store
    order: Order = Order.BLOCK
    ahead_us: int = 0

    async def stage(self, *pairs: tuple[str, object]) -> Staged:
        records = [NewRecord(key, orjson.dumps(body)) for key, body in pairs]
        return await self.store.stage(Batch(ROUTE, "crm", records, order=self.order))

    async def claim(self, lanes: int = 100, depth: int = 10, longest: int = 0) -> list[Lease]:
        wish = Claim(ROUTE, {"erp": lanes}, self.order, depth, 60 * SECOND_US, longest=longest)
        return list((await self.store.claim(wish)).leases)

    async def settle(self, *said: LaneReport) -> Settled:
        return await self.store.settle(Settlement("erp", said, {ROUTE: RouteRule(self.order, RETRY)}, BREAKER))

    async def deliver(self) -> list[object]:
        """Everything that can be claimed; what it was, in the order of the leases."""
        leases = await self.claim()
        await self.settle(*(report(lease, *[Accepted()] * len(lease.records)) for lease in leases))
        return contents(leases)

    async def audit(self) -> reports.RouteAudit:
        [found] = await self.store.audit([ROUTE])
        assert (found.faults, found.difference) == ((), 0)
        return found

    async def trace(self, key: str) -> list[reports.TracedRecord]:
        return await self.store.report(lambda tx: reports.trace(tx, [ROUTE], key))

    async def states(self, key: str) -> list[tuple[int, str]]:
        """Each version of a key, and where it stands."""
        return [(traced.seq, traced.state) for traced in await self.trace(key)]

    async def parked(self) -> list[Parked]:
        return await self.store.parked(Selection(route=ROUTE))


def report(lease: Lease, *outcomes: Outcome, doubt: int = 0) -> LaneReport:
    attempts = [Attempt(r, Kind.SEND, o, 1000, 500) for r, o in zip(lease.records, outcomes, strict=False)]
    return LaneReport(lease.lane, lease.token, attempts, doubt=doubt, doubted_us=1 if doubt else 0)


def contents(leases: list[Lease]) -> list[object]:
    return [orjson.loads(record.payload) for lease in leases for record in lease.records]


@pytest.fixture
async def lanes(database_url: str) -> AsyncIterator[Lanes]:
    made: list[Lanes] = []
    store = Store(open_database(database_url, lambda now_us: now_us + made[0].ahead_us), spread=lambda: 0.5)
    made.append(Lanes(store))
    await store.migrate()
    yield made[0]
    await store.close()


# --- latest -------------------------------------------------------------------------------------------------


async def test_latest_supersedes_what_waits_when_a_newer_version_is_staged(lanes: Lanes) -> None:
    lanes.order = Order.LATEST
    await lanes.stage(("a", 1), ("b", 1))
    await lanes.stage(("a", 2))
    audit = await lanes.audit()
    assert (audit.accepted, audit.superseded, audit.waiting) == (3, 1, 2)
    assert await lanes.states("a") == [(1, "superseded"), (2, "waiting")]
    assert sorted(map(str, await lanes.deliver())) == ["1", "2"]
    assert (await lanes.audit()).waiting == 0


async def test_latest_supersedes_within_one_batch(lanes: Lanes) -> None:
    lanes.order = Order.LATEST
    assert (await lanes.stage(("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 3))).unchanged == 1
    assert (await lanes.audit()).superseded == 2
    assert await lanes.states("a") == [(1, "superseded"), (2, "superseded"), (3, "waiting")]


async def test_latest_that_comes_back_to_an_older_content_sends_that(lanes: Lanes) -> None:
    lanes.order = Order.LATEST
    await lanes.stage(("a", "A"), ("a", "B"), ("a", "A"))
    assert await lanes.deliver() == ["A"]
    assert (await lanes.audit()).superseded == 2


async def test_latest_keeps_what_is_in_flight_and_lets_the_rest_give_way_at_the_next_claim(lanes: Lanes) -> None:
    lanes.order = Order.LATEST
    await lanes.stage(("a", 1))
    [lease] = await lanes.claim()
    await lanes.stage(("a", 2))
    await lanes.stage(("a", 3))
    assert (await lanes.audit()).superseded == 0
    assert (await lanes.settle(report(lease, Accepted()))).delivered == 1
    assert await lanes.deliver() == [3]
    audit = await lanes.audit()
    assert (audit.delivered, audit.superseded, audit.waiting) == (2, 1, 0)
    assert await lanes.states("a") == [(1, "delivered"), (2, "superseded"), (3, "delivered")]


async def test_latest_keeps_what_is_in_doubt(lanes: Lanes) -> None:
    lanes.order = Order.LATEST
    await lanes.stage(("a", 1))
    [lease] = await lanes.claim()
    await lanes.settle(report(lease, Unknown("server_error"), doubt=1))
    await lanes.stage(("a", 2), ("a", 3))
    assert await lanes.states("a") == [(1, "in doubt"), (2, "waiting"), (3, "waiting")]
    assert (await lanes.audit()).superseded == 0


async def test_latest_keeps_a_lane_under_a_lease_that_ran_out(lanes: Lanes) -> None:
    lanes.order = Order.LATEST
    await lanes.stage(("a", 1))
    await lanes.claim()
    lanes.ahead_us = 3_600 * SECOND_US
    await lanes.stage(("a", 2))
    [again] = await lanes.claim()
    assert [(orjson.loads(r.payload), r.in_doubt) for r in again.records] == [(1, True)]


async def test_latest_leaves_a_lane_alone_that_a_parked_record_holds(lanes: Lanes) -> None:
    await lanes.stage(("a", 1))
    [lease] = await lanes.claim()
    await lanes.settle(report(lease, Rejected("INVALID")))
    lanes.order = Order.LATEST  # the route's order was changed meanwhile
    await lanes.stage(("a", 2), ("a", 3))
    assert (await lanes.audit()).superseded == 0
    [parked] = await lanes.parked()
    assert await lanes.store.release([parked.id]) == 1
    assert await lanes.deliver() == [3]
    audit = await lanes.audit()
    assert (audit.parked, audit.superseded, audit.delivered) == (1, 1, 1)


async def test_latest_gives_a_new_version_all_of_its_attempts(lanes: Lanes) -> None:
    lanes.order = Order.LATEST
    await lanes.stage(("a", 1))
    for _ in range(2):
        [lease] = await lanes.claim()
        await lanes.settle(report(lease, Unknown("server_error")))
        lanes.ahead_us += 1_000 * SECOND_US
    await lanes.stage(("a", 2))
    [lease] = await lanes.claim()
    assert lease.attempts == 0
    await lanes.settle(report(lease, Unknown("server_error")))
    assert await lanes.parked() == []


# --- none ---------------------------------------------------------------------------------------------------


async def test_none_lets_all_records_of_a_key_go_side_by_side(lanes: Lanes) -> None:
    lanes.order = Order.NONE
    await lanes.stage(*(("a", n) for n in range(50)))
    leases = await lanes.claim()
    assert len(leases) == len({lease.lane for lease in leases}) == 50
    assert contents(leases) == list(range(50))
    await lanes.settle(*(report(lease, Accepted()) for lease in leases))
    audit = await lanes.audit()
    assert (audit.accepted, audit.delivered, audit.waiting) == (50, 50, 0)


async def test_none_delays_no_record_for_one_that_fails(lanes: Lanes) -> None:
    lanes.order = Order.NONE
    await lanes.stage(("a", 1), ("a", 2), ("a", 3))
    first, second, third = await lanes.claim()
    await lanes.settle(
        report(first, Unknown("server_error"), doubt=1), report(second, Rejected("INVALID")), report(third, Accepted())
    )
    await lanes.stage(("a", 4))
    assert await lanes.deliver() == [4]
    assert await lanes.states("a") == [(1, "in doubt"), (2, "parked"), (3, "delivered"), (4, "delivered")]
    audit = await lanes.audit()
    assert (audit.delivered, audit.parked, audit.waiting) == (2, 1, 1)


async def test_none_stages_what_differs_from_the_newest_only(lanes: Lanes) -> None:
    lanes.order = Order.NONE
    assert (await lanes.stage(("a", "A"), ("a", "A"), ("a", "B"))).unchanged == 1
    assert await lanes.deliver() == ["A", "B"]
    assert (await lanes.stage(("a", "B"))).unchanged == 1
    assert (await lanes.stage(("a", "A"))).staged == 1
    assert (await lanes.audit()).accepted == 3
    ids = {traced.record for traced in await lanes.trace("a")}
    assert len(ids) == 3


async def test_none_knows_the_newest_content_as_long_as_a_record_waits_and_forgets_it_with_the_last(
    lanes: Lanes,
) -> None:
    lanes.order = Order.NONE
    await lanes.stage(("a", 1), ("a", 2))
    first, second = await lanes.claim()
    await lanes.settle(report(first, Accepted()), report(second, Unknown("server_error"), doubt=1))
    for _ in range(2):
        lanes.ahead_us += 10_000 * SECOND_US
        await lanes.store.purge(ROUTE, 10 * SECOND_US)
    assert (await lanes.stage(("a", 2))).unchanged == 1
    assert [state for _, state in await lanes.states("a")] == ["in doubt"]
    await lanes.deliver()
    for _ in range(2):
        lanes.ahead_us += 10_000 * SECOND_US
        await lanes.store.purge(ROUTE, 10 * SECOND_US)
    assert await lanes.trace("a") == []
    assert (await lanes.stage(("a", 2))).staged == 1
    await lanes.audit()


async def test_none_leaves_no_lane_behind_once_all_is_past_retention(lanes: Lanes, database_url: str) -> None:
    lanes.order = Order.NONE
    await lanes.stage(*((key, n) for key in "ab" for n in range(20)))
    await lanes.deliver()
    for _ in range(2):
        lanes.ahead_us += 10_000 * SECOND_US
        await lanes.store.purge(ROUTE, 10 * SECOND_US)
    assert await sql(database_url, "select count(*) from lane") == [(0,)]
    assert await sql(database_url, "select count(*) from record") == [(0,)]
    assert (await lanes.audit()).delivered == 40


async def test_none_replays_a_parked_record_under_its_id(lanes: Lanes) -> None:
    lanes.order = Order.NONE
    await lanes.stage(("a", 1), ("a", 2))
    first, second = await lanes.claim()
    await lanes.settle(report(first, Rejected("INVALID")), report(second, Accepted()))
    [parked] = await lanes.parked()
    assert await lanes.store.replay([parked.id]) == 1
    [again] = await lanes.claim()
    assert [r.id for r in again.records] == [r.id for r in first.records]
    await lanes.settle(report(again, Accepted()))
    audit = await lanes.audit()
    assert (audit.delivered, audit.parked) == (2, 0)


@pytest.mark.parametrize("mended", [1, 9])
async def test_none_takes_a_correction_also_one_that_changes_nothing(lanes: Lanes, mended: int) -> None:
    lanes.order = Order.NONE
    await lanes.stage(("a", 1))
    [lease] = await lanes.claim()
    await lanes.settle(report(lease, Rejected("INVALID")))
    [parked] = await lanes.parked()
    corrected = NewRecord("a", orjson.dumps(mended))
    assert await lanes.store.restage(parked.id, corrected, lanes.order)
    assert await lanes.deliver() == [mended]
    assert [traced.parent for traced in await lanes.trace("a") if traced.state == "delivered"] == [parked.record]
    audit = await lanes.audit()
    assert (audit.accepted, audit.delivered, audit.parked) == (1, 1, 0)


async def test_none_counts_rejections_of_one_key_once_for_the_breaker(lanes: Lanes) -> None:
    lanes.order = Order.NONE
    await lanes.stage(*(("a", n) for n in range(6)))
    leases = await lanes.claim()
    settled = await lanes.settle(*(report(lease, Rejected("INVALID")) for lease in leases))
    assert (settled.parked, settled.gate.state) == (6, State.CLOSED)
    await lanes.stage(*((key, 1) for key in "bcd"))
    leases = await lanes.claim()
    settled = await lanes.settle(*(report(lease, Rejected("INVALID")) for lease in leases))
    assert settled.gate.state is State.OPEN
    await lanes.audit()


async def test_none_puts_what_comes_behind_what_waits_from_before(lanes: Lanes) -> None:
    lanes.order = Order.SKIP
    await lanes.stage(("a", 1), ("a", 2))
    lanes.order = Order.NONE  # the route's order was changed
    await lanes.stage(("a", 3))
    [lease] = await lanes.claim()
    assert contents([lease]) == [1, 2, 3]
    await lanes.settle(report(lease, *[Accepted()] * 3))
    await lanes.stage(("a", 3), ("a", 4), ("a", 5))
    leases = await lanes.claim()
    assert [len(each.records) for each in leases] == [1, 1]
    assert contents(leases) == [4, 5]
    assert (await lanes.audit()).waiting == 2


@pytest.mark.parametrize("order", [Order.BLOCK, Order.SKIP, Order.LATEST])
async def test_order_after_none_passes_nothing_that_waits_and_goes_on_in_the_keys_lane(
    lanes: Lanes, order: Order
) -> None:
    lanes.order = Order.NONE
    await lanes.stage(("a", 1), ("a", 2), ("b", 1))
    lanes.order = order  # the route's order was changed
    assert (await lanes.stage(("a", 2), ("c", 1))).unchanged == 1
    leases = {str(contents([lease])[0]): lease for lease in await lanes.claim() if lease.records[0].key == "a"}
    for outcome in (Accepted(), Unknown("server_error")):  # while the second is under a lease, and in doubt
        with pytest.raises(Refused, match=f"route {ROUTE}"):
            await lanes.stage(("b", 2), ("a", 3))
        lease = leases.pop(min(leases))
        await lanes.settle(report(lease, outcome, doubt=int(isinstance(outcome, Unknown))))
    with pytest.raises(Refused, match=f"route {ROUTE}"):
        await lanes.stage(("a", 3))
    lanes.ahead_us += 120 * SECOND_US
    await lanes.deliver()
    await lanes.stage(("a", 2), ("a", 3), ("a", 4), ("b", 2))
    leases = {lease.records[0].key: lease for lease in await lanes.claim()}
    assert contents([leases["a"]]) == ([4] if order is Order.LATEST else [3, 4])
    assert leases["a"].lane == lane_id(ROUTE, "a")
    await lanes.settle(*(report(lease, *[Accepted()] * len(lease.records)) for lease in leases.values()))
    audit = await lanes.audit()
    assert (audit.accepted, audit.waiting) == (7, 0)


async def test_order_after_none_is_told_by_what_waits_of_it(lanes: Lanes) -> None:
    async def waiting() -> dict[str, int]:
        return await lanes.store.report(lambda tx: reports.waiting_side_by_side(tx, [ROUTE, "another"]))

    await lanes.stage(("b", 1))
    assert await waiting() == {}
    lanes.order = Order.NONE
    await lanes.stage(("a", 1), ("a", 2))
    assert await waiting() == {ROUTE: 2}
    await lanes.deliver()
    assert await waiting() == {}


# --- long runs ----------------------------------------------------------------------------------------------


async def test_claim_takes_more_of_a_lane_where_there_is_room_for_more_lanes(lanes: Lanes) -> None:
    await lanes.stage(*(("a", n) for n in range(300)))
    [lease] = await lanes.claim(lanes=20, longest=100)
    assert contents([lease]) == list(range(100))
    await lanes.settle(report(lease, *[Accepted()] * 100))
    [lease] = await lanes.claim(lanes=20, longest=100)
    assert contents([lease]) == list(range(100, 200))


async def test_claim_takes_no_more_records_in_all_than_with_many_lanes(lanes: Lanes) -> None:
    await lanes.stage(*((f"k{lane}", n) for lane in range(30) for n in range(40)))
    assert {len(lease.records) for lease in await lanes.claim(lanes=20, longest=100)} == {10}
    rest = await lanes.claim(lanes=20, longest=100)
    assert [len(lease.records) for lease in rest] == [20] * 10


async def test_whole_run_is_in_doubt_when_its_worker_vanishes_and_nothing_more(lanes: Lanes) -> None:
    await lanes.stage(*(("a", n) for n in range(80)))
    await lanes.claim(lanes=20, longest=50)
    lanes.ahead_us = 3_600 * SECOND_US
    [lease] = await lanes.claim(lanes=20, longest=100)
    assert [record.in_doubt for record in lease.records] == [True] * 50


# --- two workers --------------------------------------------------------------------------------------------


class SlowClaim:
    """Holds claims for a moment on PostgreSQL between what their statement sees, which is as of its beginning, and the
    locks that it takes."""

    def __init__(self, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_slow = lanes.store.database.dialect.name == "postgresql"
        self._free = leases.free_lanes
        monkeypatch.setattr(leases, "free_lanes", self.free)

    def free(self, ready: Sequence[str]) -> tuple[str, dict[str, str]]:
        condition, bound = self._free(ready)
        if not self._is_slow:
            return condition, bound
        self._is_slow = False  # only the first one
        return f"{condition} and (select count(*) from pg_sleep(1)) = 1", bound

    @staticmethod
    async def begun(database_url: str) -> None:
        """Wait until the slow statement runs, or was no slow one."""
        if database_url.startswith("postgresql"):
            asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            while await sql(database_url, asleep) == [(0,)]:
                await asyncio.sleep(0.01)


async def test_claim_beside_another_workers_takes_the_lane_up_where_that_one_left_it(
    lanes: Lanes, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lanes.stage(*(("a", n) for n in range(20)))
    slow = SlowClaim(lanes, monkeypatch)
    claiming = asyncio.create_task(lanes.claim(depth=10))
    await slow.begun(database_url)
    sent = await lanes.deliver()
    late = await claiming
    await lanes.settle(*(report(lease, *[Accepted()] * len(lease.records)) for lease in late))
    assert sorted(map(str, sent + contents(late) + await lanes.deliver())) == sorted(map(str, range(20)))
    assert (await lanes.audit()).delivered == 20


async def test_claim_beside_a_stage_that_supersedes_takes_the_newest_version(
    lanes: Lanes, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the older one would be sent, and the newest counted in its place."""
    lanes.order = Order.LATEST
    await lanes.stage(("a", 1))
    slow = SlowClaim(lanes, monkeypatch)
    claiming = asyncio.create_task(lanes.claim())
    await slow.begun(database_url)
    await lanes.stage(("a", 2))
    late = await claiming
    await lanes.settle(*(report(lease, *[Accepted()] * len(lease.records)) for lease in late))
    sent = contents(late) + await lanes.deliver()
    assert sent[-1] == 2
    assert (await lanes.audit()).waiting == 0


# --- where a claim begins to look ---------------------------------------------------------------------------


async def test_lane_that_is_given_back_goes_to_the_next_claim_that_has_room_for_all(lanes: Lanes) -> None:
    await lanes.stage(("a", 1))
    await lanes.stage(("b", 2))
    await lanes.stage(("c", 3))
    first, second = [(await lanes.claim(lanes=1))[0] for _ in range(2)]
    assert contents([first, second]) == [1, 2]
    await lanes.settle(report(first))
    assert contents(await lanes.claim(lanes=3)) == [1, 3]


async def test_lane_that_is_given_back_waits_a_second_at_most_while_claims_are_full(lanes: Lanes) -> None:
    for number, key in enumerate("abcd"):
        await lanes.stage((key, number))
    first, _ = [(await lanes.claim(lanes=1))[0] for _ in range(2)]
    await lanes.settle(report(first))
    lanes.ahead_us = SECOND_US
    assert contents(await lanes.claim(lanes=1)) == [0]


async def test_trace_of_a_record_in_a_lane_that_began_anew_is_not_that_of_a_released_one(lanes: Lanes) -> None:
    """A released record stays on the books; its lane goes with the retention, and begins at 1 when the key is back."""
    lanes.order = Order.SKIP
    await lanes.stage(("a", 1))
    [lease] = await lanes.claim()
    await lanes.settle(report(lease, Rejected("INVALID")))
    [parked] = await lanes.parked()
    await lanes.store.release([parked.id])
    lanes.ahead_us += 10_000 * SECOND_US
    await lanes.store.purge(ROUTE, 10 * SECOND_US)
    await lanes.stage(("a", 2))
    assert await lanes.states("a") == [(1, "waiting")]
