"""The rate limit's promises: never more than its number in any window, and hardly less than it allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tideover.model import SECOND_US
from tideover.policy.quota import UNUSED, RateRule, permits, spent, wait_us

RULES = st.builds(RateRule, st.integers(1, 400), st.sampled_from([0.001, 1.0, 7.0, 60.0, 3600.0, 86_400.0]))


class Gauge:
    """A limit in use: how many records went at which instant."""

    def __init__(self, rule: RateRule, now_us: int = 0) -> None:
        self.rule, self.now_us, self.use = rule, now_us, UNUSED
        self.gone: list[tuple[int, int]] = []

    def take(self, wanted: int) -> int:
        got = min(permits(self.rule, self.use, self.now_us), wanted)
        if got:
            self.use = spent(self.rule, self.use, self.now_us, got)
            self.gone.append((self.now_us, got))
        return got

    def wait(self) -> None:
        self.now_us += wait_us(self.rule, self.use, self.now_us)

    @property
    def fullest_window(self) -> int:
        """The most that went within one window's length, wherever it begins."""
        length_us = int(self.rule.window_s * SECOND_US)
        return max(sum(n for at, n in self.gone if begin <= at < begin + length_us) for begin, _ in self.gone)


@given(RULES, st.lists(st.tuples(st.floats(0, 2), st.integers(1, 500), st.booleans()), min_size=1, max_size=60))
def test_permits_whatever_is_asked_for_never_more_than_the_limit_in_any_window(
    rule: RateRule, asked: list[tuple[float, int, bool]]
) -> None:
    gauge = Gauge(rule, 1_800_000_000 * SECOND_US)
    for share, wanted, waits in asked:
        gauge.take(wanted)
        if waits:
            gauge.wait()
        else:
            gauge.now_us += int(share * rule.window_s * SECOND_US / rule.calls)
    assert not gauge.gone or gauge.fullest_window <= rule.calls


@given(RULES, st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_wait_after_any_use_is_what_the_next_record_needs_and_no_more(rule: RateRule, asked: list[int]) -> None:
    gauge = Gauge(rule)
    for wanted in asked:
        while not gauge.take(wanted):
            assert wait_us(rule, gauge.use, gauge.now_us) > 0
            gauge.now_us += wait_us(rule, gauge.use, gauge.now_us) - 1
            assert permits(rule, gauge.use, gauge.now_us) == 0
            gauge.now_us += 1
            assert permits(rule, gauge.use, gauge.now_us) >= 1


@pytest.mark.parametrize("calls", [1, 3, 7])
def test_permits_when_the_limit_is_small_lets_one_go_at_a_time(calls: int) -> None:
    rule = RateRule(calls, 60)
    assert (rule.burst, permits(rule, UNUSED, 10)) == (1, 1)


@pytest.mark.parametrize("calls", [1, 2, 5, 25, 50, 99, 1000, 10_000])
@pytest.mark.parametrize("window_s", [1.0, 60.0, 3600.0])
def test_saturated_run_when_the_limit_is_large_uses_nearly_all_of_it(calls: int, window_s: float) -> None:
    gauge = Gauge(RateRule(calls, window_s))
    end_us = int(20 * window_s * SECOND_US)
    total = 0
    while gauge.now_us < end_us:
        total += gauge.take(10**6)
        gauge.wait()
    assert 0.95 * 20 * calls - 1 <= total <= 20 * calls


@pytest.mark.parametrize(
    ("rule", "every_us", "share"),
    [
        (RateRule(100, 1), 3_000, 0.95),
        (RateRule(500, 1), 20_000, 0.95),
        (RateRule(6_000, 60), 250_000, 0.95),
        (RateRule(6_000, 60), 999_000, 0.9),
    ],
)
def test_saturated_run_when_it_is_asked_rarely_still_uses_most_of_the_limit(
    rule: RateRule, every_us: int, share: float
) -> None:
    gauge = Gauge(rule)
    total, windows = 0, 20
    while gauge.now_us < windows * rule.window_us:
        total += gauge.take(10**6)
        gauge.now_us += every_us
    assert total >= share * windows * rule.calls
    assert gauge.fullest_window <= rule.calls


def test_short_window_lets_little_go_at_once() -> None:
    assert (RateRule(500, 1).burst, RateRule(500, 10).burst, RateRule(5, 1).burst) == (12, 62, 1)


def test_permits_after_more_was_spent_than_there_was_pays_the_debt_first() -> None:
    rule = RateRule(10, 10)
    use = spent(rule, UNUSED, 0, 5)  # a run of records in doubt is asked about as a whole
    assert permits(rule, use, 5 * SECOND_US) == 0
    assert permits(rule, use, 6 * SECOND_US) == 1
