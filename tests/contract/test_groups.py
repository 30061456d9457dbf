"""The store's contract for failover groups: who gets which lane, and what all workers know of the group."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from tests.databases import Postgres, sql
from tideover.errors import Refused
from tideover.model import (
    CREDENTIALS,
    HUNG,
    NORMAL,
    SECOND_US,
    Accepted,
    Lease,
    Missing,
    NewRecord,
    Order,
    Outcome,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.breaker import BreakerRule, Result
from tideover.policy.failover import FailbackRule, GroupRule, Phase
from tideover.policy.quota import BudgetRule, LimitRule, RateRule
from tideover.policy.reconcile import Means
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging import groups, leases, systems
from tideover.staging.cases import Asked
from tideover.staging.claiming import Claimed
from tideover.staging.database import Transaction, open_database
from tideover.staging.desks import NOBODY
from tideover.staging.parking import Selection as Parked
from tideover.staging.reconciliation import Selection as Cases
from tideover.staging.settle import Settled, Settlement
from tideover.staging.stage import Batch
from tideover.staging.store import Store
from tideover.staging.wishes import Claim, GroupWish

A, B, C = "carrier-a", "carrier-b", "carrier-c"
ROUTE, GROUP = "orders", "shipping"
FAILBACK = FailbackRule(dwell_s=60, max_dwell_s=600, canaries=2, ramp_s=100)
BREAKER = BreakerRule(failures=3, rejections=3, open_for_s=5, max_open_s=60, successes=2)
LEASE_S = 60.0


class Clock:
    """The database's clock, which moves only when told."""

    def __init__(self) -> None:
        self.now_us = 1_800_000_000 * SECOND_US

    def __call__(self, _: int) -> int:
        return self.now_us

    def move(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)


class Shop:
    """A store with one route to one group of providers."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store, self.clock = store, clock
        self.rule = GroupRule((A, B), failback=FAILBACK)
        self.wish = GroupWish(GROUP, self.rule)
        self.limits: dict[str, LimitRule] = {}

    def set(self, **changes: Any) -> None:
        """Another configuration of the group's claims."""
        self.wish = replace(self.wish, **changes)
        self.rule = self.wish.rule

    async def stage(self, *records: tuple[str, Any], priority: int = NORMAL) -> None:
        await self.store.stage(
            Batch(ROUTE, "crm", [NewRecord(key, orjson.dumps(body), priority) for key, body in records])
        )

    def claim_for(self, rooms: dict[str, int] | None = None, depth: int = 10, after: Any = None) -> Claim:
        return Claim(
            ROUTE,
            dict.fromkeys(self.rule.providers, 100) if rooms is None else rooms,
            Order.BLOCK,
            depth,
            int(LEASE_S * SECOND_US),
            limits=self.limits,
            group=self.wish,
            after=after,
        )

    async def claimed(self, rooms: dict[str, int] | None = None, depth: int = 10, after: Any = None) -> Claimed:
        return await self.store.claim(self.claim_for(rooms, depth, after))

    async def claim(self, rooms: dict[str, int] | None = None, depth: int = 10) -> list[Lease]:
        return list((await self.claimed(rooms, depth)).leases)

    async def settle(self, lease: Lease, *outcomes: Outcome, doubt: int = 0) -> Settled:
        attempts = [
            Attempt(record, Kind.SEND, outcome, 1000, 500)
            for record, outcome in zip(lease.records, outcomes, strict=False)
        ]
        it = LaneReport(
            lease.lane, lease.token, attempts, doubt, 0 if not doubt else self.clock.now_us, is_canary=lease.is_canary
        )
        rules = {ROUTE: RouteRule(Order.BLOCK, RetryRule(9, 1, 60, None), has_alternatives=True)}
        return await self.store.settle(Settlement(lease.system, [it], rules, BREAKER, GROUP))

    async def break_(self, system: str, outcome: Outcome | None = None) -> None:
        await self.store.tell(system, Result("", 0, outcome or Unsent(CREDENTIALS)), BREAKER)

    async def mend(self, system: str) -> None:
        self.clock.move(100)
        for _ in range(BREAKER.successes):
            slot = await self.store.take_probe(system, 10)
            assert slot is not None
            await self.store.end_probe(system, slot, Result("", 0, Accepted(), is_probe=True), BREAKER)
        await self.store.hasten(system, [ROUTE])

    async def phase(self, system: str = A) -> Phase:
        return (await self.store.group(GROUP, self.rule)).trust(system).phase

    async def told(self) -> list[str]:
        """The kinds of the group's turns, oldest first."""
        return [turn.kind for turn in reversed(await self.store.turns(GROUP, 100))]

    async def doubted(self, lease: Lease) -> None:
        """The lease's head may have reached its provider."""
        await self.settle(lease, Unknown("server_error"), doubt=1)


