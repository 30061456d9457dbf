"""Where a route's waiting lanes begin, so that a claim does not go over what was there before them.

A lane that is claimed and settled leaves its old place in the index behind, until PostgreSQL has vacuumed it away; and
that can't happen while any transaction is held open, by a backup or in a forgotten console. Claims would go over ever
more that nobody can see: measured, nine times as long after 400,000 records. So each process remembers where its last
claim found the first lane of each priority, and begins there. What turns up below, as a lane that was locked then or
staged by somebody who committed late, is found by the next claim that gets less than it could take, and by one that
begins at the beginning, once a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from tideover.model import PRIORITIES, SECOND_US

EVERY_US = SECOND_US
SHARE = 10  # what begins at the beginning takes no more than one part in so many of the time


class Floor:
    """Of one route and one process. Changed in place by claims, one at a time or side by side: it is only a hint."""

    def __init__(self) -> None:
        self._due_us: dict[int, int] = {}
        self._next_us = 0
        self._began = 0.0

    def begin(self, now_us: int) -> Mapping[int, int]:
        """From which `due_us` on to look, by priority; 0 everywhere when it is time to look at everything."""
        if now_us >= self._next_us or not self._due_us:
            return self.begin_below(now_us)
        return self._due_us

    def begin_below(self, now_us: int) -> Mapping[int, int]:
        """The same, at everything."""
        self._began = time.monotonic()
        self._next_us = now_us + EVERY_US
        self._due_us = {}
        return dict.fromkeys(PRIORITIES, 0)

    def note(self, firsts: Mapping[int, int], now_us: int) -> None:
        """What was found: for each priority at which there was something, the first lane's `due_us`."""
        if not self._due_us:
            took_us = int((time.monotonic() - self._began) * SECOND_US)
            self._next_us = max(self._next_us, now_us + SHARE * took_us)
            self._due_us = dict.fromkeys(PRIORITIES, now_us)  # where nothing is due, there is nothing to go over
        self._due_us = {**self._due_us, **firsts}
