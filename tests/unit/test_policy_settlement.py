"""What reports mean for lanes, breaker, ledger and parked records: every outcome, in every order, in doubt or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tideover.model import (
    CREDENTIALS,
    HUNG,
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
)
from tideover.policy.breaker import Action, Breaker, BreakerRule, Reason, State
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import (
    Attempt,
    Defer,
    Kind,
    LanePlan,
    LaneReport,
    LaneRow,
    LaneState,
    Park,
    Plan,
    RouteRule,
    is_contract_storm,
    plan,
)

NOW_US = 1_000 * SECOND_US
AGO_US = 1_000
RETRY = RetryRule(max_attempts=3, base_s=8.0, cap_s=60.0, max_age_s=3600.0)
BREAKER_RULE = BreakerRule(failures=3, rejections=3)
RULES = {order.value: RouteRule(order, RETRY) for order in Order}  # a route per order, named after it
STORM = Breaker(state=State.OPEN, reason=Reason.CONTRACT.value, rejected_code="block|SCHEMA", rejecting=(7, 8, 9))
DOWN = Breaker(state=State.OPEN, reason=Reason.UNREACHABLE.value)


def row(lane: int = 1, order: Order = Order.BLOCK, last_seq: int = 3, **given: Any) -> LaneRow:
    return LaneRow(lane, order.value, 5, NOW_US + 1, last_seq, 0, 0)._replace(**given)


def leased(seq: int, *, in_doubt: bool = False, age_s: float = 10) -> LeasedRecord:
    return LeasedRecord(f"id-{seq}", seq, "k", b"{}", NOW_US - int(age_s * SECOND_US), in_doubt)


def report(of: LaneRow, *outcomes: Outcome | Missing, kind: Kind = Kind.SEND, age_s: float = 10, **given: Any) -> Any:
    """A report of outcomes for the lane's records in order."""
    attempts = [
        Attempt(leased(of.done_seq + i, age_s=age_s), kind, outcome, AGO_US, 500)
        for i, outcome in enumerate(outcomes, 1)
    ]
    return LaneReport(of.id, of.token, attempts)._replace(**given)


def planned(reports: Sequence[LaneReport], rows: Sequence[LaneRow], breaker: Breaker | None = None) -> Plan:
    return plan(
        reports,
        {of.id: of for of in rows},
        breaker or Breaker(),
        system="erp",
        rules=RULES,
        breaker_rule=BREAKER_RULE,
        now_us=NOW_US,
        spread=lambda: 0.5,
    )


def one(it: LaneReport, of: LaneRow, breaker: Breaker | None = None) -> tuple[Plan, LanePlan]:
    result = planned([it], [of], breaker)
    [lane] = result.lanes
    return result, lane


RETRIED, PARKED, AGAIN, IN_PLACE = "retried", "parked", "again", "in place"
DUE_US = NOW_US - 20 * SECOND_US
ENDS: dict[str, tuple[Outcome | None, int, str]] = {  # what ended the lease, how much came into doubt, what follows
    "nothing": (None, 0, IN_PLACE),
    "rejected": (Rejected("INVALID", "no total"), 0, PARKED),
    "throttled": (Throttled(30), 0, IN_PLACE),
    "unsent": (Unsent("refused"), 0, RETRIED),
    "answered": (Unsent("retry", is_answer=True), 0, RETRIED),
    "unknown": (Unknown("server_error"), 1, RETRIED),
    "interrupted": (Unknown(INTERRUPTED), 1, AGAIN),
}


@pytest.mark.parametrize("accepted", [0, 1, 2])
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("end", ENDS)
def test_lane_after_an_accepted_prefix_and_each_ending_stands_where_it_should(
    end: str, order: Order, accepted: int
) -> None:
    outcome, doubt, follows = ENDS[end]
    of = row(order=order, attempts=1, due_us=DUE_US)
    outcomes = [Accepted()] * accepted + ([outcome] if outcome else [])
    it = report(of, *outcomes, doubt=doubt)
    result, lane = one(it, of)
    assert result.delivered == ({order.value: accepted} if accepted else {})
    is_stepped_over = follows == PARKED and order is not Order.BLOCK
    assert lane.done_seq == accepted + is_stepped_over
    assert len(result.parked) == (follows == PARKED)
    attempts_before = 0 if accepted else 1
    expected = {
        AGAIN: (NOW_US, attempts_before),
        IN_PLACE: (it.attempts[0].record.staged_us if accepted else DUE_US, attempts_before),
        PARKED: (NOW_US, 0),
        RETRIED: (NOW_US + 4 * SECOND_US, attempts_before + (end != "unsent")),
    }[follows]
    if follows == RETRIED and expected[1] == 2:
        expected = (NOW_US + 8 * SECOND_US, 2)
    assert (lane.due_us, lane.attempts) == expected
    assert (lane.in_doubt, lane.doubted_us) == ((1, NOW_US - AGO_US) if doubt else (0, 0))
    if follows == PARKED and order is Order.BLOCK:
        assert lane.state is LaneState.HELD
    else:
        assert lane.state is (LaneState.WAITING if lane.done_seq < 3 else LaneState.IDLE)


