"""The staging table alone: how fast records come in, and go out without being sent."""

from __future__ import annotations

import statistics
import time

from sqlalchemy import text

from bench.places import ROUTE, Place, fill, key_of, record
from tideover.model import SECOND_US, Accepted, Lease, Order
from tideover.policy.breaker import BreakerRule
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging.database import Transaction
from tideover.staging.desks import Claim
from tideover.staging.settle import Settlement
from tideover.staging.stage import Batch, CursorMove
from tideover.staging.store import Store

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
                fresh.append(await _stage_all(store, count))
                same.append(await _stage_all(store, count))
        place.figures.add("stage", kind, "1,000s with dedupe and cursor", fresh, "records/s")
        place.figures.add("stage", kind, "the same again, unchanged", same, "records/s")


async def _stage_all(store: Store, count: int) -> float:
    batches = [
        [record(key_of(number, None), 0) for number in range(start, start + 1000)] for start in range(0, count, 1000)
    ]
    began = time.perf_counter()
    for number, records in enumerate(batches):
        move = CursorMove(await store.cursor(ROUTE), str(number), is_complete=False)
        await store.stage(Batch(ROUTE, "crm", records, move=move))
    return count / (time.perf_counter() - began)


async def cycle(place: Place) -> None:
    """Claim and settle 500 at a time without sending, at growing backlogs."""
    backlogs = [10_000, 100_000] if place.is_quick else [10_000, 100_000, 1_000_000]
    for kind in place.kinds:
        for name, hot in (("unique keys", None), (f"{HOT_KEYS} hot keys", HOT_KEYS)):
            medians = []
            for backlog in backlogs:
                async with place.store(kind) as store:
                    await fill(store, 0, backlog, hot)
                    medians.append(await _measure(place, store, kind, "cycle", f"{name}, backlog {backlog:,}", hot))
            grown = medians[-1] / medians[0]
            place.figures.ratio("cycle", kind, f"{name}, {backlogs[-1]:,} against 10,000", grown, at_most=1.6)


async def delivered(place: Place) -> None:
    """The same at a backlog of 10,000, without and with many delivered records beside it."""
    beside = 500_000 if place.is_quick else 1_000_000
    for kind in place.kinds:
        async with place.store(kind) as store:
            await fill(store, 0, 10_000)
            without = await _measure(place, store, kind, "delivered", "none beside", None)
            await store.database.write(lambda tx: _add_delivered(tx, beside))
            behind = await _measure(place, store, kind, "delivered", f"{beside:,} beside", None)
            what = f"{beside:,} delivered beside against none"
            place.figures.ratio("delivered", kind, what, behind / without, at_most=1.2)


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


async def _measure(place: Place, store: Store, kind: str, bench: str, what: str, hot: int | None) -> float:
    """The median time of claiming and settling 500 records, in ms; what was settled is staged again."""
    claims, settles = [], []
    _settle_down(place, store)
    number = time.monotonic_ns()  # never used before: what is unchanged would not be staged
    for _ in range(place.rounds):
        for _ in range(CYCLES):
            began = time.perf_counter()
            leases = await _claim(store, hot)
            claimed = time.perf_counter()
            count = await _settle(store, leases)
            ended = time.perf_counter()
            assert count == CYCLE, f"{count} records came instead of {CYCLE}"
            claims.append((claimed - began) * 1000)
            settles.append((ended - claimed) * 1000)
        await fill(store, number, CYCLES * CYCLE, hot)
        number += CYCLES * CYCLE
    both = [c + s for c, s in zip(claims, settles, strict=True)]
    figures = place.figures
    figures.add(bench, kind, f"{what}: claim 500", claims, "ms")
    figures.add(bench, kind, f"{what}: settle 500", settles, "ms")
    figures.add(bench, kind, f"{what}: both", [CYCLE * 1000 / ms for ms in both], "records/s")
    return statistics.median(both)


def _settle_down(place: Place, store: Store) -> None:
    """What filling left for PostgreSQL to do must not be done while something is measured."""
    if store.database.dialect.name == "postgresql":
        place.server.psql(f"\\c {store.database.url.database}\nvacuum analyze;\ncheckpoint;\n")


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
