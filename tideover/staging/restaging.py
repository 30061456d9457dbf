"""What takes a parked record's place: what a person made of it, or what today's mapping makes of one that could not be
mapped."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import Row, text

from tideover.model import NewRecord, Order, content_hash, lane_id, record_id
from tideover.staging.database import Transaction
from tideover.staging.ledger import Entry, enter
from tideover.staging.parking import CORRECTED, STEPPED_OVER, close, lock_open, unhold
from tideover.staging.sealing import Sealer
from tideover.staging.stage import Batch, lock_cursor, stage


class Remapped(enum.Enum):
    """What became of a record parked at intake, once it was mapped anew."""

    STAGED = enum.auto()
    UNCHANGED = enum.auto()  # closed: what it says now was the newest of its key already
    LEFT_OUT = enum.auto()  # closed: the mapping leaves it out now
    SUPERSEDED = enum.auto()  # a newer version of its key was staged since, and the route wants the latest only
    PASSED = enum.auto()  # a newer one was, or may have been: nothing changed
    GONE = enum.auto()  # it was closed meanwhile


def remap(
    tx: Transaction, row_id: int, mapped: NewRecord | None, sealer: Sealer, order: Order, *, is_named: bool
) -> Remapped:
    """Stage what today's mapping makes of a record parked at intake, at the end of its key's lane.

    That would undo a newer version which was staged since: so such a one stays parked unless a person names it, and
    under `latest` it is superseded.
    """
    row = _locked(tx, row_id)
    if row is None:
        return Remapped.GONE
    newest_us = _newest_after(tx, row, mapped.key) if mapped is not None and order is not Order.NONE else None
    if newest_us is not None and newest_us > row.staged_us and order is Order.LATEST:
        close(tx, row.id, "superseded")
        enter(tx, row.route, Entry(parked=-1, superseded=1))
        return Remapped.SUPERSEDED
    if newest_us is not None and not is_named:
        return Remapped.PASSED
    if _replace(tx, row, mapped, sealer, order):
        return Remapped.STAGED
    return Remapped.LEFT_OUT if mapped is None else Remapped.UNCHANGED


def _newest_after(tx: Transaction, row: Row[Any], key: str) -> int | None:
    """When the newest of those versions of a key was staged that came with or after a parked one; None without any.
    One that was parked itself is as old as it was then, and of two of one batch the one that was parked first is."""
    newest_us = tx.conn.execute(
        text(
            "select max(coalesce(p.staged_us, r.staged_us)) "
            "from lane l join record r on r.lane >= l.id and r.lane <= l.id + l.last_seq and r.key = l.key "
            "left join parked p on p.lane = :parked_lane and p.record = r.parent "
            "where l.id = :lane and (p.id is null or p.id > :id)"
        ),
        {"parked_lane": row.lane, "lane": lane_id(row.route, key), "id": row.id},
    ).scalar()
    return int(newest_us) if newest_us is not None and newest_us >= row.staged_us else None


def restage(
    tx: Transaction, row_id: int, corrected: NewRecord | None, sealer: Sealer, order: Order = Order.BLOCK
) -> bool:
    """Stage what a person made of a parked record, as a new record that names its parent.

    One that holds its lane is corrected in its place, so that the newer versions behind it come after it; any other
    goes to the end of its lane, whatever came since: a person says so. `None` means that it is left out now. False when
    it was closed meanwhile.
    """
    row = _locked(tx, row_id)
    if row is not None:
        _replace(tx, row, corrected, sealer, order)
    return row is not None


def _locked(tx: Transaction, row_id: int) -> Row[Any] | None:
    """An open parked record under a lock, with its lane and its route's cursor; None when it was closed meanwhile."""
    route = tx.conn.execute(text("select route from parked where id = :id"), {"id": row_id}).scalar()
    if route is not None:
        lock_cursor(tx, route)  # before the lane, as staging does: the same order, so no deadlock
    rows = lock_open(tx, [row_id])
    return rows[0] if rows else None


def _replace(tx: Transaction, row: Row[Any], corrected: NewRecord | None, sealer: Sealer, order: Order) -> bool:
    """Close a parked record in favour of what it is now. Whether that is a new record: not where it is left out, or
    nothing new."""
    close(tx, row.id, "resent")
    if row.holds and corrected is not None:
        _correct_in_place(tx, row, corrected, sealer)
        enter(tx, row.route, Entry(parked=-1))
        return True
    if row.holds:
        unhold(tx, row, STEPPED_OVER)
    enter(tx, row.route, Entry(staged=-1, parked=-1))
    if corrected is None:
        return False
    _forget_content(tx, row)
    if not stage(tx, Batch(row.route, row.system, [corrected], order=order), sealer).staged:
        return False
    _name_parent(tx, lane_id(row.route, corrected.key), row.record)
    return True


def _forget_content(tx: Transaction, row: Row[Any]) -> None:
    """Nothing stands at the end of a key's lane while the record there is the parked one: the same content again is a
    change. Of a record with a lane of its own, that lane says which of its key's it was."""
    lane = lane_id(row.route, row.key)
    tx.conn.execute(
        text("update lane set last_hash = :none where id = :lane and last_seq = :seq"),
        {"none": b"", "lane": lane, "seq": row.lane - lane or row.seq},
    )


def _name_parent(tx: Transaction, lane: int, parent: str) -> None:
    """Of the newest record of a key, by the key's lane: it is there, or in a lane of its own."""
    last_seq = tx.conn.execute(text("select last_seq from lane where id = :lane"), {"lane": lane}).scalar_one()
    tx.conn.execute(
        text("update record set parent = :parent where lane = :lane and seq = :seq or lane = :own and seq = 1"),
        {"parent": parent, "lane": lane, "own": lane + last_seq, "seq": last_seq},
    )


def _correct_in_place(tx: Transaction, row: Row[Any], corrected: NewRecord, sealer: Sealer) -> None:
    """Put a corrected record where its parked parent stands. What it says was never sent, so its own doubt ends; where
    records behind it may have been sent, a count from the head can't say so without it, and it is asked for as well."""
    content = content_hash(corrected.payload)
    born_us = tx.conn.execute(text("select born_us from lane where id = :lane"), {"lane": row.lane}).scalar_one()
    identity = record_id(row.lane, born_us, row.seq, content)
    tx.conn.execute(
        text("update record set id = :id, payload = :payload, parent = :parent where lane = :lane and seq = :seq"),
        {
            "id": identity,
            "payload": sealer.seal(f"{row.route}|{identity}", corrected.payload),
            "parent": row.record if identity != row.record else None,
            "lane": row.lane,
            "seq": row.seq,
        },
    )
    tx.conn.execute(
        text("update lane set last_hash = :hash where id = :lane and last_seq = :seq"),
        {"hash": content, "lane": row.lane, "seq": row.seq},
    )
    unhold(tx, row, CORRECTED)
