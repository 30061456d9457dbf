"""The store under any interleaving of workers, crashes, stale settles and people, against a simple model.

The provider of this model honours no idempotency key: whatever is sent twice is done twice. It can be asked, so nothing
may ever be: a record that may have been processed has to stay in doubt until it was looked up or a person decided.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Coroutine, Iterator
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

from tests.databases import Postgres, sql
from tideover.errors import CorruptPayload
from tideover.hub.runs import Held, Run
from tideover.model import (
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
    lane_id,
)
from tideover.policy.breaker import BreakerRule, Result, State
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, Park, RouteRule
from tideover.staging import schema
from tideover.staging.database import Transaction, open_database
from tideover.staging.parking import Parked, Selection
from tideover.staging.sealing import Sealed
from tideover.staging.settle import Settled, Settlement
from tideover.staging.stage import Batch
from tideover.staging.store import Store
from tideover.staging.wishes import Claim

T = TypeVar("T")
ROUTE, SYSTEM = "orders", "erp"
KEYS = ("a", "b", "c", "d")
LEASE_S = 60
BREAKER = BreakerRule(failures=2, rejections=2, open_for_s=5, max_open_s=60, successes=2)
RETRY = RetryRule(max_attempts=2, base_s=1, cap_s=60, max_age_s=None)
ENDINGS: dict[str, Outcome | None] = {
    "stops": None,
    "rejected": Rejected("SCHEMA", "renamed"),
    "rejected otherwise": Rejected("OTHER"),
    "throttled": Throttled(3),
    "unsent": Unsent("refused"),
    "put off": Unsent("retry", is_answer=True),
    "unknown": Unknown("server_error"),
    "unresolved": None,
}
WORKER = st.sampled_from([0, 1])
ANY = st.integers(0, 7)


class FrozenClock:
    """The database's clock: moves only when told, so that every run of an example is the same."""

    START_US = 1_800_000_000 * SECOND_US

    def __init__(self) -> None:
        self.now_us = self.START_US

    def __call__(self, _: int) -> int:
        return self.now_us

    def move(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)


@dataclass(frozen=True)
class Bench:
    """One database for all examples of a test, and the loop that drives it."""

    store: Store
    clock: FrozenClock
    runner: asyncio.Runner

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    def wipe(self) -> None:
        def work(tx: Transaction) -> None:
            for table in schema.metadata.sorted_tables:
                tx.conn.execute(delete(table))

        self.do(self.store.database.write(work))
        self.clock.now_us = self.clock.START_US


@dataclass(frozen=True)
class Tables:
    """What the database holds, as anybody may read it."""

    lanes: dict[int, tuple[Any, ...]]  # last_seq, done_seq, state, token, lease_until_us, in_doubt, due_us, attempts
    records: dict[tuple[int, int], tuple[str, bytes]]
    parked: dict[tuple[int, int], tuple[Any, ...]]  # record, closed_us, closing, holds
    books: list[tuple[Any, ...]]

    @classmethod
    def read(cls, tx: Transaction) -> Tables:
        lanes = tx.conn.execute(
            text("select id, last_seq, done_seq, state, token, lease_until_us, in_doubt, due_us, attempts from lane")
        )
        records = tx.conn.execute(text("select lane, seq, id, payload from record"))
        parked = tx.conn.execute(text("select lane, seq, record, closed_us, closing, holds from parked order by id"))
        books = [
            tuple(row)
            for table in ("ledger", "attempt", "system", "outage", "event")
            for row in tx.conn.execute(text(f"select * from {table} order by 1"))
        ]
        return cls(
            {row[0]: tuple(row[1:]) for row in lanes},
            {(row[0], row[1]): (row[2], bytes(row[3])) for row in records},
            {(row[0], row[1]): tuple(row[2:]) for row in parked},
            books,
        )