def test_lane_when_all_its_records_are_accepted_is_idle() -> None:
    of = row(last_seq=2)
    result, lane = one(report(of, Accepted("r1"), Accepted("r2")), of)
    assert (lane.state, lane.done_seq, result.delivered) == (LaneState.IDLE, 2, {"block": 2})
    assert [a.outcome for _, a in result.attempts] == [Accepted("r1"), Accepted("r2")]


@pytest.mark.parametrize("order", [Order.SKIP, Order.LATEST, Order.NONE])
def test_lane_when_its_last_record_is_stepped_over_is_idle(order: Order) -> None:
    of = row(order=order, last_seq=1)
    result, lane = one(report(of, Rejected("INVALID")), of)
    assert (lane.state, lane.done_seq) == (LaneState.IDLE, 1)
    assert not result.parked[0].holds


@pytest.mark.parametrize("order", Order)
def test_parked_record_when_others_of_its_lane_are_in_doubt_leaves_them_in_doubt(order: Order) -> None:
    of = row(order=order)
    result, lane = one(report(of, Rejected("INVALID"), doubt=3, doubted_us=77), of)
    assert result.parked[0].in_doubt
    assert (lane.in_doubt, lane.doubted_us) == (3 if order is Order.BLOCK else 2, 77)


def test_doubt_when_it_is_older_than_the_last_attempt_keeps_its_age() -> None:
    of = row()
    _, lane = one(report(of, Unknown("server_error"), doubt=1, doubted_us=42), of)
    assert lane.doubted_us == 42


@pytest.mark.parametrize(
    "changed", [{"token": 4}, {"token": 6}, {"lease_until_us": NOW_US}, {"lease_until_us": 0}, {"id": 99}]
)
def test_report_when_its_lease_is_no_longer_valid_changes_nothing(changed: dict[str, int]) -> None:
    of = row()
    result = planned([report(of, Accepted(), Unsent(CREDENTIALS))], [of._replace(**changed)])
    assert result == Plan(refused=[of.id])


def test_report_when_it_comes_twice_in_one_settlement_counts_once() -> None:
    of = row()
    it = report(of, Accepted())
    result = planned([it, it], [of])
    assert (result.delivered, len(result.lanes), len(result.attempts), result.refused) == ({"block": 1}, 1, 1, [of.id])


def test_report_when_another_is_refused_still_counts() -> None:
    well, stale = row(1), row(2)
    result = planned([report(stale, Accepted(), token=1), report(well, Accepted())], [well, stale])
    assert (result.refused, [lane.id for lane in result.lanes]) == ([2], [1])


def test_rejections_when_they_become_a_storm_in_one_settlement_park_nothing() -> None:
    rows = [row(lane) for lane in (1, 2, 3, 4)]
    result = planned([report(of, Rejected("SCHEMA")) for of in rows], rows)
    assert (result.breaker.state, result.breaker.reason) == (State.OPEN, "contract")
    assert result.actions == [Action.OPENED]
    assert result.parked == []
    assert all(lane.state is LaneState.WAITING and lane.done_seq == 0 for lane in result.lanes)


@pytest.mark.parametrize(
    ("rejected", "order", "is_held"),
    [("SCHEMA", Order.BLOCK, True), ("OTHER", Order.BLOCK, False), ("SCHEMA", Order.SKIP, False)],
)
def test_rejection_when_a_storm_is_open_waits_if_it_belongs_to_it(rejected: str, order: Order, is_held: bool) -> None:
    of = row(order=order)
    result, lane = one(report(of, Rejected(rejected)), of, STORM)
    assert (len(result.parked) == 0) is is_held
    assert (lane.state is LaneState.WAITING and lane.done_seq == 0) is is_held


