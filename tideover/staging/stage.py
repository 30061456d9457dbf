"""Staging: records and the source's cursor in one transaction, deduplicated against the newest content of each lane.

Durable before acknowledged, also under synchronous replication: whatever the records come to, the cursor row is
written each time, so that a retry after a lost commit waits for the standby like the first try.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, text

from tideover.errors import Overtaken, Refused
from tideover.model import SECOND_US, Broken, HubEvent, NewRecord, Order, Staged, content_hash, lane_id
from tideover.policy.lanes import Intake, LaneTail, place
from tideover.policy.settlement import LaneState
from tideover.staging import schema
from tideover.staging.database import Transaction
from tideover.staging.events import announce
from tideover.staging.ledger import Entry, enter, has_line
from tideover.staging.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a route's reading stands: the connector's text, None at the beginning, and how often it has moved."""

    text: str | None
    version: int


@dataclass(frozen=True, slots=True)
class CursorMove:
    """Where a route's reading stands after these records. `is_complete`: the listing was read to its end.

    `since`: where it stood before they were read. If it has moved since, what was read may be older than what is
    staged, and would undo it.
    """

    since: Cursor
    cursor: str
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """What one stage call takes. `system` is the source's name, for the records parked at intake; `order` is the
    route's. `seen_every_us`: how old the mark on a lane may grow, that its source still lists it."""

    route: str
    system: str
    records: Sequence[NewRecord]
    broken: Sequence[Broken] = ()
    move: CursorMove | None = None
    order: Order = Order.BLOCK
    seen_every_us: int = 86_400 * SECOND_US


@dataclass(slots=True)
class Push:
    """One call to stage, through all of its tries. `name`: no other call has it, in any process. `tries`: what each
    did that may have been committed although nobody learnt of it, with its line in the ledger."""

    name: str
    tries: list[tuple[int, Staged]] = field(default_factory=list)

    def committed(self, tx: Transaction) -> Staged | None:
        """What a try did that was. The route's cursor is locked: so none is still about to be."""
        return next((staged for line, staged in self.tries if has_line(tx, line, self.name)), None)


def stage(tx: Transaction, batch: Batch, sealer: Sealer, push: Push | None = None) -> Staged:
    """Stage a batch. Another try of the same `push` changes nothing more where one was committed, and says what that
    one did. Another call with the same records finds each `unchanged` that its key's lane ends with; of several
    versions of one key that is the last, so that the others are staged again.

    Raises `Refused`, and stages nothing, when records of a key would pass older ones that were staged under `none`.
    Raises `Overtaken`, and stages nothing, when the route's cursor moved after these records were read: by another
    run, or by an earlier call with this very batch that was committed although nobody learnt of it. Read on from the
    new cursor.
    """
    had_own_lanes = lock_cursor(tx, batch.route, batch.order)
    if push is not None and (done := push.committed(tx)) is not None:
        return done
    if batch.move is not None:
        _move_cursor(tx, batch, batch.move)
    keyed = [(lane_id(batch.route, record.key), record) for record in batch.records]
    tails = _lock_lanes(tx, batch, {lane for lane, _ in keyed})
    intake = _place(tx, keyed, tails)
    if had_own_lanes and batch.order is not Order.NONE:
        _refuse_to_pass(tx, batch.route, intake)
    _write_records(tx, batch.route, intake, sealer)
    _make_own_lanes(tx, batch.route, intake)
    _make_lanes(tx, batch.route, intake, {lane: record.key for lane, record in keyed})
    _advance_lanes(tx, intake)
    _mark_seen(tx, batch, intake, tails)
    parked = _park_broken(tx, batch, sealer)
    staged = len(intake.placed)
    if staged:
        tx.dialect.notify(tx.conn, batch.route)
    entry = Entry(staged=staged + parked, parked=parked, superseded=sum(intake.superseded.values()))
    line = enter(tx, batch.route, entry, push.name if push is not None else None)
    done = Staged(staged=staged, unchanged=intake.unchanged, parked=parked)
    if push is not None and line is not None:
        push.tries.append((line, done))
    return done


def _lock_lanes(tx: Transaction, batch: Batch, lanes: Collection[int]) -> dict[int, LaneTail]:
    """The lanes' tails, locked in the order of their ids, as settling does: the same order, so no deadlock.

    One that is not there, or that housekeeping removes at this moment, is new. Nobody else makes it meanwhile: whoever
    makes lanes holds the route's cursor.
    """
    if not lanes:
        return {}
    rows = tx.conn.execute(
        text(
            "select id, born_us, last_seq, last_hash, case when state = 0 then 0 else priority end, done_seq, "
            f"{_SORTS[batch.order]}, state, due_us from lane where id {tx.dialect.in_list('ids')} "
            f"order by id {tx.dialect.for_update}"
        ),
        {"ids": tx.dialect.array(sorted(lanes))},
    )
    found = {row[0]: _tail(row) for row in rows.all()}
    order = batch.order
    fresh = LaneTail(
        tx.now_us, 0, b"", gives_way=order is Order.LATEST, is_tail=order is Order.NONE, is_new=True, due_us=tx.now_us
    )
    return {lane: found.get(lane, fresh) for lane in lanes}


