"""The circuit breaker: its whole table, why it opens, for how long, and what can't move it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tideover.model import (
    BATCH_REJECTED,
    CREDENTIALS,
    HUNG,
    INTERRUPTED,
    REDIRECTED,
    SECOND_US,
    Accepted,
    Outcome,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.breaker import (
    Action,
    Breaker,
    BreakerRule,
    Event,
    Forced,
    ProbeBegan,
    Reason,
    Result,
    State,
    may_probe,
    step,
)

RULE = BreakerRule(failures=3, rejections=3, open_for_s=4, max_open_s=60, successes=2)
NOW_US = 1_000 * SECOND_US
LASTING_US = int(2 * RULE.max_open_s * SECOND_US)

OUTCOMES: dict[str, Outcome] = {
    "accepted": Accepted(),
    "rejected": Rejected("INVALID"),
    "throttled": Throttled(1),
    "unsent": Unsent("refused"),
    "answered": Unsent("retry", is_answer=True),
    "held back": Unsent(BATCH_REJECTED),
    "credentials": Unsent(CREDENTIALS),
    "unknown": Unknown("server_error"),
    "hung": Unknown(HUNG),
    "interrupted": Unknown(INTERRUPTED),
}
EVENTS: dict[str, Event] = {
    **{name: Result("orders", 9, outcome) for name, outcome in OUTCOMES.items()},
    **{f"probe {name}": Result("orders", 9, outcome, is_probe=True) for name, outcome in OUTCOMES.items()},
    "probe began": ProbeBegan(),
    **{f"forced {to}": Forced(to, "because") for to in ("open", "closed", "auto")},
}
_OPENED = replace(Breaker(), state=State.OPEN, reason=Reason.FAILING.value, opens=1, retry_us=NOW_US)
_PROBING = replace(_OPENED, state=State.HALF_OPEN)
BREAKERS: dict[str, Breaker] = {
    "closed": Breaker(),
    "one failure short": Breaker(failing=(1, 2)),
    "one rejection short": Breaker(rejecting=(1, 2), rejected_code="orders|INVALID"),
    "open": _OPENED,
    "half open": _PROBING,
    "one success short": replace(_PROBING, successes=1),
    "contract half open": replace(
        _PROBING, reason=Reason.CONTRACT.value, rejected_code="orders|INVALID", rejecting=(1, 2, 3), successes=1
    ),
    "forced open": replace(_OPENED, is_forced=True, reason=Reason.OPERATOR.value),
    "forced closed": Breaker(is_forced=True),
}

OPENS = (State.OPEN, (Action.OPENED,))
REOPENS: tuple[State, Sequence[Action]] = (State.OPEN, ())
CLOSES = (State.CLOSED, (Action.CLOSED,))
STORM = (State.OPEN, (Action.OPENED,))
PROBES: tuple[State, Sequence[Action]] = (State.HALF_OPEN, ())
_FORCED_SHUT = {"forced closed": CLOSES, "forced auto": CLOSES}
_AT_ONCE = {"credentials": OPENS, "probe credentials": OPENS, "hung": OPENS, "probe hung": OPENS}
_NO_GOOD_PROBES = {
    f"probe {name}": REOPENS for name in ("unsent", "answered", "credentials", "unknown", "hung", "throttled")
}
_GOOD_PROBES = {f"probe {name}": CLOSES for name in ("accepted", "rejected")}
# Whatever is not named leaves the state as it is and asks for nothing.
TABLE: dict[str, dict[str, tuple[State, Sequence[Action]]]] = {
    "closed": {**_AT_ONCE, "forced open": OPENS},
    "one failure short": {
        **_AT_ONCE,
        **dict.fromkeys(("unsent", "answered", "unknown"), OPENS),
        **dict.fromkeys(("probe unsent", "probe answered", "probe unknown", "forced open"), OPENS),
    },
    "one rejection short": {**_AT_ONCE, "rejected": STORM, "probe rejected": STORM, "forced open": OPENS},
    "open": {"probe began": PROBES, **_FORCED_SHUT},
    "half open": {**_NO_GOOD_PROBES, "forced open": REOPENS, **_FORCED_SHUT},
    "one success short": {**_NO_GOOD_PROBES, **_GOOD_PROBES, "forced open": REOPENS, **_FORCED_SHUT},
    "contract half open": {
        **_NO_GOOD_PROBES,
        **_GOOD_PROBES,
        "probe rejected": REOPENS,
        "forced open": REOPENS,
        **_FORCED_SHUT,
    },
    "forced open": _FORCED_SHUT,
    "forced closed": {"forced open": OPENS},
}


def after(breaker: Breaker, *outcomes: Outcome, lane: int | None = None, at_us: int = NOW_US) -> Breaker:
    """The breaker after outcomes, each of a lane of its own unless one is given."""
    for number, outcome in enumerate(outcomes):
        breaker, _ = step(breaker, Result("orders", number if lane is None else lane, outcome), at_us, RULE, 0.5)
    return breaker


def probed(breaker: Breaker, *outcomes: Outcome, at_us: int = NOW_US, spread: float = 0.5) -> Breaker:
    breaker, _ = step(breaker, ProbeBegan(), at_us, RULE, spread)
    for outcome in outcomes:
        breaker, _ = step(breaker, Result("orders", 77, outcome, is_probe=True), at_us, RULE, spread)
    return breaker


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("before", BREAKERS)
def test_step_from_each_state_on_each_event_follows_the_table(before: str, event: str) -> None:
    breaker = BREAKERS[before]
    expected = TABLE[before].get(event, (breaker.state, ()))
    result, actions = step(breaker, EVENTS[event], NOW_US, RULE, 0.5)
    assert (result.state, tuple(actions)) == (expected[0], tuple(expected[1]))


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Unsent("dns", "no such host"), Reason.UNREACHABLE),
        (Unsent("retry", "http 409", is_answer=True), Reason.FAILING),
        (Unsent(REDIRECTED, "http 302", is_answer=True), Reason.CONTRACT),
        (Unsent(CREDENTIALS, "401"), Reason.CREDENTIALS),
        (Unknown("server_error", "503"), Reason.FAILING),
        (Unknown(HUNG), Reason.HUNG),
        (Rejected("SCHEMA", "field renamed"), Reason.CONTRACT),
    ],
)
def test_open_breaker_after_each_kind_of_failure_says_why(outcome: Outcome, reason: Reason) -> None:
    breaker = after(Breaker(), outcome, outcome, outcome)
    assert (breaker.state, breaker.reason) == (State.OPEN, reason)
    assert breaker.detail.startswith(outcome.code)  # type: ignore[union-attr]


def test_closed_breaker_when_a_success_comes_between_counts_from_the_start() -> None:
    failure = Unsent("refused")
    breaker = after(Breaker(), failure, failure, Accepted(), failure, failure)
    assert (breaker.state, len(breaker.failing)) == (State.CLOSED, 2)


def test_closed_breaker_when_a_rejection_comes_between_failures_counts_from_the_start() -> None:
    breaker = after(Breaker(), Unsent("refused"), Unsent("refused"), Rejected("INVALID"))
    assert (breaker.failing, len(breaker.rejecting)) == ((), 1)


def test_closed_breaker_when_throttled_between_failures_goes_on_counting() -> None:
    breaker = after(Breaker(), Unsent("refused"), Throttled(1), Unsent("refused"), Unsent("refused"))
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(
    "outcome", [Unknown("server_error"), Rejected("INVALID"), Unsent("retry", is_answer=True), Unsent(BATCH_REJECTED)]
)
def test_closed_breaker_when_one_lane_always_fails_stays_closed(outcome: Outcome) -> None:
    breaker = after(Breaker(), *[outcome] * 50, lane=4)
    assert breaker.state is State.CLOSED


def test_closed_breaker_when_nothing_can_be_sent_counts_one_lane_as_often_as_it_failed() -> None:
    assert after(Breaker(), *[Unsent("refused")] * 3, lane=4).state is State.OPEN


@pytest.mark.parametrize(
    "outcomes",
    [
        [Rejected("A"), Rejected("B"), Rejected("A"), Rejected("B"), Rejected("A")],
        [Rejected("A"), Rejected("A"), Accepted(), Rejected("A"), Rejected("A")],
    ],
)
def test_rejections_when_they_differ_or_something_is_accepted_are_no_storm(outcomes: list[Outcome]) -> None:
    assert after(Breaker(), *outcomes).state is State.CLOSED


def test_rejections_when_alike_on_two_routes_are_no_storm() -> None:
    breaker = Breaker()
    for lane, route in enumerate(["orders", "invoices"] * 3):
        breaker, _ = step(breaker, Result(route, lane, Rejected("INVALID")), NOW_US, RULE, 0.5)
    assert breaker.state is State.CLOSED


def test_storm_when_it_opens_names_its_signature_and_when_it_began() -> None:
    breaker = after(Breaker(), Rejected("INVALID"), at_us=NOW_US)
    breaker = after(breaker, *[Rejected("SCHEMA")] * 3, at_us=NOW_US + 7)
    assert breaker.rejected_code == "orders|SCHEMA"
    assert (breaker.streak_us, breaker.first_failure_us) == (NOW_US + 7, NOW_US + 7)


def test_first_failure_when_the_breaker_opens_is_the_streaks_first() -> None:
    breaker = after(Breaker(), Unsent("refused"), at_us=NOW_US)
    breaker = after(breaker, Unsent("refused"), Unsent("refused"), at_us=NOW_US + SECOND_US)
    assert (breaker.first_failure_us, breaker.opened_us) == (NOW_US, NOW_US + SECOND_US)


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=list(OUTCOMES))
def test_straggler_when_the_breaker_is_not_closed_changes_nothing(outcome: Outcome) -> None:
    for breaker in (BREAKERS["open"], BREAKERS["half open"]):
        assert after(breaker, outcome) == breaker


@pytest.mark.parametrize("outcome", [Unknown(INTERRUPTED), Unsent(BATCH_REJECTED)])
def test_what_the_system_had_no_part_in_changes_nothing_in_any_state(outcome: Outcome) -> None:
    for breaker in BREAKERS.values():
        for is_probe in (False, True):
            event = Result("orders", 1, outcome, is_probe)
            assert step(breaker, event, NOW_US, RULE, 0.5) == (breaker, ())


def test_contract_breaker_when_probed_closes_by_a_different_answer_only() -> None:
    storm = after(Breaker(), *[Rejected("SCHEMA")] * 3)
    again = probed(storm, Accepted(), Rejected("SCHEMA"))
    assert (again.state, again.reason, again.successes) == (State.OPEN, Reason.CONTRACT, 0)
    assert probed(again, Rejected("OTHER"), Accepted()).state is State.CLOSED


@pytest.mark.parametrize("outcome", [Unsent("refused"), Unsent(CREDENTIALS), Unknown(HUNG)])
def test_contract_breaker_when_a_probe_fails_otherwise_still_waits_for_its_contract(outcome: Outcome) -> None:
    breaker = probed(after(Breaker(), *[Rejected("SCHEMA")] * 3), outcome)
    assert (breaker.reason, breaker.rejected_code) == (Reason.CONTRACT, "orders|SCHEMA")
    assert breaker.detail.startswith(outcome.code)  # type: ignore[union-attr]


def test_bad_probe_when_its_failure_is_another_one_says_the_newest_reason() -> None:
    breaker = after(Breaker(), *[Unsent("refused")] * 3)
    assert probed(breaker, Unknown(HUNG)).reason == Reason.HUNG


@pytest.mark.parametrize(("spread", "share"), [(0.0, 0.8), (0.5, 0.9), (1.0, 1.0)])
def test_open_time_with_each_bad_probe_doubles_to_its_cap(spread: float, share: float) -> None:
    breaker, _ = step(Breaker(), Result("orders", 1, Unknown(HUNG)), NOW_US, RULE, spread)
    waits = [breaker.retry_us - NOW_US]
    for _ in range(6):
        breaker = probed(breaker, Unsent("refused"), spread=spread)
        waits.append(breaker.retry_us - NOW_US)
    assert waits == [int(s * share * SECOND_US) for s in (4, 8, 16, 32, 60, 60, 60)]


def test_throttled_probe_is_neither_good_nor_bad_and_is_made_again_when_the_system_said() -> None:
    breaker = probed(after(Breaker(), Unknown(HUNG)), Accepted())
    again = probed(breaker, Throttled(90))
    assert again == replace(breaker, state=State.OPEN, retry_us=NOW_US + 90 * SECOND_US)
    assert probed(again, Accepted()).state is State.CLOSED


@pytest.mark.parametrize(("quiet_us", "opens"), [(LASTING_US - 1, 3), (LASTING_US, 1)])
def test_relapse_after_closing_counts_on_unless_the_recovery_lasted(quiet_us: int, opens: int) -> None:
    breaker = probed(probed(after(Breaker(), Unknown(HUNG)), Unsent("refused")), Accepted(), Accepted())
    assert (breaker.state, breaker.opens) == (State.CLOSED, 2)
    assert after(breaker, Unknown(HUNG), at_us=NOW_US + quiet_us).opens == opens


def test_close_when_it_was_long_open_forgets_the_streaks() -> None:
    breaker = probed(after(Breaker(), *[Rejected("SCHEMA")] * 3), Accepted(), Accepted())
    assert breaker.is_clean
    assert (breaker.reason, breaker.detail, breaker.rejected_code) == ("", "", "")
    assert breaker.closed_us == NOW_US


def test_forced_open_when_it_was_open_keeps_when_the_outage_began() -> None:
    breaker = after(Breaker(), Unknown(HUNG))
    forced, actions = step(breaker, Forced("open", "maintenance"), NOW_US + 9, RULE, 0.5)
    assert (forced.opened_us, forced.reason, forced.detail) == (NOW_US, Reason.OPERATOR, "maintenance")
    assert tuple(actions) == ()


def test_forced_closed_when_everything_fails_lets_it_through() -> None:
    breaker, _ = step(after(Breaker(), Unknown(HUNG)), Forced("closed", "we know"), NOW_US, RULE, 0.5)
    assert after(breaker, *[Unknown(HUNG)] * 9) == breaker
    assert breaker.is_clean


@pytest.mark.parametrize(
    ("breaker", "at_us", "expected"),
    [
        (Breaker(), NOW_US, False),
        (_OPENED, NOW_US - 1, False),
        (_OPENED, NOW_US, True),
        (_PROBING, NOW_US, True),
        (replace(_OPENED, is_forced=True), NOW_US, False),
    ],
)
def test_may_probe_when_open_long_enough_and_not_forced_is_true(breaker: Breaker, at_us: int, expected: bool) -> None:
    assert may_probe(breaker, at_us) is expected


# --- whatever happens ---------------------------------------------------------------------------------------

_outcomes = st.sampled_from(list(OUTCOMES.values())) | st.builds(Rejected, st.sampled_from(["A", "B"]))
_results = st.builds(Result, st.sampled_from(["orders", "invoices"]), st.integers(1, 4), _outcomes, st.booleans())
_events = (
    _results | st.just(ProbeBegan()) | st.builds(Forced, st.sampled_from(["open", "closed", "auto"]), st.just("x"))
)
_story = st.lists(st.tuples(_events, st.integers(0, 40 * SECOND_US), st.floats(0, 1, exclude_max=True)), max_size=40)
steadily = settings(derandomize=True, deadline=None, max_examples=150)


def _lived(story: list[tuple[Event, int, float]]) -> tuple[Breaker, int]:
    breaker, now_us = Breaker(), NOW_US
    for event, later_us, spread in story:
        now_us += later_us
        breaker, _ = step(breaker, event, now_us, RULE, spread)
    return breaker, now_us


@steadily
@given(_story)
def test_any_story_when_the_system_is_well_again_ends_closed_after_so_many_good_probes(
    story: list[tuple[Event, int, float]],
) -> None:
    breaker, now_us = _lived(story)
    if breaker.is_forced:
        breaker, _ = step(breaker, Forced("auto", "over"), now_us, RULE, 0.0)
    if breaker.state is not State.CLOSED:
        needed = RULE.successes - breaker.successes
        assert needed > 0
        halfway = probed(breaker, *[Accepted()] * (needed - 1), at_us=now_us)
        assert halfway.state is State.HALF_OPEN
        breaker = probed(halfway, Accepted(), at_us=now_us)
    assert breaker.state is State.CLOSED


@steadily
@given(_story, st.sampled_from(["open", "closed"]), st.lists(_results | st.just(ProbeBegan()), max_size=20))
def test_forced_breaker_whatever_is_reported_changes_by_the_operator_only(
    story: list[tuple[Event, int, float]], to: str, events: list[Event]
) -> None:
    breaker, now_us = _lived(story)
    forced, _ = step(breaker, Forced(to, "because"), now_us, RULE, 0.5)
    for event in events:
        assert step(forced, event, now_us, RULE, 0.5) == (forced, ())
    assert forced.state is (State.OPEN if to == "open" else State.CLOSED)


@steadily
@given(_story)
def test_any_story_at_each_step_acts_exactly_when_the_state_says_so(story: list[tuple[Event, int, float]]) -> None:
    breaker, now_us = Breaker(), NOW_US
    for event, later_us, spread in story:
        now_us += later_us
        was, (breaker, actions) = breaker, step(breaker, event, now_us, RULE, spread)
        opened = was.state is State.CLOSED and breaker.state is State.OPEN
        closed = was.state is not State.CLOSED and breaker.state is State.CLOSED
        assert (Action.OPENED in actions) == opened
        assert (Action.CLOSED in actions) == closed
        if breaker.opens > was.opens or (opened and not breaker.is_forced):
            shortest_us = int(0.8 * RULE.open_for_s * SECOND_US)
            assert shortest_us <= breaker.retry_us - now_us <= int(RULE.max_open_s * SECOND_US)


_quiet = st.sampled_from(
    [
        Accepted(),
        Throttled(1),
        Unknown("server_error"),
        Rejected("A"),
        Unknown(INTERRUPTED),
        Unsent("retry", is_answer=True),
    ]
)


@steadily
@given(st.lists(_quiet, max_size=60))
def test_one_lane_whatever_it_is_answered_but_a_refused_credential_never_opens(outcomes: list[Outcome]) -> None:
    assert after(Breaker(), *outcomes, lane=1).state is State.CLOSED


def test_step_when_a_system_redirects_many_records_opens_until_a_record_goes_through() -> None:
    """Its probe may be well all the time: then it would close, and send the next ones to the old address."""
    moved = Unknown(REDIRECTED, "http 302: it redirects")
    breaker, _ = step(Breaker(), Result("orders", 1, Rejected("INVALID")), NOW_US, RULE, 0.0)
    for lane in (1, 1, 1, 2, 3):
        assert breaker.state is State.CLOSED, "one record that is redirected is no reason"
        breaker, actions = step(breaker, Result("orders", lane, moved), NOW_US, RULE, 0.0)
    assert (breaker.state, breaker.reason, breaker.detail) == (
        State.OPEN,
        "contract",
        "redirect: http 302: it redirects",
    )
    assert breaker.rejected_code == ""
    assert actions == (Action.OPENED,)
    probing, _ = step(breaker, ProbeBegan(), NOW_US, RULE, 0.0)
    again, _ = step(probing, Result("orders", 1, moved, is_probe=True), NOW_US, RULE, 0.0)
    assert (again.state, again.reason, again.opens) == (State.OPEN, "contract", 2)