@dataclass
class Hand:
    """What one worker has: leases not begun, and reports that it has not settled."""

    leases: list[Lease] = field(default_factory=list)
    reports: list[LaneReport] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """See the module's text. `bench` is set by the test."""

    bench: Bench

    @initialize(order=st.sampled_from([Order.BLOCK, Order.SKIP, Order.LATEST, Order.NONE]), seed=st.integers(0, 2**32))
    def begin(self, order: Order, seed: int) -> None:
        self.bench.wipe()
        self.luck = random.Random(seed)  # what the provider does: more varied than examples that are made of copies
        self.order = order
        # Without an order each record has a lane of its own, which is no story: here, lanes of before that.
        self.staging_order = Order.SKIP if order is Order.NONE else order
        self.clock, self.store, self.do = self.bench.clock, self.bench.store, self.bench.do
        self.hands = (Hand(), Hand())
        self.contents: dict[int, list[bytes]] = {lane_id(ROUTE, key): [] for key in KEYS}
        self.valid: dict[int, tuple[int, int]] = {}  # by lane: token and until when, of the lease that counts
        self.delivered: dict[int, list[int]] = {lane: [] for lane in self.contents}
        self.at_provider: set[str] = set()
        self.accepted = 0
        self.old: list[LaneReport] = []
        self.gate = self.do(self.store.gate(SYSTEM))
        self.has_parked = False
        self.stage(8)

    # --- intake ---------------------------------------------------------------------------------------------

    @rule(size=st.integers(1, 8))
    def stage(self, size: int) -> None:
        pairs = [(self.luck.choice(KEYS), self.luck.randint(1, 3)) for _ in range(size)]
        records = [NewRecord(key, orjson.dumps({"v": version})) for key, version in pairs]
        fresh = 0
        for record in records:
            lane = self.contents[lane_id(ROUTE, record.key)]
            if not lane or lane[-1] != record.payload:
                lane.append(record.payload)
                fresh += 1
        self.accepted += fresh
        staged = self.do(self.store.stage(Batch(ROUTE, "crm", records, order=self.staging_order)))
        assert (staged.staged, staged.unchanged) == (fresh, len(records) - fresh)

    # --- workers --------------------------------------------------------------------------------------------

    @rule(who=WORKER, depth=st.integers(1, 3))
    def claim(self, who: int, depth: int) -> None:
        claimed = self.do(self.store.claim(self._wish(depth)))
        gate, leases = claimed.gates[SYSTEM], list(claimed.leases)
        assert gate.lets_through or not leases
        self._note_claim(leases, depth)
        self.hands[who].leases.extend(leases)

    def _wish(self, depth: int, lanes: int = 100) -> Claim:
        return Claim(ROUTE, {SYSTEM: lanes}, self.order, depth, LEASE_S * SECOND_US)

    def _note_claim(self, leases: list[Lease], depth: int) -> None:
        for lease in leases:
            token, until_us = self.valid.get(lease.lane, (0, 0))
            assert until_us <= self.clock.now_us, "a lane was leased twice at the same time"
            assert lease.token > token
            self.valid[lease.lane] = (lease.token, self.clock.now_us + LEASE_S * SECOND_US)
            assert lease.records
            assert len(lease.records) <= depth or all(record.in_doubt for record in lease.records)
            for record in lease.records:
                assert record.payload == self.contents[lease.lane][record.seq - 1]
                assert record.in_doubt or record.id not in self.at_provider, "what may be there is not in doubt"

    @precondition(lambda self: any(hand.leases for hand in self.hands))
    @rule(who=WORKER, which=ANY)
    def work(self, who: int, which: int) -> None:
        """One lease is worked off; what is learnt is not settled yet. An expired one is not begun."""
        hand = self.hands[who]
        if not hand.leases:
            return
        lease = sorted(hand.leases, key=lambda it: it.records[0].key)[which % len(hand.leases)]
        hand.leases.remove(lease)
        if self._is_valid(lease.lane, lease.token):
            hand.reports.append(self._worked_off(lease))

    def _worked_off(self, lease: Lease, is_probe: bool = False, ending: str | None = None) -> LaneReport:
        good = self.luck.randint(0, 2) if ending is None else 0
        ending = ending or self.luck.choice(list(ENDINGS))
        has_arrived = self.luck.random() < 0.5
        run = Run(Held(lease, 1e9, 0.0, is_probe))
        while (head := run.head) is not None:
            if head.in_doubt and not run.is_cleared:
                if ending == "unresolved":
                    run.note(Kind.LOOK_UP, Unknown("server_error"), 0.0, 0.1)
                    break
                if head.id in self.at_provider:
                    run.note(Kind.LOOK_UP, Accepted("found"), 0.0, 0.1)
                    continue
                run.note(Kind.LOOK_UP, Missing(), 0.0, 0.1)
                run.is_cleared = True
            outcome = Accepted("ref") if good > 0 else ENDINGS[ending]
            good -= 1
            if outcome is None:
                break
            if isinstance(outcome, Accepted) or (isinstance(outcome, Unknown) and has_arrived):
                assert head.id not in self.at_provider, "a record was done twice"
                self.at_provider.add(head.id)
            run.note(Kind.SEND, outcome, 0.0, 0.1)
        return run.report(0.2)

    @precondition(lambda self: any(hand.reports for hand in self.hands))
    @rule(who=WORKER)
    def settle(self, who: int) -> None:
        reports, self.hands[who].reports = self.hands[who].reports, []
        self._settle(reports)

    @rule(depth=st.integers(1, 3))
    def deliver(self, depth: int) -> None:
        """A whole turn without a mishap of the worker's own, when what backed off is due: claim, send, settle."""
        self.clock.move(self.luck.choice([0, 4, 4]))
        claimed = self.do(self.store.claim(self._wish(depth)))
        gate, leases = claimed.gates[SYSTEM], list(claimed.leases)
        assert gate.lets_through or not leases
        self._note_claim(leases, depth)
        ending = self.luck.choice([None, *ENDINGS])  # of all of them, as when the system is down
        in_order = sorted(leases, key=lambda it: it.records[0].key)
        self._settle([self._worked_off(it, ending=ending) for it in in_order])

    @precondition(lambda self: any(hand.leases for hand in self.hands))
    @rule(who=WORKER)
    def give_back(self, who: int) -> None:
        leases, self.hands[who].leases = self.hands[who].leases, []
        self._settle([Run(Held(lease, 0.0, 0.0)).report(0.0) for lease in leases])

    def _settle(self, reports: list[LaneReport]) -> None:
        expected = [it.lane for it in reports if not self._is_valid(it.lane, it.token)]
        delivered = 0
        for it in reports:
            if self._is_valid(it.lane, it.token):
                seqs = [a.record.seq for a in it.attempts if isinstance(a.outcome, Accepted)]
                self.delivered[it.lane].extend(seqs)
                delivered += len(seqs)
                self.valid[it.lane] = (it.token, 0)
        settled = self._settled(reports)
        assert (settled.delivered, list(settled.refused)) == (delivered, expected)
        self.old.extend(reports)
        self._adopt_restored()

    def _settled(self, reports: list[LaneReport]) -> Settled:
        rules = {ROUTE: RouteRule(self.order, RETRY)}
        settled = self.do(self.store.settle(Settlement(SYSTEM, reports, rules, BREAKER)))
        self.gate = settled.gate
        self.has_parked |= settled.parked > 0
        return settled

    def _is_valid(self, lane: int, token: int) -> bool:
        return self.valid[lane][0] == token and self.valid[lane][1] > self.clock.now_us

    def _adopt_restored(self) -> None:
        """A storm of rejections puts what it parked back; stepped-over records go to the ends of their lanes."""
        tables = self._tables()
        for lane, contents in self.contents.items():
            while (found := tables.records.get((lane, len(contents) + 1))) is not None:
                first = next(seq for seq in itertools.count(1) if tables.records[lane, seq][0] == found[0])
                assert tables.parked[lane, first][2] == "restored"
                contents.append(found[1])

    @precondition(lambda self: self.old)
    @rule(which=st.integers(0, 50))
    def settle_stale(self, which: int) -> None:
        """A report that was settled, or refused, comes again."""
        it = self.old[which % len(self.old)]
        before = self._tables()
        assert list(self._settled([it]).refused) == [it.lane]
        assert self._tables() == before

    @precondition(lambda self: any(hand.leases or hand.reports for hand in self.hands))
    @rule(who=WORKER)
    def crash(self, who: int) -> None:
        """A worker is gone with all that it knew; what it sent has arrived."""
        self.hands[who].leases, self.hands[who].reports = [], []

    @rule(seconds=st.sampled_from([0.5, 4, 7, LEASE_S + 1, 200]))
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)

    # --- the breaker ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.gate.state is not State.CLOSED)
    @rule(outcome=st.sampled_from([Accepted(), Unsent("refused"), Rejected("OTHER"), Throttled(3)]))
    def probe(self, outcome: Outcome) -> None:
        slot = self.do(self.store.take_probe(SYSTEM, 10))
        if slot is None:
            return
        assert self.do(self.store.take_probe(SYSTEM, 10)) is None
        self.gate = gate = self.do(self.store.end_probe(SYSTEM, slot, Result("", 0, outcome, is_probe=True), BREAKER))
        assert gate.state is not State.CLOSED or not isinstance(outcome, Unsent | Throttled)
        assert gate.is_paused or not isinstance(outcome, Throttled)
        if gate.state is State.CLOSED:
            self.do(self.store.hasten(SYSTEM, [ROUTE]))

    @precondition(lambda self: self.gate.state is not State.CLOSED)
    @rule()
    def probe_with_a_record(self) -> None:
        slot = self.do(self.store.take_probe(SYSTEM, 10))
        if slot is None:
            return
        self.do(self.store.restore_storm(SYSTEM))
        self._adopt_restored()
        leases = self.do(self.store.claim_probe(self._wish(1, lanes=1), SYSTEM))
        self._note_claim(leases, 1)
        self._settle([self._worked_off(it, is_probe=True)._replace(prober=slot) for it in leases])
        self.do(self.store.release_probe(SYSTEM, slot))

    @rule()
    def force(self) -> None:
        """An operator opens it, closes it, or hands it back; what was forced is soon handed back."""
        to = "auto" if self.gate.is_forced else self.luck.choice(["open", "closed", "auto", "auto"])
        self.gate = gate = self.do(self.store.force(SYSTEM, to, "because"))
        assert gate.state is (State.OPEN if to == "open" else State.CLOSED)

    # --- people ---------------------------------------------------------------------------------------------

    def _parked(self, which: int) -> Parked | None:
        found = self.do(self.store.parked(Selection(route=ROUTE)))
        return found[which % len(found)] if found else None

    @precondition(lambda self: self.has_parked)
    @rule(which=ANY)
    def replay_or_release(self, which: int) -> None:
        """A person looks at the provider: what is not there is sent again, what is there is let go."""
        parked = self._parked(which)
        if parked is None:
            return
        if parked.record in self.at_provider:
            assert self.do(self.store.release([parked.id, parked.id])) == 1
            return
        if not parked.holds:
            self.contents[parked.lane].append(self.contents[parked.lane][parked.seq - 1])
        assert self.do(self.store.replay([parked.id])) == 1
        assert self.do(self.store.replay([parked.id])) == 0

    @precondition(lambda self: self.has_parked)
    @rule(which=ANY)
    def release(self, which: int) -> None:
        parked = self._parked(which)
        if parked is not None:
            assert self.do(self.store.release([parked.id])) == 1
            assert self.do(self.store.release([parked.id])) == 0

    @precondition(lambda self: self.has_parked)
    @rule(which=ANY, version=st.integers(1, 4))
    def restage(self, which: int, version: int) -> None:
        """A person corrects a parked record, perhaps to what it was, or to what came after it."""
        parked = self._parked(which)
        if parked is None or parked.record in self.at_provider:
            return
        contents = self.contents[parked.lane]
        payload = orjson.dumps({"v": version})
        if parked.holds:
            contents[parked.seq - 1] = payload
        elif parked.seq != len(contents) and contents[-1] == payload:
            self.accepted -= 1  # the newer record says it already
        else:
            contents.append(payload)
        assert self.do(self.store.restage(parked.id, NewRecord(parked.key, payload)))
        assert not self.do(self.store.restage(parked.id, NewRecord(parked.key, payload)))

    @precondition(lambda self: self.has_parked)
    @rule()
    def tidy(self) -> None:
        self.do(self.store.tidy(10**9 * SECOND_US))

    # --- what must always be true ---------------------------------------------------------------------------

    def _tables(self) -> Tables:
        return self.do(self.store.report(Tables.read))

    @invariant()
    def conservation(self) -> None:
        if not self.accepted:
            return
        [audit] = self.do(self.store.audit([ROUTE]))
        assert audit.faults == ()
        assert audit.difference == 0
        assert audit.accepted == self.accepted
        assert audit.delivered == sum(len(seqs) for seqs in self.delivered.values())
        assert audit.superseded == 0 or self.order is Order.LATEST

    @invariant()
    def every_record_has_its_place_and_its_fate(self) -> None:
        tables = self._tables()
        for lane, contents in self.contents.items():
            if not contents:
                continue
            last_seq, done_seq, _, _, _, in_doubt, *_ = tables.lanes[lane]
            assert [tables.records[lane, seq][1] for seq in range(1, last_seq + 1)] == contents
            assert 0 <= done_seq <= last_seq
            assert 0 <= in_doubt <= last_seq - done_seq
            assert self.delivered[lane] == sorted(set(self.delivered[lane])), "out of order, or twice"
            ids = [tables.records[lane, seq][0] for seq in self.delivered[lane]]
            assert len(ids) == len(set(ids)), "one record was delivered twice"
            assert set(self.delivered[lane]) <= set(range(1, done_seq + 1))
            for seq in set(range(1, done_seq + 1)) - set(self.delivered[lane]):
                parked = tables.parked.get((lane, seq))
                assert parked is not None or self.order is Order.LATEST, "a record went without a word"
                if self.order is Order.BLOCK:
                    assert parked is not None
                    assert parked[2] in ("released", "resent"), "its lane went on without it"