def systems_of(leases: Sequence[Lease]) -> dict[str, str]:
    return {lease.records[0].key: lease.system for lease in leases}


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    clock = Clock()
    store = Store(open_database(database_url, clock), spread=lambda: 0.5)
    await store.migrate()
    yield Shop(store, clock)
    await store.close()


# --- who gets what ------------------------------------------------------------------------------------------


def by_country(payload: bytes) -> Sequence[str]:
    """`a` ships to NL, `b` everywhere but to the moon."""
    country = orjson.loads(payload)["to"]
    return [A, B] if country == "NL" else [] if country == "moon" else [B]


async def test_claim_gives_each_record_to_the_first_provider_that_takes_it(shop: Shop) -> None:
    shop.set(eligible=by_country)
    await shop.stage(("k1", {"to": "NL"}), ("k2", {"to": "CH"}))
    claimed = await shop.claim()
    assert systems_of(claimed) == {"k1": A, "k2": B}
    assert not any(lease.is_backup for lease in claimed)


async def test_record_that_nobody_takes_is_given_out_as_faulty_and_its_lane_alone(shop: Shop) -> None:
    shop.set(eligible=by_country)
    await shop.stage(("k1", {"to": "moon"}), ("k1", {"to": "NL"}), ("k2", {"to": "NL"}))
    claimed = {lease.records[0].key: lease for lease in await shop.claim()}
    [record] = claimed["k1"].records
    assert (record.fault_code, record.fault != "") == (NOBODY, True)
    assert claimed["k2"].records[0].fault == ""


async def test_record_that_nobody_takes_whose_worker_vanished_is_sent_to_nobody_all_the_same(shop: Shop) -> None:
    shop.set(eligible=by_country, reroute_after_s=10)
    await shop.stage(("k1", {"to": "moon"}))
    await shop.claim()
    shop.clock.move(LEASE_S + 1)
    [lease] = await shop.claim()
    assert (lease.records[0].fault_code, lease.records[0].in_doubt) == (NOBODY, False)


async def test_record_that_nobody_takes_waits_while_no_provider_is_well(shop: Shop) -> None:
    shop.set(eligible=by_country)
    await shop.stage(("k1", {"to": "moon"}))
    await shop.break_(A)
    await shop.break_(B)
    assert await shop.claim() == []
    await shop.mend(B)
    [lease] = await shop.claim()
    assert lease.records[0].fault_code == NOBODY


async def test_run_of_one_lane_ends_before_the_first_record_that_its_provider_may_not_have(shop: Shop) -> None:
    shop.set(eligible=by_country)
    await shop.stage(*(("k", {"to": to, "n": n}) for n, to in enumerate(["NL", "NL", "CH", "NL", "moon", "NL"])))
    runs = []
    while claimed := await shop.claim():
        [lease] = claimed
        runs.append((lease.system, [record.seq for record in lease.records]))
        await shop.settle(lease, *(Accepted() for _ in lease.records))
        if lease.records[0].fault:
            break
    assert runs == [(A, [1, 2]), (B, [3, 4]), ("carrier-a", [5])]


async def test_run_of_a_rerouted_lane_ends_before_the_first_record_that_the_other_provider_may_not_have(
    shop: Shop,
) -> None:
    """A worker vanished with a run; the provider that takes over may have the first record only."""

    def eligible(payload: bytes) -> Sequence[str]:
        return [A, B] if orjson.loads(payload)["n"] == 1 else [A]

    shop.set(eligible=eligible, reroute_after_s=10)
    await shop.stage(("k", {"n": 1}), ("k", {"n": 2}))
    [lost] = await shop.claim()
    assert (lost.system, len(lost.records)) == (A, 2)
    shop.clock.move(LEASE_S + 1)
    await shop.break_(A)
    [lease] = await shop.claim()
    assert (lease.system, [record.seq for record in lease.records]) == (B, [1])
    assert {(case.record, case.system) for case in await shop.store.cases(Cases())} == {
        (record.id, A) for record in lost.records
    }


