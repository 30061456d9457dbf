"""Long work on the database in short transactions, one after the other, so that nothing else waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tideover.staging import ledger, systems, upkeep
from tideover.staging.database import Database, Transaction


async def make_due(database: Database, routes: Sequence[str], restored: str = "") -> None:
    """Let what backed off on these routes be tried now; `restored`: the system that is back, if that is why."""
    for route in routes:
        while not await database.write(lambda tx: systems.make_due(tx, route, restored)):  # noqa: B023 - run at once
            database.wakeups.wake(route)
        database.wakeups.wake(route)


async def compact(database: Database) -> int:
    """Sum the ledger's lines. Returns how many fewer there are."""
    last = await database.read(ledger.last_line)
    lines, after = 0, 0
    while True:
        piece = await database.write(lambda tx: ledger.compact(tx, after, last))  # noqa: B023 - run at once
        lines += piece.lines
        if piece.after is None:
            return lines
        after = piece.after


async def purge(database: Database, route: str, retention_us: int, on_rows: Callable[[int], None]) -> int:
    """Remove what the route's retention no longer asks for. Returns how many rows went; `on_rows` hears after each
    piece how many so far."""
    lanes = await _removed(
        database, lambda tx, after: upkeep.purge_lanes(tx, route, tx.now_us - retention_us, after), on_rows
    )
    return lanes + await _removed(
        database,
        lambda tx, after: upkeep.purge_records(tx, route, tx.now_us - retention_us, after),
        lambda rows: on_rows(lanes + rows),
    )


async def purge_closed(database: Database, retention_us: int) -> int:
    """Remove old events, closed parked records and closed cases. Returns how many rows went."""
    rows = 0
    for table in upkeep.CLOSED:
        rows += await _removed(
            database,
            lambda tx, after: upkeep.purge_closed(tx, table, tx.now_us - retention_us, after),  # noqa: B023
            lambda _: None,
        )
    return rows


async def _removed(
    database: Database,
    piece: Callable[[Transaction, upkeep.Place], upkeep.Removed],
    on_rows: Callable[[int], None],
) -> int:
    rows, after = 0, upkeep.BEGINNING
    while True:
        start, began = after, time.monotonic()
        removed = await database.write(lambda tx: piece(tx, start))  # noqa: B023 - run at once
        rows += removed.rows
        await asyncio.sleep(time.monotonic() - began)  # the other half of the time is for claims
        if removed.rows:
            on_rows(rows)
        if removed.place is None:
            return rows
        after = removed.place
