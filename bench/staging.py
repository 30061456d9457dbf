"""The staging table alone: how fast records come in, and go out without being sent."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
from sqlalchemy import text

from bench.places import ROUTE, Place, fill, key_of, record
from tideover.model import SECOND_US, Accepted, Lease, Order
from tideover.policy.breaker import BreakerRule
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging.database import Transaction
from tideover.staging.settle import Settlement
from tideover.staging.stage import Batch, CursorMove
from tideover.staging.store import Store
from tideover.staging.wishes import Claim

SYSTEM = "erp"
HOT_KEYS = 200
CYCLE = 500
CYCLES = 10
RULES = {ROUTE: RouteRule(Order.BLOCK, RetryRule(12, 1.0, 300.0, None))}


async def stage(place: Place) -> None:
    """Records in thousands, each batch with its cursor; and the same again, of which nothing has changed."""
    count = 10_000 if place.is_quick else 30_000
    for kind in place.kinds:
        fresh, same = [], []
        for _ in range(place.rounds):
            async with place.store(kind) as store:
                fresh.append(await stage_all(store, count))
                same.append(await stage_all(store, count))
        place.figures.add("stage", kind, "1,000s with dedupe and cursor", fresh, "records/s")
        place.figures.add("stage", kind, "the same again, unchanged", same, "records/s")


async def stage_all(store: Store, count: int) -> float:
    """Records a second, staged in thousands, each with a move of the cursor."""
    batches = [
        [record(key_of(number, None), 0) for number in range(start, start + 1000)] for start in range(0, count, 1000)
    ]
    began = time.perf_counter()
    for number, records in enumerate(batches):
        move = CursorMove(await store.cursor(ROUTE), str(number), is_complete=False)
        await store.stage(Batch(ROUTE, "crm", records, move=move))
    return count / (time.perf_counter() - began)


async def through_store(store: Store, count: int) -> float:
    """Records a second, claimed and settled in 500s by the store alone."""
    began = time.perf_counter()
    for _ in range(count // CYCLE):
        await _settle(store, await _claim(store, None))
    return count // CYCLE * CYCLE / (time.perf_counter() - began)


async def cycle(place: Place) -> None:
    """Claim and settle 500 at a time without sending, at growing backlogs."""
    backlogs = [10_000, 100_000] if place.is_quick else [10_000, 100_000, 1_000_000]
    for kind in place.kinds:
        for name, hot in (("unique keys", None), (f"{HOT_KEYS} hot keys", HOT_KEYS)):
            async with AsyncExitStack() as stack:
                cases = []
                for backlog in backlogs:
                    store = await stack.enter_async_context(place.store(kind))
                    await fill(store, 0, backlog, hot)
                    cases.append(Case(f"{name}, backlog {backlog:,}", store, hot))
                medians = await _in_turn(place, kind, "cycle", cases)
            grown = medians[-1] / medians[0]
            place.figures.ratio("cycle", kind, f"{name}, {backlogs[-1]:,} against 10,000", grown, at_most=1.6)


async def delivered(place: Place) -> None:
    """The same at a backlog of 10,000, without and with many delivered records beside it."""
    beside = 500_000 if place.is_quick else 5_000_000
    for kind in place.kinds:
        async with place.store(kind) as without, place.store(kind) as behind:
            for store in (without, behind):
                await fill(store, 0, 10_000)
            await behind.database.write(lambda tx: _add_delivered(tx, beside))
            cases = [Case("none beside", without), Case(f"{beside:,} beside", behind)]
            medians = await _in_turn(place, kind, "delivered", cases)
            what = f"{beside:,} delivered beside against none"
            place.figures.ratio("delivered", kind, what, medians[1] / medians[0], at_most=1.2)


async def held(place: Place) -> None:
    """The same on PostgreSQL while a transaction is held open elsewhere, as by a backup or a forgotten console: nothing
    that is updated meanwhile can be vacuumed away. It counts in its own database only, so the other is the measure."""
    if "postgresql" not in place.kinds:
        place.figures.missing("held", "-", "a transaction held open", "not measured: needs PostgreSQL")
        return
    through = 50_000 if place.is_quick else 400_000
    async with place.store("postgresql") as free, place.store("postgresql") as bound:
        for store in (free, bound):
            await fill(store, 0, 10_000)
        async with _transaction(bound):
            for store in (free, bound):
                await _churn(store, through)
            cases = [Case("no transaction held", free), Case(f"held for {through:,} records", bound)]
            medians = await _in_turn(place, "postgresql", "held", cases)
        what = f"a transaction held for {through:,} records against none"
        place.figures.ratio("held", "postgresql", what, medians[1] / medians[0], at_most=1.3)


@asynccontextmanager
async def _transaction(store: Store) -> AsyncIterator[None]:
    """A transaction on a connection of its own that sees the database as it is now."""
    url = store.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("select count(*) from lane")
            yield
    finally:
        await connection.close()


async def _churn(store: Store, count: int) -> None:
    """Stage, claim and settle so many records; the backlog stays as it is."""
    number, size = time.monotonic_ns(), 5_000
    for _ in range(count // size):
        for _ in range(size // CYCLE):
            await _settle(store, await _claim(store, None))
        await fill(store, number, size)
        number += size


def _add_delivered(tx: Transaction, count: int) -> None:
    """Drained lanes, each with a delivered record and its attempt."""
    if tx.dialect.name == "sqlite":
        numbers = f"(with recursive n(i) as (select 1 union all select i + 1 from n where i < {count}) select i from n)"
        payload, empty = "zeroblob(200)", "x''"
    else:
        numbers = f"(select i from generate_series(1, {count}) as g(i)) as n"
        payload, empty = "decode(repeat('00', 200), 'hex')", "cast('' as bytea)"
    for statement in (
        "insert into lane (id, route, key, born_us, last_seq, done_seq, last_hash, state) "
        f"select i, '{ROUTE}', 'd' || i, 1, 1, 1, {empty}, 0 from {numbers}",
        f"insert into record (lane, seq, id, key, staged_us, payload) select i, 1, 'd' || i, 'd' || i, 1, {payload} "
        f"from {numbers}",
        "insert into attempt (lane, seq, record, route, system, token, kind, outcome, code, detail, began_us, took_us) "
        f"select i, 1, 'd' || i, '{ROUTE}', '{SYSTEM}', 1, 'send', 'accepted', '', '', 1, 1 from {numbers}",
    ):
        tx.conn.execute(text(statement))


@dataclass
class Case:
    """A store with a backlog, and what claiming and settling 500 of it took, in ms."""

    what: str
    store: Store
    hot: int | None = None
    claims: list[float] = field(default_factory=list)
    settles: list[float] = field(default_factory=list)

    @property
    def both(self) -> list[float]:
        return [claim + settle for claim, settle in zip(self.claims, self.settles, strict=True)]

    async def run(self) -> None:
        """Some cycles; what was settled is staged again."""
        for _ in range(CYCLES):
            began = time.perf_counter()
            leases = await _claim(self.store, self.hot)
            claimed = time.perf_counter()
            count = await _settle(self.store, leases)
            ended = time.perf_counter()
            assert count == CYCLE, f"{count} records came instead of {CYCLE}"
            self.claims.append((claimed - began) * 1000)
            self.settles.append((ended - claimed) * 1000)
        # Numbers that were never used before: what is unchanged would not be staged.
        await fill(self.store, time.monotonic_ns(), CYCLES * CYCLE, self.hot)


async def _in_turn(place: Place, kind: str, bench: str, cases: Sequence[Case]) -> list[float]:
    """The median time of a cycle of each case, in ms; a round of each in turn, so that a slow moment meets all."""
    for case in cases:
        place.settle_down(case.store)
    for _ in range(place.rounds):
        for case in cases:
            await case.run()
    figures = place.figures
    for case in cases:
        figures.add(bench, kind, f"{case.what}: claim 500", case.claims, "ms")
        figures.add(bench, kind, f"{case.what}: settle 500", case.settles, "ms")
        figures.add(bench, kind, f"{case.what}: both", [CYCLE * 1000 / ms for ms in case.both], "records/s")
    return [statistics.median(case.both) for case in cases]


async def _claim(store: Store, hot: int | None) -> list[Lease]:
    lanes, depth = (CYCLE // 10, 10) if hot else (CYCLE, 10)
    return list((await store.claim(Claim(ROUTE, {SYSTEM: lanes}, Order.BLOCK, depth, 60 * SECOND_US))).leases)


async def _settle(store: Store, leases: list[Lease]) -> int:
    reports = [
        LaneReport(le.lane, le.token, [Attempt(r, Kind.SEND, Accepted("ref"), 1000, 1000) for r in le.records])
        for le in leases
    ]
    settled = await store.settle(Settlement(SYSTEM, reports, RULES, BreakerRule()))
    assert not settled.refused
    return settled.delivered
