"""The store's contract: what the hub relies on, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio
import sqlite3
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from tests.databases import Postgres, sql
from tideover.errors import HubUnavailable, Overtaken
from tideover.model import (
    CREDENTIALS,
    SECOND_US,
    Accepted,
    Broken,
    Lease,
    NewRecord,
    Order,
    Outcome,
    Rejected,
    Staged,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.breaker import BreakerRule, Result, State
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging import reports
from tideover.staging import stage as staging
from tideover.staging.database import open_database
from tideover.staging.parking import Selection
from tideover.staging.sealing import Sealed
from tideover.staging.settle import Settled, Settlement
from tideover.staging.stage import Batch, CursorMove
from tideover.staging.store import Store
from tideover.staging.wishes import Claim


@dataclass
class Clock:
    """Moves the database's clock for the hub under test."""

    ahead_us: int = 0

    def __call__(self, now_us: int) -> int:
        return now_us + self.ahead_us

    def move(self, seconds: float) -> None:
        self.ahead_us += int(seconds * SECOND_US)


class Hub:
    """A store with short hands: one route to one system."""

    def __init__(self, store: Store, clock: Clock, order: Order = Order.BLOCK) -> None:
        self.store, self.clock, self.order = store, clock, order
        self.breaker_rule = BreakerRule(failures=3, rejections=3, open_for_s=5, max_open_s=60, successes=2)
        self.retry = RetryRule(max_attempts=3, base_s=1, cap_s=60, max_age_s=None)

    async def stage(self, *pairs: tuple[str, object], route: str = "orders", cursor: str | None = None) -> object:
        records = [NewRecord(key, orjson.dumps(body)) for key, body in pairs]
        move = CursorMove(await self.store.cursor(route), cursor, True) if cursor else None
        return await self.store.stage(Batch(route, "crm", records, move=move, order=self.order))

    async def claim(self, lanes: int = 100, depth: int = 10, lease_s: float = 60, route: str = "orders") -> list[Lease]:
        wish = Claim(route, {"erp": lanes}, self.order, depth, int(lease_s * SECOND_US))
        return list((await self.store.claim(wish)).leases)

    async def settle(self, *reports: LaneReport) -> Settled:
        rules = {"orders": RouteRule(self.order, self.retry)}
        return await self.store.settle(Settlement("erp", reports, rules, self.breaker_rule))

    async def audit(self) -> reports.RouteAudit:
        [route] = await self.store.audit(["orders"])
        return route


def report(lease: Lease, *outcomes: Outcome, doubt: int = 0, prober: int = 0) -> LaneReport:
    """What a worker says that met these outcomes with the lease's first records. `prober`: its slot, if it probed."""
    attempts = [
        Attempt(record, Kind.SEND, outcome, 1000, 500) for record, outcome in zip(lease.records, outcomes, strict=False)
    ]
    return LaneReport(lease.lane, lease.token, attempts, doubt, 1 if doubt else 0, is_probe=prober > 0, prober=prober)


def accepted(leases: Sequence[Lease]) -> list[LaneReport]:
    return [report(lease, *(Accepted("ref") for _ in lease.records)) for lease in leases]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def hub(database_url: str, clock: Clock) -> AsyncIterator[Hub]:
    store = Store(open_database(database_url, clock), spread=lambda: 0.5)
    await store.migrate()
    yield Hub(store, clock)
    await store.close()


async def test_stage_then_claim_gives_the_records_in_order_with_their_payloads(hub: Hub) -> None:
    await hub.stage(("a", {"v": 1}), ("b", {"v": 2}), ("a", {"v": 3}))
    leases = {lease.records[0].key: lease for lease in await hub.claim()}
    assert [r.payload for r in leases["a"].records] == [b'{"v":1}', b'{"v":3}']
    assert [r.payload for r in leases["b"].records] == [b'{"v":2}']
    assert not any(r.in_doubt for lease in leases.values() for r in lease.records)


async def test_stage_a_b_a_keeps_all_three_but_a_a_is_one(hub: Hub) -> None:
    await hub.stage(("k", "A"), ("k", "A"), ("k", "B"), ("k", "A"))
    [lease] = await hub.claim()
    assert [r.payload for r in lease.records] == [b'"A"', b'"B"', b'"A"']
    assert len({r.id for r in lease.records}) == 3


async def test_stage_again_after_a_crash_changes_nothing_and_still_writes(hub: Hub, database_url: str) -> None:
    await hub.stage(("k", "A"), cursor="c1")
    before = await sql(database_url, "select moved_us from cursor")
    hub.clock.move(1)
    again = await hub.stage(("k", "A"), cursor="c1")
    assert again == type(again)(staged=0, unchanged=1)
    assert await sql(database_url, "select moved_us from cursor") != before
    assert (await hub.audit()).accepted == 1


