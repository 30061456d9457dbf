"""What the attempts of some lanes mean for lanes, breaker, ledger and parked records, decided in one place.

A worker reports what happened (`LaneReport`); the store locks the rows, asks `plan`, and writes what it says in one
transaction. A report whose token or lease is no longer valid changes nothing: whoever took the lane over decides.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tideover.model import (
    INTERRUPTED,
    SECOND_US,
    Accepted,
    LeasedRecord,
    Missing,
    Order,
    Outcome,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
    lane_id,
)
from tideover.policy.breaker import Action, Breaker, BreakerRule, Reason, Result, State, step
from tideover.policy.retry import RetryRule, ask_again_s, reason_to_give_up, wait_s


class LaneState(enum.IntEnum):
    IDLE = 0  # nothing waits
    WAITING = 1
    HELD = 2  # its head is parked and the route's order is `block`


class Kind(enum.StrEnum):
    SEND = "send"
    LOOK_UP = "look_up"
    EXPIRED = "expired"  # not an attempt of ours: the trace of a lease that ran out
    REROUTED = "rerouted"  # no call either: what may be at one provider was sent to another
    VOID = "void"  # undoing at one provider what another one has as well


class Attempt(NamedTuple):
    """One call for one record. `ago_us`: how long before the report it began; `took_us`: how long it lasted."""

    record: LeasedRecord
    kind: Kind
    outcome: Outcome | Missing
    ago_us: int
    took_us: int


@dataclass(frozen=True, slots=True)
class Defer:
    """Ask again later: a look-up's miss that is too young to be believed."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Park:
    """The head can't go on by itself; a person has to decide."""

    record: LeasedRecord
    code: str
    detail: str


class LaneReport(NamedTuple):
    """What a worker did with one lease.

    `attempts` in order: all but the last sent record were accepted. `doubt`: how many records, from the first one not
    accepted on, may have been processed by the provider; `doubted_us`: since when, on the database's clock, or 0 for
    the last attempt's beginning. `counted`: how many records the claim took from the system's limits, and
    `given_us` when. `prober`: the number of the slot that a probe was made in.
    """

    lane: int
    token: int
    attempts: Sequence[Attempt]
    doubt: int = 0
    doubted_us: int = 0
    verdict: Defer | Park | None = None
    is_probe: bool = False
    is_canary: bool = False
    counted: int = 0
    given_us: int = 0
    prober: int = 0


class LaneRow(NamedTuple):
    """A lane as the database has it, locked."""

    id: int
    route: str
    token: int
    lease_until_us: int
    last_seq: int
    done_seq: int
    attempts: int
    avoid: str = ""
    due_us: int = 0


@dataclass(frozen=True, slots=True)
class RouteRule:
    """`has_alternatives`: its target has other providers, so what never left goes to another one at once."""

    order: Order
    retry: RetryRule
    has_alternatives: bool = False


class LanePlan(NamedTuple):
    """A lane's new values; the lease is given back with them."""

    id: int
    done_seq: int
    state: LaneState
    due_us: int
    attempts: int
    avoid: str
    in_doubt: int
    doubted_us: int


@dataclass(frozen=True, slots=True)
class ParkPlan:
    record: LeasedRecord
    lane: int
    route: str
    code: str
    detail: str
    in_doubt: bool
    holds: bool


@dataclass(slots=True)
class Plan:
    lanes: list[LanePlan] = field(default_factory=list)
    attempts: list[tuple[LaneRow, Attempt]] = field(default_factory=list)
    parked: list[ParkPlan] = field(default_factory=list)
    delivered: dict[str, int] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    breaker: Breaker = field(default_factory=Breaker)
    actions: list[Action] = field(default_factory=list)
    pause_s: float = 0.0  # as the system asked
    guess_s: float = 0.0  # where it did not say how long
    extra_calls: int = 0  # more than what the claims took from the system's limits
    unmade: list[tuple[int, int]] = field(default_factory=list)  # fewer: when they were taken, and how many
    canaries: list[bool | None] = field(default_factory=list)  # good, bad, or nothing to judge by


