"""Which route claims first: the urgent one always, those alike by what they had."""

from __future__ import annotations

from collections import Counter

from tideover.hub.turns import Turns


def first_each_time(turns: Turns, times: int) -> list[str]:
    """Who gets all of a short quota, one record at a time, when everybody has more than enough waiting."""
    found = []
    for _ in range(times):
        found.append(turns.order()[0])
        turns.serve(found[-1], 1)
    return found


def test_routes_alike_take_turns() -> None:
    turns = Turns({"a": 3, "b": 3, "c": 3})
    assert first_each_time(turns, 6) == ["a", "b", "c", "a", "b", "c"]


def test_route_that_seldom_has_anything_comes_before_one_that_was_served_since() -> None:
    turns = Turns({"import": 3, "orders": 3})
    for _ in range(5):
        turns.serve("import", 1)
    assert turns.order() == ["orders", "import"]
    turns.serve("orders", 2)
    assert turns.order() == ["import", "orders"]


def test_route_that_had_nothing_to_send_saves_nothing_up() -> None:
    turns = Turns({"import": 3, "orders": 3})
    for _ in range(1_000):
        turns.serve("import", 10)
    turns.serve("orders", 20)
    assert Counter(first_each_time(turns, 40))["import"] >= 19


def test_routes_alike_share_by_records_however_unequal_their_claims() -> None:
    """At each look the first one gets what has gathered, and the next one the little that came meanwhile."""
    turns, had = Turns({"import": 3, "orders": 3}), Counter[str]()
    for _ in range(100):
        for route, records in zip(turns.order(), (9, 1), strict=True):
            turns.serve(route, records)
            had[route] += records
    assert abs(had["import"] - had["orders"]) <= 10


def test_more_urgent_route_is_always_first() -> None:
    turns = Turns({"import": 5, "orders": 1, "refunds": 1})
    assert first_each_time(turns, 4) == ["orders", "refunds", "orders", "refunds"]
    assert turns.order()[-1] == "import"


def test_route_whose_records_have_their_own_priorities_gets_every_other_turn_whatever_the_others_are() -> None:
    turns = Turns({"urgent": 1, "mixed": None, "import": 5})
    assert Counter(first_each_time(turns, 10)) == {"mixed": 5, "urgent": 5}
    assert sorted(turns.order()) == ["import", "mixed", "urgent"]
