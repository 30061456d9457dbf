"""What happened to a group, and how long it took until records flowed again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tideover.model import SECOND_US
from tideover.policy.failover import FailbackRule, GroupRule
from tideover.staging.database import open_database
from tideover.staging.store import Store

RULE = GroupRule(("a", "b"), failback=FailbackRule(dwell_s=0, canaries=0, ramp_s=0))


class Clock:
    ahead_us = 0

    def __call__(self, now_us: int) -> int:
        return now_us + self.ahead_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    opened = Store(open_database(database_url, clock))
    await opened.migrate()
    yield opened
    await opened.close()


async def fail_over(store: Store) -> None:
    await store.force("a", "open", "a test")
    await store.group("shipping", RULE)


async def test_first_record_after_a_failover_is_noted_when_it_was_accepted(store: Store, clock: Clock) -> None:
    await fail_over(store)
    clock.ahead_us += 10 * SECOND_US
    await store.note_service("shipping", "b", ago_us=4 * SECOND_US)
    [turn] = await store.turns("shipping")
    assert 5 <= (turn.served_us - turn.at_us) / SECOND_US <= 7


async def test_first_record_noted_later_than_it_could_be_is_never_before_its_turn(store: Store) -> None:
    await fail_over(store)
    await store.note_service("shipping", "b", ago_us=3600 * SECOND_US)
    [turn] = await store.turns("shipping")
    assert turn.served_us == turn.at_us


async def test_record_noted_twice_keeps_the_first_instant(store: Store, clock: Clock) -> None:
    await fail_over(store)
    await store.note_service("shipping", "b", ago_us=0)
    [first] = await store.turns("shipping")
    clock.ahead_us += 60 * SECOND_US
    await store.note_service("shipping", "b", ago_us=0)
    assert [first] == await store.turns("shipping")


async def test_record_by_a_pin_does_not_count_for_an_earlier_failover_that_came_to_nothing(store: Store) -> None:
    await fail_over(store)
    await store.force("a", "closed", "it was nothing")
    await store.group("shipping", RULE)
    await store.pin("shipping", RULE, "b", why="maintenance", author="ops")
    await store.note_service("shipping", "b", ago_us=0)
    served = {turn.kind: turn.served_us for turn in await store.turns("shipping")}
    assert served == {"failover": 0, "canary": 0, "failback": 0, "pin": 0}