def test_rejection_when_the_breaker_is_open_for_another_reason_is_the_records_fault() -> None:
    of = row()
    assert len(one(report(of, Rejected("INVALID")), of, DOWN)[0].parked) == 1


@pytest.mark.parametrize(
    ("outcome", "attempts", "age_s", "code"),
    [
        (Unknown("server_error", "503"), 2, 10, "attempts"),
        (Unsent("retry", "409", is_answer=True), 2, 10, "attempts"),
        (Unknown("server_error", "503"), 0, 3600, "expired"),
        (Unsent("refused"), 0, 3600, "expired"),
    ],
)
def test_failure_when_count_or_age_is_exceeded_parks_with_the_last_outcome(
    outcome: Outcome, attempts: int, age_s: float, code: str
) -> None:
    of = row(attempts=attempts)
    result, lane = one(report(of, outcome, age_s=age_s), of)
    assert (result.parked[0].code, lane.state) == (code, LaneState.HELD)
    assert outcome.code in result.parked[0].detail  # type: ignore[union-attr]


@pytest.mark.parametrize("outcome", [Unknown("server_error"), Unsent("refused"), Unknown(HUNG), Unsent(CREDENTIALS)])
def test_failure_when_the_system_is_down_never_gives_up(outcome: Outcome) -> None:
    of = row(attempts=99)
    result, lane = one(report(of, outcome, age_s=1e6), of, DOWN)
    assert (result.parked, lane.state) == ([], LaneState.WAITING)


@pytest.mark.parametrize("outcome", [Unknown(HUNG), Unsent(CREDENTIALS)])
def test_failure_when_it_opens_the_breaker_itself_gives_nothing_up(outcome: Outcome) -> None:
    of = row(attempts=99)
    result, _ = one(report(of, outcome, age_s=1e6), of)
    assert (result.breaker.state, result.parked) == (State.OPEN, [])


def test_record_that_reached_nobody_when_tried_for_ever_costs_no_attempt() -> None:
    of = row(attempts=2)
    _, lane = one(report(of, Unsent("refused")), of)
    assert lane.attempts == 2


def test_throttled_reports_when_several_pause_for_the_longest() -> None:
    rows = [row(1), row(2), row(3)]
    reports = [report(of, Throttled(delay)) for of, delay in zip(rows, (5, 30, 7), strict=True)]
    result = planned(reports, rows)
    assert (result.pause_s, result.breaker, result.actions) == (30, Breaker(), [])


def test_deferred_lane_when_a_miss_is_too_young_is_due_when_it_may_be_believed() -> None:
    of = row(attempts=2)
    it = report(of, Missing(), kind=Kind.LOOK_UP, doubt=1, doubted_us=9, verdict=Defer(12.5))
    result, lane = one(it, of)
    assert (lane.due_us, lane.in_doubt, lane.doubted_us) == (NOW_US + 12_500_000, 1, 9)
    assert (lane.state, lane.attempts, result.parked, result.delivered) == (LaneState.WAITING, 2, [], {})


@pytest.mark.parametrize("order", Order)
def test_park_verdict_after_an_accepted_prefix_parks_the_next_record(order: Order) -> None:
    of = row(order=order)
    head = leased(2, in_doubt=True)
    it = report(of, Accepted(), doubt=1, doubted_us=9, verdict=Park(head, "unresolved", "nobody knows"))
    result, lane = one(it, of)
    [parked] = result.parked
    assert (parked.record, parked.code, parked.in_doubt, parked.holds) == (
        head,
        "unresolved",
        True,
        order is Order.BLOCK,
    )
    assert lane.done_seq == (1 if order is Order.BLOCK else 2)


@pytest.mark.parametrize("answer", [Missing(), Accepted("r1")])
def test_answered_look_up_when_the_breaker_has_a_streak_does_not_end_it(answer: Missing | Accepted) -> None:
    of = row()
    result, _ = one(report(of, answer, kind=Kind.LOOK_UP), of, Breaker(failing=(1, 2)))
    assert result.breaker.failing == (1, 2), "a system that can be read may still not take anything"


# --- whatever is reported -----------------------------------------------------------------------------------

_FAILURES: list[Outcome] = [
    Unsent("retry", is_answer=True),
    Rejected("SCHEMA"),
    Rejected("OTHER"),
    Throttled(1),
    Unsent("refused"),
    Unsent(CREDENTIALS),
    Unknown("server_error"),
    Unknown(HUNG),
    Unknown(INTERRUPTED),
]


