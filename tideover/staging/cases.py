"""Asking about the cases of the reconciliation, and what follows.

A case is asked about under a lease, fenced by a token like a lane's. What it means that a provider has a record depends
on who else does and on its lane, so both are read in the transaction that decides, with the lane locked. `voiding` is
written before a void is sent: should its sender vanish, the next look-up that misses the record tells that it worked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tideover.model import SECOND_US, Accepted, Found, HubEvent, LookUp, Missing, Outcome
from tideover.policy.reconcile import (
    Absent,
    Adopt,
    Doubt,
    Holder,
    Later,
    Means,
    Place,
    Raise,
    State,
    Verdict,
    Voided,
    VoidIt,
    judge,
    judge_void,
    may_have_voided,
)
from tideover.policy.settlement import Kind, LaneState
from tideover.staging import parking, schema
from tideover.staging import settle as settling
from tideover.staging.database import Transaction
from tideover.staging.events import announce
from tideover.staging.ledger import Entry, enter
from tideover.staging.reconciliation import RAISED, lock_lane, open_cases, trace

FOUND = "found"  # an attempt's outcome: the provider has it, which is not yet what the hub counts as the delivery
_NEVER_US = 2**62  # when a raised case is due: out of the way of those that are looked for by their time
_COLUMNS = (
    "id, failover_group, route, lane, seq, record, key, system, doubted_us, opened_us, token, misses, attempts, state, "
    "reference"
)


@dataclass(frozen=True, slots=True)
class Case:
    """A case under a lease. `reference`: under which the provider was last found to have the record."""

    id: int
    group: str
    route: str
    lane: int
    seq: int
    record: str
    key: str
    system: str
    doubted_us: int
    opened_us: int
    token: int
    misses: int
    attempts: int
    state: State
    reference: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of asking about a case; `answer` is None where there is nobody or no way to ask. `ago_us`: how long
    before the report the look-up began; `took_us`: how long it lasted."""

    answer: LookUp | None
    means: Means
    ago_us: int = 0
    took_us: int = 0


@dataclass(frozen=True, slots=True)
class Undone:
    """What became of a void."""

    outcome: Outcome
    ago_us: int = 0
    took_us: int = 0


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where a case's record is now: its place in the lane, who else has it, and its row while it is parked."""

    place: Place
    seq: int
    other: Holder | None
    parked: Row[Any] | None


_DUE = (
    "from reconciliation where closed_us = 0 and state in ('open', 'voiding') and system = :system "
    "and due_us <= :now and lease_until_us <= :now"
)


def is_due(tx: Transaction, system: str) -> bool:
    """Whether a system has a case that can be asked about now."""
    found = tx.conn.execute(text(f"select 1 {_DUE} limit 1"), {"system": system, "now": tx.now_us})
    return found.scalar() is not None


def claim(tx: Transaction, system: str, lease_us: int, limit: int) -> list[Case]:
    """Leases on the cases of a system that have been due the longest."""
    rows = tx.conn.execute(
        text(f"select {_COLUMNS} {_DUE} order by due_us, id limit :n {tx.dialect.skip_locked}"),
        {"system": system, "now": tx.now_us, "n": limit},
    ).all()
    leased = [(row.id, row.token + 1, tx.now_us + lease_us) for row in rows]
    tx.dialect.update(tx.conn, schema.reconciliation, ("id", "token", "lease_until_us"), leased)
    return [_case(row, row.token + 1) for row in rows]


def _case(row: Row[Any], token: int) -> Case:
    return Case(
        row.id, row.failover_group, row.route, row.lane, row.seq, row.record, row.key, row.system, row.doubted_us,
        row.opened_us, token, row.misses, row.attempts, State(row.state), row.reference,
    )  # fmt: skip


def give_back(tx: Transaction, case: Case) -> None:
    """End the lease of a case that was not asked about."""
    tx.conn.execute(
        text("update reconciliation set lease_until_us = 0 where id = :id and token = :token"),
        {"id": case.id, "token": case.token},
    )


