"""Where the senders of a line wait while more calls than the window allows would be under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from tideover.model import LookUp, Outcome
from tideover.policy.adaptive import Adaptive, sign_of


class Slots:
    """As many senders at work as `Adaptive` allows; the others are parked, and cost nothing. One event loop.

    Nobody who works is interrupted when the window shrinks: `is_over` tells them to stop after the call under way.
    """

    def __init__(self, senders: int, *, is_restored: bool) -> None:
        self._senders = senders
        self._window = Adaptive(senders, is_restored=is_restored)
        self._parked: deque[asyncio.Future[None]] = deque()
        self.busy = 0

    @property
    def allowed(self) -> int:
        return self._window.allowed

    @property
    def is_free(self) -> bool:
        """Whether one more may begin."""
        return self.busy < self._window.allowed

    @property
    def is_over(self) -> bool:
        """Whether more are at work than may be."""
        return self.busy > self._window.allowed

    async def free(self) -> None:
        """Wait until one more may begin."""
        while not self.is_free:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._parked.append(place)
            await place

    def cap(self, ceiling: int) -> None:
        """Allow at most so many from now on; 0: none."""
        self._window.cap(ceiling)
        self._wake()

    def restart(self) -> None:
        """The system is back: begin with few."""
        self._window.restart()

    def hear(self, outcomes: Sequence[Outcome | LookUp], began: float, ended: float, records: int) -> None:
        """A call has ended; `records` as in `Adaptive.note`. Its sender is still at work."""
        before = self._window.allowed
        self._window.note(sign_of(outcomes), began=began, ended=ended, records=records, under_way=self.busy)
        if self._window.allowed > before:
            self._wake()

    def _wake(self) -> None:
        """Whoever is not parked takes the next slot by himself; so wake only as many as are missing."""
        while self._parked and self._senders - len(self._parked) < self._window.allowed:
            place = self._parked.popleft()
            if not place.done():
                place.set_result(None)