async def test_canary_is_one_record_however_many_wait_in_its_lane(shop: Shop) -> None:
    await canary(shop)
    await shop.stage(("k", 1), ("k", 2), ("k", 3))
    [lease] = await shop.claim()
    assert (lease.system, lease.is_canary, len(lease.records)) == (A, True, 1)


async def test_avoided_provider_gets_the_record_only_where_no_other_can_have_it(shop: Shop) -> None:
    await shop.stage(("k", 1))
    [lease] = await shop.claim()
    await shop.settle(lease, Unsent("refused"))
    [again] = await shop.claim()
    assert (again.system, again.is_backup) == (B, True)
    await shop.settle(again, Unsent("refused"))
    shop.clock.move(5)
    [third] = await shop.claim()
    assert third.system == A


@pytest.mark.parametrize("rto_s", [None, 600.0])
async def test_pause_that_is_short_is_waited_for_and_a_long_one_is_not(shop: Shop, rto_s: float | None) -> None:
    shop.set(rto_s=rto_s, max_pause_s=60)
    await shop.stage(("k", 1))
    await shop.store.pause(A, 50)
    assert await shop.claim() == []
    shop.clock.move(49.9)
    assert await shop.claim() == []
    shop.clock.move(0.1)
    [lease] = await shop.claim()
    assert lease.system == A
    await shop.settle(lease, Throttled(3600))
    [again] = await shop.claim()
    assert again.system == B


async def test_pause_that_is_waited_for_when_its_provider_goes_down_meanwhile_is_waited_for_no_longer(
    shop: Shop,
) -> None:
    shop.set(rto_s=3600)
    await shop.stage(("k", 1))
    await shop.store.pause(A, 1800)
    assert await shop.claim() == []
    await shop.store.force(A, "open", "maintenance")
    shop.clock.move(60)
    assert systems_of(await shop.claim()) == {"k": B}


# --- order --------------------------------------------------------------------------------------------------


async def test_claim_takes_the_most_urgent_lanes_first(shop: Shop) -> None:
    await shop.stage(("late", 1), priority=5)
    await shop.stage(("normal", 1))
    await shop.stage(("urgent", 1), priority=1)
    taken = [(await shop.claim({A: 1}))[0].records[0].key for _ in range(3)]
    assert taken == ["urgent", "normal", "late"]


async def test_lane_that_waits_is_as_urgent_as_its_most_urgent_record(shop: Shop) -> None:
    await shop.stage(("k", 1), priority=5)
    await shop.stage(("other", 1), priority=2)
    await shop.stage(("k", 2), priority=1)
    [first] = await shop.claim({A: 1})
    assert [record.key for record in first.records] == ["k", "k"]


async def test_claim_passes_over_lanes_whose_provider_has_no_room_and_says_where_it_stopped(shop: Shop) -> None:
    shop.set(eligible=by_country)
    many = leases.SCAN + 50
    await shop.stage(*((f"a{n:05}", {"to": "NL"}) for n in range(many)))
    shop.clock.move(1)
    await shop.stage(("z", {"to": "CH"}))
    first = await shop.claimed({B: 10})
    assert (list(first.leases), first.mark is None) == ([], False)
    second = await shop.claimed({B: 10}, after=first.mark)
    assert (systems_of(second.leases), second.mark) == ({"z": B}, None)


async def test_claim_of_what_nobody_can_have_now_is_put_off_and_due_again_when_its_provider_is_back(
    shop: Shop,
) -> None:
    shop.set(eligible=lambda _: [A])
    await shop.stage(("k", 1))
    await shop.break_(A)
    assert await shop.claim() == []
    outlook = await shop.store.outlook([ROUTE], [B])
    assert outlook.due_us is not None
    assert 2 * SECOND_US <= outlook.due_us - outlook.now_us <= 60 * SECOND_US
    await shop.mend(A)
    assert systems_of(await shop.claim()) == {"k": A}


