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
    """Sum each route's lines into one. Returns how many lines went.

    On PostgreSQL in one statement: between two, a settlement that took its number earlier could commit, and its line
    would be removed without being summed.
    """
    before = tx.conn.execute(text("select count(*) from ledger")).scalar_one()
    if tx.dialect.name == "postgresql":
        tx.conn.execute(text(f"with gone as (delete from ledger returning *) {_SUMMED.format(source='gone')}"))
    else:
        last = tx.conn.execute(text("select coalesce(max(id), 0) from ledger")).scalar_one()
        tx.conn.execute(text(_SUMMED.format(source="ledger")))
        tx.conn.execute(text("delete from ledger where id <= :last"), {"last": last})
    return int(before) - int(tx.conn.execute(text("select count(*) from ledger")).scalar_one())


_SUMMED = (
    "insert into ledger (route, at_us, staged, delivered, parked, superseded) "
    "select route, max(at_us), sum(staged), sum(delivered), sum(parked), sum(superseded) from {source} group by route"
)