async def test_stage_moves_the_cursor_with_the_records(hub: Hub) -> None:
    assert (await hub.store.cursor("orders")).text is None
    await hub.stage(("k", "A"), cursor="page-2")
    assert (await hub.store.cursor("orders")).text == "page-2"


async def test_stage_of_what_was_read_before_another_run_moved_the_cursor_stages_nothing(hub: Hub) -> None:
    since = await hub.store.cursor("orders")
    await hub.stage(("k", "new"), cursor="page-2")
    stale = Batch("orders", "crm", [NewRecord("k", b'"old"')], move=CursorMove(since, "page-2", True))
    with pytest.raises(Overtaken):
        await hub.store.stage(stale)
    [lease] = await hub.claim()
    assert [r.payload for r in lease.records] == [b'"new"']


async def test_stage_parks_what_is_broken_once(hub: Hub) -> None:
    broken = Broken("k9", b'{"x":1}', "no_key", "the record has no id")
    for _ in range(2):
        await hub.store.stage(Batch("orders", "crm", [], [broken]))
    [parked] = await hub.store.parked(Selection())
    assert (parked.code, parked.at_intake, parked.key) == ("no_key", True, "k9")
    audit = await hub.audit()
    assert (audit.accepted, audit.parked, audit.faults) == (1, 1, ())


async def test_f10_claim_gives_a_lane_to_one_worker_only(hub: Hub) -> None:
    await hub.stage(*((f"k{i}", i) for i in range(200)))
    claims = await asyncio.gather(*(hub.claim(lanes=50) for _ in range(8)))
    lanes = [lease.lane for leases in claims for lease in leases]
    assert sorted(lanes) == sorted(set(lanes))
    assert len(lanes) == 200


async def test_claim_of_a_record_staged_later_waits_for_the_lane(hub: Hub) -> None:
    await hub.stage(("k", 1))
    [lease] = await hub.claim()
    await hub.stage(("k", 2))
    assert await hub.claim() == []
    await hub.settle(*accepted([lease]))
    [second] = await hub.claim()
    assert [r.payload for r in second.records] == [b"2"]


async def test_settle_accepted_drains_the_lane_and_counts(hub: Hub) -> None:
    await hub.stage(("a", 1), ("a", 2), ("b", 1))
    settled = await hub.settle(*accepted(await hub.claim()))
    assert (settled.delivered, settled.refused) == (3, [])
    assert await hub.claim() == []
    audit = await hub.audit()
    assert (audit.accepted, audit.delivered, audit.waiting, audit.faults) == (3, 3, 0, ())


async def test_f25_settle_twice_is_settling_once(hub: Hub) -> None:
    await hub.stage(("a", 1))
    leases = await hub.claim()
    await hub.settle(*accepted(leases))
    again = await hub.settle(*accepted(leases))
    assert (again.delivered, again.refused) == (0, [leases[0].lane])
    assert (await hub.audit()).delivered == 1


async def test_f11_f26_settle_after_the_lease_expired_changes_nothing(hub: Hub) -> None:
    await hub.stage(("a", 1))
    [stale] = await hub.claim(lease_s=10)
    hub.clock.move(11)
    assert (await hub.settle(*accepted([stale]))).refused == [stale.lane]
    [taken] = await hub.claim(lease_s=10)
    assert taken.token > stale.token
    assert (await hub.settle(*accepted([stale]))).refused == [stale.lane]
    assert (await hub.settle(*accepted([taken]))).delivered == 1


async def test_expired_lease_leaves_its_records_in_doubt_and_in_the_trace(hub: Hub) -> None:
    await hub.stage(("a", 1), ("a", 2), ("a", 3))
    [lost] = await hub.claim(depth=2, lease_s=10)
    assert len(lost.records) == 2
    hub.clock.move(11)
    [taken] = await hub.claim(depth=10)
    assert [r.in_doubt for r in taken.records] == [True, True]
    assert taken.doubted_us > 0
    [first, *_] = await hub.store.report(lambda tx: reports.trace(tx, ["orders"], "a"))
    assert [(a.outcome, a.code) for a in first.attempts] == [("unknown", "lease_expired")]


