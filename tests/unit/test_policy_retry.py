"""When a record is tried again, and when it is given up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tideover.policy.retry import RetryRule, reason_to_give_up, wait_s

RULE = RetryRule(max_attempts=5, base_s=2.0, cap_s=30.0, max_age_s=3600.0)
ALMOST_ONE = math.nextafter(1.0, 0.0)


@pytest.mark.parametrize(("attempts", "most_s"), [(0, 2), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (6, 30)])
def test_wait_after_each_attempt_is_spread_from_nothing_to_twice_as_long(attempts: int, most_s: float) -> None:
    assert wait_s(RULE, attempts, 0.0) == 0.0
    assert wait_s(RULE, attempts, 0.5) == most_s / 2
    assert wait_s(RULE, attempts, ALMOST_ONE) == pytest.approx(most_s)


@pytest.mark.parametrize("attempts", [62, 63, 64, 1_100, 10**9])
def test_wait_after_very_many_attempts_stays_at_the_cap(attempts: int) -> None:
    assert wait_s(RULE, attempts, 0.5) == 15.0


@settings(derandomize=True, deadline=None)
@given(
    st.floats(0, 1e6), st.floats(0, 1e6), st.integers(-1, 10**6), st.floats(0, 1, exclude_max=True), st.integers(0, 9)
)
def test_wait_for_any_rule_is_between_nothing_and_the_cap_and_never_shrinks(
    base_s: float, cap_s: float, attempts: int, spread: float, more: int
) -> None:
    rule = RetryRule(5, base_s, cap_s, None)
    assert 0 <= wait_s(rule, attempts, spread) <= cap_s
    assert wait_s(rule, attempts, spread) <= wait_s(rule, attempts + more, spread)


@pytest.mark.parametrize(
    ("attempts", "age_s", "expected"),
    [
        (0, 0, None),
        (4, 3599.9, None),
        (5, 0, "attempts"),
        (6, 0, "attempts"),
        (0, 3600, "expired"),
        (5, 3600, "expired"),
    ],
)
def test_give_up_by_count_and_by_age_says_which(attempts: int, age_s: float, expected: str | None) -> None:
    assert reason_to_give_up(RULE, attempts, age_s) == expected


def test_give_up_without_an_age_limit_never_says_expired() -> None:
    assert reason_to_give_up(RetryRule(5, 1, 1, None), 4, 1e12) is None
