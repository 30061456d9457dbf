"""The store's contract for what limits a system: quotas shared by all workers, who goes first while they are short, the
pauses of a system that throttles, and the cap on calls under way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import orjson
import pytest

from tests.databases import sql
from tideover.model import (
    CREDENTIALS,
    SECOND_US,
    Accepted,
    Lease,
    Missing,
    NewRecord,
    Order,
    Outcome,
    Throttled,
    Unsent,
)
from tideover.policy.breaker import BreakerRule, Result
from tideover.policy.failover import GroupRule
from tideover.policy.quota import LIVE_S, BudgetRule, LimitRule, RateRule
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging import quotas, systems
from tideover.staging.claiming import Claimed
from tideover.staging.database import open_database
from tideover.staging.leases import SCAN
from tideover.staging.settle import Settled, Settlement
from tideover.staging.shares import Ask
from tideover.staging.stage import Batch
from tideover.staging.store import Store
from tideover.staging.wishes import Claim, GroupWish

ERP, ROUTE = "erp", "orders"
BREAKER = BreakerRule(failures=3, rejections=3, open_for_s=5, max_open_s=60, successes=1)
NOON_US = 1_800_014_400 * SECOND_US  # 2027-01-15 12:00:00 UTC
HOUR_S = 3600.0


class Clock:
    """The database's clock, which moves only when told."""

    def __init__(self) -> None:
        self.now_us = NOON_US

    def __call__(self, _: int) -> int:
        return self.now_us

    def move(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)