async def test_in_doubt_lane_is_claimed_only_for_the_system_it_is_pinned_to(hub: Hub) -> None:
    await hub.stage(("a", 1))
    [lease] = await hub.claim()
    await hub.settle(report(lease, Unknown("server_error"), doubt=1))
    hub.clock.move(100)
    elsewhere = await hub.store.claim(Claim("orders", {"backup": 10}, Order.BLOCK, 1, SECOND_US))
    assert elsewhere.leases == []
    [again] = await hub.claim()
    assert again.records[0].in_doubt


async def test_settle_prefix_delivers_it_and_retries_the_rest(hub: Hub) -> None:
    await hub.stage(("a", 1), ("a", 2), ("a", 3))
    [lease] = await hub.claim()
    settled = await hub.settle(report(lease, Accepted(), Unsent("refused")))
    assert settled.delivered == 1
    assert await hub.claim() == []
    hub.clock.move(1)
    [rest] = await hub.claim()
    assert [r.payload for r in rest.records] == [b"2", b"3"]


async def test_rejected_head_holds_its_lane_under_block_and_others_go_on(hub: Hub) -> None:
    await hub.stage(("a", 1), ("a", 2), ("b", 1))
    for lease in await hub.claim():
        bad = lease.records[0].key == "a"
        await hub.settle(report(lease, Rejected("INVALID", "no total")) if bad else report(lease, Accepted()))
    hub.clock.move(1000)
    assert await hub.claim() == []
    audit = await hub.audit()
    assert (audit.accepted, audit.delivered, audit.parked, audit.waiting, audit.faults) == (3, 1, 1, 1, ())


@pytest.mark.parametrize("order", [Order.SKIP, Order.NONE, Order.LATEST])
async def test_rejected_head_is_stepped_over_otherwise(hub: Hub, order: Order) -> None:
    hub.order = order
    await hub.stage(("a", 1))
    [lease] = await hub.claim()
    await hub.settle(report(lease, Rejected("INVALID")))
    await hub.stage(("a", 2))
    [after] = await hub.claim()
    assert [r.payload for r in after.records] == [b"2"]
    audit = await hub.audit()
    assert (audit.parked, audit.waiting, audit.faults) == (1, 1, ())


async def test_latest_lets_older_waiting_versions_give_way(hub: Hub) -> None:
    hub.order = Order.LATEST
    await hub.stage(("a", 1), ("a", 2), ("a", 3), ("b", 1))
    leases = await hub.claim()
    assert sorted(r.payload for lease in leases for r in lease.records) == [b"1", b"3"]
    await hub.settle(*accepted(leases))
    audit = await hub.audit()
    assert (audit.accepted, audit.delivered, audit.superseded, audit.faults) == (4, 2, 2, ())


async def test_latest_never_supersedes_a_record_in_flight(hub: Hub) -> None:
    hub.order = Order.LATEST
    await hub.stage(("a", 1))
    [lease] = await hub.claim()
    await hub.stage(("a", 2), ("a", 3))
    await hub.settle(report(lease, Unknown("server_error"), doubt=1))
    hub.clock.move(100)
    [again] = await hub.claim()
    assert [(r.payload, r.in_doubt) for r in again.records] == [(b"1", True)]


async def test_replay_of_a_held_head_sends_it_again_under_its_id(hub: Hub) -> None:
    await hub.stage(("a", 1), ("a", 2))
    [lease] = await hub.claim()
    await hub.settle(report(lease, Rejected("INVALID")))
    [parked] = await hub.store.parked(Selection(route="orders"))
    assert await hub.store.replay([parked.id]) == 1
    assert await hub.store.replay([parked.id]) == 0
    [again] = await hub.claim()
    assert [r.id for r in again.records] == [r.id for r in lease.records]
    await hub.settle(*accepted([again]))
    audit = await hub.audit()
    assert (audit.delivered, audit.parked, audit.faults) == (2, 0, ())


async def test_replay_of_a_stepped_over_record_keeps_its_id_at_the_end_of_its_lane(hub: Hub) -> None:
    hub.order = Order.SKIP
    await hub.stage(("a", 1))
    [lease] = await hub.claim()
    await hub.settle(report(lease, Rejected("INVALID")))
    [parked] = await hub.store.parked(Selection())
    await hub.store.replay([parked.id])
    [again] = await hub.claim()
    assert again.records[0].id == lease.records[0].id
    await hub.settle(*accepted([again]))
    assert (await hub.audit()).faults == ()


async def test_release_lets_the_lane_go_on_and_keeps_the_record_parked(hub: Hub) -> None:
    await hub.stage(("a", 1), ("a", 2))
    [lease] = await hub.claim()
    await hub.settle(report(lease, Rejected("INVALID")))
    [parked] = await hub.store.parked(Selection())
    await hub.store.release([parked.id])
    [after] = await hub.claim()
    assert [r.payload for r in after.records] == [b"2"]
    audit = await hub.audit()
    assert (audit.parked, audit.faults) == (1, ())