def _bench(url: str) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        clock = FrozenClock()
        store = Store(open_database(url, clock), spread=lambda: 0.5)
        runner.run(store.migrate())
        try:
            yield Bench(store, clock, runner)
        finally:
            runner.run(store.close())


@pytest.fixture
def sqlite_bench(tmp_path: Path) -> Iterator[Bench]:
    yield from _bench(f"sqlite:///{tmp_path / 'hub.db'}")


@pytest.fixture
def postgres_bench(postgres: Postgres) -> Iterator[Bench]:
    yield from _bench(postgres.new_database())


def run_machine(bench: Bench, examples: int, steps: int) -> None:
    machine = type("Machine", (StoreMachine,), {"bench": bench})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)  # passing takes seconds; making a failure small takes minutes
def test_f10_f25_f26_store_on_sqlite_under_any_interleaving_keeps_its_promises(sqlite_bench: Bench) -> None:
    run_machine(sqlite_bench, 60, 40)


@pytest.mark.timeout(600)  # passing takes seconds; making a failure small takes minutes
def test_f10_f25_f26_store_on_postgresql_under_any_interleaving_keeps_its_promises(postgres_bench: Bench) -> None:
    run_machine(postgres_bench, 15, 40)


# --- what such stories have taught --------------------------------------------------------------------------


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    it = Store(open_database(database_url, FrozenClock()), Sealed("k", {"k": bytes(32)}), spread=lambda: 0.5)
    await it.migrate()
    yield it
    await it.close()


