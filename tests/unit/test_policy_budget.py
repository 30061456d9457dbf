"""A day's or month's budget, several rates at once, who goes first while it is short, and waits that nobody named."""

from __future__ import annotations

from datetime import UTC, datetime, time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tideover.model import SECOND_US
from tideover.policy.quota import (
    BACKLOG_SHARE,
    BudgetRule,
    LimitRule,
    RateRule,
    Use,
    after,
    backlog_part,
    left,
    limit_wait_us,
    throttle,
)
from tideover.policy.sharing import fair_shares

HOUR_US = 3600 * SECOND_US


def us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * SECOND_US  # type: ignore[misc,arg-type]


NOON = us(2026, 5, 20, 12)


@pytest.mark.parametrize(
    ("rule", "now", "expected"),
    [
        (BudgetRule(9), NOON, us(2026, 5, 21)),
        (BudgetRule(9), us(2026, 5, 21) - 1, us(2026, 5, 21)),
        (BudgetRule(9), us(2026, 5, 21), us(2026, 5, 22)),
        (BudgetRule(9, resets=time(18, 30)), NOON, us(2026, 5, 20, 18, 30)),
        (BudgetRule(9, resets=time(6)), NOON, us(2026, 5, 21, 6)),
        (BudgetRule(9, timezone="Europe/Amsterdam"), NOON, us(2026, 5, 20, 22)),  # two hours ahead in summer
        (BudgetRule(9, timezone="Europe/Amsterdam"), us(2026, 5, 20, 23), us(2026, 5, 21, 22)),
        (BudgetRule(9, timezone="America/Los_Angeles"), us(2026, 5, 21, 3), us(2026, 5, 21, 7)),
        (BudgetRule(9, timezone="Europe/Amsterdam"), us(2026, 10, 24, 23), us(2026, 10, 25, 23)),  # a day of 25 hours
        (BudgetRule(9, resets=time(2, 30), timezone="Europe/Amsterdam"), us(2026, 3, 29), us(2026, 3, 29, 1, 30)),
        (BudgetRule(9, "month"), NOON, us(2026, 6, 1)),
        (BudgetRule(9, "month"), us(2026, 12, 31, 23), us(2027, 1, 1)),
        (BudgetRule(9, "month", time(6)), us(2026, 6, 1, 5), us(2026, 6, 1, 6)),
        (BudgetRule(9, "month", timezone="Asia/Tokyo"), us(2026, 5, 31, 16), us(2026, 6, 30, 15)),
    ],
)
def test_next_reset_is_the_first_after_an_instant(rule: BudgetRule, now: int, expected: int) -> None:
    assert rule.next_reset_us(now) == expected


def test_budget_lets_so_many_through_until_its_reset_and_then_as_many_again() -> None:
    rule = LimitRule(budget=BudgetRule(10))
    uses = after(rule, {}, NOON, 7)
    assert left(rule, uses, NOON) == 3
    uses = after(rule, uses, NOON + HOUR_US, 3)
    assert left(rule, uses, NOON + HOUR_US) == 0
    assert limit_wait_us(rule, uses, NOON + HOUR_US) == 11 * HOUR_US
    assert left(rule, uses, us(2026, 5, 21) - 1) == 0
    assert left(rule, uses, us(2026, 5, 21)) == 10


def test_budget_gets_back_what_was_not_sent_but_a_rate_does_not() -> None:
    rule = LimitRule((RateRule(10, 60),), BudgetRule(10))
    uses = after(rule, {}, NOON, 10)
    uses = after(rule, uses, NOON, -4)
    assert left(LimitRule(budget=rule.budget), uses, NOON) == 4
    assert left(rule, uses, NOON) == 0


def test_budget_with_a_smaller_number_keeps_its_count_and_one_with_another_reset_begins_anew() -> None:
    uses = after(LimitRule(budget=BudgetRule(5)), {}, NOON, 4)
    changed = [BudgetRule(3), BudgetRule(9), BudgetRule(9, resets=time(13))]
    assert [left(LimitRule(budget=rule), uses, NOON) for rule in changed] == [0, 5, 9]


def test_reserve_is_live_traffics_at_first_and_nobodys_in_the_end() -> None:
    rule = LimitRule(budget=BudgetRule(1000, reserve=0.2))
    midnight = us(2026, 5, 21)

    def at(now: int, used: int) -> tuple[int | None, int | None]:
        uses = {BudgetRule(1).name: Use(used, midnight)}
        return left(rule, uses, now, is_live=False), left(rule, uses, now)

    assert at(midnight - 24 * HOUR_US, 0) == (800, 1000)
    assert at(midnight - 12 * HOUR_US, 850) == (50, 150)
    assert at(midnight - 12 * HOUR_US, 950) == (0, 50)
    assert at(midnight - 1, 990) == (10, 10)


