"""What keeps the staging database small: each piece a short transaction of its own, so that nothing waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from tideover.staging.database import Transaction

_PIECE = 2_000
# Who has a record shows in its attempts, so these stay while that is in question; by lane, as a replay moves a record.
_RECONCILED = "select 1 from reconciliation where reconciliation.lane = {0} and reconciliation.closed_us = 0"


@dataclass(frozen=True, slots=True)
class Removed:
    """Rows that one piece of upkeep removed. `is_done` says that no more are due."""

    rows: int
    is_done: bool


def purge_lanes(tx: Transaction, route: str, before_us: int) -> Removed:
    """Remove drained lanes that have been quiet since `before_us`, with their records and attempts.

    In one transaction, as a lane that comes back begins at 1 again. Lanes that a parked record or an open case of the
    reconciliation refers to stay.
    """
    ids = [
        row[0]
        for row in tx.conn.execute(
            text(
                "select id from lane where state = 0 and due_us < :before and lease_until_us = 0 and route = :route "
                "and not exists (select 1 from parked where parked.lane = lane.id and parked.closed_us = 0) "
                f"and not exists ({_RECONCILED.format('lane.id')}) "
                f"order by due_us limit :n {tx.dialect.skip_locked}"
            ),
            {"before": before_us, "route": route, "n": _PIECE // 4},
        )
    ]
    rows = _delete_of_lanes(tx, ids)
    return Removed(rows, len(ids) < _PIECE // 4)


def _delete_of_lanes(tx: Transaction, ids: Sequence[int]) -> int:
    if not ids:
        return 0
    bound = {"ids": tx.dialect.array(ids)}
    among = tx.dialect.in_list("ids")
    statements = (
        f"delete from attempt where lane {among}",
        f"delete from record where lane {among}",
        f"delete from lane where id {among}",
    )
    return sum(tx.conn.execute(text(statement), bound).rowcount for statement in statements)


def purge_records(tx: Transaction, route: str, before_us: int, after_lane: int) -> tuple[Removed, int]:
    """Remove old delivered records of lanes that live on, a stretch of lanes at a time; returns where to go on."""
    ids = [
        row[0]
        for row in tx.conn.execute(
            text("select id from lane where route = :route and id > :after and done_seq > 0 order by id limit :n"),
            {"route": route, "after": after_lane, "n": _PIECE // 4},
        )
    ]
    if not ids:
        return Removed(0, True), after_lane
    bound = {"ids": tx.dialect.array(ids), "before": before_us}
    settled = (
        "select 1 from lane where lane.id = {0}.lane and {0}.seq <= lane.done_seq"  # what waits is never old enough
    )
    open_parked = "select 1 from parked where parked.lane = {0}.lane and parked.seq = {0}.seq and parked.closed_us = 0"
    rows = 0
    for table, age in (("attempt", "began_us"), ("record", "staged_us")):
        statement = (
            f"delete from {table} where lane {tx.dialect.in_list('ids')} and {age} < :before "
            f"and exists ({settled.format(table)}) and not exists ({open_parked.format(table)}) "
            f"and not exists ({_RECONCILED.format(f'{table}.lane')})"
        )
        rows += tx.conn.execute(text(statement), bound).rowcount
    return Removed(rows, False), ids[-1]


def purge_closed(tx: Transaction, before_us: int) -> int:
    """Remove announced events, closed parked records and closed cases of the reconciliation of before an instant.
    Released records stay: they are counted."""
    statements = (
        "delete from event where announced_us > 0 and at_us < :before",
        "delete from parked where closed_us > 0 and closed_us < :before and closing <> 'released'",
        "delete from reconciliation where closed_us > 0 and closed_us < :before",
    )
    return sum(tx.conn.execute(text(statement), {"before": before_us}).rowcount for statement in statements)
