"""How trust in a group's providers moves: every transition, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from tideover.model import SECOND_US
from tideover.policy.failover import (
    FailbackRule,
    GroupRule,
    GroupState,
    Health,
    Phase,
    Pin,
    Trust,
    Turn,
    TurnKind,
    advance,
    canary_began,
    canary_ended,
    dwell_s,
    hurried,
    share,
)

A, B, C = "carrier-a", "carrier-b", "carrier-c"
FAILBACK = FailbackRule(dwell_s=60, max_dwell_s=600, canaries=3, ramp_s=100)
RULE = GroupRule((A, B), failback=FAILBACK)
WELL = Health()


def us(seconds: float) -> int:
    return int(seconds * SECOND_US)


def down(since_s: float, reason: str = "unreachable") -> Health:
    return Health(is_open=True, failed_us=us(since_s) - 1, opened_us=us(since_s), reason=reason)


def back(opened_s: float, closed_s: float) -> Health:
    return Health(failed_us=us(opened_s) - 1, opened_us=us(opened_s), closed_us=us(closed_s))


@dataclass
class Group:
    """A group that is looked at now and then."""

    rule: GroupRule = RULE
    state: GroupState = field(default_factory=GroupState)

    def __post_init__(self) -> None:
        self.health = dict.fromkeys(self.rule.providers, WELL)
        self.told: list[Turn] = []
        self.look(0)

    def look(self, at_s: float, **health: Health) -> Sequence[TurnKind]:
        """The kinds of what happened; the providers' health by their last letter."""
        self.health |= {f"carrier-{letter}": it for letter, it in health.items()}
        self.state, turns = advance(self.state, self.rule, self.health, us(at_s))
        assert advance(self.state, self.rule, self.health, us(at_s)) == (self.state, [])
        self.told += turns
        return [turn.kind for turn in turns]

    def phase(self, system: str = A) -> Phase:
        return self.state.trust(system).phase

    def canary(self, at_s: float, is_good: bool | None, system: str = A) -> Sequence[Turn]:
        self.state, turns = canary_ended(self.state, system, is_good, us(at_s))
        return turns


def returned(at_s: float = 1000) -> Group:
    """A group whose preferred provider was down from 100 s on, and has just come back."""
    group = Group()
    group.look(100, a=down(100))
    group.look(at_s, a=back(100, at_s))
    return group


def in_canary(at_s: float = 1060) -> Group:
    group = returned(at_s - 60)
    assert group.look(at_s) == [TurnKind.CANARY]
    return group


def in_ramp(at_s: float = 1060) -> Group:
    group = in_canary(at_s)
    for _ in range(3):
        assert group.canary(at_s, True) == ()
    assert group.look(at_s) == []
    return group


def test_new_group_when_all_are_well_serves_by_the_preferred_and_tells_nothing() -> None:
    group = Group()
    assert (group.phase(A), group.phase(B), group.state.serving, group.told) == (Phase.SERVING, Phase.SERVING, A, [])


def test_breaker_that_opens_when_the_provider_serves_fails_over_and_says_why() -> None:
    group = Group()
    assert group.look(101, a=down(100, "hung")) == [TurnKind.FAILOVER]
    [turn] = group.told
    assert (turn.before, turn.after, turn.why, turn.failed_us) == (A, B, "hung", us(100) - 1)
    assert (group.phase(A), group.state.trust(A).since_us, group.state.serving) == (Phase.OUT, us(100), B)


def test_breaker_of_a_backup_that_opens_changes_the_first_choice_for_nobody() -> None:
    group = Group()
    assert group.look(100, b=down(100)) == []
    assert (group.phase(B), group.state.serving) == (Phase.OUT, A)


def test_out_stays_out_as_long_as_its_breaker_is_open() -> None:
    group = Group()
    group.look(100, a=down(100))
    assert group.look(100_000, a=down(100)) == []
    assert group.phase() is Phase.OUT


