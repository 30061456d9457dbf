"""A failover group under any interleaving of outages, lost answers, crashes and people, against providers that keep
what they did: no order stands twice unless an open case says so, none is lost, none waits where one could have it.

Store, sender, prober and reconciler are the real ones; the database's clock and the processes' is moved by hand. The
providers honour no idempotency key: whatever is sent twice is done twice. To run more than the suite does:

    FAILOVER_EXAMPLES=2000 FAILOVER_STEPS=100 pytest tests/simulation/test_failover_machine.py --timeout 0
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, text

from tideover.config.models import Hub, System
from tideover.connectors.port import Connector
from tideover.hub.probing import Prober, Slot
from tideover.hub.reconciling import Reconciler
from tideover.hub.routing import group_rule, group_wish
from tideover.hub.runs import Held, Run, Sender
from tideover.hub.runtime import Runtime
from tideover.model import (
    HUNG,
    SECOND_US,
    Accepted,
    Found,
    Lease,
    LookUp,
    Missing,
    NewRecord,
    Order,
    Outcome,
    Outgoing,
    Page,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.breaker import State
from tideover.policy.failover import GroupState
from tideover.staging import groups, reconciliation, schema, systems
from tideover.staging.database import Transaction, open_database
from tideover.staging.parking import Selection as ParkedSelection
from tideover.staging.reconciliation import Selection
from tideover.staging.settle import Settlement
from tideover.staging.stage import Batch
from tideover.staging.store import Store
from tideover.staging.wishes import Claim

EXAMPLES = int(os.environ.get("FAILOVER_EXAMPLES", "35"))
STEPS = int(os.environ.get("FAILOVER_STEPS", "50"))

T = TypeVar("T")
A, B, C = "carrier-a", "carrier-b", "carrier-c"
ROUTE, GROUP, TAKE = "orders", "shipping", "take"
KEYS = tuple(f"k{n}" for n in range(8))
FOR = (*["any"] * 14, A, A, B, B, "nobody")
CALL_S, LEASE_S, MAX_HOLD_S, MAX_PAUSE_S, RECHECK_S = 10.0, 40.0, 25.0, 30.0, 60.0
START_US = 1_800_000_000 * SECOND_US
_FRESH = GroupState()


class Clock:
    def __init__(self) -> None:
        self.now_us = START_US

    def database(self, _: int) -> int:
        return self.now_us

    def monotonic(self) -> float:
        return self.now_us / SECOND_US

    def move(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)


@dataclass
class Parcel:
    reference: str
    record: str
    seq: int
    is_voided: bool = False


MOODS = (
    "well",
    "well",
    "refuses",
    "hangs",
    "hangs late",
    "hangs after",
    "loses",
    "fails",
    "throttles",
    "rests long",
    "rejects",
)
DOUBTFUL = ("hangs", "hangs late", "hangs after", "loses", "fails")
ASKS = ("as its mood", "answers", "fails")


@dataclass
class Provider:
    """A connector and the system behind it. `mood`: how calls go; `asked`: how look-ups and probes go."""

    name: str
    clock: Clock
    has_probe: bool
    has_void: bool
    luck: random.Random = field(default_factory=random.Random)
    mood: str = "well"
    asked: str = "as its mood"
    loses_voids: bool = False
    dies_after_call: bool = False
    parcels: list[Parcel] = field(default_factory=list)
    late: list[tuple[int, Outgoing]] = field(default_factory=list)
    calls: int = 0

    def arrive(self) -> None:
        """What was accepted late and is there by now."""
        there = [record for at_us, record in self.late if at_us <= self.clock.now_us]
        self.late = [(at_us, record) for at_us, record in self.late if at_us > self.clock.now_us]
        for record in there:
            self._book(record)

    def _book(self, record: Outgoing) -> Accepted:
        seq = orjson.loads(record.payload)["n"]
        parcel = Parcel(f"{self.name}-{len(self.parcels) + 1}", record.id, seq)
        self.parcels.append(parcel)
        return Accepted(parcel.reference)

    def standing(self, record: str | None = None) -> list[Parcel]:
        self.arrive()
        return [p for p in self.parcels if not p.is_voided and record in (None, p.record)]

    # --- the port -------------------------------------------------------------------------------------------

    def batch_size(self, operation: str) -> int:
        return 1

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        self.arrive()
        self.calls += 1
        outcome = [self._sent(record) for record in batch]
        self._die()
        return outcome

    def _sent(self, record: Outgoing) -> Outcome:
        match self.mood:
            case "refuses":
                return Unsent("refused")
            case "hangs":
                self.clock.move(CALL_S)
                return Unknown(HUNG)
            case "hangs late":
                self.late.append((self.clock.now_us + int(self.luck.uniform(0, CALL_S) * SECOND_US), record))
                self.clock.move(self.luck.choice([0.1, CALL_S]))
                return Unknown(HUNG)
            case "hangs after":
                self._book(record)
                self.clock.move(CALL_S)
                return Unknown(HUNG)
            case "loses":
                self._book(record)
                return Unknown("reset")
            case "fails":
                return Unknown("server_error")
            case "throttles":
                return Throttled(self.luck.choice([1, 20]))
            case "rests long":
                return Throttled(400)
            case "rejects":
                return Rejected("INVALID")
        return self._book(record)

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        self.arrive()
        if trouble := self._trouble():
            return trouble
        found = self.standing(record.id)
        self._die()
        return Found(found[0].reference) if found else Missing()

    def _trouble(self) -> Throttled | Unsent | Unknown | None:
        if self.asked == "answers":
            return None
        if self.asked == "fails":
            return Unknown("server_error")
        match self.mood:
            case "refuses":
                return Unsent("refused")
            case "hangs" | "hangs late" | "hangs after":
                self.clock.move(CALL_S)
                return Unknown(HUNG)
            case "fails":
                return Unknown("server_error")
            case "rests long":
                return Throttled(400)
        return None

    def can_void(self, operation: str) -> bool:
        return self.has_void

    async def void(
        self, operation: str, record: Outgoing, reference: str | None, deadline: float | None = None
    ) -> Outcome:
        self.arrive()
        if trouble := self._trouble():
            return trouble
        for parcel in self.parcels:
            if parcel.reference == reference:
                assert not parcel.is_voided or parcel.record == record.id
                parcel.is_voided = True
        self._die()
        return Unknown("reset") if self.loses_voids else Accepted()

    async def probe(self) -> Outcome:
        return self._trouble() or Accepted()

    async def pages(self, stream: str, cursor: str | None) -> AsyncGenerator[Page, None]:
        raise AssertionError("it is no source")
        yield

    async def close(self) -> None:
        return None

    def _die(self) -> None:
        """Its worker is gone in the middle of a call."""
        if self.dies_after_call:
            self.dies_after_call = False
            raise asyncio.CancelledError


def config(providers: Sequence[str], order: Order, on_unknown: str, rto_s: float | None, live_share: str) -> Hub:
    operation = {"path": "/things", "lookup": {"path": "/things/{key}"}}
    system = {
        "block": "tideover-open/x",
        "resolve": "lookup",
        "timeouts": {"connect": "1s", "read": "5s", "total": f"{CALL_S:.0f}s"},
        "breaker": {"failures": 3, "rejections": 3, "open_for": "5s", "max_open": "20s", "successes": 2},
        "rest": {"operations": {TAKE: operation}, "streams": {"orders": {"path": "/orders"}}},
    }
    route = {
        "source": {"system": "crm", "stream": "orders"},
        "target": {"group": GROUP, "operation": TAKE},
        "key": "id",
        "order": order.value,
        "on_unknown": on_unknown,
        "max_hold": f"{MAX_HOLD_S:.0f}s",
        "retry": {"base": "1s", "cap": "20s", "max_attempts": 50},
        **({"rto": f"{rto_s:.0f}s"} if rto_s else {}),
    }
    group = {
        "providers": [{"system": name, "when": f"for == 'any' || for == '{name}'"} for name in providers],
        "live_share": live_share,
        "max_pause": f"{MAX_PAUSE_S:.0f}s",
        "failback": {"dwell": "20s", "max_dwell": "100s", "canary": 2, "ramp": "20s"},
    }
    described = dict.fromkeys(("crm", *providers), system)
    hub = {"name": "test", "systems": described, "groups": {GROUP: group}, "routes": {ROUTE: route}}
    return Hub.model_validate_json(json.dumps(hub))


@dataclass(frozen=True)
class Bench:
    """One database for all examples of a test, and the loop that drives it."""

    store: Store
    clock: Clock
    runner: asyncio.Runner

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    def wipe(self) -> None:
        def work(tx: Transaction) -> None:
            for table in schema.metadata.sorted_tables:
                tx.conn.execute(delete(table))

        self.do(self.store.database.write(work))
        self.clock.now_us = START_US


@dataclass
class Hand:
    """What one worker has: leases not begun, and reports that it has not settled."""

    leases: list[tuple[Lease, float]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


@dataclass(frozen=True)
class LaneRow:
    id: int
    key: str
    state: int
    last_seq: int
    done_seq: int
    in_doubt: int
    system: str
    due_us: int
    lease_until_us: int


@dataclass(frozen=True)
class Tables:
    """What the database holds, as anybody may read it."""

    lanes: list[LaneRow]
    heads: dict[int, tuple[str, bytes]]  # by lane: record and payload
    open_cases: set[tuple[str, str]]  # record and system
    raised: dict[str, str]  # what is told of a record
    shunned: dict[tuple[int, str], set[str]]
    gates: dict[str, systems.Gate]
    rows: dict[str, systems.SystemRow]
    staged_us: dict[int, int]
    state: Any

    @classmethod
    def read(cls, tx: Transaction, providers: Sequence[str]) -> Tables:
        lanes = tx.conn.execute(
            text("select id, key, state, last_seq, done_seq, in_doubt, system, due_us, lease_until_us from lane")
        ).all()
        heads = tx.conn.execute(
            text(
                "select l.id, r.id, r.payload, r.staged_us from lane l "
                "join record r on r.lane = l.id and r.seq = l.done_seq + 1"
            )
        ).all()
        cases = tx.conn.execute(
            text("select record, system, state, detail from reconciliation where closed_us = 0")
        ).all()
        rows = systems.load_all(tx, providers)
        return cls(
            [LaneRow(*row) for row in lanes],
            {row[0]: (row[1], bytes(row[2])) for row in heads},
            {(row[0], row[1]) for row in cases},
            {row[0]: row[3] for row in cases if row[2] == "raised"},
            reconciliation.shunned(tx, [row[0] for row in lanes]),
            {name: row.gate(tx.now_us) for name, row in rows.items()},
            rows,
            {row[0]: row[3] for row in heads},
            groups.load(tx, GROUP),
        )


PROVIDER = st.integers(0, 2)
WORKER = st.sampled_from([0, 1])


class FailoverMachine(RuleBasedStateMachine):
    """See the module's text. `bench` is set by the test."""

    bench: Bench

    @initialize(
        count=st.sampled_from([2, 2, 3]),
        order=st.sampled_from([Order.BLOCK, Order.SKIP]),
        on_unknown=st.sampled_from(["reroute", "reroute", "reroute", "hold"]),
        rto_s=st.sampled_from([None, 60.0, 3600.0]),
        live_share=st.sampled_from(["0%", "20%"]),
        has_void=st.tuples(*([st.sampled_from([True, True, True, False])] * 3)),
        busy=st.integers(0, 60),
        has_probe=st.tuples(*([st.booleans()] * 3)),
        seed=st.integers(0, 2**32),
    )
    def begin(
        self,
        count: int,
        order: Order,
        on_unknown: str,
        rto_s: float | None,
        live_share: str,
        has_void: tuple[bool, ...],
        has_probe: tuple[bool, ...],
        busy: int,
        seed: int,
    ) -> None:
        self.bench.wipe()
        self.luck = random.Random(seed)
        self.clock, self.do, self.store = self.bench.clock, self.bench.do, self.bench.store
        self.names = (A, B, C)[:count]
        self.config = config(self.names, order, on_unknown, rto_s, live_share)
        self.on_unknown, self.rto_s, self.order = on_unknown, rto_s, order
        self.providers = {
            name: Provider(name, self.clock, has_probe=probe, has_void=void, luck=self.luck)
            for name, probe, void in zip(self.names, has_probe, has_void, strict=False)
        }
        self.rule, self.wish = group_rule(self.config, GROUP), group_wish(self.config, ROUTE)
        self.hands = (Hand(), Hand())
        # By lane: token, until when, system, and since when that is in its canary phase, of a canary.
        self.leased: dict[int, tuple[int, int, str, int]] = {}
        self.versions = 0
        self.staged = 0
        self.released: set[str] = set()
        self.is_over = False

        async def connect(name: str, system: System) -> Connector:
            return self.providers[name]

        self.rt = Runtime(self.config, self.store, connect, monotonic=self.clock.monotonic)
        self.breaker_rules = {n: self.rt.breaker_rule(n, has_probe=p.has_probe) for n, p in self.providers.items()}
        self.reconcilers = {n: Reconciler(self.rt, n, p, CALL_S) for n, p in self.providers.items()}
        self.stage(6)
        self.live(busy)

    def provider(self, number: int) -> Provider:
        return self.providers[self.names[number % len(self.names)]]

    # --- intake ---------------------------------------------------------------------------------------------

    @rule(size=st.integers(1, 6))
    def stage(self, size: int) -> None:
        records = []
        for _ in range(size):
            self.versions += 1
            body = {"n": self.versions, "for": self.luck.choice(FOR)}
            records.append(NewRecord(self.luck.choice(KEYS), orjson.dumps(body), self.luck.choice([1, 3])))
        self.staged += size
        self.do(self.store.stage(Batch(ROUTE, "crm", records)))

    # --- workers --------------------------------------------------------------------------------------------

    def sender(self, system: str) -> Sender:
        rule = self.rt.resolve_rule(ROUTE, system)
        return Sender(self.providers[system], TAKE, rule, CALL_S, self.clock.monotonic)

    def _claim(self, depth: int = 3, room: int = 100) -> list[tuple[Lease, float]]:
        rooms = dict.fromkeys(self.names, room)
        wish = Claim(ROUTE, rooms, self.order, depth, int(LEASE_S * SECOND_US), group=self.wish)
        claimed = self.do(self.store.claim(wish))
        for lease in claimed.leases:
            assert claimed.gates[lease.system].lets_through
        assert claimed.state is not None
        return self._noted(claimed.leases, claimed.state)

    def _noted(self, leases: Sequence[Lease], state: GroupState = _FRESH) -> list[tuple[Lease, float]]:
        for lease in leases:
            token, until_us, *_ = self.leased.get(lease.lane, (0, 0))
            assert until_us <= self.clock.now_us, "a lane was leased twice at the same time"
            assert lease.token > token
            until_us = self.clock.now_us + int(LEASE_S * SECOND_US)
            canary = state.trust(lease.system).since_us if lease.is_canary else 0
            self.leased[lease.lane] = (lease.token, until_us, lease.system, canary)
            for record in lease.records:
                self._check_sendable(lease, record.id, record.payload, record.fault, in_doubt=record.in_doubt)
        valid = [it for it in self.leased.values() if it[1] > self.clock.now_us and it[3]]
        most = max(Counter(it[2:] for it in valid).values(), default=0)
        assert most <= self.rule.failback.canaries, "a provider has more canaries than it needs"
        return sorted(((lease, self.clock.monotonic()) for lease in leases), key=lambda it: it[0].records[0].key)

    def _check_sendable(self, lease: Lease, record: str, payload: bytes, fault: str, *, in_doubt: bool) -> None:
        if fault:
            return
        assert orjson.loads(payload)["for"] in ("any", lease.system), "its provider may not have it"
        if not in_doubt:
            assert not self.providers[lease.system].standing(record), "it is there and not in doubt"
            assert not any(r.id == record for _, r in self.providers[lease.system].late), "it is on its way there"

    @rule(who=WORKER, depth=st.integers(1, 3), room=st.sampled_from([1, 100]))
    def claim(self, who: int, depth: int, room: int) -> None:
        self.hands[who].leases += self._claim(depth, room)

    @precondition(lambda self: any(hand.leases for hand in self.hands))
    @rule(who=WORKER, dies=st.sampled_from([False, False, True]))
    def work(self, who: int, dies: bool) -> None:
        """One lease is worked off; what is learnt is not settled yet, or never."""
        if self.hands[who].leases:
            lease, claimed_at = self.hands[who].leases.pop(0)
            runs = self._worked_off(lease, claimed_at, dies=dies)
            if not dies:
                self.hands[who].runs += runs

    def _worked_off(self, lease: Lease, claimed_at: float, *, is_probe: bool = False, dies: bool = False) -> list[Run]:
        over: list[Run] = []
        held = Held(lease, claimed_at + LEASE_S, claimed_at, is_probe)
        self.providers[lease.system].dies_after_call = dies
        with suppress(asyncio.CancelledError):
            self.do(self.sender(lease.system).work_off([held], lambda: True, over.append))
        self.providers[lease.system].dies_after_call = False
        return over

    @precondition(lambda self: any(hand.runs for hand in self.hands))
    @rule(who=WORKER)
    def settle(self, who: int) -> None:
        runs, self.hands[who].runs = self.hands[who].runs, []
        self._settle(runs)

    def _settle(self, runs: Sequence[Run]) -> None:
        for run in runs:
            lease = run.held.lease
            token, until_us, system, canary = self.leased[lease.lane]
            is_valid = token == lease.token and until_us > self.clock.now_us
            settlement = Settlement(
                lease.system,
                [run.report(self.clock.monotonic())],
                {ROUTE: self.rt.route_rule(ROUTE)},
                self.breaker_rules[lease.system],
                GROUP,
            )
            settled = self.do(self.store.settle(settlement))
            assert list(settled.refused) == ([] if is_valid else [lease.lane])
            if is_valid:
                self.leased[lease.lane] = (token, 0, system, canary)

    @rule(times=st.integers(1, 4))
    def deliver(self, times: int) -> None:
        """Whole turns without a mishap of the worker's own."""
        for _ in range(times):
            self.clock.move(self.luck.choice([0, 2, 5]))
            for lease, claimed_at in self._claim():
                self._settle(self._worked_off(lease, claimed_at))

    @precondition(lambda self: any(hand.leases or hand.runs for hand in self.hands))
    @rule(who=WORKER, gives_back=st.booleans())
    def end_worker(self, who: int, gives_back: bool) -> None:
        """A worker stops in order, or is gone with all that it knew."""
        leases, self.hands[who].leases = self.hands[who].leases, []
        runs, self.hands[who].runs = self.hands[who].runs, []
        if gives_back:
            self._settle([*runs, *(Run(Held(lease, 0.0, 0.0)) for lease, _ in leases)])

    @rule(seconds=st.sampled_from([0.5, 4, 12, LEASE_S + 1, 120, 1000]))
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)

    # --- the providers --------------------------------------------------------------------------------------

    @rule(which=PROVIDER, mood=st.sampled_from(MOODS), asked=st.sampled_from(ASKS), loses_voids=st.booleans())
    def change(self, which: int, mood: str, asked: str, loses_voids: bool) -> None:
        provider = self.provider(which)
        provider.mood, provider.asked, provider.loses_voids = mood, asked, loses_voids

    @rule(
        which=PROVIDER,
        mood=st.sampled_from(DOUBTFUL),
        asked=st.sampled_from(ASKS),
        then=st.sampled_from(["refuses", *MOODS]),
        asks_soon=st.booleans(),
    )
    def lose(self, which: int, mood: str, asked: str, then: str, asks_soon: bool) -> None:
        """A provider leaves orders in doubt, for longer than they are held; the next one may have its own trouble."""
        self.luck.choice([self.unpin, lambda: self.pin(which), lambda: None])()
        self.stage(4)
        self.change(which, mood, asked, False)
        self.deliver(2)
        if asks_soon:
            self.ask(which)
            self.deliver(1)
        self.clock.move(MAX_HOLD_S)
        self.change(which + 1, then, "as its mood", False)
        self.deliver(2)
        self.probe(which + 1)

    @rule(which=PROVIDER, loses_voids=st.booleans())
    def mend(self, which: int, loses_voids: bool) -> None:
        """A provider comes back, and is asked before anything else goes on."""
        self.change(which, "well", "answers", loses_voids)
        for _ in range(3):
            self.clock.move(10)
            self.probe(which)
            self.reconcile(which, False)

    @rule(which=PROVIDER)
    def come_back(self, which: int) -> None:
        """A provider comes back and gets records, before it is asked about anything."""
        self.luck.choice([self.unpin, lambda: None])()
        self.change(which, "well", "answers", False)
        self.clock.move(self.luck.choice([5, 60]))
        for _ in range(3):
            self.probe(which)
        self.deliver(1)

    @rule(steps=st.integers(5, 25))
    def live(self, steps: int) -> None:
        """Some of all that, as luck has it: denser than a single example would ever become."""
        luck, which = self.luck, self.luck.randint(0, 2)
        for _ in range(steps):
            act = luck.choice(
                [
                    lambda: self.stage(3),
                    lambda: self.deliver(luck.randint(1, 2)),
                    lambda: self.deliver(1),
                    lambda: self.change(which, luck.choice(MOODS), luck.choice(ASKS), luck.random() < 0.3),
                    lambda: self.change(luck.randint(0, 2), luck.choice(DOUBTFUL), luck.choice(ASKS), False),
                    lambda: self.change(luck.randint(0, 2), "well", luck.choice(ASKS), luck.random() < 0.3),
                    lambda: self.change(luck.randint(0, 2), "refuses", "as its mood", False),
                    lambda: self.wait(luck.choice([1, 4, 6, MAX_HOLD_S, 60])),
                    lambda: self.probe(luck.randint(0, 2)),
                    lambda: self.probe(luck.randint(0, 2)),
                    lambda: self.ask(luck.randint(0, 2)),
                    lambda: self.reconcile(luck.randint(0, 2), luck.random() < 0.2),
                    lambda: self.claim(luck.randint(0, 1), 2, 100),
                    lambda: self.work(luck.randint(0, 1), luck.random() < 0.2),
                    lambda: self.settle(luck.randint(0, 1)),
                    self.unpin,
                ]
            )
            act()
            self.nothing_stands_twice_but_where_an_open_case_says_so()
            self.nobody_waits_long_where_a_well_provider_could_have_it()

    @rule(which=PROVIDER)
    def overtake(self, which: int) -> None:
        """A worker keeps what it learnt until its leases are over and another has them."""
        self.hands[0].leases += self._claim(2)
        for lease, claimed_at in self.hands[0].leases:
            self.hands[0].runs += self._worked_off(lease, claimed_at)
        self.hands[0].leases = []
        self.clock.move(LEASE_S + 1)
        self.hands[1].leases += self._claim(2)
        self.settle(0)

    @rule(which=PROVIDER)
    def probe(self, which: int) -> None:
        name = self.names[which % len(self.names)]
        provider = self.providers[name]
        gate = self.do(self.store.gate(name))
        if gate.state is State.CLOSED or gate.is_paused or gate.wait_s > 0:
            return
        prober = Prober(self.rt, name, provider, self.breaker_rules[name], CALL_S, LEASE_S)

        async def with_record(slot: Slot) -> bool:
            wish = Claim(ROUTE, {name: 1}, self.order, 1, int(LEASE_S * SECOND_US), group=self.wish)
            for lease, claimed_at in self._noted(await self.store.claim_probe(wish, name)):
                held = Held(lease, claimed_at + LEASE_S, claimed_at, is_probe=True)
                over: list[Run] = []
                await self.sender(name).work_off([held], lambda: True, over.append)
                for run in over:
                    settlement = Settlement(
                        name,
                        [run.report(self.clock.monotonic())._replace(prober=slot.number)],
                        {ROUTE: self.rt.route_rule(ROUTE)},
                        self.breaker_rules[name],
                        GROUP,
                    )
                    if not (await self.store.settle(settlement)).refused:
                        token, _, system, canary = self.leased[lease.lane]
                        self.leased[lease.lane] = (token, 0, system, canary)
                return True
            return False

        self.do(prober.probe(with_record, gate))

    @rule(which=PROVIDER)
    def ask(self, which: int) -> None:
        """A provider that may get nothing is asked what became of what may be there."""
        name = self.names[which % len(self.names)]
        gate = self.do(self.store.gate(name))
        if gate.lets_through or gate.is_paused:
            return
        wish = Claim(ROUTE, {name: 1}, self.order, 3, int(LEASE_S * SECOND_US), group=self.wish)
        leases = self._noted(self.do(self.store.claim_doubted(wish, name, 5)))
        over: list[Run] = []
        held = [Held(lease, claimed_at + LEASE_S, claimed_at) for lease, claimed_at in leases]
        calls = self.providers[name].calls
        self.do(self.sender(name).ask(held, over.append))
        assert self.providers[name].calls == calls, "asking sent something"
        self._settle(over)

    @rule(which=PROVIDER, dies=st.sampled_from([False, False, True]))
    def reconcile(self, which: int, dies: bool) -> None:
        name = self.names[which % len(self.names)]
        if self.do(self.store.gate(name)).lets_through:
            self.providers[name].dies_after_call = dies
            with suppress(asyncio.CancelledError):
                self.do(self.reconcilers[name].work())
            self.providers[name].dies_after_call = False

    # --- people ---------------------------------------------------------------------------------------------

    @rule(which=PROVIDER)
    def pin(self, which: int) -> None:
        name = self.names[which % len(self.names)]
        self.do(self.store.pin(GROUP, self.rule, name, why="because", author="ops"))
        self.do(self.store.make_due([ROUTE]))

    @precondition(lambda self: self.do(self.store.parked(ParkedSelection(limit=1))))
    @rule()
    def release(self) -> None:
        """A person lets go of what is parked."""
        parked = self.do(self.store.parked(ParkedSelection()))
        self.released |= {it.record for it in parked}
        assert self.do(self.store.release([it.id for it in parked])) == len(parked)

    @rule()
    def unpin(self) -> None:
        self.do(self.store.unpin(GROUP, self.rule, why="because", author="ops"))
        self.do(self.store.make_due([ROUTE]))

    @rule(which=PROVIDER)
    def hurry(self, which: int) -> None:
        self.do(self.store.hurry(GROUP, self.rule, self.names[which % len(self.names)]))
        self.do(self.store.make_due([ROUTE]))

    @rule(which=PROVIDER, to=st.sampled_from(["open", "auto", "auto"]))
    def force(self, which: int, to: str) -> None:
        name = self.names[which % len(self.names)]
        before = self.do(self.store.gate(name))
        gate = self.do(self.store.force(name, to, "because"))
        if before.state is not State.CLOSED and gate.state is State.CLOSED:
            self.do(self.store.hasten(name, [ROUTE]))

    # --- what must always be true ---------------------------------------------------------------------------

    def _tables(self) -> Tables:
        return self.do(self.store.report(lambda tx: Tables.read(tx, self.names)))

    def _standing(self) -> dict[str, list[str]]:
        """By record: the providers at which it stands, each as often as it does."""
        found: dict[str, list[str]] = {}
        for name, provider in self.providers.items():
            for parcel in provider.standing():
                found.setdefault(parcel.record, []).append(name)
        return found

    @invariant()
    def nothing_stands_twice_but_where_an_open_case_says_so(self) -> None:
        twice = {record: at for record, at in self._standing().items() if len(at) > 1}
        if not twice:
            return
        tables = self._tables()
        for record, at in twice.items():
            assert len(set(at)) == len(at), "one provider did it twice"
            untold = [name for name in at if (record, name) not in tables.open_cases]
            assert len(untold) <= 1, f"{record} stands at {at} and nobody knows"

    @invariant()
    def every_provider_gets_the_versions_of_a_key_in_order(self) -> None:
        for provider in self.providers.values():
            seen: dict[str, int] = {}
            for parcel in provider.parcels:
                key = self.do(self._key_of(parcel.record))
                assert seen.get(key, 0) < parcel.seq, f"{provider.name} got the versions of {key} out of order"
                seen[key] = parcel.seq

    async def _key_of(self, record: str) -> str:
        if not hasattr(self, "_keys"):
            self._keys: dict[str, str] = {}
        if record not in self._keys:

            def work(tx: Transaction) -> dict[str, str]:
                return {row[0]: row[1] for row in tx.conn.execute(text("select id, key from record"))}

            self._keys = await self.store.report(work)
        return self._keys[record]

    @invariant()
    def conservation(self) -> None:
        [audit] = self.do(self.store.audit([ROUTE]))
        assert (audit.faults, audit.difference, audit.accepted) == ((), 0, self.staged)

    @invariant()
    def nobody_waits_long_where_a_well_provider_could_have_it(self) -> None:
        tables = self._tables()
        pin = tables.state.pin
        for lane in tables.lanes:
            if lane.state != 1 or lane.lease_until_us > self.clock.now_us or lane.in_doubt:
                continue
            record, payload = tables.heads[lane.id]
            wanted = orjson.loads(payload)["for"]
            may = [
                name
                for name in self.names
                if wanted in ("any", name)
                and name not in tables.shunned.get((lane.id, record), ())
                and (pin is None or pin.system == name)
            ]
            patience_s = self.rto_s or MAX_PAUSE_S
            since_us = tables.staged_us[lane.id] if self.rto_s else self.clock.now_us
            patience_us = since_us + int(patience_s * SECOND_US)
            pauses = [
                tables.rows[name].paused_until_us
                for name in may
                if tables.gates[name].state is State.CLOSED and tables.rows[name].paused_until_us <= patience_us
            ]
            if any(tables.gates[name].lets_through for name in may):
                latest_us = max([self.clock.now_us + int(RECHECK_S * SECOND_US), *pauses])
                assert lane.due_us <= latest_us, f"{lane.key} waits until {lane.due_us - self.clock.now_us} us from now"

    def teardown(self) -> None:
        """With everything mended and time to run on, nothing waits, nothing stands twice, nothing is lost."""
        if not hasattr(self, "providers") or self.is_over:
            return
        self.is_over = True
        for provider in self.providers.values():
            provider.mood, provider.asked, provider.loses_voids = "well", "answers", False
        for number in range(len(self.names)):
            self.force(number, "auto")
        self.unpin()
        for _ in range(2000):
            self.clock.move(5)
            for number in range(len(self.names)):
                self.probe(number)
                self.ask(number)
                self.reconcile(number, False)
            self.deliver(1)
            [audit] = self.do(self.store.audit([ROUTE]))
            cases = self.do(self.store.cases(Selection()))
            held = sum(lane.last_seq - lane.done_seq for lane in self._tables().lanes if lane.state == 2)
            if audit.waiting <= held and all(case.state == "raised" for case in cases):
                break
        else:
            raise AssertionError(f"still waiting: {audit}, {cases}")
        self._check_the_end()

    def _check_the_end(self) -> None:
        self.nothing_stands_twice_but_where_an_open_case_says_so()
        self.conservation()
        tables, standing = self._tables(), self._standing()
        parked = {it.record: it for it in self.do(self.store.parked(ParkedSelection()))}
        for record, at in standing.items():
            if len(at) > 1:
                assert all(name in tables.raised[record] for name in at), tables.raised.get(record)
        for lane in tables.lanes:
            for record, payload in self.do(
                self.store.report(lambda tx, lane=lane: _settled_of(tx, lane.id, lane.done_seq))
            ):
                if record in parked:
                    assert parked[record].code in ("no_provider", "INVALID"), parked[record]
                elif record not in self.released:
                    assert len(standing.get(record, [])) >= 1, f"{record} was called delivered and is nowhere"
                    at = standing[record]
                    assert orjson.loads(payload)["for"] in ("any", *at)


def _settled_of(tx: Transaction, lane: int, done_seq: int) -> list[tuple[str, bytes]]:
    rows = tx.conn.execute(
        text("select id, payload from record where lane = :lane and seq <= :done"), {"lane": lane, "done": done_seq}
    )
    return [(row[0], bytes(row[1])) for row in rows]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        clock = Clock()
        store = Store(open_database(f"sqlite:///{tmp_path / 'hub.db'}", clock.database), spread=lambda: 0.5)
        runner.run(store.migrate())
        try:
            yield Bench(store, clock, runner)
        finally:
            runner.run(store.close())


@pytest.mark.timeout(900)  # passing takes half a minute; making a failure small takes minutes
def test_group_under_any_interleaving_ships_each_order_once(bench: Bench) -> None:
    machine = type("Machine", (FailoverMachine,), {"bench": bench})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
