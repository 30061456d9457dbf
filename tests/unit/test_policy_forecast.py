"""When a target will be caught up, as it is said to people: a table of situations, and what must hold in any."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tideover.model import SECOND_US
from tideover.policy.forecast import (
    Bound,
    Calls,
    Course,
    Limit,
    Pace,
    Sample,
    Way,
    at,
    forecast,
    pace,
    per,
    rounded,
)

NOW = round(datetime(2026, 11, 22, 14, 2, tzinfo=UTC).timestamp()) * SECOND_US
LIMIT = Limit(200 / 60, "200 a minute")


def way(system: str = "erp", **given: object) -> Way:
    facts: dict[str, object] = {
        "is_down": False,
        "is_paused": False,
        "is_forced": False,
        "wait_s": 0.0,
        "at_once": 16,
        **given,
    }
    return Way(system, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("to_go", "pace", "ways", "course", "bound", "said"),
    [
        (0, Pace(None, 0.0), [way()], Course.IDLE, Bound.UNKNOWN, "nothing waits"),
        (41_237, Pace(None, 0.0), [way()], Course.UNKNOWN, Bound.UNKNOWN, "41,200 to go, pace not known yet"),
        (
            6_000,
            Pace(3.3, 0.0),
            [way(limit=LIMIT)],
            Course.DRAINING,
            Bound.LIMIT,
            "caught up 14:32 UTC, 6,000 to go, 3.3/s, bounded by erp's limit of 200 a minute",
        ),
        (
            2_300,
            Pace(230.0, 0.0),
            [way(limit=Limit(1000.0, "1,000 a second"), calls=Calls(15.0, 0.38, 0.0))],
            Course.DRAINING,
            Bound.SYSTEM,
            "caught up 14:02:10 UTC, 2,300 to go, 230/s, bounded by erp itself: 15 calls at once, 380 ms each",
        ),
        (
            23_000,
            Pace(10.0, 0.0),
            [way(calls=Calls(4.0, 1.25, 0.05))],
            Course.DRAINING,
            Bound.SYSTEM,
            "caught up 14:40 UTC, 23,000 to go, 10/s, bounded by erp itself: 4 calls at once, 1.2 s each",
        ),
        (
            230_000,
            Pace(1000.0, 0.0),
            [way(calls=Calls(2.0, 0.002, 0.0))],
            Course.DRAINING,
            Bound.HUB,
            "caught up 14:05 UTC, 230,000 to go, 1,000/s, bounded by the hub",
        ),
        (
            1_000,
            Pace(0.01, 0.0),
            [way()],
            Course.DRAINING,
            Bound.UNKNOWN,
            "caught up 2026-11-23 17:48 UTC, 1,000 to go, 36/h",
        ),
        (
            500,
            Pace(80.0, 120.0),
            [way(calls=Calls(16.0, 0.2, 0.0))],
            Course.FALLING_BEHIND,
            Bound.SYSTEM,
            "falling behind: 120/s come, 80/s go; 500 to go, bounded by erp itself: 16 calls at once, 200 ms each",
        ),
        (
            12,
            Pace(40.0, 40.0),
            [way()],
            Course.KEEPING_UP,
            Bound.UNKNOWN,
            "keeping up: 40/s come, 12 to go",
        ),
        (
            7,
            Pace(3.0, 0.0),
            [way(is_down=True, wait_s=90.0)],
            Course.STOPPED,
            Bound.DOWN,
            "not moving: erp is down, next try 14:03:30 UTC; 7 to go",
        ),
        (
            7,
            Pace(None, 0.0),
            [way(is_down=True)],
            Course.STOPPED,
            Bound.DOWN,
            "not moving: erp is down, next try due; 7 to go",
        ),
        (
            7,
            Pace(None, 0.0),
            [way(is_down=True, is_forced=True)],
            Course.STOPPED,
            Bound.DOWN,
            "not moving: erp is held shut by hand; 7 to go",
        ),
        (
            7,
            Pace(0.0, 0.0),
            [way(is_paused=True, wait_s=600.0)],
            Course.STOPPED,
            Bound.PAUSED,
            "not moving: erp asked for a pause until 14:12 UTC; 7 to go",
        ),
        (
            7,
            Pace(10.0, 0.0),
            [way(is_paused=True, wait_s=3_600.0, pause="its quota of the day is used up until 15:02 UTC")],
            Course.STOPPED,
            Bound.PAUSED,
            "not moving: erp: its quota of the day is used up until 15:02 UTC; 7 to go",
        ),
        (
            600,
            Pace(10.0, 0.0),
            [way(is_paused=True, wait_s=1.0)],
            Course.DRAINING,
            Bound.LIMIT,
            "caught up 14:03:00 UTC, 600 to go, 10/s, bounded by erp itself: it asks for pauses",
        ),
        (
            600,
            Pace(0.0, 0.0),
            [way()],
            Course.STOPPED,
            Bound.IDLE,
            "not moving: nothing has gone for 30 s; no delivery runs, or what waits is to be tried later; 600 to go",
        ),
        (
            600,
            Pace(0.0, 0.0),
            [way("a", is_down=True, wait_s=300.0), way("b", is_down=True, wait_s=60.0)],
            Course.STOPPED,
            Bound.DOWN,
            "not moving: b is down, next try 14:03:00 UTC; 600 to go",
        ),
        (
            600,
            Pace(1.0, 0.0),
            [way("a", is_down=True, wait_s=300.0), way("b", calls=Calls(16.0, 16.0, 0.0))],
            Course.DRAINING,
            Bound.SYSTEM,
            "caught up 14:12 UTC, 600 to go, 1/s, bounded by b itself: 16 calls at once, 16.0 s each",
        ),
    ],
)
def test_forecast_says_what_is_known(
    to_go: int, pace: Pace, ways: list[Way], course: Course, bound: Bound, said: str
) -> None:
    found = forecast(to_go, pace, ways, NOW)
    assert (found.course, found.bound, str(found)) == (course, bound, said)


def samples(*gone: int, come: int = 0, every_s: int = 5) -> list[Sample]:
    """One each five seconds, the last of them five seconds ago."""
    count = len(gone)
    return [Sample(NOW - (count - n) * every_s * SECOND_US, gone=g, come=come) for n, g in enumerate(gone)]


@pytest.mark.parametrize(
    ("found", "in_an_hour", "since_s", "gone", "come"),
    [
        ([], 0, 3600.0, 0.0, 0.0),
        ([], 0, 5.0, None, 0.0),
        (samples(*[500] * 12), 0, 3600.0, 100.0, 0.0),
        (samples(500, 500), 0, 3600.0, 100.0, 0.0),
        (samples(9_000, 0, 0, 0, 0, 0, 0, 0, 500, 500), 3_600, 3600.0, 100.0, 1.0),
        (samples(9_000, 9_000, 500, 500), 0, 12.0, 100.0, 0.0),
        (samples(500, every_s=2), 0, 3600.0, None, 0.0),
        (samples(*[500] * 12, come=600), 0, 3600.0, 100.0, 120.0),
        (samples(*[0] * 11, 500, come=0), 36_000, 3600.0, 100.0, 10.0),
    ],
)
def test_pace_is_that_of_the_latest_spell_of_deliveries(
    found: list[Sample], in_an_hour: int, since_s: float, gone: float | None, come: float
) -> None:
    measured = pace(found, in_an_hour, NOW, NOW - int(since_s * SECOND_US))
    assert measured.gone == (None if gone is None else pytest.approx(gone))
    assert measured.come == pytest.approx(come)


@pytest.mark.parametrize(
    ("rate", "said"),
    [(230.4, "230/s"), (41_237.0, "41,200/s"), (3.5, "3.5/s"), (1.0, "1/s"), (0.2, "12/min"), (0.001, "3.6/h")],
)
def test_per_says_a_pace_in_a_unit_that_fits(rate: float, said: str) -> None:
    assert per(rate) == said


@pytest.mark.parametrize(("count", "said"), [(7, "7"), (999, "999"), (41_237, "41,200"), (1_234_567, "1,230,000")])
def test_rounded_keeps_three_digits(count: int, said: str) -> None:
    assert rounded(count) == said


def test_at_says_the_day_only_when_it_is_another() -> None:
    assert at(NOW + 60 * SECOND_US, NOW) == "14:03:00 UTC"
    assert at(NOW + 7_200 * SECOND_US, NOW) == "16:02 UTC"
    assert at(NOW + 100_000 * SECOND_US, NOW) == "2026-11-23 17:48 UTC"


@settings(deadline=None)
@given(
    to_go=st.integers(0, 10**9),
    gone=st.none() | st.floats(0, 1e6),
    come=st.floats(0, 1e6),
    down=st.booleans(),
    paused=st.booleans(),
    wait_s=st.floats(0, 1e6),
)
def test_forecast_always_says_something_and_never_a_time_in_the_past(
    to_go: int, gone: float | None, come: float, down: bool, paused: bool, wait_s: float
) -> None:
    found = forecast(to_go, Pace(gone, come), [way(is_down=down, is_paused=paused, wait_s=wait_s)], NOW)
    assert str(found)
    assert (found.caught_up_us >= NOW) == (found.course is Course.DRAINING)
    assert (found.course is Course.IDLE) == (to_go == 0)
    if down and to_go:
        assert found.course is Course.STOPPED