async def _stage(store: Store, *pairs: tuple[str, object]) -> None:
    await store.stage(Batch(ROUTE, "crm", [NewRecord(key, orjson.dumps(value)) for key, value in pairs]))


async def _claim(store: Store, order: Order = Order.BLOCK) -> list[Lease]:
    claimed = await store.claim(Claim(ROUTE, {SYSTEM: 10}, order, 10, LEASE_S * SECOND_US))
    return sorted(claimed.leases, key=lambda lease: lease.records[0].key)


async def _settle(store: Store, lease: Lease, outcome: Outcome, order: Order = Order.BLOCK, **said: Any) -> None:
    attempts = [] if "verdict" in said else [Attempt(lease.records[0], Kind.SEND, outcome, 10, 5)]
    it = LaneReport(lease.lane, lease.token, attempts, **said)
    await store.settle(Settlement(SYSTEM, [it], {ROUTE: RouteRule(order, RETRY)}, BREAKER))


async def _one_parked(store: Store) -> Parked:
    [parked] = await store.parked(Selection(route=ROUTE))
    return parked


async def _park_the_first_of_three_in_doubt(store: Store) -> None:
    """A worker sent three records of a lane and was never heard of again; nobody can say what became of the first."""
    await _stage(store, ("a", 1), ("a", 2), ("a", 3))
    [lease] = await _claim(store)
    verdict = Park(lease.records[0], "unresolved", "")
    await _settle(store, lease, Accepted(), doubt=3, doubted_us=77, verdict=verdict)


