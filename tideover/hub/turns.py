"""Which of a target's routes claims first.

The most urgent ones do, always: what is left over goes to the others. Routes alike take turns, and the one that has
waited the longest for its turn comes first; so of a short quota each gets its share, however much waits for another.
A route whose records have priorities of their own has no place among the others': it takes turns with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping


class Turns:
    """The order of one worker's claims. `routes`: each one's priority, from 1, which goes first; None of a route whose
    records have their own."""

    def __init__(self, routes: Mapping[str, int | None]) -> None:
        self._priorities = {name: priority for name, priority in routes.items() if priority is not None}
        self._mixed = [name for name in routes if name not in self._priorities]
        self._served = dict.fromkeys(routes, 0)
        self._turn = 0
        self._mixed_had_theirs = False

    def order(self) -> list[str]:
        """All routes, in the order in which they claim now."""
        fixed = sorted(self._priorities, key=lambda name: (self._priorities[name], self._served[name]))
        mixed = sorted(self._mixed, key=self._served.__getitem__)
        return fixed + mixed if self._mixed_had_theirs else mixed + fixed

    def serve(self, route: str) -> None:
        """A route's claim gave it something."""
        self._turn += 1
        self._served[route] = self._turn
        self._mixed_had_theirs = route not in self._priorities
