"""Claiming: the right of one worker to send some lanes' head records, for a time, fenced by a token.

A claim touches heads only, by the index of due lanes, so its cost does not grow with the backlog; most urgent first,
then those that have been due the longest. There is no reaper: a lease that ran out is simply claimable, and the records
it covered are in doubt, as their worker may have sent them.

Who gets a lane is its desk's business (`desks`). Where the desk passes over lanes whose provider has no room, a claim
looks on behind them, as far as `SCAN` lanes, and says where it stopped, so that the next one can go on from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from sqlalchemy import text

from tideover.errors import MissingKey
from tideover.model import PRIORITIES, SECOND_US, Lease, Order
from tideover.policy.depth import depth_of
from tideover.policy.settlement import Kind
from tideover.staging import heads as reading
from tideover.staging import reconciliation, schema
from tideover.staging.database import Transaction
from tideover.staging.decisions import Defer, Desk, Head, Take, put_off
from tideover.staging.floors import Floor
from tideover.staging.ledger import Entry, enter
from tideover.staging.sealing import Sealer
from tideover.staging.wishes import Claim, Mark

SCAN = 2_000
_END: Mark = (PRIORITIES[-1] + 1, 0, 0)
_WINDOW = 100  # lanes looked at in one go at least, where the desk may pass over some
_ASK_AMONG = 5_000  # a question to a system that is down looks for lanes in doubt among so many of the oldest


@dataclass(frozen=True, slots=True)
class Found:
    """`mark`: where the looking stopped before the end; None when everything that is due was looked at. `missing_key`:
    one that all waits for that was looked at together, if nobody was told of it before."""

    leases: list[Lease]
    mark: Mark | None
    missing_key: MissingKey | None = None


@dataclass(slots=True)
class Haul:
    """What a claim gives away so far. `given`: the lanes that are decided on. `spare_bytes`: for how much it may still
    read of payloads that are not small."""

    taken: list[Take] = field(default_factory=list)
    deferred: list[Defer] = field(default_factory=list)
    given: set[int] = field(default_factory=set)
    spare_bytes: int = reading.MOST_BYTES

    def decide(self, desk: Desk, heads: Sequence[Head]) -> None:
        for head in heads:
            decision = desk.decide(head)
            if isinstance(decision, Take):
                self.taken.append(decision)
                self.given.add(head.id)
                self.spare_bytes -= head.large_bytes
                continue
            head.records = []  # a look through a long backlog must not hold what it passes by
            if isinstance(decision, Defer):
                self.deferred.append(decision)
                self.given.add(head.id)


def claim(tx: Transaction, wish: Claim, desk: Desk, sealer: Sealer, floor: Floor | None = None) -> Found:
    """Leases on due lanes. A lane in doubt goes to the system it is pinned to, and only as far as it is in doubt;
    where its route reroutes, after `max_hold` also to another, with an entry in the reconciliation.

    `floor`: the route's, of this process; a new one looks at everything."""
    haul = Haul()
    taken, mark, looked = haul.taken, None, 0
    news: MissingKey | None = None
    for heads, at in _windows(tx, wish, desk, haul.given, floor or Floor()):
        depth = depth_of(wish.depth, wish.longest, desk.room, len(heads))
        looked += len(heads)
        while heads:
            found = reading.read(tx, wish.route, heads, sealer, depth, haul.spare_bytes)
            heads, news = found.left, found.missing_key or news
            if not found.read:
                break
            desk.prepare(tx, found.read)
            haul.decide(desk, found.read)
        if haul.spare_bytes <= 0 or heads:
            break  # the rest is for another claim, from the beginning
        if looked >= SCAN:
            mark = at if desk.room > 0 else None
            break
    _trace_expired(tx, wish, [take.head for take in taken])
    _reroute(tx, wish, taken)
    _take(tx, wish, taken)
    _defer(tx, haul.deferred)
    desk.close(tx)
    heads = [take.head for take in taken]
    misses = _misses(tx, heads) if wish.group is not None else {}
    corrected = _corrected(tx, heads)
    return Found([_lease(tx, wish, take, misses, corrected) for take in taken], mark, news)


def _defer(tx: Transaction, deferred: Sequence[Defer]) -> None:
    tx.dialect.update(tx.conn, schema.lane, ("id", "due_us"), sorted((d.head.id, d.until_us) for d in deferred))