def test_breaker_that_closes_begins_the_dwell_at_that_instant() -> None:
    group = Group()
    group.look(100, a=down(100))
    assert group.look(1010, a=back(100, 1000)) == []
    assert (group.phase(), group.state.trust(A).since_us, group.state.serving) == (Phase.DWELL, us(1000), B)


@pytest.mark.parametrize(("after_s", "expected"), [(59.9, Phase.DWELL), (60, Phase.CANARY), (1e6, Phase.CANARY)])
def test_dwell_ends_when_the_provider_was_well_for_as_long(after_s: float, expected: Phase) -> None:
    group = returned()
    told = group.look(1000 + after_s)
    assert (group.phase(), told) == (expected, [TurnKind.CANARY] if expected is Phase.CANARY else [])


def test_canary_when_none_was_sent_stays_for_ever() -> None:
    group = in_canary()
    assert group.look(10**6) == []
    assert group.phase() is Phase.CANARY


@pytest.mark.parametrize(("good", "expected"), [(2, Phase.CANARY), (3, Phase.RAMP), (4, Phase.RAMP)])
def test_canary_when_enough_were_good_begins_the_ramp(good: int, expected: Phase) -> None:
    group = in_canary()
    for _ in range(good):
        group.canary(1070, True)
    group.look(1070)
    assert group.phase() is expected


def test_canary_that_says_nothing_gives_its_slot_back_and_counts_for_nothing() -> None:
    group = in_canary()
    group.state = canary_began(group.state, A, us(2000), us(1070))
    assert group.canary(1070, None) == ()
    trust = group.state.trust(A)
    assert (trust.phase, trust.canaries, trust.canary_until_us) == (Phase.CANARY, 0, 0)


def test_canary_that_is_bad_is_a_relapse_into_a_dwell_of_twice_the_time() -> None:
    group = in_canary()
    group.canary(1065, True)
    [turn] = group.canary(1070, False)
    assert (turn.kind, turn.before) == (TurnKind.RELAPSE, A)
    assert (group.phase(), group.state.trust(A).relapses, group.state.trust(A).canaries) == (Phase.DWELL, 1, 0)
    group.look(1070 + 119.9)
    assert group.phase() is Phase.DWELL
    group.look(1070 + 120)
    assert group.phase() is Phase.CANARY


@pytest.mark.parametrize("is_good", [True, False, None])
def test_canary_that_ends_when_its_provider_is_no_longer_in_that_phase_changes_nothing(is_good: bool | None) -> None:
    for group in (Group(), returned(), in_ramp()):
        before = group.state
        assert group.canary(2000, is_good) == ()
        assert group.state == before


def test_ramp_when_its_time_is_over_is_the_failback() -> None:
    group = in_ramp()
    assert group.look(1159.9) == []
    assert group.look(1160) == [TurnKind.FAILBACK]
    assert (group.phase(), group.state.serving) == (Phase.SERVING, A)
    assert (group.told[-1].before, group.told[-1].after) == (B, A)


@pytest.mark.parametrize("make", [returned, in_canary, in_ramp])
def test_breaker_that_opens_on_the_way_back_is_a_relapse(make: type[Group]) -> None:
    group = make()
    assert group.look(1100, a=replace(back(1090, 1000), is_open=True, reason="hung")) == [TurnKind.RELAPSE]
    trust = group.state.trust(A)
    assert (trust.phase, trust.relapses, trust.since_us) == (Phase.OUT, 1, us(1090))
    assert (group.told[-1].before, group.told[-1].why) == (A, "hung")


def test_outage_that_nobody_looked_at_is_an_outage_all_the_same() -> None:
    group = Group()
    assert group.look(130, a=back(100, 120)) == [TurnKind.FAILOVER]
    assert (group.phase(), group.state.trust(A).since_us) == (Phase.DWELL, us(120))
    assert group.told[0].failed_us == us(100) - 1


