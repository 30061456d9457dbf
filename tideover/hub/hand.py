"""The leases that a worker holds and has not begun: the most urgent routes first, and those alike in turn, so that none
starves another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from tideover.config.models import Route
from tideover.hub.runs import Held
from tideover.model import NORMAL


class Hand:
    """A queue per route. Everything happens on one event loop."""

    def __init__(self, routes: Mapping[str, int]) -> None:
        """`routes`: each route's priority, from 1, which goes first."""
        self._queues: dict[str, deque[Held]] = {route: deque() for route in routes}
        self._turns = [deque(r for r in routes if routes[r] == p) for p in sorted(set(routes.values()))]
        self._ahead = {route: [r for r in routes if routes[r] < routes[route]] for route in routes}
        self._filled = asyncio.Event()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, route: str, leases: Sequence[Held]) -> None:
        self._queues[route].extend(leases)
        self._count += len(leases)
        if leases:
            self._filled.set()

    def count(self, route: str) -> int:
        return len(self._queues[route])

    def count_ahead(self, route: str) -> int:
        """How many leases are drawn before any of a route's."""
        return sum(len(self._queues[urgent]) for urgent in self._ahead[route])

    async def filled(self) -> None:
        """Wait until there is something to draw."""
        while not len(self):
            self._filled.clear()
            await self._filled.wait()

    async def draw(self, size: Callable[[str], int]) -> tuple[str, list[Held]]:
        """The next leases of the route whose turn it is: as many as one of its calls carries."""
        while True:
            for turn in self._turns:
                for _ in range(len(turn)):
                    route = turn[0]
                    turn.rotate(-1)
                    if queue := self._queues[route]:
                        drawn = [queue.popleft() for _ in range(min(size(route), len(queue)))]
                        self._count -= len(drawn)
                        return route, drawn
            self._filled.clear()
            await self._filled.wait()

    def take_older(self, than: float) -> list[Held]:
        """What was claimed before an instant, out of the hand."""
        taken = []
        for queue in self._queues.values():
            while queue and queue[0].claimed_at < than:
                taken.append(queue.popleft())
        self._count -= len(taken)
        return taken

    def empty(self) -> list[Held]:
        """Everything, out of the hand."""
        held = [lease for queue in self._queues.values() for lease in queue]
        for queue in self._queues.values():
            queue.clear()
        self._count = 0
        return held


def priority_of(route: Route) -> int:
    """Of all the route's records where they have one, else the middle: its claims are in order of theirs anyway."""
    return route.priority if isinstance(route.priority, int) else NORMAL