def _windows(
    tx: Transaction, wish: Claim, desk: Desk, given: Collection[int], floor: Floor
) -> Iterator[tuple[list[Head], Mark]]:
    """The route's due lanes in their order, some at a time; of each priority, live traffic before a backlog. `given`:
    lanes that are decided on already."""
    if wish.group is None and desk.live_since_us is None:
        if desk.room > 0 and (heads := _most_urgent(tx, wish, desk.ready, desk.room, floor)):
            yield _superseded(tx, wish, heads), _END
        return
    start = wish.after or (0, 0, 0)
    backlogs = _with_backlog(tx, wish, desk.live_since_us)
    for priority in PRIORITIES:
        at = start if start[0] == priority else (priority, -1, 0)
        if priority in backlogs and priority >= start[0]:
            yield from _live(tx, wish, desk, at)
        if priority >= start[0]:
            yield from _sweep(tx, wish, desk, at, given)


def _with_backlog(tx: Transaction, wish: Claim, live_since_us: int | None) -> set[int]:
    """The priorities at which a backlog waits, so that live traffic has to be looked for."""
    if live_since_us is None:
        return set()
    there = "exists (select 1 from lane where route = :route and state = 1 and priority = {} and due_us <= :since)"
    found = tx.conn.execute(
        text(f"select {', '.join(there.format(priority) for priority in PRIORITIES)}"),
        {"route": wish.route, "since": live_since_us},
    ).one()
    return {priority for priority, is_there in zip(PRIORITIES, found, strict=True) if is_there}


def _live(tx: Transaction, wish: Claim, desk: Desk, at: Mark) -> Iterator[tuple[list[Head], Mark]]:
    """Live traffic of one priority, as far as it goes before the backlog."""
    if desk.live_since_us is None:
        return
    desk.set_aside(True)
    if desk.room > 0 and (heads := _due(tx, wish, desk.ready, (at[0], desk.live_since_us + 1, 0), _size(wish, desk))):
        yield _superseded(tx, wish, heads), at
    desk.set_aside(False)


def _sweep(
    tx: Transaction, wish: Claim, desk: Desk, at: Mark, given: Collection[int]
) -> Iterator[tuple[list[Head], Mark]]:
    """What is due of one priority, from a mark on, but for what is given already; and for the backlog, once what is
    left is kept for live traffic: it may be long, and none of it would be taken."""
    seen = len(given) if desk.live_since_us is not None else 0
    while desk.room > 0:
        if desk.live_since_us is not None and not desk.has_room_for_backlog:
            at = max(at, (at[0], desk.live_since_us + 1, 0))
        size = min(_size(wish, desk) + seen, SCAN)
        heads = _due(tx, wish, desk.ready, at, size)
        if heads:
            at = (at[0], heads[-1].due_us, heads[-1].id)
            yield _superseded(tx, wish, [head for head in heads if head.id not in given]), at
        if len(heads) < size:
            break


def _size(wish: Claim, desk: Desk) -> int:
    """How many lanes to look at in one go: more than there is room for, where the desk may pass over some."""
    return min(desk.room if wish.group is None else max(desk.room, _WINDOW), SCAN)


def _most_urgent(tx: Transaction, wish: Claim, ready: Sequence[str], size: int, floor: Floor) -> list[Head]:
    """For a system that takes whatever comes: the lanes of all priorities in one statement, of which as much is run as
    it takes to find so many."""
    begins = floor.begin(tx.now_us)
    heads = _most_urgent_from(tx, wish, ready, size, begins)
    if len(heads) < size and any(begins.values()):
        heads = _most_urgent_from(tx, wish, ready, size, floor.begin_below(tx.now_us))
    heads.sort(key=attrgetter("priority", "due_us", "id"))
    firsts: dict[int, int] = {}
    for head in heads:
        firsts.setdefault(head.priority, head.due_us)
    floor.note(firsts, tx.now_us)
    return heads


def _most_urgent_from(
    tx: Transaction, wish: Claim, ready: Sequence[str], size: int, begins: Mapping[int, int]
) -> list[Head]:
    """`begins`: from which `due_us` on, by priority.

    Each lane's columns come from the select that locks it: PostgreSQL gives these as they are under the lock. Another
    look at the lane in the same statement would give them as they were when it began, before somebody else's commit.
    """
    free, bound = free_lanes(ready)
    one_level = (
        f"select {_HEAD} from (select {_HEAD} from lane "
        "where route = :route and state = 1 and priority = {priority} and due_us >= :from{priority} "
        f"and due_us <= :now and lease_until_us <= :now and {free} order by due_us, id limit :n "
        f"{tx.dialect.skip_locked}) as p{{priority}}"
    )
    levels = " union all ".join(one_level.format(priority=priority) for priority in PRIORITIES)
    begin_at = {f"from{priority}": due_us for priority, due_us in begins.items()}
    found = tx.conn.execute(
        text(f"select {_HEAD} from ({levels}) as due limit :n"),
        {"route": wish.route, "now": tx.now_us, "n": size, **begin_at, **bound},
    )
    return [Head(*row) for row in found.all()]


