"""Claiming: the right of one worker to send some lanes' head records, for a time, fenced by a token.

A claim touches heads only, by the index of due lanes, so its cost does not grow with the backlog. There is no reaper:
a lease that ran out is simply claimable, and the records it covered are in doubt, as their worker may have sent them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tideover.errors import CorruptPayload
from tideover.model import SECOND_US, Lease, LeasedRecord, Order
from tideover.policy.settlement import Kind
from tideover.staging import schema
from tideover.staging.database import Transaction
from tideover.staging.ledger import Entry, enter
from tideover.staging.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker asks for: up to `lanes` lanes of a route, up to `depth` records of each, for `lease_us`."""

    route: str
    system: str
    order: Order
    lanes: int
    depth: int
    lease_us: int


def claim(tx: Transaction, wish: Claim, sealer: Sealer) -> list[Lease]:
    """Leases on the lanes that have been due the longest. A lane in doubt is claimed only for the system it is
    pinned to, and only as far as it is in doubt."""
    lanes = tx.conn.execute(
        text(
            "select id, token, born_us, last_seq, done_seq, in_doubt, doubted_us, attempts, lease_until_us, route "
            "from lane where route = :route and state = 1 and due_us <= :now and lease_until_us <= :now "
            f"and (in_doubt = 0 or system = :system) order by due_us, id limit :n {tx.dialect.skip_locked}"
        ),
        {"route": wish.route, "now": tx.now_us, "system": wish.system, "n": wish.lanes},
    ).all()
    if not lanes:
        return []
    if wish.order is Order.LATEST:
        lanes = _supersede(tx, wish.route, lanes)
    _take(tx, wish, [row.id for row in lanes])
    records = _heads(tx, wish, lanes, sealer)
    _trace_expired(tx, wish, [row for row in lanes if row.lease_until_us > 0 and row.in_doubt], records)
    return [
        Lease(
            lane=row.id,
            token=row.token + 1,
            route=row.route,
            attempts=row.attempts,
            doubted_us=row.doubted_us if row.in_doubt else 0,
            doubt_age_s=(tx.now_us - row.doubted_us) / SECOND_US if row.in_doubt else 0.0,
            records=records.get(row.id, ()),
        )
        for row in lanes
    ]


def _take(tx: Transaction, wish: Claim, ids: Sequence[int]) -> None:
    """From here on every record under the lease may be sent, so all of them are in doubt should the worker vanish."""
    tx.conn.execute(
        text(
            "update lane set token = token + 1, lease_until_us = :until, system = :system, "
            "doubted_us = case when in_doubt = 0 then :now else doubted_us end, "
            "in_doubt = case when in_doubt > 0 then in_doubt "
            "when last_seq - done_seq < :depth then last_seq - done_seq else :depth end "
            f"where id {tx.dialect.in_list('ids')}"
        ),
        {
            "until": tx.now_us + wish.lease_us,
            "system": wish.system,
            "now": tx.now_us,
            "depth": wish.depth,
            "ids": tx.dialect.array(ids),
        },
    )


def _heads(tx: Transaction, wish: Claim, lanes: Sequence[Row[Any]], sealer: Sealer) -> dict[int, list[LeasedRecord]]:
    spans = [(row.id, row.done_seq, row.done_seq + (row.in_doubt or wish.depth)) for row in lanes]
    doubts = {row.id: row.done_seq + row.in_doubt for row in lanes}
    columns = ("lanes", "froms", "tos")
    # A cross join keeps SQLite from reading the records first and looking for their lanes.
    rows = tx.conn.execute(
        text(
            "select r.lane, r.seq, r.id, r.key, r.staged_us, r.payload "
            f"from {tx.dialect.numbers('w', columns)} cross join record r "
            "where r.lane = w.lanes and r.seq > w.froms and r.seq <= w.tos order by r.lane, r.seq"
        ),
        tx.dialect.bound_numbers(columns, spans),
    )
    heads: dict[int, list[LeasedRecord]] = {}
    for lane, seq, identity, key, staged_us, stored in rows:
        payload, fault = stored, ""
        try:
            payload = sealer.unseal(f"{wish.route}|{identity}", stored)
        except CorruptPayload as error:
            fault = str(error)
        leased = LeasedRecord(identity, seq, key, payload, staged_us, seq <= doubts[lane], fault)
        heads.setdefault(lane, []).append(leased)
    return heads


def _supersede(tx: Transaction, route: str, lanes: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Order `latest`: of a lane that nobody can have sent from, all waiting versions but the newest give way."""
    stale = [row for row in lanes if row.in_doubt == 0 and row.last_seq - row.done_seq > 1]
    if not stale:
        return lanes
    tx.dialect.update(tx.conn, schema.lane, ("id", "done_seq"), [(row.id, row.last_seq - 1) for row in stale])
    enter(tx, route, Entry(superseded=sum(row.last_seq - 1 - row.done_seq for row in stale)))
    ids = {row.id for row in stale}
    moved = tx.conn.execute(
        text(
            "select id, token, born_us, last_seq, done_seq, in_doubt, doubted_us, attempts, lease_until_us, route "
            f"from lane where id {tx.dialect.in_list('ids')}"
        ),
        {"ids": tx.dialect.array(sorted(ids))},
    ).all()
    return [*(row for row in lanes if row.id not in ids), *moved]


def _trace_expired(
    tx: Transaction, wish: Claim, lanes: Sequence[Row[Any]], records: dict[int, list[LeasedRecord]]
) -> None:
    """Put the unknown outcome of a lease that ran out into the records' traces."""
    columns = (
        "lane", "seq", "record", "route", "system", "token", "kind", "outcome", "code", "detail", "began_us", "took_us",
    )  # fmt: skip
    rows = [
        (
            row.id, record.seq, record.id, wish.route, wish.system, row.token, Kind.EXPIRED.value, "unknown",
            "lease_expired", "its worker never reported", row.doubted_us, max(row.lease_until_us - row.doubted_us, 0),
        )
        for row in lanes
        for record in records.get(row.id, ())
    ]  # fmt: skip
    tx.dialect.insert(tx.conn, schema.attempt, columns, rows)


def next_due_us(tx: Transaction, routes: Sequence[str], system: str) -> int | None:
    """When the next lane of these routes can be claimed for a system; None while nothing waits for it."""
    soonest: int | None = None
    for route in routes:
        found = tx.conn.execute(
            text(
                "select min(case when due_us > lease_until_us then due_us else lease_until_us end) "
                "from lane where route = :route and state = 1 and (in_doubt = 0 or system = :system)"
            ),
            {"route": route, "system": system},
        ).scalar()
        if found is not None and (soonest is None or found < soonest):
            soonest = int(found)
    return soonest
