"""What people ask: where everything stands, whether anything was lost, what happened to one record. Read-only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tideover.model import PRIORITIES, lane_id
from tideover.policy.settlement import Kind
from tideover.staging import ledger, systems
from tideover.staging.database import Transaction

_FIRST = 2_000
_STRETCH = 500_000  # lanes: in pages enough to go through the table in its own order


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A route's totals since its beginning, and what stands now. `oldest_us` is 0 when nothing waits; where more than
    `_FIRST` lanes of a priority wait, it is that of the first in their line, which are the oldest but for those that
    have backed off or were replayed."""

    route: str
    staged: int
    delivered: int
    parked: int
    superseded: int
    waiting: int
    held_lanes: int
    oldest_us: int
    newest_us: int
    read_us: int


@dataclass(frozen=True, slots=True)
class Outage:
    id: int
    system: str
    reason: str
    detail: str
    first_failure_us: int
    opened_us: int
    restored_us: int
    drained_us: int
    backlog: int


@dataclass(frozen=True, slots=True)
class RouteAudit:
    """One route's conservation: `accepted = delivered + parked + superseded + waiting`.

    The left side and the deliveries come from the ledger, parked and waiting from the tables that hold the records
    themselves; `faults` says in words what does not fit.
    """

    route: str
    accepted: int
    delivered: int
    parked: int
    superseded: int
    waiting: int
    faults: tuple[str, ...]

    @property
    def difference(self) -> int:
        return self.accepted - self.delivered - self.parked - self.superseded - self.waiting


@dataclass(frozen=True, slots=True)
class TracedRecord:
    """A record's story: where it stands and everything that was tried."""

    record: str
    route: str
    key: str
    seq: int
    state: str
    staged_us: int
    parent: str | None
    attempts: tuple[Row[Any], ...]


def status(tx: Transaction, routes: Sequence[str]) -> list[RouteStatus]:
    return [_route_status(tx, route) for route in routes]


def _route_status(tx: Transaction, route: str) -> RouteStatus:
    sums = ledger.sums(tx, route)
    held = tx.conn.execute(
        text("select count(*) from parked where route = :route and closed_us = 0 and holds"), {"route": route}
    ).scalar_one()
    newest = tx.conn.execute(
        text("select max(at_us) from ledger where route = :route and staged > 0"), {"route": route}
    ).scalar()
    read = tx.conn.execute(text("select complete_us from cursor where route = :route"), {"route": route}).scalar()
    waiting = sums[0] - sums[1] - sums[2] - sums[3]
    return RouteStatus(route, *sums, waiting, int(held), _oldest_us(tx, route), int(newest or 0), int(read or 0))


def _oldest_us(tx: Transaction, route: str) -> int:
    first = (
        "select id, done_seq from (select id, done_seq from lane where route = :route and state = 1 "
        f"and priority = {{0}} order by due_us, id limit {_FIRST}) as p{{0}}"
    )
    firsts = " union all ".join(first.format(priority) for priority in PRIORITIES)
    oldest = tx.conn.execute(
        text(
            f"select min(record.staged_us) from ({firsts}) as firsts cross join record "
            "where record.lane = firsts.id and record.seq = firsts.done_seq + 1"
        ),
        {"route": route},
    ).scalar()
    return int(oldest or 0)


def pinned_elsewhere(tx: Transaction, route: str, systems: Sequence[str]) -> int:
    """Lanes of a route whose head may have been sent to a system that is not among these: only it could tell."""
    rows = tx.conn.execute(
        text(
            f"select system, count(*) from lane {tx.dialect.in_table_order} "
            "where route = :route and state = 1 and in_doubt > 0 group by system"
        ),
        {"route": route},
    )
    return sum(int(count) for system, count in rows if system not in systems)


def in_doubt(tx: Transaction, routes: Sequence[str]) -> dict[str, int]:
    """How many records of these routes may be at each system, and only it can tell. What is merely on its way under a
    lease is not among them; what is asked about under one is."""
    found: dict[str, int] = {}
    for route in routes:
        rows = tx.conn.execute(
            text(
                f"select system, sum(in_doubt) from lane {tx.dialect.in_table_order} "
                "where route = :route and state = 1 and in_doubt > 0 "
                "and (lease_until_us <= :now or exists (select 1 from attempt where attempt.lane = lane.id "
                "and attempt.seq = lane.done_seq + 1 and attempt.outcome = 'unknown' "
                "and attempt.system = lane.system)) group by system"
            ),
            {"route": route, "now": tx.now_us},
        )
        for system, count in rows:
            found[system] = found.get(system, 0) + int(count)
    return found