def free_lanes(ready: Sequence[str]) -> tuple[str, dict[str, str]]:
    """SQL that is true of lanes that may go anywhere, or to the system they are pinned to; and what it binds."""
    bound = {f"s{n}": name for n, name in enumerate(ready)}
    pinned = f"or system in ({', '.join(f':{name}' for name in bound)})" if bound else ""
    return f"(in_doubt = 0 {pinned})", bound


_HEAD = "id, token, last_seq, done_seq, in_doubt, doubted_us, attempts, lease_until_us, due_us, system, avoid, priority"


def _due(tx: Transaction, wish: Claim, ready: Sequence[str], at: Mark, size: int) -> list[Head]:
    hold_s = wish.group.reroute_after_s if wish.group is not None else None
    reroutable = "or doubted_us <= :rerouted" if hold_s is not None else ""
    free, bound = free_lanes(ready)
    rows = tx.conn.execute(
        text(
            f"select {_HEAD} from lane where route = :route and state = 1 and priority = :priority "
            "and due_us <= :now and due_us >= :due and (due_us > :due or id > :id) and lease_until_us <= :now "
            f"and ({free} {reroutable}) order by due_us, id limit :n {tx.dialect.skip_locked}"
        ),
        {
            "route": wish.route,
            "priority": at[0],
            "now": tx.now_us,
            "due": at[1],
            "id": at[2],
            "n": size,
            **bound,
            **({"rerouted": tx.now_us - int(hold_s * SECOND_US)} if hold_s is not None else {}),
        },
    )
    return [Head(*row) for row in rows.all()]


def _superseded(tx: Transaction, wish: Claim, heads: list[Head]) -> list[Head]:
    """Order `latest`: of a lane that nobody can have sent from, all waiting versions but the newest give way."""
    stale = [head for head in heads if head.in_doubt == 0 and head.last_seq - head.done_seq > 1]
    if stale and wish.order is Order.LATEST:
        rows = sorted((head.id, head.last_seq - 1, 0) for head in stale)
        tx.dialect.update(tx.conn, schema.lane, ("id", "done_seq", "attempts"), rows)
        enter(tx, wish.route, Entry(superseded=sum(head.last_seq - 1 - head.done_seq for head in stale)))
        for head in stale:
            head.done_seq, head.attempts = head.last_seq - 1, 0
    return heads


def _trace_expired(tx: Transaction, wish: Claim, heads: Sequence[Head]) -> None:
    """Put the unknown outcome of a lease that ran out into the records' traces."""
    columns = (
        "lane", "seq", "record", "route", "system", "token", "kind", "outcome", "code", "detail", "began_us", "took_us",
    )  # fmt: skip
    rows = [
        (
            head.id, record.seq, record.id, wish.route, head.system, head.token, Kind.EXPIRED.value, "unknown",
            "lease_expired", "its worker never reported", head.doubted_us,
            max(head.lease_until_us - head.doubted_us, 0),
        )
        for head in heads
        if head.lease_until_us > 0 and head.in_doubt
        for record in head.records
    ]  # fmt: skip
    tx.dialect.insert(tx.conn, schema.attempt, columns, rows)


def _reroute(tx: Transaction, wish: Claim, taken: Sequence[Take]) -> None:
    """Let go of what may be at one provider and goes to another: from now on the reconciliation keeps it in mind."""
    for take in taken:
        if take.from_system and wish.group is not None:
            head = take.head
            records = [(head.id, record.seq, record.id, record.key) for record in head.records]
            reconciliation.begin(tx, wish.group.name, wish.route, take.from_system, head.doubted_us, records)
            head.in_doubt, head.attempts = 0, 0
            head.records = [record._replace(in_doubt=False) for record in head.records]
    moved = sorted((take.head.id, 0) for take in taken if take.from_system)
    tx.dialect.update(tx.conn, schema.lane, ("id", "attempts"), moved)