# --- rate limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_group", [True, False])
async def test_rate_limit_counts_from_the_first_record_on(shop: Shop, is_group: bool) -> None:
    """Also at a system of which nothing was ever written."""
    await shop.stage(*((f"k{n}", 1) for n in range(50)))
    shop.limits = {A: LimitRule((RateRule(2, 60),))}
    wish = shop.claim_for({A: 10})
    wish = wish if is_group else replace(wish, group=None)
    found = [len((await shop.store.claim(wish)).leases) for _ in range(3)]
    assert found == [1, 0, 0]


async def test_rate_limit_is_shared_by_two_claimers_that_claim_at_once(shop: Shop) -> None:
    shop.limits = {A: LimitRule((RateRule(100, 10),)), B: LimitRule((RateRule(50, 10),))}
    await shop.break_(B)
    await shop.stage(*((f"k{n}", 1) for n in range(400)))
    given = Counter[int]()
    for tick in range(125):
        for claimed in await asyncio.gather(*(shop.claim({A: 50}) for _ in range(2))):
            given[tick] += sum(len(lease.records) for lease in claimed)
        shop.clock.move(0.2)
    assert max(sum(given[tick] for tick in range(begin, begin + 50)) for begin in range(76)) <= 100
    assert sum(given.values()) >= 200


async def test_rate_limit_ends_a_run_and_says_how_long_to_wait(shop: Shop) -> None:
    shop.limits = {A: LimitRule((RateRule(24, 60),))}
    await shop.stage(*(("k", n) for n in range(10)))
    claimed = await shop.claimed({A: 10})
    [lease] = claimed.leases
    assert len(lease.records) == 3
    assert claimed.quota_wait_s == pytest.approx(61.8 / 24, abs=0.01)


# --- canaries and turns -------------------------------------------------------------------------------------


async def test_quota_that_is_used_up_is_not_waited_for_while_another_provider_has_room(shop: Shop) -> None:
    shop.limits = {A: LimitRule(budget=BudgetRule(1, "month"))}
    await shop.stage(("k", 1))
    await shop.settle((await shop.claim({A: 1}))[0], Accepted())
    assert (await shop.claimed({A: 1})).quota_wait_s > 0
    claimed = await shop.claimed({A: 1, B: 1})
    assert (claimed.quota_wait_s, list(claimed.used_up)) == (0, [A])


async def canary(shop: Shop) -> None:
    """The preferred provider was down, and has been well for its dwell."""
    await shop.store.group(GROUP, shop.rule)
    await shop.break_(A)
    await shop.store.group(GROUP, shop.rule)
    await shop.mend(A)
    await shop.store.group(GROUP, shop.rule)
    shop.clock.move(FAILBACK.dwell_s)
    assert await shop.phase() is Phase.CANARY


async def test_canaries_are_no_more_than_so_many_in_the_whole_cluster(shop: Shop) -> None:
    await canary(shop)
    await shop.stage(*((f"k{n}", 1) for n in range(40)))
    found = [
        lease for claimed in await asyncio.gather(*(shop.claim({A: 5, B: 5}) for _ in range(4))) for lease in claimed
    ]
    assert [lease.system for lease in found if lease.is_canary] == [A] * FAILBACK.canaries
    assert {lease.system for lease in found if not lease.is_canary} == {B}
    assert len({lease.lane for lease in found}) == len(found)


async def test_canary_whose_worker_vanished_is_sent_again_when_its_lease_is_over(shop: Shop) -> None:
    await canary(shop)
    await shop.stage(("k1", 1), ("k2", 1))
    assert [lease.is_canary for lease in await shop.claim({A: 2, B: 0})] == [True, True]
    shop.clock.move(LEASE_S - 1)
    await shop.stage(("k3", 1))
    assert [lease.is_canary for lease in await shop.claim()] == [False]
    await shop.stage(("k4", 1), ("k5", 1), ("k6", 1))
    shop.clock.move(2)
    found = await shop.claim()
    assert len([lease for lease in found if lease.is_canary]) == FAILBACK.canaries
    assert {lease.records[0].key for lease in found if lease.is_canary} < {"k4", "k5", "k6"}
    assert {systems_of(found)[key] for key in ("k1", "k2")} == {A}  # in doubt there: no canaries


