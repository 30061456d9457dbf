"""What people ask: where everything stands, whether anything was lost, what happened to one record. Read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tideover.model import lane_id
from tideover.policy.settlement import Kind
from tideover.staging import systems
from tideover.staging.database import Transaction


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A route's totals since its beginning, and what stands now. `oldest_us` is 0 when nothing waits."""

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
    sums = _sums(tx, route)
    oldest = tx.conn.execute(
        text(
            "select min(record.staged_us) from lane join record on record.lane = lane.id "
            "and record.seq = lane.done_seq + 1 where lane.route = :route and lane.state = 1"
        ),
        {"route": route},
    ).scalar()
    held = tx.conn.execute(
        text("select count(*) from parked where route = :route and closed_us = 0 and holds"), {"route": route}
    ).scalar_one()
    newest = tx.conn.execute(
        text("select max(at_us) from ledger where route = :route and staged > 0"), {"route": route}
    ).scalar()
    read = tx.conn.execute(text("select complete_us from cursor where route = :route"), {"route": route}).scalar()
    waiting = sums[0] - sums[1] - sums[2] - sums[3]
    return RouteStatus(route, *sums, waiting, int(held), int(oldest or 0), int(newest or 0), int(read or 0))


def pinned_elsewhere(tx: Transaction, route: str, systems: Sequence[str]) -> int:
    """Lanes of a route whose head may have been sent to a system that is not among these: only it could tell."""
    rows = tx.conn.execute(
        text("select system, count(*) from lane where route = :route and state = 1 and in_doubt > 0 group by system"),
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
                "select system, sum(in_doubt) from lane where route = :route and state = 1 and in_doubt > 0 "
                "and (lease_until_us <= :now or exists (select 1 from attempt where attempt.lane = lane.id "
                "and attempt.seq = lane.done_seq + 1 and attempt.outcome = 'unknown' "
                "and attempt.system = lane.system)) group by system"
            ),
            {"route": route, "now": tx.now_us},
        )
        for system, count in rows:
            found[system] = found.get(system, 0) + int(count)
    return found


def waiting(tx: Transaction, routes: Sequence[str]) -> int:
    """How many records of these routes wait, by the ledger: cheap however many there are."""
    return sum(staged - delivered - parked - gone for staged, delivered, parked, gone in (_sums(tx, r) for r in routes))


def _sums(tx: Transaction, route: str) -> tuple[int, int, int, int]:
    row = tx.conn.execute(
        text(
            "select coalesce(sum(staged), 0), coalesce(sum(delivered), 0), coalesce(sum(parked), 0), "
            "coalesce(sum(superseded), 0) from ledger where route = :route"
        ),
        {"route": route},
    ).one()
    return int(row[0]), int(row[1]), int(row[2]), int(row[3])


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


def routes_known(tx: Transaction) -> list[str]:
    """Every route that the tables know, also those that the configuration no longer has."""
    rows = tx.conn.execute(text("select distinct route from ledger union select distinct route from lane order by 1"))
    return [row[0] for row in rows]


def audit(tx: Transaction, routes: Sequence[str]) -> list[RouteAudit]:
    """Prove that nothing is lost, from one snapshot of the tables."""
    return [_audit_route(tx, route) for route in routes]


def _audit_route(tx: Transaction, route: str) -> RouteAudit:
    bound = {"route": route}
    staged, delivered, parked_sum, superseded = _sums(tx, route)
    lanes = tx.conn.execute(
        text(
            "select coalesce(sum(last_seq - done_seq), 0), "
            "coalesce(sum(case when last_seq < done_seq then 1 else 0 end), 0), "
            "coalesce(sum(case when state = 0 and last_seq > done_seq then 1 else 0 end), 0), "
            "coalesce(sum(case when state = 1 and last_seq = done_seq then 1 else 0 end), 0), "
            "coalesce(sum(case when state = 2 then 1 else 0 end), 0) from lane where route = :route"
        ),
        bound,
    ).one()
    undone, backward, forgotten, empty, held = (int(n) for n in lanes)
    parked_row = tx.conn.execute(
        text(
            "select coalesce(sum(case when closed_us = 0 or closing = 'released' then 1 else 0 end), 0), "
            "coalesce(sum(case when closed_us = 0 and holds then 1 else 0 end), 0) from parked where route = :route"
        ),
        bound,
    ).one()
    parked, holding = int(parked_row[0]), int(parked_row[1])
    rows = tx.conn.execute(
        text(
            "select count(*) from lane join record on record.lane = lane.id and record.seq > lane.done_seq "
            "where lane.route = :route"
        ),
        bound,
    ).scalar_one()
    waiting = undone - holding
    checks = (
        (backward, "lanes are settled past their end"),
        (forgotten, "lanes have waiting records but are marked as drained"),
        (empty, "lanes are marked as waiting but have no records"),
        (held - holding, "held lanes differ in number from the parked records that hold one"),
        (int(rows) - undone, "waiting records differ in number from the places that lanes keep for them"),
        (parked - parked_sum, "parked records differ in number from the ledger"),
        (staged - delivered - parked - superseded - waiting, "accepted records are not accounted for"),
    )
    faults = tuple(f"{abs(count)} {what}" for count, what in checks if count)
    return RouteAudit(route, staged, delivered, parked, superseded, waiting, faults)


def trace(tx: Transaction, routes: Sequence[str], key: str, limit: int = 200) -> list[TracedRecord]:
    """Every record of a business key on these routes, or the one record with this id, newest last."""
    lanes = {lane_id(route, key): route for route in routes}
    found = tx.conn.execute(
        text(
            f"select lane, seq, id, key, staged_us, parent from record where lane {tx.dialect.in_list('ids')} "
            "order by staged_us desc, seq desc limit :n"
        ),
        {"ids": tx.dialect.array(sorted(lanes)), "n": limit},
    ).all()
    if not found:
        # By id, which no index has: it would cost every record of the hot path, for a question asked once a week.
        found = tx.conn.execute(
            text("select lane, seq, id, key, staged_us, parent from record where id = :id"), {"id": key}
        ).all()
    return [_traced(tx, row) for row in reversed(found)]


def _traced(tx: Transaction, row: Row[Any]) -> TracedRecord:
    bound = {"lane": row.lane, "seq": row.seq}
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
    parked = tx.conn.execute(
        text("select closed_us, closing from parked where lane = :lane and seq = :seq order by id desc limit 1"), bound
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
    return TracedRecord(row.id, lane.route, row.key, row.seq, state, row.staged_us, row.parent, tuple(attempts))