def gates(tx: Transaction, names: Sequence[str]) -> dict[str, systems.Gate]:
    """Each system's gate."""
    return {name: systems.load(tx, name).gate(tx.now_us) for name in names}


def outages(tx: Transaction, limit: int) -> list[Outage]:
    """The newest outages, newest first."""
    rows = tx.conn.execute(
        text(
            "select id, system, reason, detail, first_failure_us, opened_us, restored_us, drained_us, backlog "
            "from outage order by id desc limit :n"
        ),
        {"n": limit},
    )
    return [Outage(*row) for row in rows]


def abandoned(tx: Transaction, routes: Sequence[str]) -> dict[str, int]:
    """How many records wait on each route that is not among these, by the ledger."""
    known = tx.conn.execute(text("select distinct route from ledger order by route")).scalars().all()
    found = {route: ledger.waiting(tx, [route]) for route in known if route not in routes}
    return {route: count for route, count in found.items() if count}


def waiting_side_by_side(tx: Transaction, routes: Sequence[str]) -> dict[str, int]:
    """How many records wait on each of these routes in lanes of their own, since its order was `none`."""
    found: dict[str, int] = {}
    for route in routes:
        had_own_lanes = tx.conn.execute(text("select own_lanes from cursor where route = :route"), {"route": route})
        if not had_own_lanes.scalar():
            continue
        # Such a lane knows no content but by a replay; and any other has some while a record waits in it.
        waiting = tx.conn.execute(
            text(
                f"select count(*) from lane {tx.dialect.in_table_order} "
                "where route = :route and state = 1 and length(last_hash) = 0"
            ),
            {"route": route},
        ).scalar_one()
        if waiting:
            found[route] = int(waiting)
    return found


@dataclass(slots=True)
class _LaneSums:
    """What the lanes of one route add up to, as the audit goes through them."""

    undone: int = 0
    rows: int = 0
    backward: int = 0
    forgotten: int = 0
    empty: int = 0
    held: int = 0

    def add(self, more: Sequence[int]) -> None:
        self.undone, self.backward = self.undone + more[0], self.backward + more[1]
        self.forgotten, self.empty, self.held = self.forgotten + more[2], self.empty + more[3], self.held + more[4]


def audit(tx: Transaction, routes: Sequence[str], on_lanes: Callable[[int], None] = lambda _: None) -> list[RouteAudit]:
    """Prove that nothing is lost, from one snapshot of the tables: of these routes, and of all that the tables know.

    Goes through all lanes and what waits in them, a stretch at a time, and locks nothing. `on_lanes` hears how many it
    has been through.
    """
    lanes: dict[str, _LaneSums] = {}
    after: int | None = None
    seen = 0
    while (stretch := _stretch(tx, after))[0]:
        span = {"first": -_LARGEST if after is None else after + 1, "last": stretch[1]}
        for route, *sums in tx.conn.execute(_LANE_SUMS, span):
            lanes.setdefault(route, _LaneSums()).add([int(n) for n in sums])
        for route, count in tx.conn.execute(_ROWS, span):
            lanes.setdefault(route, _LaneSums()).rows += int(count)
        seen, after = seen + stretch[0], stretch[1]
        on_lanes(seen)
    known = {*lanes, *tx.conn.execute(text("select distinct route from ledger")).scalars()}
    return [
        _audit_route(tx, route, lanes.get(route, _LaneSums())) for route in [*routes, *sorted(known.difference(routes))]
    ]


def staged_routes(tx: Transaction) -> list[str]:
    """Every route that ever staged anything, also those that are no longer in the configuration."""
    return list(tx.conn.execute(text("select route from cursor order by route")).scalars())


def _stretch(tx: Transaction, after: int | None) -> tuple[int, int]:
    """How many lanes come next, and the id of the last of them."""
    beyond = "" if after is None else "where id > :after"
    page = f"select id from lane {beyond} order by id limit {_STRETCH}"
    bound = {} if after is None else {"after": after}
    count, last = tx.conn.execute(text(f"select count(*), coalesce(max(id), 0) from ({page}) as page"), bound).one()
    return int(count), int(last)


