"""Parked records: what needs a person. Never deleted while open; always replayable under the same idempotency key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tideover.errors import CorruptPayload, MissingKey, Refused
from tideover.model import HubEvent, content_hash
from tideover.policy.retry import EXPIRED
from tideover.staging import schema, systems
from tideover.staging.database import Transaction
from tideover.staging.events import announce
from tideover.staging.ledger import Entry, enter
from tideover.staging.sealing import Sealer
from tideover.staging.stage import lock_cursor

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
    for row in lock_open(tx, ids):
        if row.at_intake:
            continue
        is_passed = not row.holds and _last_seq(tx, row.lane) > row.seq
        if row.holds:
            unhold(tx, row, _SENT_AGAIN if row.code == UNRESOLVED and closing == "replayed" else _UNJUDGED)
        elif is_passed and row.route in latest:
            close(tx, row.id, "superseded")
            enter(tx, row.route, Entry(parked=-1, superseded=1))
            continue
        elif (is_passed and closing == "restored") or not _append(tx, row, sealer):
            continue
        if row.code == EXPIRED:
            _renew(tx, row)
        close(tx, row.id, closing)
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
    for row in lock_open(tx, ids):
        if row.holds:
            unhold(tx, row, STEPPED_OVER)
        close(tx, row.id, "released")
        announce(tx, HubEvent("tideover.record.released", row.record, {"route": row.route}))
        count += 1
    return count


def adopt(tx: Transaction, row_id: int) -> bool:
    """Close a parked record that a provider turned out to have: it is delivered, and its lane goes on. False when it
    was closed meanwhile."""
    rows = lock_open(tx, [row_id])
    for row in rows:
        if row.holds:
            unhold(tx, row, STEPPED_OVER)
        close(tx, row.id, "delivered")
        enter(tx, row.route, Entry(delivered=1, parked=-1))
    return bool(rows)


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


def lock_open(tx: Transaction, ids: Sequence[int]) -> Sequence[Row[Any]]:
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
STEPPED_OVER = (
    "in_doubt = case when in_doubt > 1 then in_doubt - 1 else 0 end, "
    "doubted_us = case when in_doubt > 1 then doubted_us else 0 end"
)
CORRECTED = (
    "in_doubt = case when in_doubt > 1 then in_doubt else 0 end, "
    "doubted_us = case when in_doubt > 1 then doubted_us else 0 end"
)
_UNJUDGED = "in_doubt = in_doubt"  # nobody has looked


def unhold(tx: Transaction, row: Row[Any], doubt: str) -> None:
    advance = 1 if doubt == STEPPED_OVER else 0
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


def close(tx: Transaction, row_id: int, closing: str) -> None:
    tx.conn.execute(
        text("update parked set closed_us = :now, closing = :closing where id = :id"),
        {"now": tx.now_us, "closing": closing, "id": row_id},
    )
