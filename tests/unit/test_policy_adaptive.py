"""How many calls may be under way: slow start, overload, calm and latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tideover.model import (
    CREDENTIALS,
    HUNG,
    INTERRUPTED,
    Accepted,
    Found,
    LookUp,
    Missing,
    Outcome,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.adaptive import START, Adaptive, Sign, sign_of

OK, BAD = Accepted(), Unknown("server_error")


@pytest.mark.parametrize(
    ("outcomes", "sign"),
    [
        ([OK], Sign.WELL),
        ([Rejected("BAD")], Sign.WELL),
        ([Found("x")], Sign.WELL),
        ([Missing()], Sign.WELL),
        ([Throttled(1.0)], Sign.OVERLOAD),
        ([OK, Throttled(1.0)], Sign.OVERLOAD),
        ([Unknown("server_error")], Sign.OVERLOAD),
        ([Unknown(HUNG)], Sign.OVERLOAD),
        ([Unknown("reset")], Sign.OVERLOAD),
        ([Unsent("refused")], Sign.OVERLOAD),
        ([Unsent("connect_timeout")], Sign.OVERLOAD),
        ([Unsent(CREDENTIALS)], Sign.NOTHING),
        ([Unsent("dns")], Sign.NOTHING),
        ([Unsent("pool")], Sign.NOTHING),
        ([Unknown("unreadable")], Sign.NOTHING),
        ([Unknown(INTERRUPTED)], Sign.NOTHING),
        ([OK, Unknown("server_error"), OK], Sign.WELL),
        ([Unknown("server_error")] * 3, Sign.OVERLOAD),
        ([], Sign.WELL),
    ],
)
def test_sign_of_a_call(outcomes: Sequence[Outcome | LookUp], sign: Sign) -> None:
    assert sign_of(outcomes) is sign


@dataclass
class Worker:
    """Makes rounds of calls: all that may be under way begin together, and end together one second later."""

    window: Adaptive
    now: float = 0.0
    used: list[int] = field(default_factory=list)

    def round(self, *, overloads_above: int = 10_000, took_s: float = 1.0, calls: int | None = None) -> None:
        """`calls`: how many there are to make; without it, as many as may be."""
        count = self.window.allowed if calls is None else min(calls, self.window.allowed)
        began, self.now = self.now, self.now + took_s
        for number in range(count):
            sign = Sign.OVERLOAD if number >= overloads_above else Sign.WELL
            self.window.note(sign, began=began, ended=self.now, records=1, under_way=count)
        self.used.append(count)


def test_a_fresh_window_is_the_whole_ceiling() -> None:
    assert Adaptive(16).allowed == 16


def test_after_a_restoration_it_doubles_with_each_round_up_to_the_ceiling() -> None:
    worker = Worker(Adaptive(20, is_restored=True))
    for _ in range(6):
        worker.round()
    assert worker.used == [2, 4, 8, 16, 20, 20]


def test_a_round_of_overload_halves_once_and_then_one_more_is_tried_per_round() -> None:
    worker = Worker(Adaptive(16))
    worker.round(overloads_above=4)
    assert worker.window.allowed == 8
    for _ in range(3):
        worker.round()
    assert worker.used[-1] in (9, 10)


def test_calls_that_began_before_the_decrease_say_nothing_more() -> None:
    window = Adaptive(16)
    window.note(Sign.OVERLOAD, began=0.0, ended=1.0, records=1, under_way=16)
    for ended in (1.1, 1.2, 1.3):
        window.note(Sign.OVERLOAD, began=0.5, ended=ended, records=1, under_way=16)
    assert window.allowed == 8
    window.note(Sign.OVERLOAD, began=1.0, ended=2.0, records=1, under_way=8)
    assert window.allowed == 4


def test_what_was_under_way_is_halved_and_not_a_window_that_nobody_filled() -> None:
    window = Adaptive(200)
    window.note(Sign.OVERLOAD, began=0.0, ended=1.0, records=1, under_way=10)
    assert window.allowed == 5


def test_a_window_that_nobody_fills_does_not_grow() -> None:
    worker = Worker(Adaptive(64, is_restored=True))
    for _ in range(20):
        worker.round(calls=1)
    assert worker.window.allowed <= START + 1


@pytest.mark.parametrize("capacity", [1, 3, 8, 20])
def test_a_system_that_overloads_above_some_calls_is_driven_at_about_these(capacity: int) -> None:
    worker = Worker(Adaptive(64))
    for _ in range(200):
        worker.round(overloads_above=capacity)
    settled = worker.used[50:]
    assert max(settled) <= capacity + 1
    assert sum(settled) / len(settled) >= 0.6 * capacity


def test_restart_after_an_overload_doubles_only_to_where_it_went_well() -> None:
    worker = Worker(Adaptive(16))
    worker.round(overloads_above=9)  # a part went well, yet the breaker opened
    worker.now += 1
    worker.window.note(Sign.WELL, began=worker.now - 1, ended=worker.now, records=1, under_way=1)
    worker.window.restart()
    for _ in range(5):
        worker.round()
    assert worker.used[1:4] == [2, 4, 8]
    assert 8 <= worker.used[-1] <= 10


def test_restart_after_an_outage_doubles_up_to_the_ceiling() -> None:
    worker = Worker(Adaptive(16))
    worker.round(overloads_above=0)
    worker.window.restart()
    for _ in range(4):
        worker.round()
    assert worker.used[1:] == [2, 4, 8, 16]


def test_credentials_that_are_refused_leave_the_window_as_it_is() -> None:
    window = Adaptive(16)
    window.note(Sign.NOTHING, began=0.0, ended=1.0, records=1, under_way=16)
    assert window.allowed == 16


def test_ceiling_of_0_allows_nothing_and_a_raised_one_everything_again() -> None:
    window = Adaptive(16)
    window.cap(0)
    assert window.allowed == 0
    window.cap(5)
    assert window.allowed == 5
    window.cap(99)
    assert window.allowed == 16


def test_latency_that_stays_far_above_the_usual_without_more_records_lowers_gently_and_never_far() -> None:
    worker = Worker(Adaptive(32))
    for _ in range(20):
        worker.round(took_s=0.1)
    for _ in range(8):
        worker.round(took_s=1.0)
    lowered = worker.window.allowed
    assert 8 <= lowered < 32
    for _ in range(60):
        worker.round(took_s=0.1)
    assert worker.window.allowed == 32


def test_latency_that_stays_high_becomes_the_usual_one() -> None:
    worker = Worker(Adaptive(32))
    for _ in range(20):
        worker.round(took_s=0.1)
    for _ in range(200):
        worker.round(took_s=0.5)
    assert worker.window.allowed == 32


@pytest.mark.parametrize("jitter", [[0.001, 0.02], [0.004, 0.004, 0.04], [0.1, 0.25], [0.05, 0.05, 0.6]])
def test_latency_that_jitters_lowers_nothing(jitter: list[float]) -> None:
    worker = Worker(Adaptive(32))
    for number in range(300):
        worker.round(took_s=jitter[number % len(jitter)])
    assert min(worker.used) == 32


def test_slow_start_goes_on_where_more_calls_bring_more_records() -> None:
    worker = Worker(Adaptive(64, is_restored=True))
    for took_s in (0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.4):
        worker.round(took_s=took_s)
    assert worker.window.allowed == 64


def test_calls_that_carry_far_more_records_are_not_compared_with_single_ones() -> None:
    window = Adaptive(16)
    now = 0.0
    for records, took_s in [(1, 0.01)] * 30 + [(100, 0.4)] * 30:
        for _ in range(16):
            window.note(Sign.WELL, began=now, ended=now + took_s, records=records, under_way=16)
        now += took_s
        assert window.allowed == 16


@settings(deadline=None)
@given(
    most=st.integers(1, 300),
    is_restored=st.booleans(),
    events=st.lists(
        st.one_of(
            st.tuples(st.just("call"), st.sampled_from(Sign), st.floats(0.001, 20), st.integers(1, 300)),
            st.tuples(st.just("cap"), st.integers(0, 400)),
            st.tuples(st.just("restart")),
        ),
        max_size=80,
    ),
)
def test_it_is_never_above_the_ceiling_and_never_below_1_unless_that_is_0(
    most: int, is_restored: bool, events: list[tuple[object, ...]]
) -> None:
    window, ceiling, now = Adaptive(most, is_restored=is_restored), most, 0.0
    for event in events:
        match event:
            case ("call", Sign() as sign, float(took_s), int(under_way)):
                now += 0.1
                window.note(sign, began=now - took_s, ended=now, records=1, under_way=under_way)
            case ("cap", int(wanted)):
                ceiling = min(wanted, most)
                window.cap(wanted)
            case _:
                window.restart()
        assert min(1, ceiling) <= window.allowed <= ceiling


@settings(deadline=None)
@given(most=st.integers(1, 200), bad_rounds=st.integers(1, 12), capacity=st.integers(0, 200))
def test_it_recovers_to_the_ceiling_from_whatever_it_met(most: int, bad_rounds: int, capacity: int) -> None:
    worker = Worker(Adaptive(most))
    for _ in range(bad_rounds):
        worker.round(overloads_above=capacity)
    for _ in range(2 * most + 10):
        worker.round()
    assert worker.window.allowed == most