def _take(tx: Transaction, wish: Claim, taken: Sequence[Take]) -> None:
    """From here on every record under the lease may be sent, so all of them are in doubt should the worker vanish; but
    for one that can't be sent, and is only handed out to be parked."""
    columns = ("id", "token", "lease_until_us", "system", "in_doubt", "doubted_us")
    rows = [
        (
            take.head.id, take.head.token + 1, tx.now_us + wish.lease_us, take.system,
            take.head.in_doubt or _sendable(take),
            take.head.doubted_us if take.head.in_doubt else tx.now_us,
        )
        for take in sorted(taken, key=lambda take: take.head.id)
    ]  # fmt: skip
    tx.dialect.update(tx.conn, schema.lane, columns, rows)


def _sendable(take: Take) -> int:
    head = take.head
    if head.records and head.records[0].fault:
        return 0
    return min(take.depth, head.last_seq - head.done_seq)


def _misses(tx: Transaction, heads: Sequence[Head]) -> dict[int, int]:
    """When look-ups first missed the heads that are in doubt, since they are, at the systems that they are pinned to:
    of one that was rerouted, the reconciliation asks another system."""
    doubted = sorted(head.id for head in heads if head.in_doubt)
    if not doubted:
        return {}
    rows = tx.conn.execute(
        text(
            "select a.lane, min(a.began_us + a.took_us) from attempt a join lane l on l.id = a.lane "
            f"where a.lane {tx.dialect.in_list('ids')} and a.seq = l.done_seq + 1 and a.began_us >= l.doubted_us "
            "and a.system = l.system and a.kind = 'look_up' and a.outcome = 'missing' group by a.lane"
        ),
        {"ids": tx.dialect.array(doubted)},
    )
    return {lane: int(at_us) for lane, at_us in rows}


def _corrected(tx: Transaction, heads: Sequence[Head]) -> set[int]:
    """The lanes of which several records are in doubt, and the head is a person's correction of another."""
    doubted = sorted(head.id for head in heads if head.in_doubt > 1)
    if not doubted:
        return set()
    rows = tx.conn.execute(
        text(
            "select l.id from lane l join record r on r.lane = l.id and r.seq = l.done_seq + 1 "
            f"where l.id {tx.dialect.in_list('ids')} and r.parent is not null"
        ),
        {"ids": tx.dialect.array(doubted)},
    )
    return {lane for (lane,) in rows}


def _lease(tx: Transaction, wish: Claim, take: Take, misses: Mapping[int, int], corrected: Collection[int]) -> Lease:
    head = take.head
    missed_us = misses.get(head.id)
    # By place: this is made for each lane of a claim, and names cost as much as all the rest.
    return Lease(
        head.id,
        head.token + 1,
        wish.route,
        take.system,
        head.attempts,
        head.doubted_us if head.in_doubt else 0,
        (tx.now_us - head.doubted_us) / SECOND_US if head.in_doubt else 0.0,
        head.records[: head.in_doubt or take.depth],
        take.is_backup,
        take.is_canary,
        take.counted,
        None if missed_us is None else (tx.now_us - missed_us) / SECOND_US,
        tx.now_us,
        head.id in corrected,
    )


def claim_doubted(tx: Transaction, wish: Claim, system: str, lanes: int, sealer: Sealer) -> list[Lease]:
    """Leases on lanes that are pinned to a system, only to ask it what became of them, whatever its breaker says.

    All that was looked for is asked again of the row that is locked: since the statement began somebody else may have
    parked its head, or sent it elsewhere.
    """
    rows = tx.conn.execute(
        text(
            f"select {_HEAD} from lane where id in (select id from (select id, in_doubt, system from lane "
            "where route = :route and state = 1 and due_us <= :now and lease_until_us <= :now "
            f"order by priority, due_us, id limit {_ASK_AMONG}) as oldest where in_doubt > 0 and system = :system) "
            "and state = 1 and due_us <= :now and lease_until_us <= :now and in_doubt > 0 and system = :system "
            f"limit :n {tx.dialect.skip_locked}"
        ),
        {"route": wish.route, "now": tx.now_us, "system": system, "n": lanes},
    )
    heads = [Head(*row) for row in rows]
    heads = reading.read(tx, wish.route, heads, sealer, wish.depth, reading.MOST_BYTES).read
    _defer(tx, [put_off(head, tx.now_us) for head in heads if head.missing_key is not None])
    heads = [head for head in heads if head.missing_key is None]
    taken = [Take(head, system, head.in_doubt) for head in heads]
    _trace_expired(tx, wish, heads)
    _take(tx, wish, taken)
    misses, corrected = _misses(tx, heads), _corrected(tx, heads)
    return [_lease(tx, wish, take, misses, corrected) for take in taken]
