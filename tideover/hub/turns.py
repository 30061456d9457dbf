"""Which of a target's routes claims first.

The most urgent ones do, always: what is left over goes to the others. Routes alike share by records: the one that had
the fewest comes first, so of a short quota each gets as much, however much waits for another and however unequal the
claims are. Who had nothing to send meanwhile saves nothing up: it comes first once, and then shares with the others
(start-time fair queueing: Goyal, Vin and Cheng, 1997).
A route whose records have priorities of their own has no place among the others': all such routes share with all
of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns:
    """The order of one worker's claims. `routes`: each one's priority, from 1, which goes first; None of a route whose
    records have their own."""

    def __init__(self, routes: Mapping[str, int | None]) -> None:
        self._alike = {
            priority: _Shares(name for name in routes if routes[name] == priority) for priority in set(routes.values())
        }
        self._priorities = dict(routes)
        self._mixed_first = _Shares((True, False))

    def order(self) -> list[str]:
        """All routes, in the order in which they claim now."""
        mixed = self._alike[None].order() if None in self._alike else []
        levels = sorted(priority for priority in self._alike if priority is not None)
        fixed = [name for priority in levels for name in self._alike[priority].order()]
        return mixed + fixed if self._mixed_first.order()[0] else fixed + mixed

    def serve(self, route: str, records: int) -> None:
        """A route's claim gave it so many."""
        priority = self._priorities[route]
        self._alike[priority].serve(route, records)
        self._mixed_first.serve(priority is None, records)


class _Shares(Generic[T]):
    """What each one had, in records; those with less come first."""

    def __init__(self, names: Iterable[T]) -> None:
        self._had = dict.fromkeys(names, 0)
        self._now = 0  # what the one had that was served last, before it was

    def order(self) -> list[T]:
        return sorted(self._had, key=self._had.__getitem__)

    def serve(self, name: T, records: int) -> None:
        self._now = max(self._now, self._had[name])
        self._had[name] = self._now + records
