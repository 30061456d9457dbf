"""Records that may be at one provider and were sent to another: a case each, until at most one of the two is left.

    rerouted ──▶ open ──▶ voiding ──▶ voided      both had it
                  │ │ └──────┬──────▶ raised ──▶ settled by a person
                  │ └────────┼──────▶ adopted     only the first one had it
                  └──────────┴──────▶ absent      it never got there

Here a case begins, is shown to people, and is settled by one. Asking about it is in `cases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tideover.model import HubEvent
from tideover.policy.reconcile import State
from tideover.policy.settlement import Kind
from tideover.staging import schema
from tideover.staging.database import Transaction
from tideover.staging.events import announce

RAISED, BY_PERSON = "raised", "by_person"  # kinds of attempts that are no calls, only part of the story


@dataclass(frozen=True, slots=True)
class Selection:
    """Which open and raised cases: all those that fit every field given."""

    route: str | None = None
    key: str | None = None
    record: str | None = None
    system: str | None = None
    skip: int = 0
    limit: int = 500


@dataclass(frozen=True, slots=True)
class Listed:
    """A case, for people. `other_system`: who is known to have it; empty while nobody is."""

    id: int
    group: str
    route: str
    record: str
    key: str
    system: str
    reference: str | None
    other_system: str
    other_reference: str | None
    state: State
    detail: str
    doubted_us: int
    opened_us: int


@dataclass(frozen=True, slots=True)
class Count:
    """Cases of one group and system: those that the hub works on, and those that wait for a person."""

    group: str
    system: str
    open: int
    raised: int


# --- before anybody asks ------------------------------------------------------------------------------------


def lock_lane(tx: Transaction, lane: int) -> Row[Any] | None:
    """The lane, locked before anything else as everywhere; None for one that is gone."""
    return tx.conn.execute(
        text(
            "select id, route, last_seq, done_seq, state, lease_until_us, in_doubt from lane where id = :lane "
            f"{tx.dialect.for_update}"
        ),
        {"lane": lane},
    ).one_or_none()


def begin(
    tx: Transaction,
    group: str,
    route: str,
    system: str,
    doubted_us: int,
    records: Sequence[tuple[int, int, str, str]],
) -> None:
    """Note that records (lane, seq, id, key) which may be at `system` since `doubted_us` may now go elsewhere.

    The caller holds their lanes locked. A record that has an open case at this system gets no second one.
    """
    known = shunned(tx, [lane for lane, *_ in records])
    new = [record for record in records if system not in known.get((record[0], record[2]), ())]
    open_cases(tx, group, route, system, doubted_us, new, "max_hold")
    for _, _, record, _ in new:
        announce(tx, HubEvent("tideover.record.rerouted", record, {"route": route, "system": system}))


def open_cases(
    tx: Transaction,
    group: str,
    route: str,
    system: str,
    doubted_us: int,
    records: Sequence[tuple[int, int, str, str]],
    code: str,
) -> None:
    """Open a case for each record, due now, with a line in its story under `code`."""
    columns = (
        "failover_group", "route", "lane", "seq", "record", "key", "system", "doubted_us", "opened_us", "due_us",
        "state",
    )  # fmt: skip
    rows = [
        (group, route, lane, seq, record, key, system, doubted_us, tx.now_us, tx.now_us, State.OPEN.value)
        for lane, seq, record, key in records
    ]
    tx.dialect.insert(tx.conn, schema.reconciliation, columns, rows)
    for lane, seq, record, _ in records:
        told = ("unknown", code, f"{system} may have it, and is asked as soon as it can be", None)
        trace(tx, (lane, seq, record, route, system, 0), Kind.REROUTED.value, told)


def shunned(tx: Transaction, lanes: Sequence[int]) -> dict[tuple[int, str], set[str]]:
    """By lane and record id: the systems that may have the record, so that it must not be sent there."""
    if not lanes:
        return {}
    rows = tx.conn.execute(
        text(
            "select lane, record, system from reconciliation "
            f"where closed_us = 0 and lane {tx.dialect.in_list('lanes')}"
        ),
        {"lanes": tx.dialect.array(sorted(set(lanes)))},
    )
    found: dict[tuple[int, str], set[str]] = {}
    for lane, record, system in rows:
        found.setdefault((lane, record), set()).add(system)
    return found


# --- the story ----------------------------------------------------------------------------------------------


def trace(
    tx: Transaction,
    place: tuple[int, int, str, str, str, int],
    kind: str,
    told: tuple[str, str, str, str | None],
    ago_us: int = 0,
    took_us: int = 0,
) -> None:
    """Add to a record's story. `place`: lane, seq, record, route, system and token; `told`: outcome, code, detail and
    reference."""
    columns = (
        "lane", "seq", "record", "route", "system", "token", "kind", "outcome", "code", "detail", "reference",
        "began_us", "took_us",
    )  # fmt: skip
    tx.dialect.insert(tx.conn, schema.attempt, columns, [(*place, kind, *told, tx.now_us - ago_us, took_us)])


# --- people -------------------------------------------------------------------------------------------------


def settle_by_person(tx: Transaction, row_id: int, why: str, author: str) -> bool:
    """Close an open or raised case by a person's word. Whoever is asking about it settles nothing any more. False when
    it was closed meanwhile."""
    bound = {"id": row_id}
    lane = tx.conn.execute(text("select lane from reconciliation where id = :id"), bound).scalar()
    if lane is None:
        return False
    lock_lane(tx, lane)
    row = tx.conn.execute(
        text(
            "select lane, seq, record, route, system, token from reconciliation where id = :id and closed_us = 0 "
            f"{tx.dialect.for_update}"
        ),
        bound,
    ).one_or_none()
    if row is None:
        return False
    tx.conn.execute(
        text(
            "update reconciliation set state = :state, detail = :why, author = :author, closed_us = :now, "
            "token = token + 1, lease_until_us = 0 where id = :id"
        ),
        {"state": State.SETTLED.value, "why": why, "author": author, "now": tx.now_us, "id": row_id},
    )
    told = (State.SETTLED.value, "", f"{author}: {why}", None)
    trace(tx, tuple(row), BY_PERSON, told)
    announce(
        tx,
        HubEvent("tideover.reconciliation.settled", row.record, {"route": row.route, "system": row.system}),
    )
    return True


def find(tx: Transaction, selection: Selection) -> list[Listed]:
    """Cases that are not closed: those that need a person first, and the oldest first of each."""
    wanted = {
        name: value for name in ("route", "key", "record", "system") if (value := getattr(selection, name)) is not None
    }
    where = " and ".join(["r.closed_us = 0", *(f"r.{name} = :{name}" for name in wanted)])
    rows = tx.conn.execute(
        text(
            "select r.id, r.failover_group, r.route, r.record, r.key, r.system, r.reference, r.other_system, "
            "r.other_reference, r.state, r.detail, r.doubted_us, r.opened_us, a.system as holder, "
            "a.reference as holder_reference from reconciliation r left join attempt a on a.id = ("
            "select max(h.id) from attempt h where h.lane = r.lane and h.record = r.record and h.outcome = 'accepted' "
            f"and h.kind <> 'void' and h.system <> r.system) where {where} "
            "order by case when r.state = 'raised' then 0 else 1 end, r.id limit :n offset :skip"
        ),
        {**wanted, "n": selection.limit, "skip": selection.skip},
    )
    return [
        Listed(
            r.id, r.failover_group, r.route, r.record, r.key, r.system, r.reference, r.holder or r.other_system,
            r.holder_reference if r.holder else r.other_reference, State(r.state), r.detail, r.doubted_us, r.opened_us,
        )
        for r in rows
    ]  # fmt: skip


def counts(tx: Transaction) -> list[Count]:
    """How many cases are open, per group and system."""
    rows = tx.conn.execute(
        text(
            "select failover_group, system, sum(case when state = 'raised' then 0 else 1 end), "
            "sum(case when state = 'raised' then 1 else 0 end) from reconciliation where closed_us = 0 "
            "group by failover_group, system order by failover_group, system"
        )
    )
    return [Count(group, system, int(open_), int(raised)) for group, system, open_, raised in rows]
