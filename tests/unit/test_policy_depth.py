"""How many records of one lane a lease covers: more where few lanes wait and calls are quick."""

from __future__ import annotations

import pytest

from tideover.policy.depth import DEPTH, LONGEST, RunLength, depth_of


def run_length(*calls_s: float) -> int:
    run = RunLength()
    for took_s in calls_s:
        run.note(took_s)
    return run.longest


def test_run_before_the_first_call_is_as_short_as_any() -> None:
    assert run_length() == DEPTH


@pytest.mark.parametrize(
    ("call_s", "longest"), [(0.0, LONGEST), (0.001, LONGEST), (0.01, LONGEST), (0.02, 50), (0.1, DEPTH), (5.0, DEPTH)]
)
def test_run_lasts_about_a_second_where_that_is_more_than_the_least(call_s: float, longest: int) -> None:
    assert run_length(*[call_s] * 5) == longest


def test_run_when_calls_become_slow_becomes_short_within_some_calls() -> None:
    assert run_length(0.001) == LONGEST
    assert run_length(0.001, *[0.5] * 3) == DEPTH


@pytest.mark.parametrize(
    ("room", "lanes", "depth"),
    [(16, 1, 100), (16, 2, 80), (16, 4, 40), (16, 15, 10), (16, 16, 10), (16, 100, 10), (1, 1, 10), (16, 0, 100)],
)
def test_depth_shares_a_full_claims_records_among_the_lanes_that_there_are(room: int, lanes: int, depth: int) -> None:
    assert depth_of(10, 100, room, lanes) == depth


@pytest.mark.parametrize(("lanes", "depth"), [(500, 10), (1_000, 5), (2_000, 2), (6_000, 1)])
def test_depth_of_many_lanes_never_comes_to_more_than_a_claim_may_cover(lanes: int, depth: int) -> None:
    assert depth_of(10, 100, lanes, lanes) == depth


def test_depth_where_no_longer_runs_are_wished_for_is_the_least() -> None:
    assert depth_of(1, 0, 50, 1) == 1