@st.composite
def _settled_lane(draw: st.DrawFn, lane: int) -> tuple[LaneRow, LaneReport]:
    """A lane and what a worker may say of it: some accepted, then nothing, a failure or a verdict."""
    waiting = draw(st.integers(1, 5))
    done_seq = draw(st.integers(0, 4))
    of = LaneRow(
        lane,
        draw(st.sampled_from(list(Order))).value,
        5,
        NOW_US + draw(st.sampled_from([1, 1, 1, 0])),
        done_seq + waiting,
        done_seq,
        draw(st.integers(0, 4)),
    )
    depth = draw(st.integers(1, waiting))
    doubted = depth if draw(st.booleans()) else 0
    age_s = draw(st.sampled_from([1.0, 4000.0]))
    records = [leased(done_seq + i, in_doubt=i <= doubted, age_s=age_s) for i in range(1, depth + 1)]
    accepted = draw(st.integers(0, depth))
    attempts = [Attempt(record, Kind.SEND, Accepted(), AGO_US, 1) for record in records[:accepted]]
    doubt = max(doubted - accepted, 0)
    verdict: Defer | Park | None = None
    if accepted < depth:
        head = records[accepted]
        match draw(st.sampled_from(["nothing", "failure", "failure", "defer", "park"])):
            case "failure":
                outcome = draw(st.sampled_from(_FAILURES))
                attempts.append(Attempt(head, Kind.SEND, outcome, AGO_US, 1))
                doubt = max(doubt, int(isinstance(outcome, Unknown)))
            case "defer":
                attempts.append(Attempt(head, Kind.LOOK_UP, Missing(), AGO_US, 1))
                verdict = Defer(3)
            case "park":
                verdict = Park(head, "unresolved", "")
    token = draw(st.sampled_from([5, 5, 5, 4]))
    return of, LaneReport(lane, token, attempts, doubt, 9 if doubt else 0, verdict, draw(st.booleans()))


_lanes = st.integers(1, 6).flatmap(lambda n: st.tuples(*(_settled_lane(lane) for lane in range(1, n + 1))))
_breakers = st.sampled_from([Breaker(), Breaker(failing=(1, 2)), STORM, replace(STORM, state=State.HALF_OPEN), DOWN])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(_lanes, _breakers)
def test_plan_of_any_reports_adds_up_and_oversteps_nothing(
    lanes: tuple[tuple[LaneRow, LaneReport], ...], breaker: Breaker
) -> None:
    rows = {of.id: of for of, _ in lanes}
    reports = {it.lane: it for _, it in lanes}
    result = planned(list(reports.values()), list(rows.values()), breaker)
    decided = {lane.id: lane for lane in result.lanes}
    assert len(decided) == len(result.lanes)
    assert sorted([*decided, *result.refused]) == sorted(rows)
    parked = {p.lane: p for p in result.parked}
    moved: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for lane, it in decided.items():
        of = rows[lane]
        accepted = sum(isinstance(a.outcome, Accepted) for a in reports[lane].attempts)
        stepped_over = lane in parked and not parked[lane].holds
        moved[of.route] += it.done_seq - of.done_seq
        told[of.route] += accepted + stepped_over
        assert it.done_seq == of.done_seq + accepted + stepped_over
        assert it.done_seq <= of.last_seq
        assert 0 <= it.in_doubt <= of.last_seq - it.done_seq
        assert (it.doubted_us > 0) or not it.in_doubt
        assert it.due_us >= (of.due_us if it.state is LaneState.WAITING else NOW_US)
        assert (it.state is LaneState.HELD) == (lane in parked and parked[lane].holds)
        if it.state is not LaneState.HELD:
            assert (it.state is LaneState.IDLE) == (it.done_seq == of.last_seq)
        if lane in parked:
            assert parked[lane].record.seq == of.done_seq + accepted + 1
    assert moved == told
    delivered = Counter(result.delivered)
    assert delivered.total() == sum(isinstance(a.outcome, Accepted) for lane in decided for a in reports[lane].attempts)
    is_down = result.breaker.state is not State.CLOSED
    for p in result.parked:
        assert not is_contract_storm(result.breaker, p.route, p.code)
        assert not (is_down and p.code in ("attempts", "expired"))


def test_hung_call_when_it_opens_the_breaker_began_the_outage_when_it_was_made() -> None:
    of = row()
    result, _ = one(report(of, Unknown(HUNG), doubt=1), of)
    assert (result.breaker.first_failure_us, result.breaker.opened_us) == (NOW_US - AGO_US, NOW_US)
