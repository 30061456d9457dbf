"""The reconciliation's contract, on SQLite and on PostgreSQL alike: cases, their leases, and what closes them.

How a record gets into doubt and to another provider is the claim's business; here it is written as it leaves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import orjson
import pytest
from sqlalchemy import text

from tests.databases import sql
from tideover.model import (
    SECOND_US,
    Accepted,
    Found,
    LookUp,
    Missing,
    NewRecord,
    Outcome,
    Rejected,
    Throttled,
    Unknown,
    lane_id,
)
from tideover.policy.reconcile import Absent, Adopt, Later, Means, Raise, State, Verdict, Voided, VoidIt
from tideover.staging import parking, reconciliation, reports
from tideover.staging.cases import Asked, Case, Undone
from tideover.staging.database import Transaction, open_database
from tideover.staging.ledger import Entry, enter
from tideover.staging.reconciliation import Listed, Selection
from tideover.staging.stage import Batch
from tideover.staging.store import Store

LEASE_US = 60 * SECOND_US
SETTLE_S = 30.0
MEANS = Means(can_ask=True, can_void=True, settle_s=SETTLE_S)
A, B = "carrier-a", "carrier-b"


@dataclass
class Clock:
    """Moves the database's clock for the hub under test."""

    ahead_us: int = 0

    def __call__(self, now_us: int) -> int:
        return now_us + self.ahead_us

    def move(self, seconds: float) -> None:
        self.ahead_us += int(seconds * SECOND_US)


@dataclass
class Hub:
    """A store with one route `orders` to the carriers, and what may happen to its records."""

    store: Store
    clock: Clock
    url: str

    async def write(self, statement: str, **bound: object) -> None:
        await self.store.database.write(lambda tx: tx.conn.execute(text(statement), bound))

    async def stage(self, key: str, *bodies: object) -> str:
        """Stages the bodies under the key; the id of the first that waits."""
        records = [NewRecord(key, orjson.dumps(body)) for body in bodies or (1,)]
        await self.store.stage(Batch("orders", "shop", records))
        rows = await sql(
            self.url,
            f"select record.id from record join lane on lane.id = record.lane where lane = {lane_id('orders', key)} "
            "and seq = done_seq + 1",
        )
        return str(rows[0][0])

    async def reroute(self, key: str, system: str = A, age_s: float = 100.0) -> str:
        """Stages a record that may be at `system` since `age_s` and may now go elsewhere; its id."""
        record = await self.stage(key)
        await self.begin(key, record, system, age_s)
        return record

    async def begin(self, key: str, record: str, system: str = A, age_s: float = 100.0) -> None:
        def work(tx: Transaction) -> None:
            since_us = tx.now_us - int(age_s * SECOND_US)
            place = (lane_id("orders", key), 1, record, key)
            reconciliation.begin(tx, "shipping", "orders", system, since_us, [place])

        await self.store.database.write(work)

    async def deliver(self, key: str, record: str, system: str = B, reference: str = "B-1", seq: int = 1) -> None:
        """The lane's head is delivered by a provider."""
        lane = lane_id("orders", key)

        def work(tx: Transaction) -> None:
            place = (lane, seq, record, "orders", system, 1)
            reconciliation.trace(tx, place, "send", ("accepted", "", "", reference))
            tx.conn.execute(
                text(
                    "update lane set done_seq = done_seq + 1, lease_until_us = 0, in_doubt = 0, "
                    "state = case when done_seq + 1 < last_seq then 1 else 0 end where id = :lane"
                ),
                {"lane": lane},
            )
            enter(tx, "orders", Entry(delivered=1))

        await self.store.database.write(work)

    async def park(self, key: str, record: str, *, holds: bool = True, in_doubt: bool = False) -> None:
        """The lane's head is parked after carrier-b had it."""
        lane = lane_id("orders", key)

        def work(tx: Transaction) -> None:
            tx.conn.execute(
                text(
                    "insert into parked (record, route, lane, seq, key, system, code, detail, payload, in_doubt, "
                    "holds, at_intake, staged_us, parked_us) select :record, 'orders', :lane, 1, :key, 'carrier-b', "
                    "'given_up', '', payload, :in_doubt, :holds, :no, staged_us, :now from record "
                    "where lane = :lane and seq = 1"
                ),
                {"record": record, "lane": lane, "key": key, "in_doubt": in_doubt, "holds": holds, "no": False,
                 "now": tx.now_us},
            )  # fmt: skip
            moved = "state = 2, in_doubt = :doubt" if holds else "state = 0, done_seq = done_seq + 1, in_doubt = 0"
            tx.conn.execute(
                text(f"update lane set {moved} where id = :lane"), {"lane": lane, "doubt": int(in_doubt and holds)}
            )
            enter(tx, "orders", Entry(parked=1))

        await self.store.database.write(work)

    async def claim(self, system: str = A, limit: int = 100) -> list[Case]:
        return await self.store.claim_cases(system, LEASE_US, limit)

    async def ask(self, answer: LookUp | None, means: Means = MEANS, system: str = A) -> Verdict | None:
        """Asks about the one case that is due."""
        [case] = await self.claim(system)
        return await self.store.settle_case(case, Asked(answer, means))

    async def void(self, outcome: Outcome, reference: str = "A-1") -> Verdict | None:
        """Asks about the one case that is due, finds it, and voids it with this outcome."""
        [case] = await self.claim()
        assert await self.store.settle_case(case, Asked(Found(reference), MEANS)) == VoidIt(reference)
        return await self.store.settle_void(case, Undone(outcome))

    async def open(self) -> list[Listed]:
        return await self.store.cases(Selection())

    async def closed(self) -> list[tuple[object, ...]]:
        return await sql(
            self.url,
            "select system, state, reference, other_system, other_reference from reconciliation where closed_us > 0 "
            "order by id",
        )

    async def events(self) -> list[tuple[str, str, dict[str, object]]]:
        found = [e.event for e in await self.store.unannounced(1000)]
        return [(e.name.removeprefix("tideover."), e.subject, dict(e.detail)) for e in found]

    async def audit(self) -> reports.RouteAudit:
        [route] = await self.store.audit(["orders"])
        assert (route.faults, route.difference) == ((), 0)
        return route

    async def story(self, key: str) -> tuple[str, list[str]]:
        """Where the newest record of a key stands, and everything that was tried."""
        record = (await self.store.report(lambda tx: reports.trace(tx, ["orders"], key)))[-1]
        return record.state, [f"{a.kind} {a.outcome} at {a.system}" for a in record.attempts]


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    clock = Clock()
    store = Store(open_database(database_url, clock), spread=lambda: 0.5)
    await store.migrate()
    yield Hub(store, clock, database_url)
    await store.close()


