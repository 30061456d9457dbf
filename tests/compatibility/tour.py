"""A scripted tour of the store: leaves behind a row of each kind, and then uses whatever the store can do.

Nothing is left to chance, so that two tours of one release leave the same rows and say the same statements: the clock
moves when the tour says so, and waits are not spread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from tests.compatibility.hub import GROUP, ROUTES, A, B
from tideover.model import (
    CREDENTIALS,
    SECOND_US,
    Accepted,
    Broken,
    Found,
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
from tideover.policy.failover import FailbackRule, GroupRule
from tideover.policy.quota import BudgetRule, LimitRule, RateRule
from tideover.policy.reconcile import Means
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, Park, RouteRule
from tideover.staging import ledger, pace, parking, reconciliation, reports
from tideover.staging.cases import Asked, Undone
from tideover.staging.database import open_database
from tideover.staging.settle import Settlement
from tideover.staging.shares import Ask
from tideover.staging.stage import Batch, CursorMove
from tideover.staging.store import Store
from tideover.staging.wishes import Claim, GroupWish

NOON_US = 1_800_014_400 * SECOND_US  # 2027-01-15 12:00:00 UTC
DAY_S = 86_400.0
RULE = BreakerRule(failures=3, rejections=5, open_for_s=5, max_open_s=60, successes=2)
RETRY = RetryRule(max_attempts=4, base_s=1, cap_s=60, max_age_s=None)
LIMITS = LimitRule((RateRule(1000, 1),), BudgetRule(5000, reserve=0.2))
SHIPPING = GroupRule((A, B), failback=FailbackRule(dwell_s=1, max_dwell_s=60, canaries=2, ramp_s=10))
MEANS = Means(can_ask=True, can_void=True, settle_s=2.0)


class Clock:
    """The database's clock, which moves only when told."""

    def __init__(self) -> None:
        self.now_us = NOON_US

    def __call__(self, _: int) -> int:
        return self.now_us

    def move(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)


def record(key: str, version: int = 1) -> NewRecord:
    return NewRecord(key, orjson.dumps({"id": key, "n": version}))