@pytest.mark.parametrize(
    ("outcome", "doubt", "expected"),
    [
        (Accepted(), 0, (Phase.CANARY, 1, 0)),
        (Rejected("INVALID"), 0, (Phase.CANARY, 0, 0)),
        (Throttled(5), 0, (Phase.CANARY, 0, 0)),
        (Unsent("refused"), 0, (Phase.DWELL, 0, 1)),
        (Unknown("server_error"), 1, (Phase.DWELL, 0, 1)),
        (Unknown(HUNG), 1, (Phase.OUT, 0, 1)),  # which opens its breaker
        (Unsent(CREDENTIALS), 0, (Phase.OUT, 0, 1)),
    ],
)
async def test_canary_when_it_is_settled_counts_once(
    shop: Shop, outcome: Outcome, doubt: int, expected: tuple[Phase, int, int]
) -> None:
    await canary(shop)
    await shop.stage(("k", 1))
    [lease] = await shop.claim({A: 1})
    await shop.settle(lease, outcome, doubt=doubt)
    trust = (await shop.store.group(GROUP, shop.rule)).trust(A)
    assert (trust.phase, trust.canaries, trust.relapses, trust.canary_until_us) == (*expected, 0)
    assert (await shop.told()).count("relapse") == expected[2]


async def test_turns_tell_a_failover_and_its_way_back_once_each(shop: Shop, database_url: str) -> None:
    await canary(shop)
    await shop.stage(*((f"k{n}", 1) for n in range(2)))
    for _ in range(2):
        [lease] = await shop.claim({A: 1})
        assert lease.is_canary
        await shop.settle(lease, Accepted())
    assert await shop.phase() is Phase.RAMP
    shop.clock.move(FAILBACK.ramp_s)
    await asyncio.gather(*(shop.claim() for _ in range(4)))
    assert await shop.phase() is Phase.SERVING
    assert await shop.told() == ["failover", "canary", "failback"]
    events = await sql(database_url, f"select name from event where subject = '{GROUP}' order by id")
    assert [name for (name,) in events] == [f"tideover.group.{kind}" for kind in ("failover", "canary", "failback")]


async def test_state_that_several_claimers_move_at_once_is_written_once(shop: Shop, database_url: str) -> None:
    await shop.stage(*((f"k{n}", 1) for n in range(40)))
    await shop.claim({A: 1})
    [(before,)] = await sql(database_url, "select version from failover_group")
    await shop.break_(A)
    await asyncio.gather(*(shop.claim({A: 1, B: 5}) for _ in range(6)))
    assert await sql(database_url, "select version from failover_group") == [(before + 1,)]
    assert await shop.told() == ["failover"]


async def test_first_service_of_a_failover_is_noted_once(shop: Shop) -> None:
    await shop.store.group(GROUP, shop.rule)
    await shop.break_(A)
    await shop.store.group(GROUP, shop.rule)
    await shop.store.note_service(GROUP, B, 0)
    [turn] = await shop.store.turns(GROUP)
    shop.clock.move(10)
    await shop.store.note_service(GROUP, B, 0)
    assert (await shop.store.turns(GROUP))[0].served_us == turn.served_us == shop.clock.now_us - 10 * SECOND_US


@pytest.mark.parametrize("what", ["opened", "closed"])
async def test_claimer_that_read_the_breakers_before_another_moved_the_group_moves_it_by_those_of_now(
    shop: Shop, what: str
) -> None:
    """Of two workers on PostgreSQL, the slower one holds an older breaker against a newer group."""
    await shop.store.group(GROUP, shop.rule)
    if what == "closed":
        await shop.break_(A)
        await shop.store.group(GROUP, shop.rule)
    old = await shop.store.report(
        lambda tx: {name: groups.health_of(row) for name, row in systems.load_all(tx, shop.rule.providers).items()}
    )
    shop.clock.move(1)
    if what == "closed":
        await shop.mend(A)
    else:
        await shop.break_(A)
    before = await shop.store.group(GROUP, shop.rule)

    def work(tx: Transaction) -> None:
        groups.current(tx, GROUP, shop.rule, old)

    await shop.store.database.write(work)
    assert await shop.store.group(GROUP, shop.rule) == before
    assert "relapse" not in await shop.told()


# --- pins ---------------------------------------------------------------------------------------------------


