"""A record for a system that only a record can tell of: it is offered one before others take what is due.

Where there is little traffic, whoever serves takes each record as it comes, and a system that has no probe would never
be tried again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

ANSWER_S = 1.0  # the longest that whoever claims waits for the answer, which takes milliseconds
_FIRST_S, _MOST_S = 0.25, 2.0


class Offer:
    """Between whoever claims, who makes it, and whoever looks after a system that is down, who answers it."""

    def __init__(self, *, is_wanted: bool) -> None:
        self.is_wanted = is_wanted
        self._made, self._answered = asyncio.Event(), asyncio.Event()
        self._not_before, self._wait_s = 0.0, _FIRST_S

    async def make(self) -> None:
        """Let a record be taken, and wait until that is done or there was none. Only where one is wanted."""
        self._answered.clear()
        self._made.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await self._answered.wait()

    async def wait(self, at_most_s: float) -> None:
        """Until one is made, or for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._made.wait()
        self._made.clear()

    def answer(self) -> None:
        """What was offered is taken, or was nothing."""
        self._answered.set()

    def is_worth_a_look(self, now: float) -> bool:
        """False for a moment after one was due that the system may not have."""
        return now >= self._not_before

    def was_unfit(self, now: float) -> None:
        """What was due was nothing for it: look a little less often, as each look at records writes."""
        self._not_before = now + self._wait_s
        self._wait_s = min(2 * self._wait_s, _MOST_S)

    def was_taken(self) -> None:
        """It has one, and wants no other before that is settled."""
        self.is_wanted, self._wait_s = False, _FIRST_S
        self.answer()