def _tail(row: Row[Any]) -> LaneTail:
    _, born_us, last_seq, last_hash, priority, done_seq, gives_way, is_tail, state, due_us = row
    return LaneTail(
        born_us, last_seq, last_hash, priority, done_seq, bool(gives_way), bool(is_tail), state=state, due_us=due_us
    )


# Whether its older versions may give way, and whether it is a tail. A lane that is leased or in doubt may have been
# sent from, and a held one has its head among the parked records. One that has records to send is no tail: they were
# staged under another order, and what comes goes behind them, as it would have then.
_SORTS = {
    Order.BLOCK: "0, 0",
    Order.SKIP: "0, 0",
    Order.LATEST: "case when state < 2 and in_doubt = 0 and lease_until_us = 0 then 1 else 0 end, 0",
    Order.NONE: "0, case when state = 0 then 1 else 0 end",
}


def _place(tx: Transaction, keyed: Sequence[tuple[int, NewRecord]], tails: Mapping[int, LaneTail]) -> Intake:
    """Places for the records, in no lane that another key has."""
    taken: set[int] = set()
    while True:
        intake = place(keyed, tails, taken)
        own = [placed.lane for placed in intake.placed if placed.has_own_lane]
        clashing = _existing(tx, own)
        if not clashing:
            return intake
        taken |= clashing


def _refuse_to_pass(tx: Transaction, route: str, intake: Intake) -> None:
    """A key's lane knows nothing of the records that have lanes of their own since the route's order was `none`: what
    comes now would be sent beside them."""
    lanes = sorted(lane for lane, tail in intake.tails.items() if not tail.is_new)
    waiting = tx.conn.execute(
        text(
            # A cross join keeps SQLite from looking through all lanes for those that are near enough.
            f"select count(*) from lane l cross join lane own where l.id {tx.dialect.in_list('ids')} "
            "and own.id > l.id and own.id <= l.id + l.last_seq "
            "and own.route = l.route and own.key = l.key and own.state = 1"
        ),
        {"ids": tx.dialect.array(lanes)},
    ).scalar_one()
    if waiting:
        raise Refused(
            f"route {route}: newer versions would pass what waits of their keys since its order was `none` "
            f"({waiting}); nothing is staged until that is delivered, or the order is `none` again"
        )


def _existing(tx: Transaction, lanes: Sequence[int]) -> set[int]:
    if not lanes:
        return set()
    found = tx.conn.execute(
        text(f"select id from lane where id {tx.dialect.in_list('ids')}"), {"ids": tx.dialect.array(lanes)}
    )
    return {row[0] for row in found}


def _write_records(tx: Transaction, route: str, intake: Intake, sealer: Sealer) -> None:
    rows = [
        (p.lane, p.seq, p.id, p.key, tx.now_us, sealer.seal(f"{route}|{p.id}", p.payload))
        for p in sorted(intake.placed, key=lambda p: (p.lane, p.seq))
    ]
    tx.dialect.insert(tx.conn, schema.record, ("lane", "seq", "id", "key", "staged_us", "payload"), rows)


def _make_own_lanes(tx: Transaction, route: str, intake: Intake) -> None:
    waiting = int(LaneState.WAITING)
    rows = [
        (p.lane, route, p.key, tx.now_us, p.seq, p.seq - 1, b"", waiting, p.priority, tx.now_us)
        for p in sorted(intake.placed, key=lambda p: p.lane)
        if p.has_own_lane
    ]
    columns = (
        "id", "route", "key", "born_us", "last_seq", "done_seq", "last_hash", "state", "priority", "due_us",
    )  # fmt: skip
    tx.dialect.insert(tx.conn, schema.lane, columns, rows)


def _make_lanes(tx: Transaction, route: str, intake: Intake, keys: Mapping[int, str]) -> None:
    rows = [
        (lane, route, keys[lane], tail.born_us, *_standing(tx, tail))
        for lane, tail in sorted(intake.tails.items())
        if tail.is_new
    ]
    tx.dialect.insert(tx.conn, schema.lane, ("id", "route", "key", "born_us", *_STANDING), rows)


def _advance_lanes(tx: Transaction, intake: Intake) -> None:
    rows = [(lane, *_standing(tx, tail)) for lane, tail in sorted(intake.tails.items()) if not tail.is_new]
    tx.dialect.update(tx.conn, schema.lane, ("id", *_STANDING), rows)
    if intake.superseded:  # what was tried in vain was another record
        fresh = {"ids": tx.dialect.array(sorted(intake.superseded))}
        tx.conn.execute(text(f"update lane set attempts = 0 where id {tx.dialect.in_list('ids')}"), fresh)


