"""What keeps the staging database small: each piece a short transaction of its own, so that nothing waits for it.

A piece's cost is that of what it looks at, a bounded number of rows, whatever else there is (ADR 0009). Drained lanes
are found by their index, in the order in which they became quiet. Records of lanes that live on are found by their
attempts, whose numbers follow time: so only what is old is looked at, and the records need no index for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from tideover.staging.database import Transaction

PIECE = 200  # lanes or rows: on SQLite, where one writes at a time, each claim may wait for one piece
# Who has a record shows in its attempts, so these stay while that is in question; by lane, as a replay moves a record.
_RECONCILED = "select 1 from reconciliation where reconciliation.lane = {0} and reconciliation.closed_us = 0"
# The lane of a key whose records have lanes of their own knows the newest content.
_OWN_LANES = (
    "select 1 from lane own where length(lane.last_hash) > 0 and own.id > lane.id "
    "and own.id <= lane.id + lane.last_seq and own.route = lane.route and own.key = lane.key"
)
_PARKED = "select 1 from parked where parked.lane = {0}.lane and parked.seq = {0}.seq and parked.closed_us = 0"
# Whether newer versions passed one that was parked at intake shows in its lane's newest record.
_AT_INTAKE = "select 1 from parked where parked.lane = r.lane and parked.at_intake and parked.closed_us = 0"

Place = tuple[int, int]  # how far the pieces of one kind have come: (due_us, id) of a lane, or (id, 0) of a row
BEGINNING: Place = (-1, 0)


@dataclass(frozen=True, slots=True)
class Removed:
    """What one piece of upkeep did. `rows` went; the next piece begins at `place`, None when no more are due."""

    rows: int
    place: Place | None


def purge_lanes(tx: Transaction, route: str, before_us: int, after: Place = BEGINNING) -> Removed:
    """Remove drained lanes that have been quiet since `before_us`, with their records and attempts.

    In one transaction, as a lane that comes back begins at 1 again. Lanes that a parked record or an open case of the
    reconciliation refers to stay, and that of a key whose records have lanes of their own while there are any.
    """
    found = tx.conn.execute(
        text(
            "select id, due_us, last_seq, case when lease_until_us > 0 "
            "or exists (select 1 from parked where parked.lane = lane.id and parked.closed_us = 0) "
            f"or exists ({_RECONCILED.format('lane.id')}) or exists ({_OWN_LANES}) then 1 else 0 end from lane "
            "where state = 0 and route = :route and due_us < :before "
            "and due_us >= :due and (due_us > :due or id > :id) "
            f"order by due_us, id limit :n {tx.dialect.skip_locked}"
        ),
        {"before": before_us, "route": route, "due": after[0], "id": after[1], "n": PIECE},
    ).all()
    ids: list[int] = []
    place, room = after, PIECE
    for lane, due_us, last_seq, is_kept in found:
        if not is_kept:
            if last_seq > room and (ids or (rows := _thin(tx, lane))):
                return Removed(_delete_lanes(tx, ids) if ids else rows, place)
            room -= last_seq
            ids.append(lane)
        place = (due_us, lane)
    rows = _delete_lanes(tx, ids)
    return Removed(rows, place if len(found) == PIECE else None)


def _thin(tx: Transaction, lane: int) -> int:
    """Remove the first records of a lane that has more than fit into one piece; 0 when it has no more than that."""
    stretch = f"select min(seq) + {PIECE} from record where lane = :lane"
    last = tx.conn.execute(text(f"select max(seq), ({stretch}) from record where lane = :lane"), {"lane": lane}).one()
    if last[0] is None or last[0] < last[1]:
        return 0
    bound = {"lane": lane, "end": last[1]}
    return sum(
        tx.conn.execute(text(f"delete from {table} where lane = :lane and seq < :end"), bound).rowcount
        for table in ("attempt", "record")
    )


def _delete_lanes(tx: Transaction, ids: Sequence[int]) -> int:
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


def purge_records(tx: Transaction, route: str, before_us: int, after: Place = BEGINNING) -> Removed:
    """Remove attempts that began before `before_us`, and the settled records of their lanes up to them, where no
    younger attempt speaks of one. What waits, is parked, or is in an open case of the reconciliation stays."""
    page = tx.conn.execute(
        text("select id, lane, seq, route, began_us from attempt where id > :after order by id limit :n"),
        {"after": after[0], "n": PIECE},
    ).all()
    old = [row for row in page if row.began_us < before_us]
    tops: dict[int, int] = {}
    for row in old:
        if row.route == route:
            tops[row.lane] = max(row.seq, tops.get(row.lane, 0))
    if tops:
        rows = _delete_records(tx, tops, before_us)
        if rows >= PIECE:
            return Removed(rows, after)  # there may be more of these lanes, such as superseded ones
        rows += _delete_attempts(tx, [row.id for row in old if row.route == route])
    else:
        rows = 0
    return Removed(rows, (page[-1].id, 0) if old and len(page) == PIECE else None)


def _delete_records(tx: Transaction, tops: dict[int, int], before_us: int) -> int:
    columns = ("lanes", "tops")
    young = "select 1 from attempt a where a.lane = r.lane and a.seq = r.seq and a.began_us >= :before"
    # A cross join keeps SQLite from reading the records first and looking for their lanes.
    keys = tx.conn.execute(
        text(
            f"select r.lane, r.seq from {tx.dialect.numbers('w', columns)} cross join lane l cross join record r "
            "where l.id = w.lanes and r.lane = w.lanes and r.seq <= w.tops and r.seq <= l.done_seq "
            f"and r.staged_us < :before and not exists ({_PARKED.format('r')}) "
            f"and (r.seq < l.last_seq or not exists ({_AT_INTAKE})) "
            f"and not exists ({_RECONCILED.format('r.lane')}) and not exists ({young}) limit :n"
        ),
        {**tx.dialect.bound_numbers(columns, sorted(tops.items())), "before": before_us, "n": PIECE},
    ).all()
    if not keys:
        return 0
    deleted = tx.conn.execute(
        text(
            "delete from record where (lane, seq) in "
            f"(select lanes, seqs from {tx.dialect.numbers('w', ('lanes', 'seqs'))})"
        ),
        tx.dialect.bound_numbers(("lanes", "seqs"), [tuple(key) for key in keys]),
    )
    return deleted.rowcount


def _delete_attempts(tx: Transaction, ids: Sequence[int]) -> int:
    settled = "select 1 from lane where lane.id = attempt.lane and attempt.seq <= lane.done_seq"
    deleted = tx.conn.execute(
        text(
            f"delete from attempt where id {tx.dialect.in_list('ids')} and exists ({settled}) "
            f"and not exists ({_PARKED.format('attempt')}) and not exists ({_RECONCILED.format('attempt.lane')})"
        ),
        {"ids": tx.dialect.array(ids)},
    )
    return deleted.rowcount


# Released records stay: they are counted.
CLOSED = {
    "event": "announced_us > 0 and at_us < :before",
    "parked": "closed_us > 0 and closed_us < :before and closing <> 'released'",
    "reconciliation": "closed_us > 0 and closed_us < :before",
}


def purge_closed(tx: Transaction, table: str, before_us: int, after: Place = BEGINNING) -> Removed:
    """Remove announced events, closed parked records or closed cases of the reconciliation, those of before an instant:
    of one of the tables of `CLOSED`."""
    page = f"select id from {table} where id > :after order by id limit :n"
    last, count = tx.conn.execute(
        text(f"select max(id), count(*) from ({page}) as page"), {"after": after[0], "n": PIECE}
    ).one()
    if not count:
        return Removed(0, None)
    deleted = tx.conn.execute(
        text(f"delete from {table} where id > :after and id <= :last and {CLOSED[table]}"),
        {"after": after[0], "last": last, "before": before_us},
    )
    return Removed(deleted.rowcount, (last, 0) if count == PIECE else None)
