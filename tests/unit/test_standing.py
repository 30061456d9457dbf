"""What a group's turns say of interruptions, and how new records are shared out."""

from __future__ import annotations

import pytest

from tideover.hub.standing import Recovery, expected_shares, recoveries
from tideover.model import SECOND_US
from tideover.policy.failover import FailbackRule, GroupRule, GroupState, Health, Phase, Pin, Trust
from tideover.staging.groups import TurnRow

A, B = "carrier-a", "carrier-b"
RULE = GroupRule((A, B), live=(B,), live_share=0.02, failback=FailbackRule(ramp_s=100))
WELL = {A: Health(), B: Health()}
NOW = 1_000 * SECOND_US


def turn(
    kind: str, before: str = "", after: str = "", *, failed_us: int = 0, at_us: int = 0, served_us: int = 0
) -> TurnRow:
    return TurnRow(kind, before, after, "why", "", failed_us, at_us, served_us)


# --- recoveries ---------------------------------------------------------------------------------------------


def test_failover_that_served_is_a_recovery_from_the_first_failure_to_the_first_record() -> None:
    turns = [turn("failover", A, B, failed_us=10, at_us=12, served_us=15)]
    assert recoveries(turns) == [Recovery(10, 15, A, B)]


def test_failover_that_led_nowhere_belongs_to_the_one_after_it() -> None:
    turns = [
        turn("failover", "", B, at_us=40, served_us=45),
        turn("failover", B, "", failed_us=20, at_us=22),
        turn("failover", A, B, failed_us=10, at_us=12),
    ]
    assert recoveries(turns) == [Recovery(10, 45, A, B)]


def test_failover_that_nobody_was_served_by_goes_on() -> None:
    assert recoveries([turn("failover", A, "", failed_us=10, at_us=12)]) == [Recovery(10, 0, A, "")]


def test_failover_before_a_failback_was_ended_by_it() -> None:
    turns = [turn("failback", B, A, at_us=30), turn("failover", A, B, failed_us=10, at_us=12)]
    assert recoveries(turns) == []


def test_turn_to_one_that_is_further_on_its_way_back_interrupts_nothing() -> None:
    assert recoveries([turn("failover", B, A, at_us=12)]) == []


def test_failover_under_a_pin_turned_nothing() -> None:
    turns = [turn("failover", A, B, failed_us=10, at_us=12), turn("pin", A, A, at_us=5)]
    assert recoveries(turns) == []
    assert recoveries(turns[:1], is_pinned=True) == []


# --- shares -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trust", "shares"),
    [
        (Trust(), {A: 0.98, B: 0.02}),
        (Trust(Phase.DWELL, NOW), {B: 1.0}),
        (Trust(Phase.CANARY, NOW), {B: 1.0}),  # one record at a time is no share
    ],
)
def test_shares_follow_the_preferred_providers_phase(trust: Trust, shares: dict[str, float]) -> None:
    assert expected_shares(GroupState({A: trust}, B), RULE, WELL, NOW, 60) == shares


def test_shares_in_a_ramp_grow_with_it() -> None:
    state = GroupState({A: Trust(Phase.RAMP, NOW - 50 * SECOND_US)}, B)
    shares = expected_shares(state, RULE, WELL, NOW, 60)
    assert shares[A] == pytest.approx(0.55, abs=0.02)
    assert sum(shares.values()) == 1.0


def test_shares_under_a_pin_all_go_there_or_wait() -> None:
    state = GroupState(pin=Pin(A, "why", "anna", NOW))
    assert expected_shares(state, RULE, WELL, NOW, 60) == {A: 1.0}
    assert expected_shares(state, RULE, {A: Health(is_open=True), B: Health()}, NOW, 60) == {}


def test_shares_while_a_pause_is_worth_waiting_for_wait() -> None:
    health = {A: Health(paused_until_us=NOW + 30 * SECOND_US), B: Health()}
    assert expected_shares(GroupState(), RULE, health, NOW, 60).get(A) is None
    assert expected_shares(GroupState(), RULE, health, NOW, 10) == {B: 1.0}
