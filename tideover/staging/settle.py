"""Settling: what became of leased records, in bulk, each lane's new state and everything that follows in one
transaction. A report under a token that is no longer valid changes nothing, so settling twice is settling once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from tideover.model import Accepted, HubEvent, Missing, Outcome, Rejected, Throttled, Unknown, Unsent
from tideover.policy.breaker import BreakerRule
from tideover.policy.quota import LimitRule, throttle
from tideover.policy.settlement import LaneReport, LaneRow, ParkPlan, Plan, RouteRule, plan
from tideover.staging import groups, quotas, schema, systems
from tideover.staging.database import Transaction
from tideover.staging.events import announce
from tideover.staging.ledger import Entry, enter
from tideover.staging.sealing import Sealer, is_sealed


@dataclass(frozen=True, slots=True)
class Settlement:
    """Reports of one system's leases, with the rules that decide on them. `group`: the failover group that the leases
    were claimed for; empty without one. `limits`: the system's, if it has any; `pause_s`: for how long it may not be
    called by what its answers said of its quota."""

    system: str
    reports: Sequence[LaneReport]
    rules: Mapping[str, RouteRule]
    breaker_rule: BreakerRule
    group: str = ""
    limits: LimitRule | None = None
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement did. `refused`: lanes that somebody else has taken over meanwhile."""

    delivered: int
    parked: int
    refused: Sequence[int]
    gate: systems.Gate


def settle(
    tx: Transaction, settlement: Settlement, sealer: Sealer, spread: Callable[[], float] = random.random
) -> Settled:
    rows = _lock(tx, [report.lane for report in settlement.reports])
    row = systems.load(tx, settlement.system)
    is_quiet = row.breaker.is_clean and not row.throttles and settlement.pause_s <= 0
    if not (is_quiet and all(_is_uneventful(r) for r in settlement.reports)):
        row = systems.load(tx, settlement.system, for_update=True)
    decided = plan(
        settlement.reports,
        rows,
        row.breaker,
        system=settlement.system,
        rules=settlement.rules,
        breaker_rule=settlement.breaker_rule,
        prober=row.holder(tx.now_us),
        now_us=tx.now_us,
        spread=spread,
    )
    _write_lanes(tx, decided)
    _write_attempts(tx, settlement.system, decided)
    _write_parked(tx, settlement.system, decided.parked, sealer)
    for route in {*decided.delivered, *(p.route for p in decided.parked)}:
        parked = sum(p.route == route for p in decided.parked)
        enter(tx, route, Entry(delivered=decided.delivered.get(route, 0), parked=parked))
    row = _apply(tx, row, decided, settlement)
    for is_good in decided.canaries:
        groups.end_canary(tx, settlement.group, settlement.system, is_good)
    return Settled(sum(decided.delivered.values()), len(decided.parked), decided.refused, row.gate(tx.now_us))


def _apply(tx: Transaction, row: systems.SystemRow, decided: Plan, settlement: Settlement) -> systems.SystemRow:
    """Write what the calls mean for the system: its breaker, its pause, and what is used of its limits."""
    pause_s, throttles = throttle(
        decided.pause_s,
        decided.guess_s,
        row.throttles,
        is_paused=row.paused_until_us > tx.now_us,
        is_served=bool(decided.delivered),
    )
    row = systems.apply(
        tx,
        row,
        decided.breaker,
        decided.actions,
        pause_s=max(pause_s, settlement.pause_s),
        throttles=throttles,
    )
    quotas.spend(tx, settlement.system, settlement.limits, decided.extra_calls)
    quotas.give_back(tx, settlement.system, settlement.limits, decided.unmade)
    return row


def _is_uneventful(report: LaneReport) -> bool:
    return not report.is_probe and all(isinstance(a.outcome, Accepted | Missing) for a in report.attempts)


def _lock(tx: Transaction, lanes: Sequence[int]) -> dict[int, LaneRow]:
    """In the order of their ids, as staging does: the same order, so no deadlock."""
    found = tx.conn.execute(
        text(
            "select id, route, token, lease_until_us, last_seq, done_seq, attempts, avoid, due_us from lane "
            f"where id {tx.dialect.in_list('ids')} order by id {tx.dialect.for_update}"
        ),
        {"ids": tx.dialect.array(sorted(set(lanes)))},
    )
    return {row[0]: LaneRow(*row) for row in found.all()}


def _write_lanes(tx: Transaction, decided: Plan) -> None:
    columns = ("id", "done_seq", "state", "due_us", "attempts", "avoid", "in_doubt", "doubted_us", "lease_until_us")
    tx.dialect.update(tx.conn, schema.lane, columns, [(*planned, 0) for planned in decided.lanes])


def _write_attempts(tx: Transaction, system: str, decided: Plan) -> None:
    columns = (
        "lane", "seq", "record", "route", "system", "token", "kind", "outcome", "code", "detail", "reference",
        "began_us", "took_us",
    )  # fmt: skip
    rows = []
    for lane, attempt in decided.attempts:
        outcome, code, detail, reference = describe(attempt.outcome)
        if reference is not None and "\x00" in reference:
            reference = None  # PostgreSQL has no place for it, and would refuse the whole settlement
        rows.append(
            (
                lane.id, attempt.record.seq, attempt.record.id, lane.route, system, lane.token, attempt.kind.value,
                outcome, code, detail, reference, tx.now_us - attempt.ago_us, attempt.took_us,
            )
        )  # fmt: skip
    tx.dialect.insert(tx.conn, schema.attempt, columns, rows)


def describe(outcome: Outcome | Missing) -> tuple[str, str, str, str | None]:
    """Outcome, code, detail and reference, as an attempt's row has them."""
    match outcome:
        case Accepted(reference=reference):
            return "accepted", "", "", reference
        case Rejected(code=code, detail=detail):
            return "rejected", code, detail, None
        case Throttled(delay_s=delay_s, detail=detail):
            return "throttled", f"{delay_s:.0f}s", detail, None
        case Unsent(code=code, detail=detail):
            return "unsent", code, detail, None
        case Unknown(code=code, detail=detail):
            return "unknown", code, detail, None
        case Missing():
            return "missing", "", "", None


def _stored(parked: ParkPlan, sealer: Sealer) -> bytes:
    """Sealed like any other payload, whatever it is parked for; but for what could not be unsealed: that stays as it
    was found."""
    payload = parked.record.payload
    return payload if is_sealed(payload) else sealer.seal(f"{parked.route}|{parked.record.id}", payload)


def _write_parked(tx: Transaction, system: str, parked: Sequence[ParkPlan], sealer: Sealer) -> None:
    columns = (
        "record", "route", "lane", "seq", "key", "system", "code", "detail", "payload", "in_doubt", "holds",
        "at_intake", "staged_us", "parked_us",
    )  # fmt: skip
    rows = [
        (
            p.record.id, p.route, p.lane, p.record.seq, p.record.key, system, p.code, p.detail,
            _stored(p, sealer),
            p.in_doubt, p.holds, False, p.record.staged_us, tx.now_us,
        )
        for p in parked
    ]  # fmt: skip
    tx.dialect.insert(tx.conn, schema.parked, columns, rows)
    for p in parked:
        announce(
            tx, HubEvent("tideover.record.parked", p.record.id, {"route": p.route, "system": system, "code": p.code})
        )