async def test_restage_of_a_corrected_record_is_a_new_record_with_its_parent(hub: Hub) -> None:
    await hub.stage(("a", {"total": -1}))
    [lease] = await hub.claim()
    await hub.settle(report(lease, Rejected("INVALID")))
    [parked] = await hub.store.parked(Selection())
    assert await hub.store.restage(parked.id, NewRecord("a", b'{"total":1}'))
    assert not await hub.store.restage(parked.id, NewRecord("a", b'{"total":1}'))
    [again] = await hub.claim()
    assert again.records[0].id != parked.record
    *_, newest = await hub.store.report(lambda tx: reports.trace(tx, ["orders"], "a"))
    assert newest.parent == parked.record
    await hub.settle(*accepted([again]))
    audit = await hub.audit()
    assert (audit.accepted, audit.delivered, audit.faults) == (1, 1, ())


async def test_failures_in_a_row_open_the_breaker_for_every_worker(hub: Hub) -> None:
    await hub.stage(*((f"k{i}", i) for i in range(5)))
    leases = await hub.claim()
    settled = await hub.settle(*(report(lease, Unsent("refused")) for lease in leases[:3]))
    assert settled.gate.state is State.OPEN
    more = await hub.store.claim(Claim("orders", {"erp": 10}, Order.BLOCK, 1, SECOND_US))
    assert (more.gates["erp"].state, more.leases) == (State.OPEN, [])
    [outage] = await hub.store.report(lambda tx: reports.outages(tx, 5))
    assert (outage.reason, outage.restored_us) == ("unreachable", 0)
    announced = await hub.store.unannounced()
    names = [e.event.name for e in announced]
    assert names == ["tideover.system.down"]
    assert [e.identity for e in await hub.store.unannounced()] == [e.identity for e in announced]
    await hub.store.mark_announced([e.id for e in announced])
    assert await hub.store.unannounced() == []


async def test_f31_one_record_that_always_fails_does_not_open_the_breaker_and_is_parked(hub: Hub) -> None:
    await hub.stage(("poison", 1))
    for _ in range(hub.retry.max_attempts):
        hub.clock.move(100)
        [lease] = await hub.claim()
        settled = await hub.settle(report(lease, Unknown("server_error"), doubt=1))
        assert settled.gate.state is State.CLOSED
    [parked] = await hub.store.parked(Selection())
    assert (parked.code, parked.in_doubt) == ("attempts", True)


async def test_f31_one_record_that_the_system_always_puts_off_does_not_open_the_breaker_and_is_parked(hub: Hub) -> None:
    """It is certainly not processed, so nothing is in doubt; but it is this record that the answer is about."""
    await hub.stage(("poison", 1))
    for _ in range(hub.retry.max_attempts):
        hub.clock.move(100)
        [lease] = await hub.claim()
        settled = await hub.settle(report(lease, Unsent("retry", "row is locked", is_answer=True)))
        assert settled.gate.state is State.CLOSED
    [parked] = await hub.store.parked(Selection())
    assert (parked.code, parked.in_doubt) == ("attempts", False)


async def test_refused_credential_opens_at_once_and_parks_nothing(hub: Hub) -> None:
    await hub.stage(("a", 1))
    [lease] = await hub.claim()
    settled = await hub.settle(report(lease, Unsent(CREDENTIALS)))
    assert (settled.gate.state, settled.gate.reason) == (State.OPEN, "credentials")
    assert await hub.store.parked(Selection()) == []


async def test_storm_of_identical_rejections_opens_and_leaves_nothing_parked(hub: Hub) -> None:
    await hub.stage(*((f"k{i}", i) for i in range(4)))
    leases = await hub.claim()
    for lease in leases[:3]:
        settled = await hub.settle(report(lease, Rejected("SCHEMA", "field renamed")))
    assert settled.gate.reason == "contract"
    assert await hub.store.parked(Selection()) == []
    audit = await hub.audit()
    assert (audit.parked, audit.waiting, audit.faults) == (0, 4, ())


async def test_throttle_pauses_the_system_and_costs_no_attempt(hub: Hub) -> None:
    await hub.stage(("a", 1))
    [lease] = await hub.claim()
    settled = await hub.settle(report(lease, Throttled(30)))
    assert settled.gate.is_paused
    assert settled.gate.state is State.CLOSED
    hub.clock.move(29)
    assert await hub.claim() == []
    hub.clock.move(2)
    [again] = await hub.claim()
    assert again.attempts == 0


