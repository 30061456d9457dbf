"""Double entry: each transaction that moves records adds one line per route; sums are compared by the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from tideover.model import SECOND_US
from tideover.staging.database import Transaction


@dataclass(frozen=True, slots=True)
class Entry:
    """Changes of a route's totals. `parked` is negative when records go back to waiting."""

    staged: int = 0
    delivered: int = 0
    parked: int = 0
    superseded: int = 0


def enter(tx: Transaction, route: str, entry: Entry, push: str | None = None) -> int | None:
    """Add a line, unless it would say nothing, under the name of the call that staged it. Returns its number."""
    if not (entry.staged or entry.delivered or entry.parked or entry.superseded):
        return None
    line = tx.conn.execute(
        text(
            "insert into ledger (route, at_us, staged, delivered, parked, superseded, push) "
            "values (:route, :now, :staged, :delivered, :parked, :superseded, :push) returning id"
        ),
        {
            "route": route,
            "now": tx.now_us,
            "staged": entry.staged,
            "delivered": entry.delivered,
            "parked": entry.parked,
            "superseded": entry.superseded,
            "push": push,
        },
    )
    return int(line.scalar_one())


def has_line(tx: Transaction, line: int, push: str) -> bool:
    """Whether a line was committed, and is the one that this call added; also of the last minutes only."""
    found = tx.conn.execute(text("select 1 from ledger where id = :id and push = :push"), {"id": line, "push": push})
    return found.scalar() is not None


@dataclass(frozen=True, slots=True)
class Compacted:
    """`lines`: how many fewer there are; the next piece begins after line `after`, None when all were summed."""

    lines: int
    after: int | None


def last_line(tx: Transaction) -> int:
    """The number of the newest line."""
    return int(tx.conn.execute(text("select coalesce(max(id), 0) from ledger")).scalar_one())


def compact(tx: Transaction, after: int, last: int) -> Compacted:
    """Sum the lines of each route, a piece of them after one line and up to a `last` one: those of the last minutes by
    the second and those of the last hour by the minute, as the pace is read from them, and all older ones into one. A
    line of the last minutes by which a call may have to be known again stays.

    On PostgreSQL in one statement: what is summed is then exactly what is removed, also beside another compaction.
    """
    page = "select id, at_us, push from ledger where id > :after and id <= :last order by id limit :n"
    recent_us = tx.now_us - _RECENT_US
    end, count, kept = tx.conn.execute(
        text(f"select max(id), count(*), sum(case when {_SUMMABLE} then 0 else 1 end) from ({page}) as page"),
        {"after": after, "last": last, "n": _PIECE, "recent": recent_us},
    ).one()
    if not count:
        return Compacted(0, None)
    bound = {"after": after, "last": end, "recent": recent_us, "hour": tx.now_us - _HOUR_US}
    lines = f"ledger where id > :after and id <= :last and {_SUMMABLE}"
    if tx.dialect.name == "postgresql":
        gone = f"with gone as (delete from {lines} returning *)"
        summed = tx.conn.execute(text(f"{gone} {_SUMMED.format(source='gone')}"), bound).rowcount
    else:
        summed = tx.conn.execute(text(_SUMMED.format(source=lines)), bound).rowcount
        tx.conn.execute(text(f"delete from {lines}"), bound)
    return Compacted(int(count) - int(kept) - summed, int(end) if count == _PIECE else None)


def sums(tx: Transaction, route: str) -> tuple[int, int, int, int]:
    """How many records of a route were staged, delivered, parked and superseded, since its beginning."""
    row = tx.conn.execute(
        text(
            "select coalesce(sum(staged), 0), coalesce(sum(delivered), 0), coalesce(sum(parked), 0), "
            "coalesce(sum(superseded), 0) from ledger where route = :route"
        ),
        {"route": route},
    ).one()
    return int(row[0]), int(row[1]), int(row[2]), int(row[3])


def waiting(tx: Transaction, routes: Sequence[str]) -> int:
    """How many records of these routes wait: cheap however many there are."""
    return sum(staged - delivered - parked - gone for staged, delivered, parked, gone in (sums(tx, r) for r in routes))


_SUMMABLE = "(push is null or at_us < :recent)"
_SUMMED = (
    "insert into ledger (route, at_us, staged, delivered, parked, superseded) "
    "select route, max(at_us), sum(staged), sum(delivered), sum(parked), sum(superseded) from {source} "
    "group by route, "
    "case when at_us >= :recent then at_us / 1000000 when at_us >= :hour then at_us / 60000000 else 0 end"
)
_RECENT_US, _HOUR_US = 120 * SECOND_US, 3_600 * SECOND_US
_PIECE = 20_000  # lines
