"""Who gets a record: every row of the module's table, the shares as they come out, and three providers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tideover.model import SECOND_US
from tideover.policy.choice import Choice, Send, Wait, Want, choose, draw_of
from tideover.policy.failover import FailbackRule, GroupRule, GroupState, Health, Phase, Pin, Trust

A, B, C = "carrier-a", "carrier-b", "carrier-c"
NOW = 1000 * SECOND_US
OPEN = Health(is_open=True)
IDS = [sha256(str(n).encode()).hexdigest() for n in range(10_000)]


def paused(seconds: float) -> Health:
    return Health(paused_until_us=NOW + int(seconds * SECOND_US))


def ramp(seconds: float) -> Trust:
    return Trust(Phase.RAMP, NOW - int(seconds * SECOND_US))


@dataclass
class Group:
    providers: Sequence[str] = (A, B, C)
    live: Sequence[str] = ()
    live_share: float = 0.0
    trusts: dict[str, Trust] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    pin: str = ""

    def choose(
        self,
        draw: float = 0.0,
        *,
        eligible: Sequence[str] | None = None,
        shunned: Collection[str] = (),
        avoid: str = "",
        patience_s: float = 0.0,
    ) -> Choice:
        rule = GroupRule(tuple(self.providers), tuple(self.live), self.live_share, FailbackRule(ramp_s=100))
        state = GroupState(self.trusts, None, Pin(self.pin, "", "", 0) if self.pin else None)
        health = {name: self.health.get(name, Health()) for name in self.providers}
        patience_us = NOW + int(patience_s * SECOND_US)
        want = Want(self.providers if eligible is None else eligible, draw, shunned, avoid, patience_us)
        return choose(state, rule, health, want, NOW)

    def frequencies(self) -> Counter[str]:
        found = Counter[str]()
        for identity in IDS:
            choice = self.choose(draw_of(identity))
            assert isinstance(choice, Send)
            found[choice.system] += 1
        return found


# --- row by row ---------------------------------------------------------------------------------------------


def test_all_well_goes_to_the_preferred() -> None:
    assert Group().choose() == Send(A)


def test_not_eligible_is_never_chosen_and_the_next_is_no_backup_for_it() -> None:
    assert Group().choose(eligible=[B, C]) == Send(B)
    assert Group().choose(eligible=[]) == Wait()


@pytest.mark.parametrize("order", list(permutations((A, B, C))))
def test_order_of_preference_is_that_of_the_record(order: Sequence[str]) -> None:
    assert Group().choose(eligible=order) == Send(order[0])


def test_shunned_is_never_chosen() -> None:
    assert Group().choose(shunned={A}) == Send(B)
    assert Group().choose(shunned={A, B, C}) == Wait()
    assert Group(health={B: OPEN, C: OPEN}).choose(shunned={A}) == Wait()


def test_open_breaker_is_never_chosen_and_its_stand_in_is_a_backup() -> None:
    assert Group(health={A: OPEN}).choose() == Send(B, is_backup=True)
    assert Group(health={A: OPEN, B: OPEN}).choose() == Send(C, is_backup=True)
    assert Group(health={A: OPEN, B: OPEN, C: OPEN}).choose() == Wait()


def test_pin_is_exclusive() -> None:
    assert Group(pin=B).choose() == Send(B, is_backup=True)
    assert Group(pin=A).choose() == Send(A)
    assert Group(pin=B, health={B: OPEN}).choose() == Wait()
    assert Group(pin=B).choose(shunned={B}) == Wait()
    assert Group(pin=B).choose(eligible=[A, C]) == Wait()
    assert Group(pin=B).choose(avoid=B) == Send(B, is_backup=True)
    assert Group(pin=B, health={B: paused(5)}).choose() == Wait(NOW + 5 * SECOND_US)


@pytest.mark.parametrize("phase", list(Phase))
def test_pin_when_its_provider_is_not_trusted_sends_all_the_same_and_is_no_canary(phase: Phase) -> None:
    assert Group(pin=A, trusts={A: Trust(phase)}).choose(0.99) == Send(A)


def test_pause_within_the_patience_is_waited_for() -> None:
    group = Group(health={A: paused(5)})
    assert group.choose(patience_s=5) == Wait(NOW + 5 * SECOND_US)
    assert group.choose(patience_s=4.9) == Send(B, is_backup=True)
    assert group.choose(patience_s=-100) == Send(B, is_backup=True)


def test_pause_when_nobody_else_can_have_it_is_waited_for_however_long_until_the_first_is_over() -> None:
    long = Group(health={A: paused(3600), B: paused(1800), C: OPEN})
    assert long.choose() == Wait(NOW + 1800 * SECOND_US)
    assert long.choose(eligible=[A]) == Wait(NOW + 3600 * SECOND_US)
    assert long.choose(eligible=[C]) == Wait()


def test_pause_that_is_just_over_is_none() -> None:
    assert Group(health={A: paused(0)}).choose() == Send(A)


@pytest.mark.parametrize("phase", [Phase.DWELL, Phase.CANARY])
def test_not_trusted_gets_a_record_only_where_no_trusted_one_can_have_it(phase: Phase) -> None:
    trust = Trust(phase, canaries_out=3, canary_until_us=NOW + 1)
    assert Group(trusts={A: trust}).choose() == Send(B, is_backup=True)
    assert Group(trusts={A: trust}, health={B: OPEN, C: OPEN}).choose() == Send(A)
    assert Group(trusts={A: trust}).choose(eligible=[A]) == Send(A)
    assert Group(trusts={A: trust}, health={B: paused(5), C: OPEN}).choose(patience_s=1) == Send(A)


def test_not_trusted_ones_among_themselves_go_by_how_far_they_are() -> None:
    trusts = {
        A: Trust(Phase.DWELL, 1),
        B: Trust(Phase.DWELL, 0),
        C: Trust(Phase.CANARY, 5, canaries_out=3, canary_until_us=NOW + 1),
    }
    assert Group(trusts=trusts).choose() == Send(C, is_backup=True)
    assert Group(trusts=trusts).choose(eligible=[A, B]) == Send(B, is_backup=True)


def test_could_not_be_reached_comes_last_even_behind_what_is_not_trusted() -> None:
    dwelling = Trust(Phase.DWELL)
    assert Group().choose(avoid=A) == Send(B, is_backup=True)
    assert Group(trusts={B: dwelling}, health={C: OPEN}).choose(avoid=A) == Send(B, is_backup=True)
    assert Group(health={B: OPEN, C: OPEN}).choose(avoid=A) == Send(A)
    assert Group().choose(eligible=[A], avoid=A) == Send(A)


# --- canary, ramp and live share ----------------------------------------------------------------------------


def test_canary_goes_to_the_provider_whose_slot_is_free_whatever_the_draw() -> None:
    free = Group(trusts={A: Trust(Phase.CANARY)})
    assert free.choose(0.999) == Send(A, is_canary=True)
    taken = Group(trusts={A: Trust(Phase.CANARY, canaries_out=3, canary_until_us=NOW + 1)})
    assert taken.choose() == Send(B, is_backup=True)
    expired = Group(trusts={A: Trust(Phase.CANARY, canaries_out=3, canary_until_us=NOW)})
    assert expired.choose() == Send(A, is_canary=True)


def test_canary_of_a_backup_waits_for_a_record_that_is_its_anyway() -> None:
    canary = {B: Trust(Phase.CANARY)}
    assert Group(trusts=canary).choose() == Send(A)
    assert Group(trusts=canary, live=[B], live_share=0.1).choose(0.95) == Send(B, is_canary=True)
    assert Group(trusts=canary, health={A: OPEN}).choose() == Send(B, is_backup=True, is_canary=True)


def test_ramp_when_it_goes_on_sends_ever_more_and_none_that_once_went_back_leaves_again() -> None:
    before: set[str] = set()
    for seconds in (0, 10, 25, 50, 90, 100):
        group = Group(trusts={A: ramp(seconds)})
        now = {identity for identity in IDS if group.choose(draw_of(identity)) == Send(A)}
        assert before <= now
        assert len(now) / len(IDS) == pytest.approx(min(1, 0.1 + 0.9 * seconds / 100), abs=0.02)
        before = now


def test_ramp_sends_the_rest_to_the_next_that_is_trusted() -> None:
    assert Group(trusts={A: ramp(0)}).choose(0.5) == Send(B, is_backup=True)
    assert Group(trusts={A: ramp(0)}, health={B: OPEN, C: OPEN}).choose(0.5) == Send(A)


@pytest.mark.parametrize("live_share", [0.0, 0.01, 0.02, 0.05, 0.5])
def test_live_share_of_one_backup_comes_out_as_it_is_configured(live_share: float) -> None:
    found = Group(providers=(A, B), live=[B], live_share=live_share).frequencies()
    assert found[B] / len(IDS) == pytest.approx(live_share, abs=0.01 if live_share < 0.1 else 0.02)
    assert (live_share > 0) == (found[B] > 0)


def test_live_share_of_two_backups_is_as_much_for_each() -> None:
    found = Group(live=[B, C], live_share=0.1).frequencies()
    assert found[B] / len(IDS) == pytest.approx(0.1, abs=0.01)
    assert found[C] / len(IDS) == pytest.approx(0.1, abs=0.01)


def test_live_share_while_the_preferred_ramps_is_not_taken_out_of_its_ramp() -> None:
    found = Group(live=[B], live_share=0.1, trusts={A: ramp(0)}).frequencies()
    assert found[A] / len(IDS) == pytest.approx(0.1, abs=0.01)


LIVE = 0.999  # a draw that falls into the live share


@pytest.mark.parametrize(
    "group",
    [
        Group(live=[B], live_share=0.1, health={B: OPEN}),
        Group(live=[B], live_share=0.1, health={B: paused(1)}),
        Group(live=[B], live_share=0.1, trusts={B: Trust(Phase.DWELL)}),
        Group(live=[B], live_share=0.1, trusts={B: Trust(Phase.CANARY, canaries_out=3, canary_until_us=NOW + 1)}),
        Group(live=[B], live_share=0.1, pin=A),
    ],
)
def test_live_share_of_a_backup_that_can_not_have_it_stays_with_the_preferred(group: Group) -> None:
    assert group.choose(LIVE, patience_s=10) == Send(A)


def test_live_share_takes_no_record_that_the_backup_may_not_have() -> None:
    group = Group(live=[B], live_share=0.1)
    assert group.choose(LIVE) == Send(B)
    assert group.choose(LIVE, eligible=[A, C]) == Send(A)
    assert group.choose(LIVE, shunned={B}) == Send(A)
    assert group.choose(LIVE, avoid=B) == Send(A)


def test_live_share_of_a_backup_that_ramps_is_its_ramp() -> None:
    young = Group(live=[B], live_share=0.5, trusts={B: ramp(0)}).frequencies()
    old = Group(live=[B], live_share=0.5, trusts={B: ramp(90)}).frequencies()
    assert young[B] / len(IDS) == pytest.approx(0.05, abs=0.01)
    assert old[B] / len(IDS) == pytest.approx(0.5 * 0.91, abs=0.02)


def test_live_share_when_the_preferred_is_down_is_nobodys() -> None:
    assert Group(live=[C], live_share=0.5, health={A: OPEN}).choose(LIVE) == Send(B, is_backup=True)


def test_draw_of_a_record_is_the_same_each_time_and_spreads_evenly() -> None:
    draws = [draw_of(identity) for identity in IDS]
    assert draws == [draw_of(identity) for identity in IDS]
    assert all(0 <= draw < 1 for draw in draws)
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.02)


# --- whatever the group is like -----------------------------------------------------------------------------

HEALTHS = st.sampled_from([Health(), OPEN, paused(1), paused(30), paused(3600)])
TRUSTS = st.sampled_from(
    [
        Trust(),
        Trust(Phase.OUT),
        Trust(Phase.DWELL, 5),
        Trust(Phase.CANARY),
        Trust(Phase.CANARY, canaries_out=3, canary_until_us=2 * NOW),
    ]
    + [ramp(seconds) for seconds in (0, 40, 99)]
)
NAMES = (A, B, C)


@given(
    trusts=st.fixed_dictionaries(dict.fromkeys(NAMES, TRUSTS)),
    health=st.fixed_dictionaries(dict.fromkeys(NAMES, HEALTHS)),
    eligible=st.permutations(NAMES).flatmap(lambda names: st.integers(0, 3).map(lambda n: names[:n])),
    shunned=st.sets(st.sampled_from(NAMES)),
    avoid=st.sampled_from(["", *NAMES]),
    draw=st.floats(0, 1, exclude_max=True),
    pin=st.sampled_from(["", "", A, B]),
    live=st.sampled_from([(), (B,), (B, C)]),
    patience_s=st.sampled_from([-5.0, 0.0, 10.0, 100.0]),
)
def test_choice_whatever_the_group_is_like_keeps_the_table(
    trusts: dict[str, Trust],
    health: dict[str, Health],
    eligible: Sequence[str],
    shunned: set[str],
    avoid: str,
    draw: float,
    pin: str,
    live: Sequence[str],
    patience_s: float,
) -> None:
    group = Group(live=live, live_share=0.1, trusts=trusts, health=health, pin=pin)
    choice = group.choose(draw, eligible=eligible, shunned=shunned, avoid=avoid, patience_s=patience_s)
    may = [name for name in eligible if name not in shunned and pin in ("", name) and not health[name].is_open]
    now = [name for name in may if health[name].paused_until_us <= NOW]
    soon = [name for name in may if NOW < health[name].paused_until_us <= NOW + patience_s * SECOND_US]
    if isinstance(choice, Wait):
        assert not now or soon, "somebody could have it"
        assert choice.until_us in (0, *(health[name].paused_until_us for name in may))
        return
    assert choice.system in now
    assert not choice.is_canary or (trusts[choice.system].phase is Phase.CANARY and not pin)
    if choice.system == avoid:
        assert may == [avoid] or all(name in may and name not in now + soon for name in may if name != avoid)


@pytest.mark.parametrize(("a", "b"), list(product(Phase, Phase)))
def test_two_well_providers_whatever_their_phases_never_let_a_record_wait(a: Phase, b: Phase) -> None:
    group = Group(
        providers=(A, B),
        trusts={
            A: Trust(a, canaries_out=3, canary_until_us=2 * NOW),
            B: Trust(b, canaries_out=3, canary_until_us=2 * NOW),
        },
    )
    assert all(isinstance(group.choose(draw / 10), Send) for draw in range(10))