_LARGEST = 2**63 - 1
_LANE_SUMS = text(
    "select route, sum(last_seq - done_seq), sum(case when last_seq < done_seq then 1 else 0 end), "
    "sum(case when state = 0 and last_seq > done_seq then 1 else 0 end), "
    "sum(case when state = 1 and last_seq = done_seq then 1 else 0 end), "
    "sum(case when state = 2 then 1 else 0 end) from lane where id >= :first and id <= :last group by route"
)
# The same span of both tables: PostgreSQL joins them by a hash then, reading each once.
_ROWS = text(
    "select lane.route, count(*) from lane cross join record where lane.id >= :first and lane.id <= :last "
    "and record.lane >= :first and record.lane <= :last and record.lane = lane.id and record.seq > lane.done_seq "
    "group by lane.route"
)


def _audit_route(tx: Transaction, route: str, lanes: _LaneSums) -> RouteAudit:
    staged, delivered, parked_sum, superseded = ledger.sums(tx, route)
    parked_row = tx.conn.execute(
        text(
            "select coalesce(sum(case when closed_us = 0 or closing = 'released' then 1 else 0 end), 0), "
            "coalesce(sum(case when closed_us = 0 and holds then 1 else 0 end), 0) from parked where route = :route"
        ),
        {"route": route},
    ).one()
    parked, holding = int(parked_row[0]), int(parked_row[1])
    waiting = lanes.undone - holding
    checks = (
        (lanes.backward, "lanes are settled past their end"),
        (lanes.forgotten, "lanes have waiting records but are marked as drained"),
        (lanes.empty, "lanes are marked as waiting but have no records"),
        (lanes.held - holding, "held lanes differ in number from the parked records that hold one"),
        (lanes.rows - lanes.undone, "waiting records differ in number from the places that lanes keep for them"),
        (parked - parked_sum, "parked records differ in number from the ledger"),
        (staged - delivered - parked - superseded - waiting, "accepted records are not accounted for"),
    )
    faults = tuple(f"{abs(count)} {what}" for count, what in checks if count)
    return RouteAudit(route, staged, delivered, parked, superseded, waiting, faults)


def trace(tx: Transaction, routes: Sequence[str], key: str, limit: int = 200) -> list[TracedRecord]:
    """Every record of a business key on these routes, or the one record with this id, newest last."""
    lanes = sorted({lane_id(route, key) for route in routes})
    found = tx.conn.execute(
        text(
            # What belongs to a key is in its lane, or in lanes of their own, which are the next ones.
            "select r.lane, r.seq, r.id, r.key, r.staged_us, r.parent, "
            "case when r.lane > l.id then r.lane - l.id else r.seq end as version "
            "from lane l join record r on r.lane >= l.id and r.lane <= l.id + l.last_seq and r.key = l.key "
            f"where l.id {tx.dialect.in_list('ids')} order by r.staged_us desc, version desc limit :n"
        ),
        {"ids": tx.dialect.array(lanes), "n": limit},
    ).all()
    if not found:
        # By id, which no index has: it would cost every record of the hot path, for a question asked once a week.
        found = tx.conn.execute(
            text("select lane, seq, id, key, staged_us, parent, seq as version from record where id = :id"), {"id": key}
        ).all()
    return [_traced(tx, row) for row in reversed(found)]


def _traced(tx: Transaction, row: Row[Any]) -> TracedRecord:
    bound = {"lane": row.lane, "seq": row.seq, "record": row.id}
    lane = tx.conn.execute(
        text("select route, done_seq, in_doubt, lease_until_us from lane where id = :lane"), bound
    ).one()
    attempts = tx.conn.execute(
        text(
            "select system, kind, outcome, code, detail, reference, began_us, took_us from attempt "
            "where lane = :lane and seq = :seq order by id"
        ),
        bound,
    ).all()
    # By its id as well: a released record stays on the books when its lane is removed, and one that comes back
    # begins at 1 again.
    parked = tx.conn.execute(
        text(
            "select closed_us, closing from parked where lane = :lane and seq = :seq and record = :record "
            "order by id desc limit 1"
        ),
        bound,
    ).one_or_none()
    is_delivered = any(a.outcome == "accepted" and a.kind != Kind.VOID for a in attempts)
    if parked is not None and not parked.closed_us:
        state = "parked"
    elif is_delivered:
        state = "delivered"
    elif parked is not None and parked.closing == "released":
        state = "parked (released)"
    elif row.seq <= lane.done_seq:
        state = "superseded" if parked is None else f"parked ({parked.closing})"
    elif row.seq <= lane.done_seq + lane.in_doubt:
        state = "in flight" if lane.lease_until_us > tx.now_us else "in doubt"
    else:
        state = "waiting"
    return TracedRecord(row.id, lane.route, row.key, row.version, state, row.staged_us, row.parent, tuple(attempts))