def test_outage_that_nobody_looked_at_until_its_dwell_was_over_goes_on_to_the_canary() -> None:
    group = Group()
    assert group.look(500, a=back(100, 120)) == [TurnKind.CANARY, TurnKind.FAILOVER]
    assert (group.phase(), group.state.serving) == (Phase.CANARY, B)


@pytest.mark.parametrize("make", [returned, in_canary, in_ramp])
def test_second_outage_that_nobody_looked_at_is_one_relapse(make: type[Group]) -> None:
    group = make()
    group.look(1100, a=back(1080, 1095))
    assert (group.phase(), group.state.trust(A).relapses) == (Phase.DWELL, 1)
    assert group.told[-1].kind is TurnKind.RELAPSE


def test_outage_from_before_the_group_is_none_of_its_outages() -> None:
    rule = replace(RULE, providers=(A, B, C))
    group = Group(rule)
    fresh, turns = advance(GroupState(), rule, {**group.health, A: back(100, 120)}, us(10**6))
    assert (fresh.trust(A).phase, fresh.serving, turns) == (Phase.SERVING, A, [])


def test_provider_that_is_down_when_the_group_is_new_is_out() -> None:
    state, turns = advance(GroupState(), RULE, {A: down(100), B: WELL}, us(200))
    assert (state.trust(A).phase, state.serving) == (Phase.OUT, B)
    assert [turn.kind for turn in turns] == [TurnKind.FAILOVER]


def test_provider_that_joins_the_group_is_trusted_and_one_that_leaves_is_forgotten() -> None:
    group = Group()
    group.look(100, a=down(100))
    group.rule = replace(RULE, providers=(B, C))
    group.health[C] = back(1, 2)
    group.look(110)
    assert set(group.state.trusts) == {B, C}
    assert (group.phase(C), group.state.serving) == (Phase.SERVING, B)


def test_relapses_double_the_dwell_up_to_its_cap() -> None:
    assert [dwell_s(FAILBACK, n) for n in (0, 1, 2, 3, 4, 1000)] == [60, 120, 240, 480, 600, 600]


def flap(group: Group, opened_s: float, closed_s: float) -> None:
    group.look(opened_s, a=replace(back(opened_s, closed_s), is_open=True))
    group.look(closed_s, a=back(opened_s, closed_s))


def test_flapping_provider_gets_its_canary_ever_later_and_the_turns_stay_few() -> None:
    """Up for 90 s, down for 10 s, for a day."""
    group = Group()
    for opened_s in range(100, 86_400, 100):
        group.look(opened_s - 1)
        flap(group, opened_s, opened_s + 10)
    kinds = [turn.kind for turn in group.told]
    assert kinds.count(TurnKind.CANARY) == 1  # after that the dwell is longer than it is ever well
    assert kinds.count(TurnKind.FAILOVER) == 1
    assert dwell_s(FAILBACK, group.state.trust(A).relapses) == 600


def served(group: Group, at_s: float) -> None:
    """From the end of its dwell straight to serving."""
    group.look(at_s)
    for _ in range(3):
        group.canary(at_s, True)
    group.look(at_s)
    group.look(at_s + 100)
    assert group.phase() is Phase.SERVING


@pytest.mark.parametrize(("service_s", "relapses"), [(1, 1), (599, 1), (600, 0), (10_000, 0)])
def test_relapses_are_forgotten_by_as_long_a_service_as_the_longest_dwell(service_s: float, relapses: int) -> None:
    group = returned(1000)
    served(group, 1060)  # serves from 1160 s on
    group.look(1160 + service_s, a=replace(back(1160 + service_s, 1000), is_open=True))
    assert group.state.trust(A).relapses == relapses


