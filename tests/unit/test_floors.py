"""Where claims begin to look for due lanes: never above one that may be there for longer than a moment."""

from __future__ import annotations

from tideover.model import PRIORITIES, SECOND_US
from tideover.staging.floors import EVERY_US, Floor

EVERYTHING = dict.fromkeys(PRIORITIES, 0)
NOW_US = 1_000 * SECOND_US


def test_new_floor_looks_at_everything() -> None:
    assert Floor().begin(NOW_US) == EVERYTHING


def test_next_look_begins_where_the_last_one_found_its_first() -> None:
    floor = Floor()
    floor.begin(NOW_US)
    floor.note({1: 10, 3: 70}, NOW_US)
    begins = floor.begin(NOW_US + 1)
    assert (begins[1], begins[3]) == (10, 70)
    floor.note({3: 90}, NOW_US + 1)
    assert (floor.begin(NOW_US + 2)[1], floor.begin(NOW_US + 2)[3]) == (10, 90)


def test_priority_at_which_nothing_was_due_is_looked_at_from_then_on() -> None:
    floor = Floor()
    floor.begin(NOW_US)
    floor.note({3: 70}, NOW_US)
    assert {floor.begin(NOW_US + 1)[priority] for priority in PRIORITIES if priority != 3} == {NOW_US}


def test_everything_is_looked_at_once_a_second_and_whenever_it_is_asked_for() -> None:
    floor = Floor()
    floor.begin(NOW_US)
    floor.note({3: 70}, NOW_US)
    assert floor.begin(NOW_US + EVERY_US - 1) != EVERYTHING
    assert floor.begin(NOW_US + EVERY_US) == EVERYTHING
    floor.note({3: 70}, NOW_US + EVERY_US)
    assert floor.begin(NOW_US + EVERY_US + 1) != EVERYTHING
    assert floor.begin_below(NOW_US + EVERY_US + 2) == EVERYTHING


def test_look_that_was_broken_off_is_followed_by_one_at_everything() -> None:
    """As a transaction that failed, and is run again."""
    floor = Floor()
    floor.begin(NOW_US)
    assert floor.begin(NOW_US + 1) == EVERYTHING