class Hub:
    """A store with one route to one system, or to a group of two."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store, self.clock = store, clock
        self.rule = LimitRule()
        self.group: GroupWish | None = None

    async def stage(self, prefix: str, count: int, *, priority: int = 3, each: int = 1) -> None:
        records = [
            NewRecord(f"{prefix}{n}", orjson.dumps([prefix, version]), priority)
            for version in range(each)
            for n in range(count)
        ]
        await self.store.stage(Batch(ROUTE, "crm", records))

    async def claimed(self, room: int = 16, depth: int = 10) -> Claimed:
        rooms = {ERP: room} if self.group is None else dict.fromkeys(self.group.rule.providers, room)
        limits = {ERP: self.rule} if self.rule.names else {}
        wish = Claim(ROUTE, rooms, Order.BLOCK, depth, 60 * SECOND_US, limits=limits, group=self.group)
        return await self.store.claim(wish)

    async def claim(self, room: int = 16, depth: int = 10) -> list[Lease]:
        return list((await self.claimed(room, depth)).leases)

    async def settle(self, *reports: LaneReport, pause_s: float = 0.0) -> Settled:
        rules = {ROUTE: RouteRule(Order.BLOCK, RetryRule(9, 1, 60, None))}
        return await self.store.settle(
            Settlement(ERP, reports, rules, BREAKER, limits=self.rule if self.rule.names else None, pause_s=pause_s)
        )

    async def deliver(self, leases: Sequence[Lease]) -> None:
        await self.settle(*(said(lease, *[Accepted()] * len(lease.records)) for lease in leases))

    async def left(self) -> int:
        """How many records may still go now."""
        return sum(len(lease.records) for lease in await self.claim(1000))

    async def restore(self) -> None:
        """The system was out, and is back."""
        await self.store.tell(ERP, Result("", 0, Unsent(CREDENTIALS)), BREAKER)
        self.clock.move(10)
        slot = await self.store.take_probe(ERP, 10)
        assert slot is not None
        await self.store.end_probe(ERP, slot, Result("", 0, Accepted(), is_probe=True), BREAKER)
        await self.store.hasten(ERP, [ROUTE])
        self.clock.move(0.1)


def said(lease: Lease, *outcomes: Outcome | Missing, kind: Kind = Kind.SEND) -> LaneReport:
    attempts = [
        Attempt(record, kind, outcome, 1000, 500) for record, outcome in zip(lease.records, outcomes, strict=False)
    ]
    return LaneReport(lease.lane, lease.token, attempts, counted=lease.counted, given_us=lease.given_us)


def kinds(leases: Sequence[Lease]) -> Counter[str]:
    """How many records of each prefix."""
    return Counter(record.key.rstrip("0123456789") for lease in leases for record in lease.records)


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    clock = Clock()
    store = Store(open_database(database_url, clock))
    await store.migrate()
    yield Hub(store, clock)
    await store.close()


# --- quotas -------------------------------------------------------------------------------------------------


async def test_several_rates_are_all_kept_by_two_claimers_in_any_window(hub: Hub) -> None:
    hub.rule = LimitRule((RateRule(10, 1), RateRule(100, 20)))
    await hub.stage("k", 500)
    given: list[tuple[int, int]] = []
    for _ in range(250):
        for leases in await asyncio.gather(hub.claim(8), hub.claim(8)):
            given.append((hub.clock.now_us, sum(len(lease.records) for lease in leases)))
            await hub.deliver(leases)
        hub.clock.move(0.17)
    for rate in hub.rule.rates:
        for begin, _ in given:
            assert sum(n for at, n in given if begin <= at < begin + rate.window_us) <= rate.calls
    assert sum(n for _, n in given) >= 0.9 * 100 * 250 * 0.17 / 20


async def test_rate_that_is_changed_begins_unused(hub: Hub) -> None:
    hub.rule = LimitRule((RateRule(2, HOUR_S),))
    await hub.stage("k", 10)
    assert [await hub.left(), await hub.left()] == [1, 0]
    hub.rule = LimitRule((RateRule(32, HOUR_S),))
    assert await hub.left() == 4


@pytest.mark.parametrize(("rule", "wait_s"), [(BudgetRule(30), 12 * HOUR_S), (BudgetRule(30, "month"), 396 * HOUR_S)])
async def test_budget_is_shared_and_begins_anew_at_its_reset(hub: Hub, rule: BudgetRule, wait_s: float) -> None:
    hub.rule = LimitRule(budget=rule)
    await hub.stage("k", 100)
    for leases in await asyncio.gather(*(hub.claim(20) for _ in range(4))):
        await hub.deliver(leases)
    claimed = await hub.claimed()
    assert (list(claimed.leases), claimed.quota_wait_s) == ([], wait_s)
    assert (await hub.store.audit([ROUTE]))[0].delivered == 30
    hub.clock.move(wait_s - 1)
    assert await hub.left() == 0
    hub.clock.move(1)
    assert await hub.left() == 30


async def test_used_up_budget_is_a_pause_with_its_reason_and_no_breaker(hub: Hub) -> None:
    hub.rule = LimitRule(budget=BudgetRule(3))
    await hub.stage("k", 9)
    await hub.deliver(await hub.claim())
    gate = (await hub.claimed()).used_up[ERP]
    assert (gate.is_paused, gate.lets_through, gate.wait_s) == (True, False, 12 * HOUR_S)
    assert gate.pause == "its quota of the day is used up until 00:00 UTC"
    assert (await hub.store.gate(ERP)).lets_through
    used_up = await hub.store.report(lambda tx: quotas.used_up(tx, {ERP: hub.rule, "crm": LimitRule()}))
    assert list(used_up) == [ERP]


async def test_budget_gets_back_what_was_claimed_and_not_sent(hub: Hub) -> None:
    hub.rule = LimitRule(budget=BudgetRule(20))
    await hub.stage("k", 4, each=5)
    leases = await hub.claim(4)
    assert await hub.left() == 0
    await hub.settle(*(said(lease, Accepted(), Throttled(0.0)) for lease in leases))
    assert await hub.left() == 12


async def test_budget_does_not_get_back_what_was_taken_before_its_reset(hub: Hub) -> None:
    """It was taken from yesterday's: today's would let through so many more than the system does."""
    hub.rule = LimitRule(budget=BudgetRule(20))
    await hub.stage("k", 40)
    hub.clock.move(12 * HOUR_S - 2)
    held = await hub.claim(10)
    hub.clock.move(4)
    await hub.deliver(await hub.claim(15))
    await hub.settle(*map(said, held))
    assert await hub.left() == 5


async def test_budget_gives_back_once_what_is_settled_twice(hub: Hub) -> None:
    hub.rule = LimitRule(budget=BudgetRule(10))
    await hub.stage("k", 2, each=5)
    first, second = await hub.claim(2)
    for _ in range(2):
        await hub.settle(said(first), said(second, *[Accepted()] * 5))
    assert await hub.left() == 5


async def test_calls_that_no_claim_knew_of_count_afterwards(hub: Hub) -> None:
    hub.rule = LimitRule((RateRule(32, 60),), BudgetRule(10))
    await hub.stage("k", 20)
    await hub.store.spend(ERP, hub.rule, 2)
    [lease] = await hub.claim(1)
    asked = said(lease, Missing(), kind=Kind.LOOK_UP)
    sent = said(lease, Accepted())
    both = LaneReport(lease.lane, lease.token, [*asked.attempts, *sent.attempts], counted=lease.counted)
    await hub.settle(both)
    assert await hub.left() == 0, "the burst of four is used: two calls, a look-up and a record"
    hub.clock.move(60)
    assert await hub.left() == 4
    hub.clock.move(60)
    assert await hub.left() == 2, "of the ten of the day: four calls, four records, and these"


async def test_group_gives_to_a_backup_what_the_used_up_budget_of_the_first_cannot_have(hub: Hub) -> None:
    hub.group = GroupWish("erps", GroupRule((ERP, "spare")))
    hub.rule = LimitRule(budget=BudgetRule(3))
    await hub.stage("k", 8)
    first, second = await hub.claimed(), await hub.claimed()
    assert [lease.system for lease in first.leases] == [ERP] * 3
    assert [(lease.system, lease.is_backup) for lease in second.leases] == [("spare", True)] * 5
    assert second.used_up[ERP].is_paused


# --- live traffic before a backlog --------------------------------------------------------------------------


async def test_drain_gives_live_traffic_four_fifths_of_the_room_and_the_rest_to_the_backlog(hub: Hub) -> None:
    await hub.stage("old", 300)
    await hub.restore()
    await hub.stage("new", 300)
    given = Counter[str]()
    for _ in range(20):
        hub.clock.move(0.37)
        leases = await hub.claim(10)
        assert len(leases) == 10
        given += kinds(leases)
        await hub.deliver(leases)
    assert 140 <= given["new"] <= 180
    assert 20 <= given["old"] <= 60


@pytest.mark.parametrize("is_group", [False, True])
async def test_drain_under_a_short_rate_gives_each_its_share_also_one_at_a_time(hub: Hub, is_group: bool) -> None:
    hub.group = GroupWish("erps", GroupRule((ERP, "spare"))) if is_group else None
    hub.rule = LimitRule((RateRule(1, 1),))
    if is_group:
        await hub.store.force("spare", "open", "not there")
    await hub.stage("old", 200, each=3)
    await hub.restore()
    await hub.stage("new", 200)
    given = Counter[str]()
    for _ in range(100):
        hub.clock.move(1.05)
        leases = await hub.claim(16)
        given += kinds(leases)
        await hub.deliver(leases)
    assert given.total() == 100
    assert 70 <= given["new"] <= 90
    assert 10 <= given["old"] <= 30


@pytest.mark.parametrize("only", ["old", "new"])
async def test_drain_with_one_class_only_gives_it_all_the_room(hub: Hub, only: str) -> None:
    await hub.stage("old", 40 if only == "old" else 1)
    await hub.restore()
    if only == "new":
        await hub.stage("new", 40)
    leases = await hub.claim(20)
    assert len(leases) == 20
    assert kinds(leases)[only] >= 19


async def test_drain_keeps_priority_above_live_traffic(hub: Hub) -> None:
    await hub.stage("urgent", 30, priority=1)
    await hub.restore()
    await hub.stage("new", 30, priority=3)
    assert kinds(await hub.claim(20)) == {"urgent": 20}


async def test_rest_of_a_lane_of_the_backlog_does_not_pass_for_live_traffic(hub: Hub) -> None:
    """Else each lane that was begun would be among the live ones for as long as it lasts."""
    await hub.stage("old", 50, each=20)
    await hub.restore()
    given = Counter[str]()
    for n in range(30):
        await hub.stage(f"new-{chr(97 + n % 26)}-{n}-x", 4)
        leases = await hub.claim(10, depth=2)
        given += Counter({key[:3]: count for key, count in kinds(leases).items()})
        await hub.deliver(leases)
        hub.clock.move(0.37)
    assert given["new"] >= 110


async def test_short_rate_without_an_outage_lets_fresh_records_go_before_old_ones(hub: Hub) -> None:
    hub.rule = LimitRule((RateRule(80, 60),))
    await hub.stage("old", 500)
    hub.clock.move(LIVE_S + 1)
    await hub.stage("new", 500)
    hub.clock.move(1)
    given = kinds(await hub.claim(100))
    assert given.total() == 10
    assert given["new"] >= 7


async def test_claim_of_what_is_kept_for_live_traffic_does_not_go_through_the_backlog(hub: Hub) -> None:
    """It is long and gets nothing; and who went through it in vain rests, while live traffic waits."""
    hub.rule = LimitRule(budget=BudgetRule(200, reserve=1.0))
    await hub.stage("old", SCAN + 200)
    hub.clock.move(LIVE_S + 1)
    assert kinds(await hub.claim(200)) == {"old": 101}, "it is noon, and a minute: half of the day's"
    for n in range(3):
        await hub.stage(f"new-{n}-", 5)
        hub.clock.move(1)
        claimed = await hub.claimed(30)
        assert claimed.mark is None
        assert kinds(claimed.leases) == {f"new-{n}-": 5}


async def test_reserve_of_a_budget_is_not_for_the_backlog(hub: Hub) -> None:
    hub.clock.move(12 * HOUR_S)
    hub.rule = LimitRule(budget=BudgetRule(100, reserve=0.2))
    await hub.stage("old", 300)
    await hub.restore()
    for _ in range(5):
        await hub.deliver(await hub.claim(50))
    delivered = (await hub.store.audit([ROUTE]))[0].delivered
    assert 80 <= delivered <= 81, "a little less is kept with each second"
    await hub.stage("new", 50)
    assert kinds(await hub.claim(50)) == {"new": 100 - delivered}


# --- pauses -------------------------------------------------------------------------------------------------


async def test_throttle_without_a_word_of_how_long_grows_until_something_is_delivered(hub: Hub) -> None:
    await hub.stage("k", 4)
    waits = []
    for _ in range(3):
        leases = await hub.claim(2)
        settled = await hub.settle(*(said(lease, Throttled(30, is_asked=False)) for lease in leases))
        waits.append(settled.gate.wait_s)
        hub.clock.move(settled.gate.wait_s)
    assert waits == [30, 60, 120]
    first, second = await hub.claim(2)
    await hub.settle(said(first, Accepted()))
    assert (await hub.settle(said(second, Throttled(30, is_asked=False)))).gate.wait_s == 30


async def test_throttle_that_several_calls_met_at_once_counts_once(hub: Hub) -> None:
    await hub.stage("k", 3)
    for lease in await hub.claim(3):
        settled = await hub.settle(said(lease, Throttled(30, is_asked=False)))
        hub.clock.move(1)
    assert settled.gate.wait_s == 30, "it goes on from the last one, and is no longer than the first"


async def test_settlement_pauses_the_system_when_its_answers_said_that_nothing_is_left(hub: Hub) -> None:
    await hub.stage("k", 2)
    [first, _] = await hub.claim(2)
    settled = await hub.settle(said(first, Accepted()), pause_s=20)
    assert (settled.gate.is_paused, settled.gate.wait_s) == (True, 20)
    assert await hub.claim() == []
    hub.clock.move(20)
    assert (await hub.store.gate(ERP)).lets_through


# --- calls under way ----------------------------------------------------------------------------------------


def ask(worker: str, held: int, wanted: int = 16, cap: int = 10) -> Ask:
    return Ask(ERP, worker, cap, wanted, held, ttl_us=30 * SECOND_US)


async def test_cap_is_all_one_workers_until_another_comes_and_shared_when_the_first_has_shrunk(hub: Hub) -> None:
    store = hub.store
    assert await store.share(ask("a", 0)) == 10
    assert await store.share(ask("b", 0)) == 0, "all are still held"
    assert await store.share(ask("a", 10)) == 5, "it may begin no more, but ten are under way"
    assert await store.share(ask("b", 0)) == 0
    assert await store.share(ask("a", 7)) == 5
    assert await store.share(ask("b", 0)) == 3
    assert await store.share(ask("a", 5)) == 5
    assert await store.share(ask("b", 3)) == 5


async def test_cap_of_a_dead_worker_lapses_and_of_one_that_ends_is_free_at_once(hub: Hub) -> None:
    store = hub.store
    await store.share(ask("a", 0))
    hub.clock.move(29)
    assert await store.share(ask("b", 0)) == 0
    hub.clock.move(2)
    assert await store.share(ask("b", 0)) == 10
    await store.give_up_share(ERP, "b")
    assert await store.share(ask("c", 0)) == 10


async def test_cap_is_never_overstepped_by_workers_that_ask_at_the_same_time(hub: Hub) -> None:
    held = dict.fromkeys("abcde", 0)
    for _ in range(12):
        granted = await asyncio.gather(*(hub.store.share(ask(name, held[name])) for name in held))
        held = dict(zip(held, granted, strict=True))
        assert sum(held.values()) <= 10
        hub.clock.move(0.5)
    assert sorted(held.values()) == [2, 2, 2, 2, 2]


async def test_cap_below_the_number_of_workers_goes_round(hub: Hub) -> None:
    held, seen = {"a": 0, "b": 0}, set[str]()
    for _ in range(40):
        for name in held:
            held[name] = await hub.store.share(ask(name, held[name], cap=1))
            seen |= {name} if held[name] else set()
            assert sum(held.values()) <= 1
        hub.clock.move(0.5)
    assert seen == {"a", "b"}


async def test_limits_leave_the_systems_row_alone(hub: Hub, database_url: str) -> None:
    """A quota is spent at each claim; a breaker's row is locked by whoever settles."""
    hub.rule = LimitRule((RateRule(10, 1), RateRule(100, 60)), BudgetRule(1000))
    await hub.stage("k", 5)
    await hub.deliver(await hub.claim())
    assert await sql(database_url, "select count(*) from system") == [(0,)]
    assert await sql(database_url, "select count(*) from quota") == [(3,)]
    row = await hub.store.report(lambda tx: systems.load(tx, ERP))
    assert row.version == 0
