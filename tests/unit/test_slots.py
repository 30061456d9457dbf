"""Senders at work: as many as are allowed, whatever happens to that number meanwhile."""

from __future__ import annotations

import asyncio
import random

import pytest

from tideover.hub.slots import Slots
from tideover.model import Accepted, Throttled


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Pool:
    """Senders that work until they are told to end; each asks for its slot as a line's senders do."""

    def __init__(self, slots: Slots, senders: int) -> None:
        self.slots, self.done, self.most = slots, 0, 0
        self.release = asyncio.Event()
        self.tasks = [asyncio.create_task(self._send()) for _ in range(senders)]

    async def _send(self) -> None:
        while True:
            if not self.slots.is_free:
                await self.slots.free()
                continue
            self.slots.busy += 1
            self.most = max(self.most, self.slots.busy)
            try:
                await self.release.wait()
                await asyncio.sleep(0)
                self.done += 1
            finally:
                self.slots.busy -= 1

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_senders_beyond_what_is_allowed_wait_until_it_is_more() -> None:
    slots = Slots(8, is_restored=True)
    pool = Pool(slots, 8)
    await settle()
    assert slots.busy == 2
    slots.hear([Accepted()], 0.0, 1.0, 1)
    await settle()
    assert slots.busy == 3
    await pool.end()


async def test_those_at_work_are_over_when_fewer_are_allowed_and_nothing_stands_still() -> None:
    slots = Slots(8, is_restored=False)
    pool = Pool(slots, 8)
    await settle()
    assert (slots.busy, slots.is_over) == (8, False)
    slots.hear([Throttled(1.0)], 0.0, 1.0, 1)
    assert (slots.allowed, slots.is_over) == (4, True)
    pool.release.set()
    await settle()
    pool.most = 0
    await settle()
    assert pool.most <= 4
    assert pool.done > 8
    await pool.end()


async def test_ceiling_of_0_stops_everybody_and_a_higher_one_starts_them_again() -> None:
    slots = Slots(4, is_restored=False)
    pool = Pool(slots, 4)
    pool.release.set()
    await settle()
    slots.cap(0)
    await settle()
    done = pool.done
    await settle()
    assert (slots.busy, pool.done) == (0, done)
    slots.cap(3)
    pool.most = 0
    await settle()
    assert pool.most == 3
    assert pool.done > done
    await pool.end()


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_the_ceiling_does_somebody_works_once_it_allows_it(seed: int) -> None:
    rolled = random.Random(seed)
    slots = Slots(10, is_restored=rolled.random() < 0.5)
    pool = Pool(slots, 10)
    pool.release.set()
    for _ in range(200):
        slots.cap(rolled.randrange(12))
        for _ in range(rolled.randrange(4)):
            await asyncio.sleep(0)
    slots.cap(1)
    await settle()
    done, pool.most = pool.done, 0
    await settle()
    assert pool.done > done
    assert pool.most == 1
    await pool.end()
