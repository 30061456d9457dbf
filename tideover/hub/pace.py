"""How fast something goes."""

from __future__ import annotations

import math

_PACE_S = 1.0
_FINE_S = 0.01  # what comes within it counts as coming at once: an exponential each time would cost more than it tells


class Pace:
    """An average over about the last second that forgets what is older."""

    def __init__(self) -> None:
        self._rate, self._at = 0.0, 0.0

    def add(self, count: int, now: float) -> None:
        if now - self._at > _FINE_S:
            self._rate, self._at = self.per_s(now), now
        self._rate += count / _PACE_S

    def per_s(self, now: float) -> float:
        return self._rate * math.exp(-(now - self._at) / _PACE_S)