async def test_pin_survives_the_process_and_ends_with_its_removal(shop: Shop, database_url: str) -> None:
    await shop.store.pin(GROUP, shop.rule, B, why="contract", author="ops")
    other = Store(open_database(database_url, shop.clock))
    try:
        pin = (await other.group(GROUP, shop.rule)).pin
        assert pin is not None
        assert (pin.system, pin.why, pin.author, pin.at_us) == (B, "contract", "ops", shop.clock.now_us)
    finally:
        await other.close()
    await shop.stage(("k1", 1))
    assert systems_of(await shop.claim()) == {"k1": B}
    await shop.store.unpin(GROUP, shop.rule, why="over", author="ops")
    await shop.stage(("k2", 1))
    assert systems_of(await shop.claim()) == {"k2": A}
    assert await shop.told() == ["pin", "unpin"]
    [unpin, pin_turn] = await shop.store.turns(GROUP)
    assert (pin_turn.before, pin_turn.after, unpin.before, unpin.after) == (A, B, B, A)


async def test_pin_to_a_provider_that_is_down_keeps_everything_until_it_is_back(shop: Shop) -> None:
    await shop.break_(A)
    await shop.store.pin(GROUP, shop.rule, A, why="contract", author="ops")
    await shop.stage(("k", 1))
    assert await shop.claim() == []
    await shop.mend(A)
    assert systems_of(await shop.claim()) == {"k": A}


async def test_pin_to_somebody_else_is_refused_and_changes_nothing(shop: Shop) -> None:
    with pytest.raises(Refused, match="carrier-c"):
        await shop.store.pin(GROUP, shop.rule, C, why="x", author="y")
    await shop.store.unpin(GROUP, shop.rule, why="x", author="y")
    assert await shop.told() == []


async def test_pin_survives_what_happens_to_the_group(shop: Shop) -> None:
    await shop.store.pin(GROUP, shop.rule, B, why="contract", author="ops")
    await canary(shop)
    await shop.store.hurry(GROUP, shop.rule, A)
    assert (await shop.store.group(GROUP, shop.rule)).pin is not None


async def test_hurry_ends_a_dwell_once(shop: Shop) -> None:
    await shop.store.group(GROUP, shop.rule)
    await shop.break_(A)
    await shop.store.group(GROUP, shop.rule)
    await shop.mend(A)
    for _ in range(2):
        await shop.store.hurry(GROUP, shop.rule, A)
    assert await shop.phase() is Phase.CANARY
    assert await shop.told() == ["failover", "canary"]


# --- unknown outcomes ---------------------------------------------------------------------------------------


async def in_doubt(shop: Shop, *bodies: Any) -> Lease:
    """One lane whose head may be at the preferred provider, which is then down."""
    await shop.stage(*(("k", body) for body in bodies or (1,)))
    [lease] = await shop.claim({A: 1})
    await shop.doubted(lease)
    await shop.break_(A)
    shop.clock.move(5)  # past its retry
    return lease


async def test_unknown_when_its_provider_can_not_be_asked_waits_and_its_lane_with_it(shop: Shop) -> None:
    await in_doubt(shop, 1, 2)
    shop.clock.move(10**5)
    assert await shop.claim() == []
    await shop.mend(A)
    [lease] = await shop.claim()
    assert (lease.system, [record.in_doubt for record in lease.records]) == (A, [True])


async def test_unknown_after_max_hold_goes_elsewhere_with_a_case(shop: Shop) -> None:
    shop.set(reroute_after_s=30)
    lost = await in_doubt(shop, 1, 2)
    assert await shop.claim() == []
    shop.clock.move(25)
    [lease] = await shop.claim()
    assert (lease.system, [record.in_doubt for record in lease.records], lease.doubted_us) == (B, [False], 0)
    [case] = await shop.store.cases(Cases())
    assert (case.record, case.system, case.group) == (lost.records[0].id, A, GROUP)
    await shop.settle(lease, Accepted())
    await shop.mend(A)
    [rest] = await shop.claim()
    assert [record.seq for record in rest.records] == [2]


async def test_unknown_after_max_hold_is_resolved_first_where_its_provider_is_back(shop: Shop) -> None:
    shop.set(reroute_after_s=30)
    await in_doubt(shop)
    shop.clock.move(100)
    await shop.mend(A)
    [lease] = await shop.claim()
    assert (lease.system, lease.records[0].in_doubt) == (A, True)
    assert await shop.store.cases(Cases()) == []