def settle(tx: Transaction, case: Case, asked: Asked) -> Verdict | None:
    """Write what follows from asking, and say it. After `VoidIt` the lease goes on, for the void.

    None, and nothing changed, when somebody else has the case meanwhile, or its lease ran out.
    """
    lane = lock_lane(tx, case.lane)
    if not _is_held(tx, case):
        return None
    standing = _standing(tx, case, lane)
    age_s = (tx.now_us - asked.ago_us - case.doubted_us) / SECOND_US
    verdict = judge(asked.answer, _doubt(case, standing, age_s), asked.means)
    _trace_look_up(tx, case, standing, asked, verdict)
    found = asked.answer if isinstance(asked.answer, Found) else None
    reference = found.reference if found else case.reference
    match verdict:
        case Later(delay_s=delay_s):
            misses = 0 if found else case.misses + isinstance(asked.answer, Missing)
            _defer(tx, case, delay_s, misses, case.state, reference)
        case VoidIt():
            _begin_void(tx, case, reference, standing.other)
        case Adopt():
            _adopt(tx, case, standing)
            _close(tx, case.id, State.ADOPTED, reference, None)
            _announce(tx, case, "adopted", {"reference": reference})
        case _:
            _end(tx, case, standing, verdict, reference)
    return verdict


def settle_void(tx: Transaction, case: Case, undone: Undone) -> Verdict | None:
    """Write what follows from a void that `settle` asked for, and say it. None as in `settle`."""
    lane = lock_lane(tx, case.lane)
    if not _is_held(tx, case):
        return None
    standing = _standing(tx, case, lane)
    reference = tx.conn.execute(
        text("select reference from reconciliation where id = :id"), {"id": case.id}
    ).scalar_one()
    verdict = judge_void(undone.outcome, _doubt(case, standing, 0.0), reference)
    told = settling.describe(undone.outcome)
    trace(tx, _place(case, standing.seq), Kind.VOID.value, told, undone.ago_us, undone.took_us)
    if isinstance(verdict, Later):
        # A void that certainly did nothing leaves the case as it was before: a miss is then no proof that it worked.
        state = State.VOIDING if may_have_voided(undone.outcome) else case.state
        _defer(tx, case, verdict.delay_s, 0, state, reference)
    else:
        _end(tx, case, standing, verdict, reference)
    return verdict


def _is_held(tx: Transaction, case: Case) -> bool:
    row = tx.conn.execute(
        text(f"select token, lease_until_us, closed_us from reconciliation where id = :id {tx.dialect.for_update}"),
        {"id": case.id},
    ).one_or_none()
    return row is not None and row.token == case.token and row.lease_until_us > tx.now_us and not row.closed_us


def _standing(tx: Transaction, case: Case, lane: Row[Any] | None) -> _Standing:
    bound = {"lane": case.lane, "record": case.record, "system": case.system}
    holder = tx.conn.execute(
        text(
            "select system, reference from attempt where lane = :lane and record = :record and outcome = 'accepted' "
            "and kind <> 'void' and system <> :system order by id desc limit 1"
        ),
        bound,
    ).one_or_none()
    other = Holder(holder.system, holder.reference) if holder is not None else None
    parked = tx.conn.execute(
        text(
            "select id, seq, system, in_doubt, parked_us from parked where lane = :lane and record = :record "
            "and closed_us = 0 order by id desc limit 1"
        ),
        bound,
    ).one_or_none()
    # By its id, as a record that was parked and replayed has another place in its lane than it had.
    seq = tx.conn.execute(text("select max(seq) from record where lane = :lane and id = :record"), bound).scalar()
    if parked is not None:
        return _Standing(Place.FREE, parked.seq, other, parked)
    if lane is None or seq is None or seq <= lane.done_seq:
        return _Standing(Place.GONE, seq or case.seq, other, None)
    is_idle = lane.state == LaneState.WAITING and lane.lease_until_us <= tx.now_us and not lane.in_doubt
    is_free = is_idle and seq == lane.done_seq + 1
    return _Standing(Place.FREE if is_free else Place.BUSY, seq, other, None)


def _doubt(case: Case, standing: _Standing, age_s: float) -> Doubt:
    return Doubt(
        system=case.system,
        age_s=age_s,
        place=standing.place,
        other=standing.other,
        misses=case.misses,
        attempts=case.attempts,
        void_began=case.state is State.VOIDING,
    )


# --- what follows -------------------------------------------------------------------------------------------


def _defer(tx: Transaction, case: Case, delay_s: float, misses: int, state: State, reference: str | None) -> None:
    tx.conn.execute(
        text(
            "update reconciliation set due_us = :due, lease_until_us = 0, attempts = attempts + 1, misses = :misses, "
            "state = :state, reference = :reference where id = :id"
        ),
        {
            "due": tx.now_us + int(delay_s * SECOND_US),
            "misses": misses,
            "state": state.value,
            "reference": reference,
            "id": case.id,
        },
    )