def plan(
    reports: Iterable[LaneReport],
    rows: Mapping[int, LaneRow],
    breaker: Breaker,
    *,
    system: str,
    rules: Mapping[str, RouteRule],
    breaker_rule: BreakerRule,
    now_us: int,
    spread: Callable[[], float],
    prober: int = 0,
) -> Plan:
    """Everything that follows from the reports. `spread` gives random numbers in [0, 1). `prober`: the number of the
    slot that somebody has now; a probe that was made in another one is no probe any more.

    Of two reports of one lane the first counts: it gives the lease back.
    """
    result = Plan(breaker=breaker)
    valid: list[tuple[LaneRow, LaneReport, bool]] = []
    settled: set[int] = set()
    for report in reports:
        row = rows.get(report.lane)
        if row is None or row.token != report.token or row.lease_until_us <= now_us or row.id in settled:
            result.refused.append(report.lane)
        else:
            settled.add(row.id)
            if report.is_probe and report.prober != prober:
                report = report._replace(is_probe=False)  # its slot is somebody else's by now
            valid.append((row, report, _is_smooth(report)))
    # The breaker first: whether a rejection is the record's fault shows only in what the others met.
    for row, report, is_smooth in valid:
        if is_smooth and result.breaker.is_clean:
            continue  # nothing to tell it
        for attempt in report.attempts:
            subject = _subject(row, attempt, rules[row.route].order)
            _tell_breaker(result, row, subject, report, attempt, breaker_rule, now_us, spread)
    for row, report, is_smooth in valid:
        if (uncounted := len(report.attempts) - report.counted) > 0:
            result.extra_calls += uncounted
        elif uncounted < 0:
            result.unmade.append((report.given_us, -uncounted))
        if is_smooth:
            _settle_smooth(result, row, report, now_us)
        else:
            _settle_lane(result, row, report, system, rules[row.route], now_us, spread)
        if report.is_canary:
            result.canaries.append(_canary(report, result.breaker))
    return result


def _is_smooth(report: LaneReport) -> bool:
    """Whether all that was tried was accepted, and nothing else is to be said: by far the most reports are such."""
    if report.verdict is not None or report.doubt or report.is_probe or not report.attempts:
        return False
    return all(type(attempt.outcome) is Accepted for attempt in report.attempts)


def _settle_smooth(result: Plan, row: LaneRow, report: LaneReport, now_us: int) -> None:
    """What `_settle_lane` says of a smooth report, without asking what it might be."""
    count = len(report.attempts)
    result.attempts.extend([(row, attempt) for attempt in report.attempts])
    result.delivered[row.route] = result.delivered.get(row.route, 0) + count
    done_seq = row.done_seq + count
    if done_seq < row.last_seq:
        state, due_us = LaneState.WAITING, _place_us(report, row)
    else:
        state, due_us = LaneState.IDLE, now_us
    result.lanes.append(LanePlan(row.id, done_seq, state, due_us, 0, "", 0, 0))


def _canary(report: LaneReport, breaker: Breaker) -> bool | None:
    """Whether a provider on its way back did well by its only record; None where that can't be said, or where its
    breaker opened and says so already: one failure is one relapse."""
    if breaker.state is not State.CLOSED:
        return None
    sent = [attempt.outcome for attempt in report.attempts if attempt.kind is Kind.SEND]
    match sent[-1] if sent else None:
        case Accepted():
            return True
        case Unknown(code=code) if code != INTERRUPTED:
            return False
        case Unsent():
            return False
    return None


def _subject(row: LaneRow, attempt: Attempt, order: Order) -> int:
    """The lane that the breaker counts an outcome for: the key's, also where its records have lanes of their own."""
    if order is not Order.NONE or isinstance(attempt.outcome, Accepted | Missing):
        return row.id
    return lane_id(row.route, attempt.record.key)


def _tell_breaker(
    result: Plan,
    row: LaneRow,
    subject: int,
    report: LaneReport,
    attempt: Attempt,
    rule: BreakerRule,
    now_us: int,
    spread: Callable[[], float],
) -> None:
    outcome = attempt.outcome
    if isinstance(outcome, Missing):
        outcome = Accepted()  # the system answered
    if attempt.kind is Kind.LOOK_UP and isinstance(outcome, Accepted) and not report.is_probe:
        return  # it reads; whether it books, only a booking tells
    if isinstance(outcome, Throttled) and outcome.is_asked:
        result.pause_s = max(result.pause_s, outcome.delay_s)
    elif isinstance(outcome, Throttled):
        result.guess_s = max(result.guess_s, outcome.delay_s)
    event = Result(row.route, subject, outcome, report.is_probe)
    before = result.breaker
    result.breaker, actions = step(before, event, now_us, rule, spread())
    if result.breaker.first_failure_us == now_us != before.first_failure_us:
        # An outage began when the call did that failed: how long it hung is a part of it.
        result.breaker = replace(result.breaker, first_failure_us=now_us - attempt.ago_us)
    result.actions.extend(actions)