class Guide:
    """A store with short hands, for a hub as in `hub.CONFIG`."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        pushes = itertools.count(1)
        self.store = Store(open_database(url, self.clock), spread=lambda: 0.5, new_name=lambda: f"push-{next(pushes)}")

    async def stage(self, route: str, *keys: str, broken: Sequence[Broken] = (), cursor: str | None = None) -> None:
        """A key that comes again is a new version."""
        records = [record(key, keys[: at + 1].count(key)) for at, key in enumerate(keys)]
        move = CursorMove(await self.store.cursor(route), cursor, True) if cursor else None
        await self.store.stage(Batch(route, "crm", records, broken, move, self.order(route)))

    def order(self, route: str) -> Order:
        return Order(ROUTES[route][1])

    def wish(self, route: str, lease_s: float = 60.0, lanes: int = 100) -> Claim:
        target = ROUTES[route][0]
        rooms = dict.fromkeys((A, B) if "group" in target else (target["system"],), lanes)
        group = GroupWish(GROUP, SHIPPING, reroute_after_s=10) if "group" in target else None
        limits = {"erp": LIMITS} if "erp" in rooms else {}
        return Claim(route, rooms, self.order(route), 10, int(lease_s * SECOND_US), limits, group)

    async def claim(self, route: str, lease_s: float = 60.0, lanes: int = 100) -> Sequence[Lease]:
        self.store._claiming._floors.clear()  # how fast the machine is says when a claim looks at everything again
        leases = (await self.store.claim(self.wish(route, lease_s, lanes))).leases
        return sorted(leases, key=lambda lease: lease.lane)  # PostgreSQL's order changes when it has counted its rows

    async def settle(self, leases: Sequence[Lease], outcome: Outcome | Missing, **said: Any) -> None:
        """Each lease's first record met this outcome; where it was accepted, all of them."""
        for lease in leases:
            met = lease.records if isinstance(outcome, Accepted) else lease.records[:1]
            kind = Kind.LOOK_UP if isinstance(outcome, Missing) else Kind.SEND
            attempts = [Attempt(it, kind, outcome, 1000, 500) for it in met]
            if isinstance(outcome, Unknown):
                said = {"doubt": 1, "doubted_us": self.clock.now_us, **said}
            told = LaneReport(lease.lane, lease.token, attempts, counted=lease.counted, given_us=lease.given_us, **said)
            await self._settle(lease, told)

    async def _settle(self, lease: Lease, told: LaneReport) -> None:
        is_group = "group" in ROUTES[lease.route][0]
        rules = {lease.route: RouteRule(self.order(lease.route), RETRY, has_alternatives=is_group)}
        limits = LIMITS if lease.system == "erp" else None
        await self.store.settle(Settlement(lease.system, [told], rules, RULE, GROUP if is_group else "", limits))

    async def deliver(self, route: str) -> None:
        while leases := await self.claim(route):
            await self.settle(leases, Accepted("their-reference"))

    async def lose(self, route: str) -> None:
        """A worker vanishes with everything that is due."""
        await self.claim(route, lease_s=10)
        self.clock.move(11)

    async def break_(self, system: str) -> None:
        await self.store.tell(system, Result("", 0, Unsent(CREDENTIALS, "401")), RULE)

    async def mend(self, system: str, *routes: str) -> None:
        self.clock.move(100)
        for _ in range(RULE.successes):
            slot = await self.store.take_probe(system, 10)
            assert slot is not None
            await self.store.end_probe(system, slot, Result("", 0, Accepted(), is_probe=True), RULE)
        await self.store.hasten(system, routes)

    async def parked(self, route: str) -> list[parking.Parked]:
        return await self.store.parked(parking.Selection(route=route))


# --- what it leaves behind ------------------------------------------------------------------------------------


async def leave_rows(guide: Guide) -> None:
    """Everything that a database may hold when its release is replaced."""
    await _parcels(guide)
    await _contacts(guide)
    await _parked(guide)
    await _orders(guide)
    await _shut(guide)


async def _orders(guide: Guide) -> None:
    """Delivered, under a lease, under one that ran out, in doubt, and waiting; with a cursor and a quota in use."""
    await guide.stage("orders", "delivered", "delivered", cursor="page-1")
    await guide.deliver("orders")
    await guide.stage("orders", "in-flight", "in-flight")
    await guide.claim("orders", lease_s=3600)
    await guide.stage("orders", "lost")
    await guide.lose("orders")
    await guide.stage("orders", "doubt", "doubt")
    await guide.settle([x for x in await guide.claim("orders") if x.records[0].key == "doubt"], Unknown("server_error"))
    broken = Broken("unmapped", b'{"id": "unmapped", "n": null}', "mapping", "n is missing")
    await guide.stage("orders", "waiting", "waiting", broken=[broken], cursor="page-2")
    for worker in ("worker-1", "worker-2"):
        await guide.store.share(Ask("erp", worker, cap=8, wanted=4, held=1, ttl_us=60 * SECOND_US))
    await guide.store.pause("desk", 30)


async def _contacts(guide: Guide) -> None:
    """Superseded while waiting and while in doubt; and a system that is back from an outage, not drained yet."""
    await guide.stage("contacts", "ann")
    await guide.deliver("contacts")
    await guide.stage("contacts", "bob")
    await guide.lose("contacts")
    await guide.stage("contacts", "bob", "bob", "eve", "eve", "eve", cursor="c-7")
    await guide.break_("mailer")
    await guide.mend("mailer", "contacts")
    seen = await guide.store.unannounced()
    await guide.store.mark_announced([event.id for event in seen[:4]])