async def test_release_of_a_parked_head_when_later_records_may_have_been_sent_leaves_them_in_doubt(
    store: Store,
) -> None:
    await _park_the_first_of_three_in_doubt(store)
    await store.release([(await _one_parked(store)).id])
    [lease] = await _claim(store)
    assert [(r.seq, r.in_doubt) for r in lease.records] == [(2, True), (3, True)]
    assert lease.doubted_us == 77


async def test_restage_of_a_parked_head_when_later_records_may_have_been_sent_leaves_all_in_doubt(
    store: Store,
) -> None:
    await _park_the_first_of_three_in_doubt(store)
    assert await store.restage((await _one_parked(store)).id, NewRecord("a", b"9"))
    [lease] = await _claim(store)
    first, *rest = lease.records
    assert (first.seq, first.payload, first.in_doubt) == (1, b"9", True)
    assert [(r.seq, r.in_doubt) for r in rest] == [(2, True), (3, True)]


async def test_release_of_a_parked_head_that_alone_was_in_doubt_ends_the_doubt(store: Store) -> None:
    await _stage(store, ("a", 1), ("a", 2))
    [lease] = await _claim(store)
    await _settle(store, lease, Accepted(), doubt=1, doubted_us=77, verdict=Park(lease.records[0], "unresolved", ""))
    await store.release([(await _one_parked(store)).id])
    [after] = await _claim(store)
    assert [(r.seq, r.in_doubt) for r in after.records] == [(2, False)]
    assert after.doubted_us == 0