def test_wait_of_a_backlog_is_until_the_reserve_lets_one_more_go() -> None:
    rule = LimitRule(budget=BudgetRule(1000, reserve=0.2))
    uses = {BudgetRule(1).name: Use(950, us(2026, 5, 21))}
    wait = limit_wait_us(rule, uses, NOON, is_live=False)
    assert limit_wait_us(rule, uses, NOON) == 0
    assert left(rule, uses, NOON + wait + SECOND_US, is_live=False) == 1
    assert left(rule, uses, NOON + wait - 60 * SECOND_US, is_live=False) == 0


RATES = st.lists(st.builds(RateRule, st.integers(1, 60), st.sampled_from([1.0, 10.0, 60.0])), min_size=1, max_size=3)


@given(RATES, st.lists(st.tuples(st.floats(0, 12), st.integers(1, 80)), min_size=1, max_size=40))
def test_left_of_several_rates_never_oversteps_any_of_them(
    rates: list[RateRule], asked: list[tuple[float, int]]
) -> None:
    rule, uses, now = LimitRule(tuple(rates)), dict[str, Use](), NOON
    gone: list[tuple[int, int]] = []
    for pause_s, wanted in asked:
        now += int(pause_s * SECOND_US)
        got = min(left(rule, uses, now) or 0, wanted)
        uses = after(rule, uses, now, got)
        gone.append((now, got))
    for rate in rates:
        for begin, _ in gone:
            assert sum(n for at, n in gone if begin <= at < begin + rate.window_us) <= rate.calls


@example(1, 258_242)  # with which a Weyl sequence gave it a third
@given(st.integers(1, 50), st.integers(1, 3_000_000))
def test_backlog_gets_its_share_in_the_long_run_however_little_there_is_at_a_time(room: int, step_us: int) -> None:
    claims = 2_000
    got = sum(backlog_part(NOON + n * step_us, room) for n in range(claims))
    assert got == pytest.approx(BACKLOG_SHARE * room * claims, rel=0.35, abs=20 * room)


@pytest.mark.parametrize(
    ("asked_s", "guess_s", "throttles", "is_paused", "is_served", "expected"),
    [
        (7.0, 0.0, 0, False, False, (7.0, 0)),  # what it asks for is what it gets
        (0.0, 30.0, 0, False, False, (30.0, 1)),
        (0.0, 30.0, 1, False, False, (60.0, 2)),
        (0.0, 30.0, 2, False, True, (120.0, 3)),  # what went through beside it changes nothing
        (0.0, 30.0, 9, False, False, (900.0, 10)),
        (0.0, 1800.0, 3, False, False, (1800.0, 4)),
        (0.0, 30.0, 2, True, False, (60.0, 2)),  # of the same throttle
        (0.0, 0.0, 5, False, True, (0.0, 0)),  # served again
        (0.0, 0.0, 5, True, True, (0.0, 5)),  # an answer from before the pause
        (0.0, 0.0, 5, False, False, (0.0, 5)),
        (50.0, 30.0, 0, False, False, (50.0, 1)),
    ],
)
def test_throttle_without_a_word_of_how_long_waits_longer_each_time(
    asked_s: float, guess_s: float, throttles: int, is_paused: bool, is_served: bool, expected: tuple[float, int]
) -> None:
    assert throttle(asked_s, guess_s, throttles, is_paused=is_paused, is_served=is_served) == expected


@pytest.mark.parametrize(
    ("cap", "wanted", "turn", "expected"),
    [
        (10, {"a": 16}, 0, {"a": 10}),
        (10, {"a": 16, "b": 16}, 0, {"a": 5, "b": 5}),
        (10, {"a": 16, "b": 1}, 0, {"a": 9, "b": 1}),
        (10, {"a": 2, "b": 3}, 0, {"a": 2, "b": 3}),
        (1, {"a": 1, "b": 1}, 0, {"a": 1, "b": 0}),
        (1, {"a": 1, "b": 1}, 1, {"a": 0, "b": 1}),
        (7, {"a": 9, "b": 9, "c": 1}, 0, {"a": 3, "b": 3, "c": 1}),
        (5, {}, 0, {}),
    ],
)
def test_fair_shares(cap: int, wanted: dict[str, int], turn: int, expected: dict[str, int]) -> None:
    assert fair_shares(cap, wanted, turn) == expected


@given(st.integers(1, 100), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40)), st.integers(0, 99))
def test_fair_shares_give_all_there_is_and_nobody_less_than_another_that_wants_no_more(
    cap: int, wanted: dict[str, int], turn: int
) -> None:
    shares = fair_shares(cap, wanted, turn)
    assert sum(shares.values()) == min(cap, sum(wanted.values()))
    assert all(shares[name] <= wanted[name] for name in wanted)
    for name, share in shares.items():
        assert share == wanted[name] or share >= max(shares.values()) - 1
