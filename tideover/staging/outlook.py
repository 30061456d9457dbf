"""What waits for a target, and when the next of it can be claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from tideover.model import PRIORITIES
from tideover.staging.database import Transaction
from tideover.staging.leases import free_lanes


@dataclass(frozen=True, slots=True)
class Outlook:
    """What waits for a target. `due_us`: when the next lane can be claimed that is not pinned to a system that may not
    be called now; None without one. `is_pinned`: there is none, but others wait for such a system."""

    now_us: int
    due_us: int | None
    is_pinned: bool


def outlook(tx: Transaction, routes: Sequence[str], ready: Sequence[str]) -> Outlook:
    """Looks at the first lanes of each priority only, and at those under a lease where no other is due."""
    found = [at for route in routes if (at := _next_us(tx, route, ready)) is not None]
    waits = text("select 1 from lane where route = :route and state = 1 limit 1")
    is_pinned = not found and any(tx.conn.execute(waits, {"route": route}).scalar() for route in routes)
    return Outlook(tx.now_us, min(found, default=None), is_pinned)


def _next_us(tx: Transaction, route: str, ready: Sequence[str]) -> int | None:
    """When the route's next lane can be claimed. Only lanes that were due are leased, so what is under a lease is
    looked at in that stretch of the index, and only when nothing else is due."""
    free, bound = free_lanes(ready)
    bound_all = {"route": route, "now": tx.now_us, **bound}
    first = (
        "select due_us from (select due_us from lane where route = :route and state = 1 and priority = {0} "
        f"and lease_until_us <= :now and {free} order by due_us, id limit 1) as p{{0}}"
    )
    firsts = " union all ".join(first.format(priority) for priority in PRIORITIES)
    soonest = tx.conn.execute(text(f"select min(due_us) from ({firsts}) as firsts"), bound_all).scalar()
    if soonest is not None and soonest <= tx.now_us:
        return int(soonest)
    leased = tx.conn.execute(
        text(
            "select min(lease_until_us) from lane where route = :route and state = 1 "
            f"and priority in ({', '.join(map(str, PRIORITIES))}) and due_us <= :now "
            f"and lease_until_us > :now and {free}"
        ),
        bound_all,
    ).scalar()
    return min((int(at) for at in (soonest, leased) if at is not None), default=None)