async def test_f30_probe_slot_has_one_holder_in_the_cluster(hub: Hub) -> None:
    await hub.store.force("erp", "open", "maintenance")
    await hub.store.force("erp", "auto", "done")
    await _open_breaker(hub)
    assert await hub.store.take_probe("erp", 10) is None  # not yet due
    hub.clock.move(6)
    taken = [slot for slot in await asyncio.gather(*(hub.store.take_probe("erp", 10) for _ in range(6))) if slot]
    assert len(taken) == 1
    hub.clock.move(11)
    assert await hub.store.take_probe("erp", 10)  # its holder vanished


async def test_two_good_probes_close_and_measure_the_outage(hub: Hub) -> None:
    await _open_breaker(hub)
    hub.clock.move(6)
    for state in (State.HALF_OPEN, State.CLOSED):
        slot = await hub.store.take_probe("erp", 10)
        assert slot
        gate = await hub.store.end_probe("erp", slot, Result("", 0, Accepted(), is_probe=True), hub.breaker_rule)
        assert gate.state is state
    await hub.store.hasten("erp", ["orders"])
    assert not await hub.store.end_drain("erp", ["orders"])
    await hub.settle(*accepted(await hub.claim()))
    assert await hub.store.end_drain("erp", ["orders"])
    [outage] = await hub.store.report(lambda tx: reports.outages(tx, 1))
    assert outage.backlog == 3
    assert outage.first_failure_us <= outage.opened_us < outage.restored_us <= outage.drained_us


async def test_bad_probe_keeps_it_open_for_longer(hub: Hub) -> None:
    await _open_breaker(hub)
    waits = []
    for _ in range(3):
        hub.clock.move(100)
        slot = await hub.store.take_probe("erp", 10)
        assert slot
        gate = await hub.store.end_probe("erp", slot, Result("", 0, Unsent("refused"), is_probe=True), hub.breaker_rule)
        waits.append(gate.wait_s)
    assert waits[0] < waits[1] < waits[2]


@pytest.mark.parametrize(("probe", "first_s"), [(Throttled(60), 60), (Throttled(60, is_asked=False), 60)])
async def test_throttled_probe_pauses_and_the_breaker_is_as_it_was_after_that(
    hub: Hub, probe: Throttled, first_s: float
) -> None:
    await _open_breaker(hub)
    hub.clock.move(6)
    for wait_s in (first_s, first_s if probe.is_asked else 2 * first_s):
        slot = await hub.store.take_probe("erp", 10)
        assert slot
        gate = await hub.store.end_probe("erp", slot, Result("", 0, probe, is_probe=True), hub.breaker_rule)
        assert (gate.is_paused, gate.state, gate.wait_s) == (True, State.OPEN, wait_s)
        hub.clock.move(wait_s - 1)
        assert await hub.store.take_probe("erp", 10) is None
        hub.clock.move(1)
    for state in (State.HALF_OPEN, State.CLOSED):
        slot = await hub.store.take_probe("erp", 10)
        assert slot
        gate = await hub.store.end_probe("erp", slot, Result("", 0, Accepted(), is_probe=True), hub.breaker_rule)
        assert gate.state is state


async def test_throttled_call_without_a_record_pauses_a_system_that_is_well(hub: Hub) -> None:
    gate = await hub.store.tell("erp", Result("", 0, Throttled(60)), hub.breaker_rule)
    assert (gate.state, gate.is_paused, gate.wait_s) == (State.CLOSED, True, 60)


async def test_throttled_probe_with_a_record_pauses_and_leaves_the_breaker_open(hub: Hub) -> None:
    slot, lease = await _probing(hub)
    gate = (await hub.settle(report(lease, Throttled(60), prober=slot))).gate
    assert (gate.is_paused, gate.state) == (True, State.OPEN)
    assert (await hub.store.release_probe("erp", slot)).wait_s > 50


@pytest.mark.parametrize("outcome", [Accepted(), Unsent("refused")])
async def test_f30_probe_whose_slot_is_somebody_elses_by_now_counts_for_nothing(hub: Hub, outcome: Outcome) -> None:
    slot, lease = await _probing(hub)
    hub.clock.move(11)
    other = await hub.store.take_probe("erp", 10)
    assert other == slot + 1
    await hub.settle(report(lease, outcome, prober=slot))
    gate = await hub.store.end_probe("erp", other, Result("", 0, Accepted(), is_probe=True), hub.breaker_rule)
    assert gate.state is State.HALF_OPEN, "this was the first good one of two"