@pytest.mark.parametrize("reroute_after_s", [30, None])
async def test_unknown_at_a_provider_whose_quota_is_used_up_is_held_or_rerouted_as_with_any_pause(
    shop: Shop, reroute_after_s: float | None
) -> None:
    shop.set(reroute_after_s=reroute_after_s)
    await shop.stage(("k", 1))
    shop.limits = {A: LimitRule(budget=BudgetRule(1, "month"))}
    [lost] = await shop.claim({A: 1})
    await shop.doubted(lost)
    shop.clock.move(29)
    assert await shop.claim() == []
    shop.clock.move(1)
    found = await shop.claim()
    cases = [(case.record, case.system) for case in await shop.store.cases(Cases())]
    if reroute_after_s is None:
        assert (found, cases) == ([], [])
        shop.clock.move(32 * 86_400)
        [lease] = await shop.claim()
        assert (lease.system, lease.records[0].in_doubt) == (A, True)
    else:
        assert [(lease.system, lease.records[0].in_doubt) for lease in found] == [(B, False)]
        assert cases == [(lost.records[0].id, A)]


@pytest.mark.parametrize("still_reroutes", [True, False])
async def test_rerouted_record_never_goes_back_to_who_may_have_it_while_its_case_is_open(
    shop: Shop, still_reroutes: bool
) -> None:
    shop.set(reroute_after_s=30)
    await in_doubt(shop)
    shop.clock.move(30)
    [lease] = await shop.claim()
    await shop.settle(lease, Unsent("refused"))
    await shop.mend(A)
    await shop.break_(B)
    if not still_reroutes:  # the route's configuration changed meanwhile
        shop.set(reroute_after_s=None)
    shop.clock.move(100)
    assert await shop.claim() == []
    assert await shop.store.claim_probe(shop.claim_for(), A) == []
    await shop.mend(B)
    assert systems_of(await shop.claim()) == {"k": B}


async def test_rerouted_record_whose_second_provider_is_in_doubt_too_is_resolved_by_that_one(shop: Shop) -> None:
    shop.set(reroute_after_s=30)
    await in_doubt(shop)
    shop.clock.move(30)
    [lease] = await shop.claim()
    await shop.doubted(lease)
    await shop.break_(B)
    shop.clock.move(1000)
    assert await shop.claim() == []  # both may have it
    await shop.mend(B)
    [again] = await shop.claim()
    assert (again.system, again.records[0].in_doubt) == (B, True)
    assert len(await shop.store.cases(Cases())) == 1


async def test_rerouted_record_has_all_its_attempts_at_the_other_provider(shop: Shop) -> None:
    """Else one lost answer of a well provider could park what another one failed to answer again and again."""
    shop.set(reroute_after_s=30)
    await shop.stage(("k", 1))
    for _ in range(8):  # of 9 attempts
        [lease] = await shop.claim({A: 1})
        await shop.doubted(lease)
        shop.clock.move(60)
    await shop.break_(A)
    shop.clock.move(30)
    [lease] = await shop.claim()
    assert (lease.system, lease.attempts) == (B, 0)
    await shop.settle(lease, Unknown("server_error"), doubt=1)
    assert await shop.store.parked(Parked()) == []


async def test_look_up_that_misses_a_rerouted_record_says_nothing_of_its_second_provider(shop: Shop) -> None:
    """Two misses there free it for a third one; what the reconciliation hears of the first provider is none."""
    shop.set(reroute_after_s=30)
    await in_doubt(shop)
    shop.clock.move(30)
    [lease] = await shop.claim()
    await shop.doubted(lease)
    await shop.break_(B)
    shop.clock.move(10)
    [case] = await shop.store.claim_cases(A, int(LEASE_S * SECOND_US))
    await shop.store.settle_case(case, Asked(Missing(), Means(can_ask=True, can_void=True, settle_s=1.0), 1000, 500))
    shop.clock.move(100)
    [asked] = await shop.store.claim_doubted(shop.claim_for(), B, 5)
    assert (asked.system, asked.miss_age_s) == (B, None)