async def test_storm_that_restores_a_parked_record_in_doubt_leaves_it_in_doubt(store: Store) -> None:
    await _stage(store, ("a", 1), ("b", 1))
    first, second = await _claim(store)
    await _settle(store, first, Rejected("SCHEMA"), doubt=1, doubted_us=77)
    assert (await _one_parked(store)).in_doubt
    await _settle(store, second, Rejected("SCHEMA"))
    assert await store.parked(Selection()) == []
    wish = Claim(ROUTE, {SYSTEM: 1}, Order.BLOCK, 1, SECOND_US)
    leases = [*await store.claim_probe(wish, SYSTEM), *await store.claim_probe(wish, SYSTEM)]
    again, _ = sorted(leases, key=lambda it: it.records[0].key)
    assert (again.records[0].in_doubt, again.doubted_us) == (True, 77)


async def test_restage_of_the_very_content_that_was_parked_is_a_replay(store: Store) -> None:
    await _stage(store, ("a", 1))
    [lease] = await _claim(store)
    await _settle(store, lease, Rejected("INVALID"))
    parked = await _one_parked(store)
    assert await store.restage(parked.id, NewRecord("a", b"1"))
    [again] = await _claim(store)
    assert [(r.payload, r.id) for r in again.records] == [(b"1", parked.record)]


async def test_restage_of_a_parked_head_comes_before_the_newer_versions_that_waited_for_it(store: Store) -> None:
    await _stage(store, ("a", 1), ("a", 2))
    [lease] = await _claim(store)
    await _settle(store, lease, Rejected("INVALID"))
    parked = await _one_parked(store)
    assert await store.restage(parked.id, NewRecord("a", b"9"))
    [again] = await _claim(store)
    assert [r.payload for r in again.records] == [b"9", b"2"]
    assert again.records[0].id != parked.record


async def test_replay_of_several_when_one_can_not_be_read_replays_the_others(store: Store, database_url: str) -> None:
    await _stage(store, ("a", 1), ("b", 1))
    for lease, outcome in zip(await _claim(store, Order.SKIP), (Rejected("X"), Rejected("Y")), strict=True):
        await _settle(store, lease, outcome, Order.SKIP)
    await sql(database_url, "update parked set payload = (select payload from parked where key = 'b') where key = 'a'")
    assert await store.replay([p.id for p in await store.parked(Selection())]) == 1
    assert (await _one_parked(store)).key == "a"
    assert [lease.records[0].key for lease in await _claim(store, Order.SKIP)] == ["b"]


@pytest.mark.parametrize("kept", [b"\x01", b"\x01\x01", b"\x01\x01k", b"\x01\x01k123", b"\x01\x02\xff\xfe" + bytes(40)])
def test_unseal_of_a_payload_that_was_cut_or_garbled_says_corrupt(kept: bytes) -> None:
    with pytest.raises(CorruptPayload):
        Sealed("k", {"k": bytes(32)}).unseal("orders|1", kept)