async def test_f30_slot_is_its_takers_though_the_commits_answer_was_lost(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _open_breaker(hub)
    hub.clock.move(6)
    run, runs = hub.store.database._run, []  # type: ignore[attr-defined]

    async def losing_the_first_answer(*given: object) -> object:
        runs.append(await run(*given))
        if len(runs) == 1:
            raise ConnectionResetError
        return runs[-1]

    monkeypatch.setattr(hub.store.database, "_run", losing_the_first_answer)
    slot = await hub.store.take_probe("erp", 10)
    assert runs == [slot, slot]
    assert slot
    assert await hub.store.take_probe("erp", 10) is None


async def _probing(hub: Hub) -> tuple[int, Lease]:
    """An open breaker, and the prober's slot for ten seconds with a record to probe with."""
    await _open_breaker(hub)
    hub.clock.move(6)
    slot = await hub.store.take_probe("erp", 10)
    assert slot
    [lease] = await hub.store.claim_probe(Claim("orders", {"erp": 1}, hub.order, 1, 60 * SECOND_US), "erp")
    return slot, lease


async def test_forced_open_breaker_ignores_good_news(hub: Hub) -> None:
    gate = await hub.store.force("erp", "open", "vendor maintenance")
    assert (gate.state, gate.reason, gate.detail) == (State.OPEN, "operator", "vendor maintenance")
    hub.clock.move(10_000)
    assert await hub.store.take_probe("erp", 10) is None
    assert (await hub.store.force("erp", "auto", "over")).lets_through


async def _open_breaker(hub: Hub) -> None:
    await hub.stage(*((f"k{i}", i) for i in range(3)))
    await hub.settle(*(report(lease, Unsent("refused")) for lease in await hub.claim()))


async def test_payloads_are_sealed_at_rest_and_bound_to_their_record(database_url: str) -> None:
    keys = {"2026": bytes(range(32))}
    store = Store(open_database(database_url), Sealed("2026", keys))
    await store.migrate()
    hub = Hub(store, Clock())
    await hub.stage(("a", {"secret": "canary-7f3a"}), ("b", {"x": 1}))
    stored = await sql(database_url, "select id, payload from record order by key")
    assert b"canary-7f3a" not in b"".join(bytes(row[1]) for row in stored)
    await sql(
        database_url,
        f"update record set payload = (select payload from record where id = '{stored[0][0]}') "
        f"where id = '{stored[1][0]}'",
    )
    leases = {lease.records[0].key: lease.records[0] for lease in await hub.claim()}
    assert leases["a"].payload == b'{"secret":"canary-7f3a"}'
    assert not leases["a"].fault
    assert "does not fit" in leases["b"].fault
    await store.close()


async def test_purge_removes_delivered_records_past_retention_and_nothing_that_waits(hub: Hub) -> None:
    await hub.stage(("old", 1), ("busy", 1))
    await hub.settle(*accepted(await hub.claim()))
    hub.clock.move(100)
    await hub.stage(("busy", 2))
    assert await hub.store.purge("orders", 50 * SECOND_US) > 0
    await hub.store.tidy(50 * SECOND_US)
    assert await hub.store.report(lambda tx: reports.trace(tx, ["orders"], "old")) == []
    [lease] = await hub.claim()
    assert [r.payload for r in lease.records] == [b"2"]
    audit = await hub.audit()
    assert (audit.accepted, audit.delivered, audit.waiting, audit.faults) == (3, 2, 1, ())


async def test_audit_sees_a_record_that_vanished(hub: Hub, database_url: str) -> None:
    await hub.stage(("a", 1), ("a", 2))
    assert (await hub.audit()).faults == ()
    await sql(database_url, "delete from record where seq = 2")
    assert any("waiting records" in fault for fault in (await hub.audit()).faults)


async def test_audit_sees_a_lane_that_was_settled_without_the_ledger(hub: Hub, database_url: str) -> None:
    await hub.stage(("a", 1), ("a", 2))
    await sql(database_url, "update lane set done_seq = 1")
    assert any("not accounted for" in fault for fault in (await hub.audit()).faults)


async def test_migrate_again_and_at_the_same_time_is_harmless(database_url: str) -> None:
    stores = [Store(open_database(database_url)) for _ in range(3)]
    await asyncio.gather(*(store.migrate() for store in stores))
    for store in stores:
        await store.check_schema()
        await store.close()


async def test_open_a_new_file_while_another_process_holds_its_journal_waits_for_it(tmp_path: Path) -> None:
    held = sqlite3.connect(tmp_path / "hub.db", isolation_level=None, check_same_thread=False)
    held.execute("create table other (id integer)")
    held.execute("begin immediate")
    store = Store(open_database(f"sqlite:///{tmp_path / 'hub.db'}"))
    migrating = asyncio.create_task(store.migrate())
    while not (await asyncio.wait({migrating}, timeout=0.2))[0]:
        if held.in_transaction:
            held.execute("rollback")
    held.close()
    await migrating
    await store.check_schema()
    await store.close()


async def test_replay_of_an_older_version_under_latest_gives_way_to_the_newer_one(hub: Hub) -> None:
    hub.order = Order.LATEST
    await hub.stage(("a", 1))
    [lease] = await hub.claim()
    await hub.settle(report(lease, Rejected("INVALID")))
    await hub.stage(("a", 2))
    [parked] = await hub.store.parked(Selection())
    await hub.store.replay([parked.id], latest={"orders"})
    [after] = await hub.claim()
    assert [r.payload for r in after.records] == [b"2"]
    audit = await hub.audit()
    assert (audit.superseded, audit.parked, audit.faults) == (1, 0, ())


async def test_settlement_is_told_also_when_the_database_goes_before_a_storm_is_restored(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written: asked again, it would count nothing as delivered or parked."""

    async def away(_system: str) -> int:
        raise HubUnavailable("the staging database can't be used")

    await hub.stage(*((f"k{n}", n) for n in range(5)))
    first, *others, last = await hub.claim()
    await hub.settle(report(first, Accepted()))
    for lease in others[:2]:
        await hub.settle(report(lease, Rejected("SAME")))
    monkeypatch.setattr(hub.store, "restore_storm", away)
    settled = await hub.settle(report(last, Rejected("SAME")))
    assert settled.gate.reason == "contract"
    parked = len(await hub.store.parked(Selection()))
    assert parked >= 2
    monkeypatch.undo()
    assert await hub.store.restore_storm("erp") == parked


async def test_storm_never_restores_an_older_version_behind_a_newer_one(hub: Hub) -> None:
    hub.order = Order.SKIP
    await hub.stage(("a", 1), ("b", 1), ("c", 1))
    leases = {lease.records[0].key: lease for lease in await hub.claim()}
    await hub.settle(report(leases["a"], Rejected("SCHEMA")))
    await hub.stage(("a", 2))
    for key in "bc":
        await hub.settle(report(leases[key], Rejected("SCHEMA")))
    assert [p.key for p in await hub.store.parked(Selection())] == ["a"]
    assert (await hub.audit()).faults == ()


async def test_compact_beside_writers_loses_no_line(hub: Hub) -> None:
    async def write(writer: int) -> None:
        for number in range(15):
            await hub.stage((f"k{writer}", number))

    async def compact() -> None:
        for _ in range(15):
            await hub.store.compact()

    await asyncio.gather(*(write(n) for n in range(5)), compact(), compact())
    audit = await hub.audit()
    assert (audit.accepted, audit.waiting, audit.faults) == (75, 75, ())


async def test_f50_error_of_the_database_quotes_no_payload(hub: Hub, database_url: str) -> None:
    await sql(database_url, "drop table record")
    with pytest.raises(HubUnavailable) as caught:
        await hub.stage(("canary-key", {"secret": "canary-payload"}))
    told = "".join(traceback.format_exception(caught.value))
    assert "record" in told
    assert "canary" not in told.partition("Traceback")[2].replace('"canary-key", {"secret": "canary-payload"}', "")


async def test_lane_whose_records_are_gone_is_put_off_and_the_audit_says_so(hub: Hub, database_url: str) -> None:
    """Leased with nothing to send, it would come back at once, again and again."""
    await hub.stage(("gone", 1))
    await sql(database_url, "delete from record")
    await hub.stage(("there", 1))
    for _ in range(2):
        assert [lease.records[0].key for lease in await hub.claim(lanes=1)] in ([], ["there"])
    outlook = await hub.store.outlook(["orders"], ["erp"])
    assert outlook.due_us is not None
    assert outlook.due_us > outlook.now_us
    assert (await hub.audit()).faults != ()


async def test_replay_that_may_make_a_lane_anew_waits_for_whoever_stages_on_its_route(postgres: Postgres) -> None:
    """Else both could make it, and the one that came second would be told that the database can't be used."""
    url = postgres.new_database()
    store = Store(open_database(url))
    await store.migrate()
    staging = await asyncpg.connect(url)
    try:
        hub = Hub(store, Clock(), Order.SKIP)
        await store.stage(Batch("orders", "crm", [NewRecord("k", b"1")], order=Order.SKIP))
        [lease] = await hub.claim()
        await hub.settle(report(lease, Rejected("INVALID")))
        for table in ("record", "lane"):  # as housekeeping does in time
            await sql(url, f"delete from {table}")
        [parked] = await store.parked(Selection())
        async with staging.transaction():
            await staging.execute("update cursor set route = route where route = 'orders'")
            replaying = asyncio.create_task(store.replay([parked.id]))
            while not await sql(url, "select 1 from pg_stat_activity where wait_event_type = 'Lock'"):
                assert not replaying.done()
                await asyncio.sleep(0.01)
            assert await sql(url, "select count(*) from lane") == [(0,)]
        assert await replaying == 1
    finally:
        await staging.close()
        await store.close()


async def test_restage_beside_staging_never_deadlocks(postgres: Postgres) -> None:
    """Both hold the route's cursor before any lane."""
    url = postgres.new_database()
    store = Store(open_database(url))
    await store.migrate()
    try:
        hub = Hub(store, Clock(), Order.SKIP)
        keys = [f"k{n}" for n in range(20)]
        await store.stage(Batch("orders", "crm", [NewRecord(key, b"1") for key in keys], order=Order.SKIP))
        claimed = await hub.claim(lanes=100)
        await hub.settle(*(report(lease, Rejected(f"no {lease.lane}")) for lease in claimed))
        parked = await store.parked(Selection())
        assert len(parked) == len(keys)

        async def keep_staging() -> None:
            for n in range(40):
                await store.stage(Batch("orders", "crm", [NewRecord(key, b"s%d" % n) for key in keys]))

        async def restage() -> None:
            for it in parked:
                assert await store.restage(it.id, NewRecord(it.key, b"mended"), Order.SKIP)

        await asyncio.gather(keep_staging(), restage())
    finally:
        await store.close()
    name = url.partition("?")[0].rpartition("/")[2]
    assert await sql(url, f"select deadlocks from pg_stat_database where datname = '{name}'") == [(0,)]


class Flaky:
    """A database of which some answers to a commit are lost: the connection is reset once it is done."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = 0
        run = hub.store.database._run  # type: ignore[attr-defined]

        async def lose(*given: Any) -> Any:
            done = await run(*given)
            if self.lost:
                self.lost -= 1
                raise ConnectionResetError("the answer is lost")
            return done

        monkeypatch.setattr(hub.store.database, "_run", lose)


async def test_stage_whose_commit_nobody_learnt_of_is_not_done_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cursor, too, and where a batch has several versions of a key: each but the last would look new."""
    flaky = Flaky(hub, monkeypatch)
    for lost in (1, 3):
        flaky.lost = lost
        assert await hub.stage(("k", f"A{lost}"), ("k", f"B{lost}"), ("k", f"B{lost}")) == Staged(2, 1)
    [lease] = await hub.claim()
    assert [record.payload for record in lease.records] == [b'"A1"', b'"B1"', b'"A3"', b'"B3"']
    assert (await hub.audit()).accepted == 4


async def test_stage_with_a_cursor_whose_commit_nobody_learnt_of_is_no_overtaking(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = CursorMove(await hub.store.cursor("orders"), "page-2", True)
    Flaky(hub, monkeypatch).lost = 1
    assert await hub.store.stage(Batch("orders", "crm", [NewRecord("k", b"1")], move=move)) == Staged(1)
    assert (await hub.store.cursor("orders")).text == "page-2"


async def test_stage_is_known_again_although_the_ledger_was_compacted_meanwhile(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tries = hub.store.database._run, 0  # type: ignore[attr-defined]

    async def lose(*given: Any) -> Any:
        nonlocal tries
        tries += 1
        done = await run(*given)
        if tries == 1:
            await hub.store.compact()
            raise ConnectionResetError("the answer is lost")
        return done

    await hub.stage(("other", 1))
    monkeypatch.setattr(hub.store.database, "_run", lose)
    assert await hub.stage(("k", "A"), ("k", "B")) == Staged(2)
    assert (await hub.audit()).accepted == 3
    hub.clock.move(600)
    assert await hub.store.compact() > 0


async def test_stage_that_was_rolled_back_is_done_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, tries = staging.stage, 0

    def fail_at_first(*given: Any) -> Staged:
        nonlocal tries
        tries += 1
        done = stage(*given)
        if tries == 1:
            raise ConnectionResetError("before the commit")
        return done

    monkeypatch.setattr(staging, "stage", fail_at_first)
    assert await hub.stage(("k", "A"), ("k", "B")) == Staged(2)
    assert tries == 2
    assert (await hub.audit()).accepted == 2