async def test_question_leaves_a_lane_alone_that_was_parked_while_it_looked_for_some(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it looked at was not locked yet. Leased all the same, its settlement would let it go on without its head."""
    clock, url = Clock(), postgres.new_database()
    store = Store(open_database(url, clock), spread=lambda: 0.5)
    await store.migrate()
    try:
        shop = Shop(store, clock)
        await in_doubt(shop)
        clock.move(10)
        looking = "as oldest where "
        slowly = f"{looking}pg_sleep(3) is not null and "
        monkeypatch.setattr(leases, "text", lambda statement: text(statement.replace(looking, slowly)))
        asking = asyncio.create_task(store.claim_doubted(shop.claim_for(), A, 5))
        while not await sql(url, "select 1 from pg_stat_activity where wait_event = 'PgSleep'"):
            await asyncio.sleep(0.05)
        await sql(url, "update lane set state = 2")
        assert await asking == []
    finally:
        await store.close()


async def test_probe_with_a_record_takes_none_that_is_in_doubt_at_another_provider(shop: Shop) -> None:
    """Also past `max_hold`: whoever takes it over has to leave a case behind."""
    shop.set(reroute_after_s=30)
    await in_doubt(shop)
    shop.clock.move(100)
    await shop.break_(B)
    assert await shop.store.claim_probe(shop.claim_for(), B) == []


async def test_probe_with_a_record_takes_only_what_the_provider_may_have(shop: Shop) -> None:
    shop.set(eligible=by_country)
    await shop.stage(("k1", {"to": "CH"}), ("k2", {"to": "NL"}))
    [lease] = await shop.store.claim_probe(shop.claim_for(), A)
    assert lease.records[0].key == "k2"


async def test_probe_with_a_record_finds_one_behind_a_long_line_that_the_provider_may_not_have(shop: Shop) -> None:
    """Else its breaker would stay open for as long as they wait."""
    shop.set(eligible=by_country)
    await shop.stage(*((f"k{n}", {"to": "CH"}) for n in range(leases.SCAN + 100)))
    shop.clock.move(1)
    await shop.stage(("mine", {"to": "NL"}))
    assert await shop.store.claim_probe(shop.claim_for(), A) == []  # so far it has looked
    [lease] = await shop.store.claim_probe(shop.claim_for(), A)
    assert lease.records[0].key == "mine"


async def test_probe_with_a_record_is_kept_out_by_a_pin_to_another(shop: Shop) -> None:
    await shop.store.pin(GROUP, shop.rule, B, why="x", author="y")
    await shop.stage(("k", 1))
    assert await shop.store.claim_probe(shop.claim_for(), A) == []
    assert len(await shop.store.claim_probe(shop.claim_for(), B)) == 1


async def test_reroute_after_two_workers_claim_at_once_opens_one_case(shop: Shop) -> None:
    shop.set(reroute_after_s=30)
    await in_doubt(shop)
    shop.clock.move(30)
    found = await asyncio.gather(*(shop.claim() for _ in range(4)))
    assert sum(len(claimed) for claimed in found) == 1
    assert len(await shop.store.cases(Cases())) == 1


async def test_concurrent_claims_and_settlements_of_a_moving_group_never_deadlock(postgres: Postgres) -> None:
    url = postgres.new_database()
    stores = [Store(open_database(url), spread=lambda: 0.5) for _ in range(3)]
    await stores[0].migrate()
    rule = GroupRule((A, B), failback=FailbackRule(0.05, 0.2, 1, 0.05))
    shops = []
    for store in stores:
        shop = Shop(store, Clock())
        shop.set(rule=rule, reroute_after_s=0.1)
        shop.limits = {A: LimitRule((RateRule(100_000, 1),)), B: LimitRule((RateRule(100_000, 1),))}
        shops.append(shop)
    await shops[0].stage(*((f"k{n % 60}", n) for n in range(600)))
    outcomes = [Accepted(), Accepted(), Accepted(), Unsent("refused"), Unknown("server_error"), Throttled(0.01)]

    async def work(shop: Shop, turn: int) -> None:
        for step in range(25):
            for lease in await shop.claim({A: 5, B: 5}):
                outcome = outcomes[(turn + step + lease.lane) % len(outcomes)]
                await shop.settle(lease, outcome, doubt=int(isinstance(outcome, Unknown)))
            if step % 8 == turn:
                await shop.store.force(A, "open" if step % 16 == turn else "auto", "because")
            await shop.store.hasten(B, [ROUTE])

    await asyncio.gather(*(work(shop, turn) for turn, shop in enumerate(shops)))
    [audit] = await stores[0].audit([ROUTE])
    assert (audit.difference, audit.faults) == (0, ())
    for store in stores:
        await store.close()