async def _parked(guide: Guide) -> None:
    """Held by its head, stepped over, replaced by a corrected one, released."""
    for key in ("refused", "corrected", "released"):
        await guide.stage("orders", key, key)
    await guide.settle(await guide.claim("orders"), Rejected("422", "no such customer"))
    rows = {row.key: row.id for row in await guide.parked("orders")}
    await guide.store.restage(rows["corrected"], NewRecord("corrected", b'{"id":"corrected","n":9}'))
    await guide.store.release([rows["released"]])
    await guide.stage("calls", "one", "one", "two")
    [one] = [lease for lease in await guide.claim("calls", lease_s=10) if lease.records[0].key == "one"]
    await guide.settle([one], Rejected("422", "no such number"))
    await guide.stage("readings", "meter", "meter", "meter")
    [first, *_] = await guide.claim("readings", lanes=1)
    await guide.settle([first], Rejected("422", "out of range"))


async def _parcels(guide: Guide) -> None:
    """Failed over and pinned; one parcel may be at both carriers, one needs a person, one was given up."""
    for key in ("twice", "raised"):
        await guide.stage("parcels", key)
        await guide.lose("parcels")
    await guide.break_(A)
    guide.clock.move(20)
    for lease in await guide.claim("parcels"):
        await guide.settle([lease], Accepted("b-1"))
    await guide.store.note_service(GROUP, B, 0)
    cases = {case.key: case for case in await guide.store.claim_cases(A, 60 * SECOND_US, 10)}
    cannot = replace(MEANS, can_ask=False, why_not="it is out of business")
    await guide.store.settle_case(cases["raised"], Asked(None, cannot))
    await guide.store.give_back_case(cases["twice"])
    await guide.mend(A, "parcels")
    await guide.stage("parcels", "one", "two", "two")
    await guide.store.pin(GROUP, SHIPPING, B, why="carrier-a strikes", author="ann")
    await guide.settle((await guide.claim("parcels", lanes=1))[:1], Unknown("reset"))


async def _shut(guide: Guide) -> None:
    await guide.stage("invoices", "one", "two", "two")
    await guide.break_("finance")
    await guide.stage("stock", "one", "two")
    await guide.store.force("warehouse", "open", "stocktaking")


# --- everything else that it can do ---------------------------------------------------------------------------

READINGS: tuple[Callable[..., Any], ...] = (
    lambda tx: reports.status(tx, list(ROUTES)),
    lambda tx: reports.pinned_elsewhere(tx, "parcels", [A]),
    lambda tx: reports.in_doubt(tx, list(ROUTES)),
    lambda tx: reports.gates(tx, ["erp", "finance"]),
    lambda tx: reports.outages(tx, 10),
    lambda tx: reports.abandoned(tx, ["orders"]),
    lambda tx: reports.waiting_side_by_side(tx, ["orders", "readings"]),
    parking.newest,
    lambda tx: reports.trace(tx, list(ROUTES), "twice"),
    lambda tx: reports.trace(tx, list(ROUTES), "the id of no record"),
    lambda tx: pace.samples(tx, list(ROUTES)),
    lambda tx: pace.come_in_an_hour(tx, list(ROUTES)),
    pace.calls,
    lambda tx: ledger.waiting(tx, list(ROUTES)),
)


async def use_everything(guide: Guide) -> None:
    """What `leave_rows` had no need of; afterwards nothing of the hub is as it was."""
    await guide.store.make_due(list(ROUTES))
    await _look(guide.store)
    await _use_cases(guide)
    await _use_systems(guide)
    await _use_leases(guide)
    await _use_parked(guide)
    await _use_groups(guide)
    guide.clock.move(90 * DAY_S)
    for route in ROUTES:
        await guide.stage(route, "one", "in-flight", "ann")  # lanes that live on
        await guide.store.purge(route, int(30 * DAY_S * SECOND_US))
    await guide.store.tidy(int(30 * DAY_S * SECOND_US))


