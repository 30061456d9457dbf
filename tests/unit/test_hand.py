"""The leases in a worker's hand: which come first, and how many there should be."""

from __future__ import annotations

import asyncio
import math

import pytest

from tideover.hub.hand import Hand
from tideover.hub.pace import Pace
from tideover.hub.runs import Held
from tideover.model import Lease


def held(lane: int, route: str) -> Held:
    return Held(Lease(lane, 1, route, "erp", 0, 0, 0.0, ()), deadline=0.0, claimed_at=0.0)


async def drawn(hand: Hand, size: int = 1) -> list[tuple[str, list[int]]]:
    """Everything, in the order in which it is drawn."""
    found = []
    while len(hand):
        route, leases = await hand.draw(lambda _: size)
        found.append((route, [each.lease.lane for each in leases]))
    return found


async def test_draw_when_routes_are_alike_takes_them_in_turn() -> None:
    hand = Hand({"orders": 3, "contacts": 3})
    hand.add("orders", [held(n, "orders") for n in (1, 2, 3)])
    hand.add("contacts", [held(9, "contacts")])
    assert await drawn(hand) == [("orders", [1]), ("contacts", [9]), ("orders", [2]), ("orders", [3])]


async def test_draw_when_a_route_is_more_urgent_takes_all_of_it_first() -> None:
    hand = Hand({"import": 5, "orders": 1})
    hand.add("import", [held(n, "import") for n in (1, 2)])
    hand.add("orders", [held(n, "orders") for n in (7, 8)])
    assert await drawn(hand) == [("orders", [7]), ("orders", [8]), ("import", [1]), ("import", [2])]


async def test_draw_when_a_call_carries_several_takes_up_to_so_many_of_one_route() -> None:
    hand = Hand({"orders": 3, "contacts": 3})
    hand.add("orders", [held(n, "orders") for n in (1, 2, 3)])
    hand.add("contacts", [held(9, "contacts")])
    assert await drawn(hand, size=2) == [("orders", [1, 2]), ("contacts", [9]), ("orders", [3])]


async def test_draw_when_the_hand_is_empty_waits_for_what_comes() -> None:
    hand = Hand({"orders": 3})
    drawing = asyncio.create_task(hand.draw(lambda _: 10))
    await asyncio.sleep(0)
    assert not drawing.done()
    hand.add("orders", [held(1, "orders")])
    assert [each.lease.lane for each in (await drawing)[1]] == [1]


def test_pace_when_something_goes_evenly_is_its_rate() -> None:
    pace = Pace()
    for n in range(1, 1001):
        pace.add(5, n / 100)
    assert pace.per_s(10.0) == pytest.approx(500, rel=0.02)


def test_pace_when_nothing_comes_any_more_is_forgotten_within_seconds() -> None:
    pace = Pace()
    pace.add(1000, 1.0)
    assert pace.per_s(2.0) == pytest.approx(1000 / math.e)
    assert pace.per_s(11.0) < 1