def _mark_seen(tx: Transaction, batch: Batch, intake: Intake, tails: Mapping[int, LaneTail]) -> None:
    """A drained lane is removed once it was quiet for the route's retention, and what it knew of its newest content
    with it. So what is listed again without a change must not be quiet: it would be sent again as new."""
    until = tx.now_us - batch.seen_every_us
    seen = [
        lane
        for lane, tail in tails.items()
        if tail.due_us < until and tail.state == LaneState.IDLE and lane not in intake.tails
    ]
    if seen:
        among = tx.dialect.in_list("ids")
        bound = {"now": tx.now_us, "ids": tx.dialect.array(sorted(seen))}
        tx.conn.execute(text(f"update lane set due_us = :now where id {among}"), bound)


_STANDING = ("last_seq", "done_seq", "last_hash", "priority", "state", "due_us")


def _standing(tx: Transaction, tail: LaneTail) -> tuple[Any, ...]:
    """A lane that was idle is due now; one that waits keeps its turn, one that is held stays held. A tail was quiet
    until now."""
    state, due_us = tail.state, tail.due_us
    if state == LaneState.IDLE:
        state, due_us = (LaneState.IDLE if tail.is_tail else LaneState.WAITING), tx.now_us
    return tail.last_seq, tail.done_seq, tail.last_hash, tail.priority, int(state), due_us


def _park_broken(tx: Transaction, batch: Batch, sealer: Sealer) -> int:
    """What can't be staged is parked with its reason; one that is parked already, and open, is not parked twice."""
    fresh: dict[str, Broken] = {}
    for broken in batch.broken:
        identity = content_hash(f"{batch.route}|{broken.key}|{broken.code}|".encode() + broken.payload).hex()
        fresh.setdefault(identity, broken)
    if not fresh:
        return 0
    lanes = sorted({lane_id(batch.route, broken.key) for broken in fresh.values()})
    known = tx.conn.execute(
        text(f"select record from parked where lane {tx.dialect.in_list('lanes')} and closed_us = 0 and at_intake"),
        {"lanes": tx.dialect.array(lanes)},
    )
    for (identity,) in known:
        fresh.pop(identity, None)
    columns = (
        "record", "route", "lane", "seq", "key", "system", "code", "detail", "payload", "in_doubt", "holds",
        "at_intake", "staged_us", "parked_us",
    )  # fmt: skip
    rows = [
        (
            identity, batch.route, lane_id(batch.route, b.key), 0, b.key, batch.system, b.code, b.detail,
            sealer.seal(f"{batch.route}|{identity}", b.payload), False, False, True, tx.now_us, tx.now_us,
        )
        for identity, b in fresh.items()
    ]  # fmt: skip
    tx.dialect.insert(tx.conn, schema.parked, columns, rows)
    for identity, b in fresh.items():
        detail = {"route": batch.route, "system": batch.system, "code": b.code}
        announce(tx, HubEvent("tideover.record.parked", identity, detail))
    return len(rows)


def lock_cursor(tx: Transaction, route: str, order: Order = Order.BLOCK) -> bool:
    """One stages at a time, and holds this before any lane. A batch without a move writes the row as well: see the
    module's text. True where records of the route have, or once had, lanes of their own."""
    own_lanes, written = (1, "own_lanes = 1") if order is Order.NONE else (0, "route = :route")
    row = tx.conn.execute(
        text(
            f"insert into cursor (route, cursor, own_lanes) values (:route, '', {own_lanes}) "
            f"on conflict (route) do update set {written} returning own_lanes"
        ),
        {"route": route},
    )
    return bool(row.scalar_one())


def _move_cursor(tx: Transaction, batch: Batch, move: CursorMove) -> None:
    """Compare and swap on the cursor's version."""
    moved = tx.conn.execute(
        text(
            "update cursor set cursor = :cursor, version = version + 1, moved_us = :now, "
            "complete_us = case when :is_complete then :now else complete_us end "
            "where route = :route and version = :version"
        ),
        {
            "cursor": move.cursor,
            "now": tx.now_us,
            "is_complete": move.is_complete,
            "route": batch.route,
            "version": move.since.version,
        },
    )
    if moved.rowcount != 1:
        raise Overtaken(batch.system, batch.route, "another run of this route has read on meanwhile")


def cursor_of(tx: Transaction, route: str) -> Cursor:
    """Where the route's reading stands; before its first page, at the beginning."""
    row = tx.conn.execute(
        text("select cursor, version from cursor where route = :route"), {"route": route}
    ).one_or_none()
    return Cursor(row[0] or None, row[1]) if row else Cursor(None, 0)
