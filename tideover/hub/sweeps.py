"""Looks through a backlog, a claim at a time: while one system's hand is full, a claim for the others passes over what
waits for it, so the next one goes on where it stopped, and a look rests at its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tideover.staging.wishes import Mark

LONGEST_REST_S = 30.0
REST = 10  # of the time that it took to look through a backlog, so many times it is not done again


def rest_s(took_s: float) -> float:
    """For how long not to look again, so that looking never costs more than a share of the time."""
    return min(REST * took_s, LONGEST_REST_S)


@dataclass(frozen=True, slots=True)
class Sweep:
    """How far a look through a backlog has come, how long its claims took so far, and until when there is none."""

    mark: Mark | None = None
    took_s: float = 0.0
    rest_until: float = 0.0


class Sweeps:
    """The sweeps of one delivery. Each belongs to a route and the systems that had room: with others, what is passed
    over is not the same. All times are monotonic."""

    def __init__(self) -> None:
        self._sweeps: dict[tuple[str, frozenset[str]], Sweep] = {}

    def of(self, route: str, systems: Iterable[str]) -> Sweep:
        """Where a claim begins to look, or until when there is none."""
        return self._sweeps.get((route, frozenset(systems)), Sweep())

    def note(self, route: str, systems: Iterable[str], mark: Mark | None, began: float, now: float) -> None:
        """A claim that began at the sweep's mark has stopped at `mark`; None: it has seen the end."""
        place = route, frozenset(systems)
        before = self._sweeps.get(place, Sweep())
        took_s = now - began + before.took_s
        if mark is not None:
            self._sweeps[place] = Sweep(mark, took_s)
        elif before.mark is not None:
            self._sweeps[place] = Sweep(None, 0.0, now + rest_s(took_s))
        else:
            self._sweeps.pop(place, None)