# --- beginning ------------------------------------------------------------------------------------------------


async def test_begin_opens_a_case_that_is_due_and_tells(hub: Hub) -> None:
    record = await hub.reroute("k")
    [case] = await hub.claim()
    assert (case.group, case.route, case.record, case.key, case.system) == ("shipping", "orders", record, "k", A)
    assert (case.state, case.misses, case.attempts, case.seq) == (State.OPEN, 0, 0, 1)
    assert await hub.events() == [("record.rerouted", record, {"route": "orders", "system": A})]
    assert (await hub.story("k"))[1] == [f"rerouted unknown at {A}"]


async def test_begin_again_for_the_same_provider_opens_no_second_case(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.begin("k", record)
    assert len(await hub.claim()) == 1
    assert len(await hub.events()) == 1


async def test_shunned_are_the_systems_of_open_and_raised_cases(hub: Hub) -> None:
    raised, absent, twice = [await hub.reroute(key) for key in ("raised", "absent", "twice")]
    await hub.begin("twice", twice, B)
    for case in await hub.claim():
        if case.record != twice:
            means = replace(MEANS, can_ask=case.record != raised)
            await hub.store.settle_case(case, Asked(Missing(), means))
    hub.clock.move(SETTLE_S)
    assert await hub.ask(Missing()) == Absent()
    lanes = [lane_id("orders", key) for key in ("raised", "absent", "twice")]
    found = await hub.store.report(lambda tx: reconciliation.shunned(tx, lanes))
    assert found == {(lanes[0], raised): {A}, (lanes[2], twice): {A, B}}
    assert await hub.store.report(lambda tx: reconciliation.shunned(tx, [])) == {}
    assert absent


# --- leases ---------------------------------------------------------------------------------------------------


async def test_claim_gives_a_case_to_one_only(hub: Hub) -> None:
    for n in range(40):
        await hub.reroute(f"k{n}")
    claims = await asyncio.gather(*(hub.claim(limit=10) for _ in range(8)))
    ids = [case.id for cases in claims for case in cases]
    assert (len(ids), len(set(ids))) == (40, 40)


async def test_claim_is_by_system_and_by_when_it_is_due(hub: Hub) -> None:
    await hub.reroute("k")
    assert await hub.claim(B) == []
    assert await hub.ask(Throttled(5.0)) == Later(5.0)
    assert await hub.claim() == []
    hub.clock.move(5)
    [case] = await hub.claim()
    assert (case.attempts, case.misses) == (1, 0)


async def test_claim_after_the_lease_ran_out_fences_the_first_one_off(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    [stale] = await hub.claim()
    hub.clock.move(LEASE_US / SECOND_US + 1)
    before = await hub.open()
    assert await hub.store.settle_case(stale, Asked(Found("A-1"), MEANS)) is None
    [case] = await hub.claim()
    assert await hub.store.settle_case(stale, Asked(Missing(), MEANS)) is None
    assert await hub.store.settle_void(stale, Undone(Accepted())) is None
    await hub.store.give_back_case(stale)
    assert await hub.claim() == []
    assert await hub.open() == before
    assert await hub.store.settle_case(case, Asked(Found("A-1"), MEANS)) == VoidIt("A-1")


async def test_settle_twice_is_settling_once(hub: Hub) -> None:
    await hub.reroute("k")
    [case] = await hub.claim()
    assert await hub.store.settle_case(case, Asked(Found("A-1"), MEANS)) == Adopt("A-1")
    assert await hub.store.settle_case(case, Asked(Found("A-1"), MEANS)) is None
    assert (await hub.audit()).delivered == 1


async def test_given_back_case_is_due_at_once(hub: Hub) -> None:
    await hub.reroute("k")
    [case] = await hub.claim()
    await hub.store.give_back_case(case)
    [again] = await hub.claim()
    assert (again.token, again.attempts) == (case.token + 1, 0)


# --- it never got there ---------------------------------------------------------------------------------------


async def test_absent_after_two_misses_with_a_wait_between(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    assert await hub.ask(Missing()) == Later(SETTLE_S)
    hub.clock.move(SETTLE_S - 1)
    assert await hub.claim() == []
    hub.clock.move(1)
    assert await hub.ask(Missing()) == Absent()
    assert await hub.closed() == [(A, "absent", None, B, "B-1")]
    assert await hub.story("k") == (
        "delivered",
        [f"rerouted unknown at {A}", f"send accepted at {B}", *[f"look_up missing at {A}"] * 2],
    )


async def test_missing_while_the_request_may_be_on_its_way_is_asked_again(hub: Hub) -> None:
    await hub.reroute("k", age_s=-100.0)  # it was sent after the database's clock by which it is asked
    assert await hub.ask(Missing()) == Later(SETTLE_S)
    hub.clock.move(SETTLE_S)
    assert await hub.ask(Missing()) == Later(SETTLE_S)
    hub.clock.move(110)
    assert await hub.ask(Missing()) == Absent()


async def test_found_between_two_misses_begins_again(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.stage("first")
    await hub.write("update lane set lease_until_us = :far where id = :lane", far=2**62, lane=lane_id("orders", "k"))
    for answer in (Missing(), Found("A-1"), Missing()):
        assert isinstance(await hub.ask(answer), Later)
        hub.clock.move(SETTLE_S)
    assert isinstance(await hub.ask(Missing()), Absent)
    assert record


# --- both have it ---------------------------------------------------------------------------------------------


async def test_void_accepted_closes_the_case(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    assert await hub.void(Accepted()) == Voided()
    assert await hub.closed() == [(A, "voided", "A-1", B, "B-1")]
    state, tried = await hub.story("k")
    assert (state, tried[2:]) == ("delivered", [f"look_up found at {A}", f"void accepted at {A}"])
    detail = {"route": "orders", "system": A, "other_system": B, "reference": "A-1"}
    assert (await hub.events())[-1] == ("reconciliation.voided", record, detail)
    assert (await hub.audit()).delivered == 1


async def test_void_refused_needs_a_person_who_gets_both_references(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    assert isinstance(await hub.void(Rejected("shipped", "it left")), Raise)
    [case] = await hub.open()
    assert (case.state, case.reference, case.other_system, case.other_reference) == (State.RAISED, "A-1", B, "B-1")
    assert "shipped: it left" in case.detail
    name, subject, detail = (await hub.events())[-1]
    assert (name, subject) == ("reconciliation.raised", record)
    assert detail == {
        "route": "orders", "system": A, "other_system": B, "reference": "A-1", "other_reference": "B-1",
    }  # fmt: skip
    hub.clock.move(1e6)
    assert await hub.claim() == []


async def test_no_void_needs_a_person(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    assert isinstance(await hub.ask(Found("A-1"), replace(MEANS, can_void=False)), Raise)
    assert (await hub.story("k"))[1][-1] == f"raised raised at {A}"


@pytest.mark.parametrize("outcome", [Unknown("timeout"), None])
async def test_missing_after_a_void_of_unknown_outcome_closes_it_as_voided(hub: Hub, outcome: Outcome | None) -> None:
    """None: its sender died before it could tell."""
    record = await hub.reroute("k", age_s=1.0)
    await hub.deliver("k", record)
    [case] = await hub.claim()
    assert await hub.store.settle_case(case, Asked(Found("A-1"), MEANS)) == VoidIt("A-1")
    if outcome is not None:
        assert await hub.store.settle_void(case, Undone(outcome)) == Later(1.0)
    hub.clock.move(LEASE_US / SECOND_US + 1)
    assert await hub.ask(Missing()) == Voided()
    assert await hub.closed() == [(A, "voided", "A-1", B, "B-1")]


async def test_found_after_a_void_of_unknown_outcome_is_voided_again(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    assert await hub.void(Unknown("timeout")) == Later(1.0)
    hub.clock.move(2)
    assert await hub.void(Accepted()) == Voided()


async def test_missing_after_a_void_that_was_never_sent_is_asked_again(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    assert await hub.void(Throttled(3.0)) == Later(3.0)
    hub.clock.move(3)
    assert isinstance(await hub.ask(Missing()), Later)


async def test_provider_is_voided_only_while_another_is_known_to_have_it(hub: Hub) -> None:
    """In doubt at both: whoever is found first is the delivery, and the other one is voided."""
    record = await hub.reroute("k")
    await hub.begin("k", record, B)
    [at_a], [at_b] = await hub.claim(A), await hub.claim(B)
    verdicts = await asyncio.gather(
        hub.store.settle_case(at_a, Asked(Found("A-1"), MEANS)),
        hub.store.settle_case(at_b, Asked(Found("B-1"), MEANS)),
    )
    assert {type(v) for v in verdicts} == {Adopt, VoidIt}
    assert (await hub.audit()).delivered == 1


async def test_undone_delivery_is_no_delivery(hub: Hub) -> None:
    """A void's `accepted` must not be taken for the provider having the record."""
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    assert await hub.void(Accepted()) == Voided()
    await hub.write("delete from attempt where kind = 'send'")
    assert (await hub.story("k"))[0] != "delivered"
    await hub.begin("k", record, B)
    assert isinstance(await hub.ask(Found("B-1"), system=B), Raise)


# --- only the first one has it --------------------------------------------------------------------------------


async def test_adopted_head_is_delivered_and_its_lane_goes_on(hub: Hub) -> None:
    record = await hub.stage("k", 1, 2)
    await hub.begin("k", record)
    await hub.write("update lane set avoid = 'carrier-b', attempts = 3")
    assert await hub.ask(Found("A-1")) == Adopt("A-1")
    assert await sql(hub.url, "select done_seq, state, attempts, avoid from lane") == [(1, 1, 0, "")]
    audit = await hub.audit()
    assert (audit.delivered, audit.waiting) == (1, 1)
    assert await hub.closed() == [(A, "adopted", "A-1", "", None)]
    traced = await hub.store.report(lambda tx: reports.trace(tx, ["orders"], "k"))
    assert [(r.state, [a.reference for a in r.attempts if a.outcome == "accepted"]) for r in traced] == [
        ("delivered", ["A-1"]),
        ("waiting", []),
    ]
    assert (await hub.events())[-1][:2] == ("reconciliation.adopted", record)


async def test_adopted_last_record_leaves_its_lane_idle(hub: Hub) -> None:
    await hub.reroute("k")
    assert await hub.ask(Found(None)) == Adopt(None)
    assert await sql(hub.url, "select done_seq, state from lane") == [(1, 0)]
    assert (await hub.audit()).waiting == 0


@pytest.mark.parametrize(
    "busy",
    ["lease_until_us = 9000000000000000, in_doubt = 1, token = 5", "in_doubt = 1, system = 'carrier-b'"],
    ids=["leased", "in doubt"],
)
async def test_found_while_another_provider_may_get_it_waits(hub: Hub, busy: str) -> None:
    record = await hub.reroute("k")
    await hub.write(f"update lane set {busy}")
    assert await hub.ask(Found("A-1")) == Later(1.0)
    hub.clock.move(1)
    assert await hub.ask(Found("A-1")) == Later(2.0)
    assert (await hub.open())[0].reference == "A-1"
    assert (await hub.story("k"))[1].count(f"look_up found at {A}") == 1  # hearing the same again is no news
    await hub.deliver("k", record)
    hub.clock.move(2)
    assert await hub.ask(Found("A-1")) == VoidIt("A-1")


async def test_found_behind_others_waits_for_its_turn(hub: Hub) -> None:
    first = await hub.stage("k", 1, 2)
    [[second]] = await sql(hub.url, "select id from record where seq = 2")
    await hub.begin("k", second)
    assert isinstance(await hub.ask(Found("A-2")), Later)
    await hub.deliver("k", first)
    hub.clock.move(1)
    assert await hub.ask(Found("A-2")) == Adopt("A-2")
    assert (await hub.audit()).delivered == 2
    assert await sql(hub.url, "select done_seq, state from lane") == [(2, 0)]


@pytest.mark.parametrize("holds", [True, False])
async def test_adopted_parked_record_is_delivered(hub: Hub, holds: bool) -> None:
    record = await hub.reroute("k")
    await hub.park("k", record, holds=holds)
    await hub.stage("k", 2)
    assert await hub.ask(Found("A-1")) == Adopt("A-1")
    audit = await hub.audit()
    assert (audit.delivered, audit.parked, audit.waiting) == (1, 0, 1)
    assert await sql(hub.url, "select done_seq, state, in_doubt from lane") == [(1, 1, 0)]
    assert await sql(hub.url, "select closing from parked") == [("delivered",)]
    traced = await hub.store.report(lambda tx: reports.trace(tx, ["orders"], "k"))
    assert [r.state for r in traced] == ["delivered", "waiting"]
    assert await hub.claim(B) == []


async def test_adopted_parked_record_that_may_be_elsewhere_too_is_asked_for_there(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.park("k", record, in_doubt=True)
    assert await hub.ask(Found("A-1")) == Adopt("A-1")
    assert (await hub.audit()).delivered == 1
    assert await hub.ask(Found("B-9"), system=B) == VoidIt("B-9")


async def test_replayed_record_is_found_at_its_new_place(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.park("k", record, holds=False)
    [parked] = await hub.store.parked(parking.Selection())
    await hub.store.replay([parked.id])
    assert await sql(hub.url, "select max(seq) from record") == [(2,)]
    assert await hub.ask(Found("A-1")) == Adopt("A-1")
    assert await sql(hub.url, "select done_seq, state from lane") == [(2, 0)]
    assert (await hub.audit()).delivered == 1
    assert (await hub.story("k"))[0] == "delivered"
    assert record


@pytest.mark.parametrize("act", ["release", "correct", "supersede"])
async def test_found_although_the_hub_gave_the_record_up_needs_a_person(hub: Hub, act: str) -> None:
    record = await hub.stage("k", 1, 2)
    await hub.begin("k", record)
    if act == "supersede":
        await hub.write("update lane set done_seq = 1")
        await hub.store.database.write(lambda tx: enter(tx, "orders", Entry(superseded=1)))
    else:
        await hub.park("k", record)
        [parked] = await hub.store.parked(parking.Selection())
        if act == "release":
            await hub.store.release([parked.id])
        else:
            await hub.store.restage(parked.id, NewRecord("k", b"3"))
    verdict = await hub.ask(Found("A-1"))
    assert isinstance(verdict, Raise)
    assert "A-1" in verdict.detail
    assert (await hub.audit()).delivered == 0
    assert (await hub.open())[0].reference == "A-1"


# --- people ---------------------------------------------------------------------------------------------------


async def test_provider_that_can_not_be_asked_is_a_persons_and_is_not_asked_again(hub: Hub) -> None:
    await hub.reroute("k")
    assert isinstance(await hub.ask(None, replace(MEANS, can_ask=False, why_not="no such route")), Raise)
    [case] = await hub.open()
    assert (case.state, case.detail) == (State.RAISED, "no such route")
    hub.clock.move(1e6)
    assert await hub.claim() == []


async def test_listing_shows_raised_cases_first_and_who_has_them_by_now(hub: Hub) -> None:
    await hub.reroute("open")
    record = await hub.reroute("raised")
    [first, second] = await hub.claim()
    await hub.store.give_back_case(first)
    await hub.store.settle_case(second, Asked(None, replace(MEANS, can_ask=False)))
    await hub.deliver("raised", record)
    listed = await hub.open()
    assert [(c.key, c.state, c.other_system, c.other_reference) for c in listed] == [
        ("raised", State.RAISED, B, "B-1"),
        ("open", State.OPEN, "", None),
    ]
    assert [c.key for c in await hub.store.cases(Selection(skip=1, limit=1))] == ["open"]
    assert [c.key for c in await hub.store.cases(Selection(key="open", route="orders", system=A))] == ["open"]
    assert await hub.store.cases(Selection(record="nobody")) == []
    assert await hub.store.count_cases() == [reconciliation.Count("shipping", A, 1, 1)]


async def test_settled_by_a_person_is_closed_and_fences_off_whoever_asks(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    [held] = await hub.claim()
    [case] = await hub.open()
    assert await hub.store.settle_case_by_person(case.id, "cancelled by phone", "ann")
    assert not await hub.store.settle_case_by_person(case.id, "again", "bob")
    assert not await hub.store.settle_case_by_person(10**6, "nothing", "bob")
    assert await hub.store.settle_case(held, Asked(Found("A-1"), MEANS)) is None
    assert await hub.open() == []
    assert await sql(hub.url, "select state, detail, author from reconciliation") == [
        ("settled", "cancelled by phone", "ann")
    ]
    assert (await hub.events())[-1] == ("reconciliation.settled", record, {"route": "orders", "system": A})
    assert (await hub.story("k"))[1][-1] == f"by_person settled at {A}"


# --- retention ------------------------------------------------------------------------------------------------


async def test_purge_keeps_what_an_open_case_needs_and_then_lets_it_go(hub: Hub) -> None:
    record = await hub.reroute("k")
    await hub.deliver("k", record)
    other = await hub.stage("other")
    await hub.deliver("other", other)
    hub.clock.move(1000)
    assert await hub.store.purge("orders", SECOND_US) > 0
    await hub.store.tidy(SECOND_US)
    assert await sql(hub.url, "select key from record") == [("k",)]
    assert await hub.ask(Found("A-1")) == VoidIt("A-1")
    [case] = await hub.open()
    await hub.store.settle_case_by_person(case.id, "done", "ann")
    await hub.store.tidy(SECOND_US)
    assert len(await hub.closed()) == 1
    hub.clock.move(1000)
    await hub.store.purge("orders", SECOND_US)
    await hub.store.tidy(SECOND_US)
    for table in ("record", "lane", "attempt", "reconciliation"):
        assert await sql(hub.url, f"select * from {table}") == []