def _settle_lane(
    result: Plan,
    row: LaneRow,
    report: LaneReport,
    system: str,
    rule: RouteRule,
    now_us: int,
    spread: Callable[[], float],
) -> None:
    accepted = sum(isinstance(a.outcome, Accepted) for a in report.attempts)
    done_seq = row.done_seq + accepted
    result.attempts.extend((row, a) for a in report.attempts)
    if accepted:
        result.delivered[row.route] = result.delivered.get(row.route, 0) + accepted
    released = LanePlan(
        id=row.id,
        done_seq=done_seq,
        state=LaneState.WAITING if done_seq < row.last_seq else LaneState.IDLE,
        due_us=now_us,
        attempts=0 if accepted else row.attempts,
        avoid="" if accepted else row.avoid,
        in_doubt=report.doubt,
        doubted_us=_doubted_us(report, now_us),
    )
    last = report.attempts[-1] if report.attempts else None
    match report.verdict:
        case Defer(delay_s=delay_s):
            result.lanes.append(released._replace(due_us=now_us + int(delay_s * SECOND_US)))
        case Park(record=record, code=code, detail=detail):
            _park(result, row, released, rule, record, code, detail, in_doubt=report.doubt > 0)
        case None if last is None or isinstance(last.outcome, Accepted | Throttled):
            is_idle = released.state is LaneState.IDLE
            result.lanes.append(released if is_idle else released._replace(due_us=_place_us(report, row)))
        case None if isinstance(last.outcome, Missing):
            has_failed_here = rule.has_alternatives and row.attempts > 0 and not report.doubt
            result.lanes.append(released._replace(avoid=system) if has_failed_here else released)
        case None:
            _settle_failure(result, row, released, system, rule, last, now_us, spread)


def _place_us(report: LaneReport, row: LaneRow) -> int:
    """When a lane with more records is due: it keeps its place until something of it is delivered, and then stands
    where the age of its records puts it. So the rest of a backlog never passes for live traffic."""
    accepted = [a.record.staged_us for a in report.attempts if isinstance(a.outcome, Accepted)]
    return max(row.due_us, *accepted) if accepted else row.due_us


def _doubted_us(report: LaneReport, now_us: int) -> int:
    if not report.doubt:
        return 0
    return report.doubted_us or now_us - (report.attempts[-1].ago_us if report.attempts else 0)


def _settle_failure(
    result: Plan,
    row: LaneRow,
    released: LanePlan,
    system: str,
    rule: RouteRule,
    last: Attempt,
    now_us: int,
    spread: Callable[[], float],
) -> None:
    record = last.record
    in_doubt = released.in_doubt > 0
    outcome = last.outcome
    if isinstance(outcome, Rejected):
        if is_contract_storm(result.breaker, row.route, outcome.code):
            result.lanes.append(released)
        else:
            _park(result, row, released, rule, record, outcome.code, outcome.detail, in_doubt=in_doubt)
        return
    assert isinstance(outcome, Unsent | Unknown)
    if outcome.code == INTERRUPTED:
        result.lanes.append(released)
        return
    if rule.has_alternatives and isinstance(outcome, Unsent) and not in_doubt and not released.avoid:
        result.lanes.append(released._replace(avoid=system))
        return
    age_s = (now_us - record.staged_us) / SECOND_US
    is_system_down = result.breaker.state is not State.CLOSED
    is_answer = isinstance(outcome, Unknown) or outcome.is_answer
    attempts = released.attempts + (is_answer and not is_system_down)
    given_up = None if is_system_down else reason_to_give_up(rule.retry, attempts, age_s)
    if given_up:
        detail = f"last outcome: {outcome.code} {outcome.detail}".strip()
        _park(result, row, released, rule, record, given_up, detail, in_doubt=in_doubt)
        return
    if last.kind is Kind.LOOK_UP and is_system_down:
        delay_s = ask_again_s(rule.retry, (now_us - released.doubted_us) / SECOND_US)
    else:
        delay_s = wait_s(rule.retry, attempts, spread())
    avoid = system if isinstance(outcome, Unsent) and not in_doubt else released.avoid
    result.lanes.append(released._replace(attempts=attempts, avoid=avoid, due_us=now_us + int(delay_s * SECOND_US)))


def is_contract_storm(breaker: Breaker, route: str, code: str) -> bool:
    """Whether a rejection belongs to a storm that opened the breaker, so that its record waits instead of parking."""
    is_open = breaker.state is not State.CLOSED and breaker.reason == Reason.CONTRACT
    return is_open and breaker.rejected_code == f"{route}|{code}"


def _park(
    result: Plan,
    row: LaneRow,
    released: LanePlan,
    rule: RouteRule,
    record: LeasedRecord,
    code: str,
    detail: str,
    *,
    in_doubt: bool,
) -> None:
    holds = rule.order is Order.BLOCK
    result.parked.append(ParkPlan(record, row.id, row.route, code, detail, in_doubt, holds))
    if holds:
        settled = released._replace(state=LaneState.HELD, attempts=0, avoid="")
    else:
        done_seq = released.done_seq + 1
        state = LaneState.WAITING if done_seq < row.last_seq else LaneState.IDLE
        rest = max(released.in_doubt - 1, 0)
        settled = released._replace(done_seq=done_seq, state=state, attempts=0, avoid="", in_doubt=rest)
    result.lanes.append(settled)