def test_all_out_when_they_come_back_is_served_by_the_one_that_is_furthest() -> None:
    group = Group()
    group.look(100, a=down(100))
    group.look(110, b=down(110))
    assert (group.state.serving, group.told[-1].kind, group.told[-1].after) == ("", TurnKind.FAILOVER, "")
    group.look(200, b=back(110, 200))
    assert group.state.serving == B
    group.look(210, a=back(100, 210))
    assert group.state.serving == B  # it was well for longer
    group.look(260)
    assert (group.phase(B), group.phase(A), group.state.serving) == (Phase.CANARY, Phase.DWELL, B)


def test_first_choice_among_the_returning_that_changes_is_no_failure_of_anybody() -> None:
    group = Group()
    group.look(100, a=down(100))
    group.look(110, b=down(110))
    group.look(200, b=back(110, 200))
    group.look(201, a=back(100, 201))
    group.look(260)
    group.look(261)
    assert group.state.serving == B
    for _ in range(3):
        group.canary(262, True)
    assert group.look(262) == [TurnKind.FAILOVER]
    turn = group.told[-1]
    assert (turn.before, turn.after, turn.failed_us) == (B, A, 0)
    assert "breaker" not in turn.why


def test_three_providers_when_two_are_out_are_served_by_the_third_and_fail_back_step_by_step() -> None:
    group = Group(replace(RULE, providers=(A, B, C)))
    group.look(100, a=down(100), b=down(100))
    assert group.state.serving == C
    group.look(200, b=back(100, 200))
    group.look(260)
    for _ in range(3):
        group.canary(260, True, B)
    group.look(260)
    assert group.look(360) == [TurnKind.FAILBACK]
    assert group.state.serving == B


def test_hurried_ends_a_dwell_and_nothing_else() -> None:
    group = returned()
    group.state = hurried(group.state, A, us(1001))
    assert group.phase() is Phase.CANARY
    assert group.look(1001) == []
    for other in (Group(), in_canary(), in_ramp()):
        assert hurried(other.state, A, us(1100)) == other.state
    out = Group()
    out.look(100, a=down(100))
    assert hurried(out.state, A, us(101)) == out.state


def test_pin_when_trust_moves_stays_as_it_is() -> None:
    group = Group()
    pin = Pin(A, "contract", "ops", 7)
    group.state = replace(group.state, pin=pin)
    group.look(100, a=down(100))
    group.look(500, a=back(100, 200))
    assert group.state.pin == pin


@pytest.mark.parametrize(
    ("phase", "age_s", "expected"),
    [
        (Phase.SERVING, 0, 1.0),
        (Phase.OUT, 10**6, 0.0),
        (Phase.DWELL, 10**6, 0.0),
        (Phase.CANARY, 10**6, 0.0),
        (Phase.RAMP, 0, 0.1),
        (Phase.RAMP, 50, 0.55),
        (Phase.RAMP, 100, 1.0),
        (Phase.RAMP, 10**6, 1.0),
    ],
)
def test_share_follows_the_phase(phase: Phase, age_s: float, expected: float) -> None:
    assert share(Trust(phase, us(5)), FAILBACK, us(5 + age_s)) == pytest.approx(expected)


def test_share_of_a_ramp_only_grows() -> None:
    shares = [share(Trust(Phase.RAMP, 0), FAILBACK, us(age_s / 10)) for age_s in range(1200)]
    assert shares == sorted(shares)


def test_share_when_there_is_no_ramp_is_everything() -> None:
    assert share(Trust(Phase.RAMP, 0), replace(FAILBACK, ramp_s=0), 0) == 1.0


def test_failback_when_nothing_of_it_takes_time_is_done_with_its_canaries() -> None:
    group = Group(replace(RULE, failback=FailbackRule(0, 0, 1, 0)))
    group.look(100, a=down(100))
    group.look(200, a=back(100, 200))
    assert group.phase() is Phase.CANARY
    group.canary(200, True)
    assert group.look(200) == [TurnKind.FAILBACK]