async def _look(store: Store) -> None:
    await store.check_any_schema()
    await store.check_schema()
    for reading in READINGS:
        await store.report(reading)
    await store.audit(list(ROUTES))
    await store.recent_events()
    await store.outlook(list(ROUTES), ["erp", "mailer"])
    await store.outlook(list(ROUTES), [])
    await store.gate("erp")
    await store.is_undrained("mailer")
    await store.turns(GROUP)
    await store.count_cases()
    await store.cases(reconciliation.Selection())
    for selection in (
        reconciliation.Selection(route="parcels", key="twice"),
        reconciliation.Selection(system=A, record="none"),
    ):
        await store.cases(selection)
    await store.parked(parking.Selection(route="orders", code="422", key="refused", records=["none"], until=9))
    store.on_staged(["orders"], lambda: None)()


async def _use_cases(guide: Guide) -> None:
    store = guide.store
    await store.has_case(A)
    [case] = await store.claim_cases(A, 60 * SECOND_US)
    await store.settle_case(case, Asked(Missing(), MEANS))
    guide.clock.move(10)
    [case] = await store.claim_cases(A, 60 * SECOND_US)
    await store.settle_case(case, Asked(Found("a-1"), MEANS))
    await store.settle_void(case, Undone(Accepted()))
    [raised] = await store.cases(reconciliation.Selection())
    await store.settle_case_by_person(raised.id, "cancelled by phone", "ann")


async def _use_systems(guide: Guide) -> None:
    store = guide.store
    guide.clock.move(100)
    slot = await store.take_probe("finance", 10)
    assert slot is not None
    await store.claim_probe(guide.wish("invoices"), "finance")
    await store.release_probe("finance", slot)
    await store.tell("finance", Result("", 0, Throttled(3)), RULE)
    await store.force("finance", "closed", "mended")
    await store.force("warehouse", "auto", "done")
    await store.spend("erp", LIMITS, 1)
    await store.give_up_share("erp", "worker-1")
    await guide.deliver("contacts")
    await store.end_drain("mailer", ["contacts"])
    for _ in range(RULE.rejections):
        await guide.stage("stock", f"storm-{guide.clock.now_us}")
        await guide.settle(await guide.claim("stock"), Rejected("400", "unknown field"))
        guide.clock.move(1)
    await store.has_storm("warehouse")
    await store.restore_storm("warehouse")


async def _use_leases(guide: Guide) -> None:
    store = guide.store
    guide.clock.move(4000)
    for lease in await store.claim_doubted(guide.wish("orders"), "erp", 10):
        await guide.settle([lease], Missing())
    guide.clock.move(100)
    [first, second, *rest] = await guide.claim("orders")
    await guide.settle([first], Throttled(1))
    guide.clock.move(30)
    await guide.settle([second], Unsent("refused"))
    if rest:
        await guide.settle(
            rest[:1], Unknown("server_error"), verdict=Park(rest[0].records[0], "unresolved", "nobody knows")
        )
    for route in ("calls", "readings", "invoices"):
        await store.claim(replace(guide.wish(route, lease_s=1), after=(3, 0, 0)))
        guide.clock.move(2)
        await guide.deliver(route)


async def _use_parked(guide: Guide) -> None:
    store = guide.store
    for route in ROUTES:
        for row in await guide.parked(route):
            await store.parked_payload(row.id)
            if row.at_intake:
                await store.remap(row.id, record(row.key), guide.order(route), is_named=True)
            else:
                await store.replay([row.id], {"contacts"})
    await store.compact()


async def _use_groups(guide: Guide) -> None:
    store = guide.store
    await store.group(GROUP, SHIPPING)
    await store.hurry(GROUP, SHIPPING, A)
    await store.unpin(GROUP, SHIPPING, why="the strike is over", author="ann")
    await guide.stage("parcels", *(f"canary-{n}" for n in range(20)))
    guide.clock.move(20)
    await guide.deliver("parcels")
    await guide.store.claim_doubted(guide.wish("parcels"), A, 10)
