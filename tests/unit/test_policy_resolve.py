"""What to do with an unknown outcome: the whole table, up to the horizon of the provider's keys and past it."""

from __future__ import annotations

import itertools

import pytest

from tideover.model import Resolve
from tideover.policy.resolve import HORIZON_SHARE, ResolveRule, Step, is_miss_final, next_step

HORIZON_S = 86_400.0
YOUNG_S, OLD_S = 60.0, 2 * HORIZON_S
RESEND, LOOK_UP, PARK = Step.RESEND, Step.LOOK_UP, Step.PARK

# (how, has a look-up, accepts duplicates): (within the horizon, past it)
TABLE = {
    (Resolve.NATURAL, False, False): (RESEND, RESEND),
    (Resolve.NATURAL, False, True): (RESEND, RESEND),
    (Resolve.NATURAL, True, False): (RESEND, RESEND),
    (Resolve.NATURAL, True, True): (RESEND, RESEND),
    (Resolve.KEY, False, False): (RESEND, PARK),
    (Resolve.KEY, False, True): (RESEND, RESEND),
    (Resolve.KEY, True, False): (RESEND, LOOK_UP),
    (Resolve.KEY, True, True): (RESEND, LOOK_UP),
    (Resolve.LOOKUP, False, False): (PARK, PARK),
    (Resolve.LOOKUP, False, True): (RESEND, RESEND),
    (Resolve.LOOKUP, True, False): (LOOK_UP, LOOK_UP),
    (Resolve.LOOKUP, True, True): (LOOK_UP, LOOK_UP),
    (Resolve.NONE, False, False): (PARK, PARK),
    (Resolve.NONE, False, True): (RESEND, RESEND),
    (Resolve.NONE, True, False): (PARK, PARK),
    (Resolve.NONE, True, True): (RESEND, RESEND),
}


def rule(how: Resolve, has_lookup: bool = True, accepts_duplicates: bool = False) -> ResolveRule:
    return ResolveRule(how, HORIZON_S, has_lookup, settle_s=30.0, accepts_duplicates=accepts_duplicates)


def test_table_for_every_way_to_resolve_is_whole() -> None:
    assert set(TABLE) == set(itertools.product(Resolve, (False, True), (False, True)))


@pytest.mark.parametrize(("how", "has_lookup", "accepts_duplicates"), TABLE)
def test_next_step_within_and_past_the_horizon_follows_the_table(
    how: Resolve, has_lookup: bool, accepts_duplicates: bool
) -> None:
    it = rule(how, has_lookup, accepts_duplicates)
    assert (next_step(it, YOUNG_S), next_step(it, OLD_S)) == TABLE[how, has_lookup, accepts_duplicates]


def test_key_when_its_horizon_is_nearly_over_is_no_longer_used() -> None:
    last_s = HORIZON_S * HORIZON_SHARE
    assert next_step(rule(Resolve.KEY), last_s - 0.001) is RESEND
    assert next_step(rule(Resolve.KEY), last_s) is LOOK_UP


@pytest.mark.parametrize(("age_s", "expected"), [(0, False), (29.999, False), (30, True), (1e9, True)])
def test_miss_when_a_request_may_still_be_on_its_way_is_not_final(age_s: float, expected: bool) -> None:
    assert is_miss_final(rule(Resolve.LOOKUP), age_s) is expected
