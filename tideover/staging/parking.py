"""Parked records: what needs a person. Never deleted while open; always replayable under the same idempotency key."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tideover.errors import CorruptPayload, MissingKey, Refused
from tideover.model import HubEvent, NewRecord, Order, content_hash, lane_id, record_id
from tideover.policy.retry import EXPIRED
from tideover.staging import schema, systems
from tideover.staging.database import Transaction
from tideover.staging.events import announce
from tideover.staging.ledger import Entry, enter
from tideover.staging.sealing import Sealer
from tideover.staging.stage import Batch, lock_cursor, stage

UNRESOLVED = "unresolved"  # parked because the provider may have processed it and can't be asked
_COLUMNS = (
    "id, record, route, lane, seq, key, system, code, detail, payload, in_doubt, holds, at_intake, staged_us, parked_us"
)


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked record, without its payload."""

    id: int
    record: str
    route: str
    lane: int
    seq: int
    key: str
    system: str
    code: str
    detail: str
    in_doubt: bool
    holds: bool
    at_intake: bool
    staged_us: int
    parked_us: int


def _parked(row: Row[Any]) -> Parked:
    return Parked(
        row.id, row.record, row.route, row.lane, row.seq, row.key, row.system, row.code, row.detail,
        bool(row.in_doubt), bool(row.holds), bool(row.at_intake), row.staged_us, row.parked_us,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """Which open parked records: all those that fit every field given. `after` pages through them by `id`; `until`:
    none that was parked after the one with that id."""

    route: str | None = None
    records: Sequence[str] = ()
    code: str | None = None
    key: str | None = None
    after: int = 0
    limit: int = 500
    until: int | None = None


def newest(tx: Transaction) -> int:
    """The id of what was parked last; 0 while nothing ever was."""
    return int(tx.conn.execute(text("select coalesce(max(id), 0) from parked")).scalar_one())


def find(tx: Transaction, selection: Selection) -> list[Parked]:
    """Open parked records, oldest first."""
    return [_parked(row) for row in _select(tx, selection)]


def _select(tx: Transaction, selection: Selection, lock: str = "") -> Sequence[Row[Any]]:
    wanted = {"route": selection.route, "code": selection.code, "key": selection.key}
    clauses = [f"{name} = :{name}" for name, value in wanted.items() if value is not None]
    if selection.records:
        clauses.append(f"record in ({', '.join(f':r{i}' for i in range(len(selection.records)))})")
    if selection.until is not None:
        clauses.append("id <= :until")
    where = " and ".join(["closed_us = 0", "id > :after", *clauses])
    statement = f"select {_COLUMNS} from parked where {where} order by id limit :n {lock}"
    bound: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    bound |= {f"r{i}": record for i, record in enumerate(selection.records)}
    if selection.until is not None:
        bound["until"] = selection.until
    return tx.conn.execute(text(statement), {**bound, "after": selection.after, "n": selection.limit}).all()


def replay(
    tx: Transaction,
    ids: Sequence[int],
    sealer: Sealer,
    closing: str = "replayed",
    latest: Collection[str] = (),
) -> int:
    """Put parked records back to waiting, each under the id it always had. Those closed meanwhile are left alone.

    A record that holds its lane goes on from the head; any other goes to the end of its lane. What may have been sent
    is asked for first, unless it was parked because nobody can tell: then a person's word counts. The age of what was
    too old begins anew. An older version whose route is among `latest` gives way to a newer one. Left alone are records
    parked at intake, as mapping is the hub's; one whose payload can't be read; and, when `restored` by nobody's word,
    one that newer versions passed.
    """
    count = 0
    of_these = (
        f"select distinct route from parked where closed_us = 0 and id {tx.dialect.in_list('ids')} order by route"
    )
    for route in tx.conn.execute(text(of_these), {"ids": tx.dialect.array(sorted(ids))}).scalars().all():
        lock_cursor(tx, route)  # a lane may have to be made anew; before any lane, as staging does
    for row in _lock(tx, ids):
        if row.at_intake:
            continue
        is_passed = not row.holds and _last_seq(tx, row.lane) > row.seq
        if row.holds:
            _unhold(tx, row, _SENT_AGAIN if row.code == UNRESOLVED and closing == "replayed" else _UNJUDGED)
        elif is_passed and row.route in latest:
            _close(tx, row.id, "superseded")
            enter(tx, row.route, Entry(parked=-1, superseded=1))
            continue
        elif (is_passed and closing == "restored") or not _append(tx, row, sealer):
            continue
        if row.code == EXPIRED:
            _renew(tx, row)
        _close(tx, row.id, closing)
        enter(tx, row.route, Entry(parked=-1))
        count += 1
    return count


def _renew(tx: Transaction, row: Row[Any]) -> None:
    """What a person sends although it is too late counts from now on: else it would be parked for its age again."""
    tx.conn.execute(
        text("update record set staged_us = :now where lane = :lane and id = :record"),
        {"now": tx.now_us, "lane": row.lane, "record": row.record},
    )


def _last_seq(tx: Transaction, lane: int) -> int:
    return int(tx.conn.execute(text("select last_seq from lane where id = :lane"), {"lane": lane}).scalar() or 0)


def release(tx: Transaction, ids: Sequence[int]) -> int:
    """Let lanes go on without their parked heads. The records stay parked for good: a person settled them elsewhere."""
    count = 0
    for row in _lock(tx, ids):
        if row.holds:
            _unhold(tx, row, _STEPPED_OVER)
        _close(tx, row.id, "released")
        announce(tx, HubEvent("tideover.record.released", row.record, {"route": row.route}))
        count += 1
    return count


def adopt(tx: Transaction, row_id: int) -> bool:
    """Close a parked record that a provider turned out to have: it is delivered, and its lane goes on. False when it
    was closed meanwhile."""
    rows = _lock(tx, [row_id])
    for row in rows:
        if row.holds:
            _unhold(tx, row, _STEPPED_OVER)
        _close(tx, row.id, "delivered")
        enter(tx, row.route, Entry(delivered=1, parked=-1))
    return bool(rows)


class Remapped(enum.Enum):
    """What became of a record parked at intake, once it was mapped anew."""

    STAGED = enum.auto()  # also where the mapping leaves it out now
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
        _close(tx, row.id, "superseded")
        enter(tx, row.route, Entry(parked=-1, superseded=1))
        return Remapped.SUPERSEDED
    if newest_us is not None and not is_named:
        return Remapped.PASSED
    _replace(tx, row, mapped, sealer, order)
    return Remapped.STAGED


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
    rows = _lock(tx, [row_id])
    return rows[0] if rows else None


def _replace(tx: Transaction, row: Row[Any], corrected: NewRecord | None, sealer: Sealer, order: Order) -> None:
    _close(tx, row.id, "resent")
    if row.holds and corrected is not None:
        _correct_in_place(tx, row, corrected, sealer)
        enter(tx, row.route, Entry(parked=-1))
        return
    if row.holds:
        _unhold(tx, row, _STEPPED_OVER)
    enter(tx, row.route, Entry(staged=-1, parked=-1))
    if corrected is not None:
        _forget_content(tx, row)
        if stage(tx, Batch(row.route, row.system, [corrected], order=order), sealer).staged:
            _name_parent(tx, lane_id(row.route, corrected.key), row.record)


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
    _unhold(tx, row, _CORRECTED)


def payload_of(tx: Transaction, row_id: int, sealer: Sealer) -> bytes:
    """The payload of a parked record. Raises `Refused` when there is no such open record."""
    row = tx.conn.execute(
        text("select route, record, payload from parked where id = :id and closed_us = 0"), {"id": row_id}
    ).one_or_none()
    if row is None:
        raise Refused(f"no open parked record has the number {row_id}")
    return sealer.unseal(f"{row.route}|{row.record}", row.payload)


def storm(tx: Transaction, system: str) -> Sequence[int]:
    """What a storm of identical rejections parked before it was seen to be one."""
    breaker = systems.load(tx, system).breaker
    route, _, code = breaker.rejected_code.partition("|")
    rows = tx.conn.execute(
        text(
            "select id from parked where closed_us = 0 and route = :route and system = :system and code = :code "
            "and parked_us >= :since"
        ),
        {"route": route, "system": system, "code": code, "since": breaker.streak_us},
    )
    return list(rows.scalars())


def restore_storm(tx: Transaction, system: str, sealer: Sealer) -> int:
    """Put it back."""
    return replay(tx, storm(tx, system), sealer, closing="restored")


def _lock(tx: Transaction, ids: Sequence[int]) -> Sequence[Row[Any]]:
    """The open ones among `ids`, in lane order, lanes locked first as everywhere."""
    bound = {"ids": tx.dialect.array(sorted(ids))}
    among = tx.dialect.in_list("ids")
    lanes = f"select lane from parked where id {among}"
    tx.conn.execute(text(f"select id from lane where id in ({lanes}) order by id {tx.dialect.for_update}"), bound)
    statement = (
        f"select {_COLUMNS} from parked where closed_us = 0 and id {among} order by lane, seq {tx.dialect.for_update}"
    )
    return tx.conn.execute(text(statement), bound).all()


# What the end of holding means for a lane's doubt. Records after the head may have been sent too, by a worker that was
# never heard of again.
_SENT_AGAIN = "in_doubt = 0, doubted_us = 0"  # a person says that it is not there; then nothing after it is either
_STEPPED_OVER = (
    "in_doubt = case when in_doubt > 1 then in_doubt - 1 else 0 end, "
    "doubted_us = case when in_doubt > 1 then doubted_us else 0 end"
)
_CORRECTED = (
    "in_doubt = case when in_doubt > 1 then in_doubt else 0 end, "
    "doubted_us = case when in_doubt > 1 then doubted_us else 0 end"
)
_UNJUDGED = "in_doubt = in_doubt"  # nobody has looked


def _unhold(tx: Transaction, row: Row[Any], doubt: str) -> None:
    advance = 1 if doubt == _STEPPED_OVER else 0
    tx.conn.execute(
        text(
            f"update lane set done_seq = done_seq + :advance, due_us = :now, attempts = 0, {doubt}, "
            "state = case when done_seq + :advance < last_seq then 1 else 0 end where id = :lane and state = 2"
        ),
        {"advance": advance, "now": tx.now_us, "lane": row.lane},
    )


def _append(tx: Transaction, row: Row[Any], sealer: Sealer) -> bool:
    """At the end of its lane; the lane's newest content is then this one, so that a newer source version counts as
    a change. False, and nothing done, when its payload can't be read, or when it may have been sent and others wait
    before it: a lane's doubt is a count from its head."""
    try:
        payload = sealer.unseal(f"{row.route}|{row.record}", row.payload)
    except (CorruptPayload, MissingKey):
        return False
    tx.dialect.insert(
        tx.conn,
        schema.lane,
        ("id", "route", "key", "born_us", "last_seq", "done_seq", "last_hash", "state"),
        [(row.lane, row.route, row.key, tx.now_us, 0, 0, b"", 0)],
        "on conflict (id) do nothing",
    )
    if row.in_doubt and row.code != UNRESOLVED:
        pinned = tx.conn.execute(
            text(
                "update lane set in_doubt = 1, doubted_us = :since, system = :system "
                "where id = :lane and state = 0 and lease_until_us = 0"
            ),
            {"since": row.staged_us, "system": row.system, "lane": row.lane},
        )
        if not pinned.rowcount:
            return False
    last_seq = tx.conn.execute(
        text(
            "update lane set last_seq = last_seq + 1, last_hash = :hash, "
            "due_us = case when state = 0 then :now else due_us end, state = case when state = 0 then 1 else state end "
            "where id = :lane returning last_seq"
        ),
        {"hash": content_hash(payload), "now": tx.now_us, "lane": row.lane},
    ).scalar_one()
    tx.dialect.insert(
        tx.conn,
        schema.record,
        ("lane", "seq", "id", "key", "staged_us", "payload"),
        [(row.lane, last_seq, row.record, row.key, row.staged_us, row.payload)],
    )
    return True


def _close(tx: Transaction, row_id: int, closing: str) -> None:
    tx.conn.execute(
        text("update parked set closed_us = :now, closing = :closing where id = :id"),
        {"now": tx.now_us, "closing": closing, "id": row_id},
    )
