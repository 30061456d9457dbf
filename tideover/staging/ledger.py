"""Double entry: each transaction that moves records adds one line per route; sums are compared by the audit."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from tideover.staging.database import Transaction


@dataclass(frozen=True, slots=True)
class Entry:
    """Changes of a route's totals. `parked` is negative when records go back to waiting."""

    staged: int = 0
    delivered: int = 0
    parked: int = 0
    superseded: int = 0


def enter(tx: Transaction, route: str, entry: Entry) -> None:
    """Add a line, unless it would say nothing."""
    if not (entry.staged or entry.delivered or entry.parked or entry.superseded):
        return
    tx.conn.execute(
        text(
            "insert into ledger (route, at_us, staged, delivered, parked, superseded) "
            "values (:route, :now, :staged, :delivered, :parked, :superseded)"
        ),
        {
            "route": route,
            "now": tx.now_us,
            "staged": entry.staged,
            "delivered": entry.delivered,
            "parked": entry.parked,
            "superseded": entry.superseded,
        },
    )


def compact(tx: Transaction) -> int:
    """Sum each route's lines into one. Returns how many lines went."""
    last = tx.conn.execute(text("select coalesce(max(id), 0) from ledger")).scalar_one()
    sums = tx.conn.execute(
        text(
            "select route, sum(staged), sum(delivered), sum(parked), sum(superseded), count(*) from ledger "
            "where id <= :last group by route having count(*) > 1"
        ),
        {"last": last},
    ).all()
    for route, staged, delivered, parked, superseded, _ in sums:
        tx.conn.execute(text("delete from ledger where route = :route and id <= :last"), {"route": route, "last": last})
        enter(tx, route, Entry(int(staged), int(delivered), int(parked), int(superseded)))
    return sum(int(row[5]) - 1 for row in sums)