def _begin_void(tx: Transaction, case: Case, reference: str | None, other: Holder | None) -> None:
    tx.conn.execute(
        text(
            "update reconciliation set state = :state, reference = :reference, other_system = :other, "
            "other_reference = :other_reference, misses = 0 where id = :id"
        ),
        {
            "state": State.VOIDING.value,
            "reference": reference,
            "other": other.system if other else "",
            "other_reference": other.reference if other else None,
            "id": case.id,
        },
    )


def _end(tx: Transaction, case: Case, standing: _Standing, verdict: Verdict, reference: str | None) -> None:
    other = standing.other
    match verdict:
        case Absent():
            _close(tx, case.id, State.ABSENT, reference, other)
        case Voided():
            _close(tx, case.id, State.VOIDED, reference, other)
            _announce(tx, case, "voided", {"reference": reference}, other)
        case Raise(detail=detail):
            _raise(tx, case, standing, detail, reference)


def _close(tx: Transaction, row_id: int, state: State, reference: str | None, other: Holder | None) -> None:
    _write_end(tx, row_id, state, reference, other, "", tx.now_us)


def _raise(tx: Transaction, case: Case, standing: _Standing, detail: str, reference: str | None) -> None:
    other = standing.other
    _write_end(tx, case.id, State.RAISED, reference, other, detail, 0)
    told = (RAISED, "", detail, None)
    trace(tx, _place(case, standing.seq), RAISED, told)
    references = {"reference": reference, "other_reference": other.reference if other else None}
    _announce(tx, case, "raised", references, other)


def _write_end(
    tx: Transaction,
    row_id: int,
    state: State,
    reference: str | None,
    other: Holder | None,
    detail: str,
    closed_us: int,
) -> None:
    tx.conn.execute(
        text(
            "update reconciliation set state = :state, reference = :reference, other_system = :other, "
            "other_reference = :other_reference, detail = :detail, closed_us = :closed, due_us = :never, "
            "lease_until_us = 0, attempts = attempts + 1 where id = :id"
        ),
        {
            "state": state.value,
            "reference": reference,
            "other": other.system if other else "",
            "other_reference": other.reference if other else None,
            "detail": detail,
            "closed": closed_us,
            "never": _NEVER_US,
            "id": row_id,
        },
    )


def _adopt(tx: Transaction, case: Case, standing: _Standing) -> None:
    """Count as delivered what only this provider has."""
    parked = standing.parked
    if parked is not None:
        parking.adopt(tx, parked.id)
        if parked.in_doubt and parked.system != case.system:
            # It may be at that one as well, which nobody would ask any more once the record is no longer parked.
            record = (case.lane, parked.seq, case.record, case.key)
            open_cases(tx, case.group, case.route, parked.system, parked.parked_us, [record], "adopted")
        return
    tx.conn.execute(
        text(
            "update lane set done_seq = done_seq + 1, due_us = :now, attempts = 0, avoid = '', "
            "state = case when done_seq + 1 < last_seq then 1 else 0 end where id = :lane"
        ),
        {"now": tx.now_us, "lane": case.lane},
    )
    enter(tx, case.route, Entry(delivered=1))


def _announce(
    tx: Transaction, case: Case, what: str, references: dict[str, str | None], other: Holder | None = None
) -> None:
    detail = {"route": case.route, "system": case.system, "other_system": other.system if other else "", **references}
    announce(tx, HubEvent(f"tideover.reconciliation.{what}", case.record, detail))


def _place(case: Case, seq: int) -> tuple[int, int, str, str, str, int]:
    return case.lane, seq, case.record, case.route, case.system, case.token


def _trace_look_up(tx: Transaction, case: Case, standing: _Standing, asked: Asked, verdict: Verdict) -> None:
    """Add the look-up to the record's trace, unless it waits and hears the same as before: a lane that a person holds
    for a month would fill the table."""
    if asked.answer is None:
        return
    if isinstance(asked.answer, Found):
        reference = asked.answer.reference
        if isinstance(verdict, Later) and case.attempts and reference is not None and reference == case.reference:
            return
        delivered = settling.describe(Accepted(reference))
        told = delivered if isinstance(verdict, Adopt) else (FOUND, "", "", reference)
    else:
        told = settling.describe(asked.answer)
    trace(tx, _place(case, standing.seq), Kind.LOOK_UP.value, told, asked.ago_us, asked.took_us)
